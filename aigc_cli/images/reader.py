"""Reads and decodes image files.

Every problem with an image is raised as an `ImageFault` whose reason is a key of `REASONS`, so that a bad file costs
one row and not the run.
"""

import errno
import hashlib
import io
import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError, features
from PIL.PngImagePlugin import PngImageFile

from aigc_cli.images.fast_png import decode_usual_png
from aigc_cli.images.preprocess import Pixels, Preprocessing
from aigc_cli.prompts.embedded import NO_RECORD, read_embedded
from aigc_cli.prompts.record import GenerationRecord
from aigc_cli.regular_file import FileTooLarge, NotRegularFile, read_regular

Reason = Literal[
    "missing_file", "not_regular", "unreadable", "not_an_image", "unsupported_format", "truncated", "corrupt",
    "too_many_pixels", "extreme_aspect", "decoder_crash", "link_outside",
    "no_prompt", "ambiguous_prompt", "bad_metadata", "bad_sidecar", "animated_first_frame",
]  # fmt: skip

MAX_PIXELS = 64_000_000  # width x height
MAX_IMAGE_BYTES = 8 * MAX_PIXELS  # size of an uncompressed 16-bit RGBA image of MAX_PIXELS
MAX_ASPECT = 50  # longer side / shorter side; a resize would leave too few pixels of a thinner image
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")

REASONS: dict[str, str] = {
    "missing_file": "there is no such file",
    "not_regular": "it is a folder, pipe, socket, device or loop of links and was not opened",
    "unreadable": "the file cannot be read (missing permission or disk error)",
    "not_an_image": "the content is not an image: it is empty, text or unknown data",
    "unsupported_format": f"the image format is not supported; the supported formats are {', '.join(IMAGE_FORMATS)}, "
    "with 8 bits per channel or 16-bit grey",
    "truncated": "the file ends before the image is complete",
    "corrupt": "the file is damaged",
    "too_many_pixels": f"the image has more than {MAX_PIXELS // 10**6} million pixels, "
    f"or the file is larger than {MAX_IMAGE_BYTES // 10**6} MB",
    "extreme_aspect": f"one side is more than {MAX_ASPECT} times as long as the other",
    "decoder_crash": "the decoder crashed, hung or ran out of memory on this file",
    "link_outside": "it is a link that leads out of the folder; such links are not followed with --recursive",
    "no_prompt": "there is no prompt for this image",
    "ambiguous_prompt": "its metadata holds several prompts, or its prompt cannot be determined, so none was used",
    "bad_metadata": "its metadata is damaged or too large, so no prompt was read from it",
    "bad_sidecar": "its text file is unreadable, neither UTF-8 nor UTF-16, larger than 1 MiB, a link out of the "
    "folder, or holds JSON or settings of an unknown program, so it was ignored",
    "animated_first_frame": "the image has several frames; the first one was scored",
}

# A row with only these has scores.
NOTE_REASONS = frozenset({"no_prompt", "ambiguous_prompt", "bad_metadata", "bad_sidecar", "animated_first_frame"})

