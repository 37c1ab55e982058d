"""Honest images of every format that is read, small, of different pixel layouts."""

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image


def images() -> list[bytes]:
    """The bytes of each."""
    return list(_images())


def _images() -> Iterator[bytes]:
    values = np.random.default_rng(0).integers(0, 256, (24, 32, 4), dtype=np.uint8)
    rgba = Image.fromarray(values)
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"):
        yield _encoded(rgb, kind)
    yield _encoded(rgb.convert("CMYK"), "JPEG", exif=exif)
    yield _encoded(grey, "JPEG", progressive=True)
    yield _encoded(rgba, "PNG")
    yield _encoded(rgb.quantize(16), "PNG", transparency=0)
    yield _encoded(Image.fromarray(values[..., 0].astype(np.uint16) * 257), "PNG")
    yield _encoded(rgba, "WEBP", lossless=True)
    moving = {"save_all": True, "append_images": [rgb.rotate(90)]}
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        yield _encoded(rgb, kind, **moving)
    for packing in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield _encoded(rgb, "TIFF", compression=packing)
    yield _encoded(grey.convert("1"), "TIFF", compression="group4")
    yield _encoded(rgb.quantize(16), "BMP")


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)  # type: ignore[arg-type]
    return stream.getvalue()
