"""Reads images: the only place where image bytes become pixels.

Whatever is wrong with an image is an `ImageFault` with one word of the closed list `REASONS`, so that one bad file
costs one row and never the run.
"""

import errno
import hashlib
import io
import logging
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from aigc_cli.prompts.embedded import NOTHING, read_metadata
from aigc_cli.prompts.programs import Recorded

Reason = Literal[
    "missing_file",
    "not_regular",
    "unreadable",
    "not_an_image",
    "unsupported_format",
    "truncated",
    "corrupt",
    "too_many_pixels",
    "extreme_aspect",
    "decoder_crash",
    "link_outside",
    "no_prompt",
    "ambiguous_prompt",
    "bad_metadata",
    "bad_sidecar",
    "animated_first_frame",
]

Pixels = NDArray[np.uint8]

MAX_PIXELS = 64_000_000
MAX_BYTES = 8 * MAX_PIXELS  # 16-bit RGBA, uncompressed: no image within the pixel limit needs more
MAX_ASPECT = 50  # longer side / shorter side; beyond it nothing is left of the shorter side after a resize
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp")

REASONS: dict[str, str] = {
    "missing_file": "there is no such file",
    "not_regular": "it is a folder, pipe, socket, device or link loop, so it was not opened",
    "unreadable": "the file may not be read (permissions or a disk error)",
    "not_an_image": "the content is no image: empty, text or unknown data",
    "unsupported_format": f"the content is an image of a kind that is not read; read are {', '.join(FORMATS)}, "
    "8 bits a channel or 16-bit grey",
    "truncated": "the file ends before the image does",
    "corrupt": "the file is damaged",
    "too_many_pixels": f"the image has more than {MAX_PIXELS // 10**6} million pixels, "
    f"or the file more than {MAX_BYTES // 10**6} MB",
    "extreme_aspect": f"one side is more than {MAX_ASPECT} times the other",
    "decoder_crash": "the decoder died or ran out of memory on this file",
    "link_outside": "a link leads out of the folder, which is not followed with --recursive",
    "no_prompt": "there is no prompt for this image",
    "ambiguous_prompt": "its metadata names several prompts, or none that can be told for sure, so none was taken",
    "bad_metadata": "its metadata is damaged or too large, so no prompt was taken from there",
    "bad_sidecar": "its text file is no UTF-8 text, over 1 MiB or a link out of the folder, so it was left aside",
    "animated_first_frame": "the image has several frames and the first one was scored (a note, not a failure)",
}

NOTES: frozenset[Reason] = frozenset(  # a row with these alone has its scores
    {"no_prompt", "ambiguous_prompt", "bad_metadata", "bad_sidecar", "animated_first_frame"}
)

_UPRIGHT = {  # EXIF orientation -> what turns the stored image upright; 1 is upright already
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_OUR_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
_BMP_HEADER_SIZES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})

# Images of other kinds, told by their first bytes and never handed to Pillow: its EPS reader would start Ghostscript.
_OTHER_MAGIC = (
    b"%!PS",
    b"\xc5\xd0\xd3\xc6",  # EPS with a preview
    b"%PDF-",
    b"8BPS",  # Photoshop
    b"\0\0\1\0",  # ICO
    b"\0\0\0\x0cjP  ",  # JPEG 2000
    b"\xff\x4f\xff\x51",
    b"\xff\x0a",  # JPEG XL
    b"\0\0\0\x0cJXL ",
    b"DDS ",
    b"qoif",
    b"v/1\1",  # OpenEXR
    b"#?RADIANCE",
    b"<svg",
    *(b"P%d%c" % (n, space) for n in range(1, 8) for space in b" \n"),  # PBM, PGM, PPM, PAM
)


_READ_ERRORS: dict[int, Reason] = {errno.ELOOP: "not_regular", errno.ENAMETOOLONG: "missing_file"}


class ImageFault(Exception):
    """One image cannot be read; `reason` is a word of `REASONS`."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)  # the only argument, so that the exception can be pickled between processes
        self.reason: Reason = reason

    def __str__(self) -> str:
        return f"{self.reason}: {REASONS[self.reason]}"


@dataclass(frozen=True)
class DecodedImage:
    """An image ready for any model.

    Attributes:
        pixels: RGB, uint8 (height, width, 3), upright, without transparency; may be written to.
        note: `animated_first_frame` where there were more frames than the one taken, else None.
        recorded: what the image says of its making.
    """

    pixels: Pixels
    note: str | None = None
    recorded: Recorded = NOTHING

    @property
    def width(self) -> int:
        """Pixels, of the upright image."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Pixels, of the upright image."""
        return int(self.pixels.shape[0])

    @property
    def image(self) -> Image.Image:
        """The pixels as Pillow's image, mode RGB."""
        return Image.fromarray(self.pixels)