_UPRIGHT = {  # EXIF orientation -> the turn that makes the stored image upright; 1 needs none
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# First bytes of the formats above, and of others, to tell unsupported_format from not_an_image. Pillow never opens the
# others: `formats` restricts it to IMAGE_FORMATS, since its EPS reader would start Ghostscript.
_FIRST_BYTES = re.compile(
    rb"""
    (?P<JPEG>\xff\xd8\xff) | (?P<PNG>\x89PNG\r\n\x1a\n) | (?P<WEBP>RIFF.{4}WEBP) | (?P<GIF>GIF8[79]a)
    | (?P<TIFF>II[*+]\0 | MM\0[*+])
    | (?P<AVIF>.{4}ftypavi[fs])
    | (?P<BMP>BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0)  # the size of its header; BM also begins texts
    | (?P<other>%!PS | \xc5\xd0\xd3\xc6 | %PDF- | 8BPS | \0\0\x01\0   # EPS, PDF, Photoshop, ICO
    | \0\0\0\x0cjP[ ][ ] | \xff\x4f\xff\x51 | \xff\x0a | \0\0\0\x0cJXL[ ]  # JPEG 2000, JPEG XL
    | DDS[ ] | qoif | v/1\x01 | [#][?]RADIANCE | P[1-7][ \n]  # DirectDraw, QOI, OpenEXR, Radiance, PBM to PAM
    | <svg | <[?]xml.{0,1015}<svg | .{4}ftyp(?:hei[cxms] | hev[cxms] | mif1 | msf1))  # SVG, HEIF
    """,
    re.DOTALL | re.VERBOSE,
)

# How Pillow's messages begin for a PNG with large texts. It raises them before it reads any pixel.
_TEXTS_TOO_LARGE = ("Decompressed data too large", "Too much memory used in text chunks")
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")

_READ_ERRORS: dict[int, Reason] = {errno.ELOOP: "not_regular", errno.ENAMETOOLONG: "missing_file"}


class ImageFault(Exception):
    """An image cannot be read; `reason` is a key of `REASONS`."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)  # no other argument, so that the exception can be pickled
        self.reason: Reason = reason

    def __str__(self) -> str:
        return f"{self.reason}: {REASONS[self.reason]}"


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image.

    Attributes:
        pixels: RGB, uint8 (H, W, 3), upright, without transparency; writable. Of the size of the image, or of a tower's
            size if the image was preprocessed.
        width, height: of the upright image, in pixels.
        note: `animated_first_frame` if the file has several frames, else None.
        record: the prompt and settings in its metadata.
    """

    pixels: Pixels
    width: int
    height: int
    note: str | None = None
    record: GenerationRecord = NO_RECORD

    @property
    def image(self) -> Image.Image:
        return Image.fromarray(self.pixels)


def read_image_bytes(path: Path) -> bytes:
    """The content of a regular file; links are followed.

    Raises:
        ImageFault: missing_file, not_regular, unreadable; too_many_pixels for a file larger than MAX_IMAGE_BYTES.
    """
    try:
        return read_regular(path, MAX_IMAGE_BYTES)
    except FileTooLarge as error:
        raise ImageFault("too_many_pixels") from error
    except NotRegularFile as error:
        raise ImageFault("not_regular") from error
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL in the path
        raise ImageFault("missing_file") from error
    except OSError as error:
        raise ImageFault(_READ_ERRORS.get(error.errno or 0, "unreadable")) from error


def decode_image(data: bytes, preprocessing: Preprocessing | None = None) -> DecodedImage:
    """Decode the bytes of a file in one of IMAGE_FORMATS; the first frame if there are several.

    The format is detected from the content. Size limits are checked on the header, before any pixel is decoded. With a
    preprocessing, its `fit_size` resizes the upright image. A PNG whose texts or colour profile unpack to more than
    Pillow allows (1 MiB each) is decoded without them; its record has the fault bad_metadata.

    Raises:
        ImageFault: not_an_image, unsupported_format, truncated, corrupt, too_many_pixels, extreme_aspect, or
            decoder_crash when the memory does not suffice.
    """
    with _translate_faults(data):
        try:
            return _decode(data, preprocessing)
        except ValueError as error:
            if not str(error).startswith(_TEXTS_TOO_LARGE):
                raise
        decoded = _decode(_drop_texts(data), preprocessing)
        lost = GenerationRecord(fault="bad_metadata")
        return decoded if decoded.record.prompt else replace(decoded, record=lost)


def _decode(data: bytes, preprocessing: Preprocessing | None) -> DecodedImage:
    with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
        _check_size(image)
        decoded = _normalise(_load_pixels(image, data), preprocessing)
        # MPO is a photograph followed by a preview or a depth map, not an animation.
        animated = image.format != "MPO" and getattr(image, "is_animated", False)
    return replace(decoded, note="animated_first_frame") if animated else decoded


def convert_pil(image: Image.Image) -> DecodedImage:
    """Convert a Pillow image as `decode_image` converts a file; the given image is not changed.

    The EXIF orientation is applied, transparent pixels are blended with white, 16-bit grey (0-65535) is divided by
    257, every other mode is converted to RGB. The current frame is used if there are several.

    Raises:
        ImageFault: unsupported_format (float and 32-bit pixels), too_many_pixels, extreme_aspect, corrupt (no
            pixels); every fault of `decode_image` if the pixels are not loaded yet.
    """
    with _translate_faults(None):
        _check_size(image)
        image.load()
        return _normalise(image)


def hash_bytes(data: bytes) -> str:
    """SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def hash_image_file(path: Path) -> str:
    """SHA-256 of an image file's bytes as 64 hexadecimal digits. Raises ImageFault as `read_image_bytes` does."""
    return hash_bytes(read_image_bytes(path))


def _check_size(image: Image.Image) -> None:
    short, long = sorted(image.size)
    if short * long > MAX_PIXELS:
        raise ImageFault("too_many_pixels")
    if short < 1:
        raise ImageFault("corrupt")
    if long > MAX_ASPECT * short:
        raise ImageFault("extreme_aspect")


def _drop_texts(data: bytes) -> bytes:
    """A PNG without its texts and its colour profile."""
    kept, start = [data[:8]], 8
    while start < len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if data[start + 4 : start + 8] not in _TEXT_CHUNKS:
            kept.append(data[start:end])
        start = end
    return b"".join(kept)


def _load_pixels(image: Image.Image, data: bytes) -> Image.Image:
    """The image with its pixels. Loading turns TIFF upright and finds EXIF after the pixels of PNG."""
    if isinstance(image, PngImageFile) and (decoded := decode_usual_png(image, data)) is not None:
        return decoded
    image.load()
    return image


def _normalise(image: Image.Image, preprocessing: Preprocessing | None = None) -> DecodedImage:
    """A loaded image upright and in RGB, at the tower's size with a preprocessing, and its record."""
    try:
        turn = _UPRIGHT.get(int(image.getexif().get(ExifTags.Base.Orientation, 1)))
    except Exception:  # broken metadata raises exceptions of any type; most images are upright
        turn = None
    pixels = _convert_rgb(image)
    if turn is not None:
        pixels = pixels.transpose(turn)
    fitted = np.array(pixels) if preprocessing is None else preprocessing.fit_size(pixels)
    return DecodedImage(fitted, *pixels.size, record=read_embedded(image))


def _convert_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey
        values = np.asarray(image).astype(np.int32)  # (H, W), 0-65535; mode I may hold more
        if values.min() < 0 or values.max() > 65535:
            raise ImageFault("unsupported_format")
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            values[values == transparent] = 65535
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")  # 65535 = 255 * 257
    if image.mode == "F":
        raise ImageFault("unsupported_format")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    straight = image.convert("LA") if image.mode == "La" else image  # Pillow cannot convert La to RGBA directly
    straight = straight if straight.mode == "RGBA" else straight.convert("RGBA")
    if straight.getchannel("A").getextrema() != (255, 255):  # blending takes five times as long as looking
        straight = Image.alpha_composite(Image.new("RGBA", image.size, "white"), straight)
    return straight.convert("RGB")


class _WarningSilencer:
    """Silences all warnings while any thread decodes: the reasons cover what Pillow warns about.

    `catch_warnings` alone is not thread-safe: overlapping threads would restore the wrong filters of the process.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters = warnings.catch_warnings(action="ignore")
                self._filters.__enter__()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.__exit__(None, None, None)


_silence = _WarningSilencer()
logging.getLogger("PIL").addHandler(logging.NullHandler())  # without a handler, Python prints its errors on stderr


@contextmanager
def _translate_faults(data: bytes | None) -> Iterator[None]:
    """Turn every exception of Pillow into an ImageFault; `data` are the bytes that are decoded, None if unknown."""
    with _silence:
        try:
            yield
        except ImageFault:
            raise
        except Image.DecompressionBombError as error:
            raise ImageFault("too_many_pixels") from error
        except MemoryError as error:
            raise ImageFault("decoder_crash") from error
        except Exception as error:  # decoders raise exceptions of any type on damaged bytes
            raise ImageFault(_choose_reason(error, data)) from error


def _choose_reason(error: Exception, data: bytes | None) -> Reason:
    message = str(error).lower()
    if data is None:
        return "truncated" if "truncated" in message else "corrupt"
    found = _FIRST_BYTES.match(data)
    if found is None:
        return "not_an_image"
    kind = found.lastgroup
    if kind == "other" or (kind == "AVIF" and not features.check("avif")):
        return "unsupported_format"
    if _is_cut_short(kind, data) or (kind in ("TIFF", "BMP") and "truncated" in message):
        return "truncated"
    # A TIFF that is complete and still not recognised by Pillow has an unusual pixel layout, such as 64-bit floats.
    if "unsupported" in message or (kind == "TIFF" and isinstance(error, UnidentifiedImageError)):
        return "unsupported_format"
    return "corrupt"


def _is_cut_short(kind: str | None, data: bytes) -> bool:
    """Whether a damaged file lacks its end, according to the end mark or the length that its format has."""
    if kind in ("JPEG", "GIF"):
        return not data.rstrip(b"\0").endswith(b"\xff\xd9" if kind == "JPEG" else b";")
    if kind == "PNG":
        return b"IEND" not in data
    if kind == "WEBP":
        return 8 + int.from_bytes(data[4:8], "little") > len(data)
    if kind == "BMP":
        return int.from_bytes(data[2:6], "little") > len(data)
    if kind == "AVIF":
        return _leaves_box_open(data)
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    is_big = b"+" in data[:4]  # BigTIFF
    where, count_bytes, entry_bytes = (slice(8, 16), 8, 20) if is_big else (slice(4, 8), 2, 12)
    start = int.from_bytes(data[where], order)
    entries = int.from_bytes(data[start : start + count_bytes], order)
    return start + count_bytes + entries * entry_bytes > len(data)  # the first directory usually follows the pixels


def _leaves_box_open(data: bytes) -> bool:
    """Whether the last box of an ISO media file ends behind the end of the data."""
    start = 0
    while start < len(data):
        size, head = int.from_bytes(data[start : start + 4], "big"), 8
        if size == 1:  # its length follows as 64 bits
            size, head = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        if size < head:  # 0: up to the end of the file
            return False
        start += size
    return start > len(data)
