"""Small valid images of every supported format and of different pixel layouts."""

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image


def make_images() -> list[bytes]:
    """The bytes of 22 images."""
    return list(_iterate_images())


def _iterate_images() -> Iterator[bytes]:
    values = np.random.default_rng(0).integers(0, 256, (24, 32, 4), dtype=np.uint8)
    rgba = Image.fromarray(values)
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"):
        yield _encode_image(rgb, kind)
    yield _encode_image(rgb.convert("CMYK"), "JPEG", exif=exif)
    yield _encode_image(grey, "JPEG", progressive=True)
    yield _encode_image(rgba, "PNG")
    yield _encode_image(rgb.quantize(16), "PNG", transparency=0)
    yield _encode_image(Image.fromarray(values[..., 0].astype(np.uint16) * 257), "PNG")
    yield _encode_image(rgba, "WEBP", lossless=True)
    moving = {"save_all": True, "append_images": [rgb.rotate(90)]}
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        yield _encode_image(rgb, kind, **moving)
    for packing in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield _encode_image(rgb, "TIFF", compression=packing)
    yield _encode_image(grey.convert("1"), "TIFF", compression="group4")
    yield _encode_image(rgb.quantize(16), "BMP")


def _encode_image(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)  # type: ignore[arg-type]
    return stream.getvalue()