def read_bytes(path: Path) -> bytes:
    """Return the content of a regular file, or of the regular file that a link leads to.

    Nothing else is opened: a pipe would wait for ever. Raises ImageFault: missing_file, not_regular, unreadable, or
    too_many_pixels for a file over MAX_BYTES.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageFault("not_regular")
        if status.st_size > MAX_BYTES:
            raise ImageFault("too_many_pixels")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL in the path
        raise ImageFault("missing_file") from error
    except OSError as error:
        raise ImageFault(_READ_ERRORS.get(error.errno or 0, "unreadable")) from error


def decode(data: bytes) -> DecodedImage:
    """Decode the bytes of a JPEG, PNG, WebP, GIF, TIFF or BMP file; of several frames, the first one.

    The content decides, not a file name. Size limits are checked on the header, before any pixel is decoded.
    Raises ImageFault: not_an_image, unsupported_format, truncated, corrupt, too_many_pixels, extreme_aspect,
    decoder_crash.
    """
    with _faults(data), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        decoded = _normalise(image)
        # MPO is a photograph with a preview or a depth map behind it, not an animation.
        animated = image.format != "MPO" and getattr(image, "is_animated", False)
    return replace(decoded, note="animated_first_frame") if animated else decoded


def from_pil(image: Image.Image) -> DecodedImage:
    """Bring an image in memory into the form that `decode` returns; the caller's image keeps its pixels.

    EXIF orientation is applied, transparency is laid on white, 16-bit grey (0-65535) is divided by 257, everything
    else is converted to RGB. Of several frames, the current one is taken.
    Raises ImageFault: unsupported_format (float and 32-bit pixels), too_many_pixels, extreme_aspect, and what
    `decode` raises where the pixels were not loaded yet.
    """
    with _faults(None):
        return _normalise(image)


def image_digest(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


# --- from Pillow's image to ours


def _normalise(image: Image.Image) -> DecodedImage:
    _check_size(*image.size)
    image.load()
    turn = _UPRIGHT.get(_orientation(image))
    pixels = _to_rgb(image)
    if turn is not None:
        pixels = pixels.transpose(turn)
    return DecodedImage(np.array(pixels), recorded=read_metadata(image))


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageFault("too_many_pixels")
    if min(width, height) < 1:
        raise ImageFault("corrupt")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageFault("extreme_aspect")


def _orientation(image: Image.Image) -> int:
    """Read the EXIF orientation, after `load`: TIFF is turned by Pillow itself, PNG may hold EXIF behind the pixels."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken metadata raises anything; the pixels are good, and upright is the usual case
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _grey16_to_rgb(image)
    if image.mode == "F":
        raise ImageFault("unsupported_format")
    if not image.has_transparency_data:
        return image.convert("RGB")
    straight = image.convert("LA") if image.mode == "La" else image  # Pillow knows no direct way from La
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, straight.convert("RGBA")).convert("RGB")


def _grey16_to_rgb(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int32)  # (H, W), 0-65535; mode I may hold more
    if values.min() < 0 or values.max() > 65535:
        raise ImageFault("unsupported_format")
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        values[values == transparent] = 65535
    return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")  # 65535 = 255 * 257


# --- from Pillow's many exceptions and warnings to one word


class _Quiet:
    """Silences warnings while any thread decodes.

    Pillow warns about sizes and broken metadata, and what is worth saying is said by a reason. `catch_warnings`
    alone is not safe here: filters belong to the process, so two threads that overlap would restore the wrong ones.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.__exit__(None, None, None)


_quiet = _Quiet()
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else Python prints its errors on stderr for want of one


@contextmanager
def _faults(data: bytes | None) -> Iterator[None]:
    """Turn whatever Pillow raises into ImageFault; `data` are the bytes being decoded, None where they are unknown."""
    with _quiet:
        try:
            yield
        except ImageFault:
            raise
        except Image.DecompressionBombError as error:
            raise ImageFault("too_many_pixels") from error
        except MemoryError as error:
            raise ImageFault("decoder_crash") from error
        except Exception as error:  # decoders fed with damaged bytes raise nearly everything
            raise ImageFault(_reason(error, data)) from error


def _reason(error: Exception, data: bytes | None) -> Reason:
    message = str(error).lower()
    if data is None:
        return "truncated" if "truncated" in message else "corrupt"
    kind = _kind(data)
    if kind is None:
        return "unsupported_format" if _is_other_image(data) else "not_an_image"
    if _ends_early(kind, data) or (kind in ("TIFF", "BMP") and "truncated" in message):
        return "truncated"
    # A TIFF whose directory is there and yet says nothing to Pillow has an odd pixel layout, such as 64-bit floats.
    if "unsupported" in message or (kind == "TIFF" and isinstance(error, UnidentifiedImageError)):
        return "unsupported_format"
    return "corrupt"


def _kind(data: bytes) -> str | None:
    """Tell by its first bytes which of FORMATS the file claims to be."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"  # two letters alone would take a text for an image
    return next((kind for magic, kind in _OUR_MAGIC.items() if data.startswith(magic)), None)


def _is_other_image(data: bytes) -> bool:
    is_svg = data.startswith(b"<?xml") and b"<svg" in data[:1024]
    is_heif = data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1")
    return is_svg or is_heif or data.startswith(_OTHER_MAGIC)


def _ends_early(kind: str, data: bytes) -> bool:
    """Tell whether a damaged file lacks its end, by what its own format says of where that is."""
    if kind == "JPEG":
        return not data.rstrip(b"\0").endswith(b"\xff\xd9")
    if kind == "GIF":
        return not data.rstrip(b"\0").endswith(b";")
    if kind == "PNG":
        return b"IEND" not in data
    if kind == "WEBP":
        return 8 + int.from_bytes(data[4:8], "little") > len(data)
    if kind == "BMP":
        return int.from_bytes(data[2:6], "little") > len(data)
    return _tiff_directory_end(data) > len(data)


def _tiff_directory_end(data: bytes) -> int:
    """Return the offset just behind the first directory, which usually follows the pixels."""
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    is_big = b"+" in data[:4]  # BigTIFF
    where, count_bytes, entry_bytes = (slice(8, 16), 8, 20) if is_big else (slice(4, 8), 2, 12)
    start = int.from_bytes(data[where], order)
    entries = int.from_bytes(data[start : start + count_bytes], order)
    return start + count_bytes + entries * entry_bytes
