"""Reads the text that some programs hide in the lowest bits of an image's pixels.

The format is that of the extension sd-webui-stealth-pnginfo, which NovelAI uses too. Bits are counted down the columns,
from left to right: in the alpha channel one for each pixel, in RGB three. They hold a name of 15 bytes, the length of
the text in bits as 32 bits, and the text as UTF-8, which is a gzip stream if the name ends in "comp".
"""

import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aigc_cli.prompts.record import MAX_TEXT

_NAMES = {"RGBA": (b"stealth_pnginfo", b"stealth_pngcomp"), "RGB": (b"stealth_rgbinfo", b"stealth_rgbcomp")}
_NAME_BITS, _LENGTH_BITS = 120, 32


def read_stealth(image: Image.Image) -> str | None:
    """The text hidden in a loaded image; None if there is none, or it is damaged or longer than MAX_TEXT bytes.

    Only the first columns are read unless they hold the name, so an ordinary image costs nothing.
    """
    for channels in ("RGBA", "RGB"):
        if image.mode == "RGBA" or image.mode == channels:
            head = _read_bits(image, channels, _NAME_BITS + _LENGTH_BITS)
            if head[: _NAME_BITS // 8] in _NAMES[channels]:
                return _read_text(image, channels, head)
    return None


def _read_text(image: Image.Image, channels: str, head: bytes) -> str | None:
    start, length = _NAME_BITS + _LENGTH_BITS, int.from_bytes(head[_NAME_BITS // 8 :], "big")
    if length > 8 * MAX_TEXT or length % 8:
        return None
    data = _read_bits(image, channels, start + length)[start // 8 :]
    if len(data) != length // 8:
        return None
    try:
        if head[: _NAME_BITS // 8].endswith(b"comp"):
            stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
            data = stream.decompress(data, MAX_TEXT)
            if not stream.eof:
                return None
        return data.decode()
    except (zlib.error, UnicodeDecodeError):
        return None


def _read_bits(image: Image.Image, channels: str, count: int) -> bytes:
    """The first `count` hidden bits, a multiple of 8; fewer if the image has fewer."""
    height, each = image.height, 1 if channels == "RGBA" else 3
    columns = min(image.width, -(-count // (each * height)))
    pixels = np.asarray(image.crop((0, 0, columns, height)))  # (H, columns, 3 or 4), uint8
    chosen: NDArray[np.uint8] = pixels[..., 3:] if channels == "RGBA" else pixels[..., :3]
    return np.packbits(chosen.swapaxes(0, 1).reshape(-1)[:count] & 1).tobytes()
