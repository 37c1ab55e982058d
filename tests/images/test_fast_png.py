"""The fast way to decode a PNG gives what Pillow alone gives: pixels, notes, records and reasons of faults."""

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import kornia_rs.io
import numpy as np
import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngImageFile, PngInfo
from written import encode_image

from aigc_cli.images import reader
from aigc_cli.images.fast_png import decode_usual_png
from aigc_cli.images.reader import ImageFault, decode_image

Chunks = list[tuple[bytes, bytes]]
INFOTEXT = "a red cat\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512"


class Decoders:
    """`decode_image` as it is, and with Pillow alone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch, self.fast = monkeypatch, False  # `fast`: whether the last file was decoded the fast way

    def _decode_fast(self, image: PngImageFile, data: bytes) -> Image.Image | None:
        found = decode_usual_png(image, data)
        self.fast = found is not None
        return found

    def run(self, data: bytes, alone: bool = False) -> Any:
        """Everything in the decoded image, or the reason of the fault."""
        self.fast = False
        self._patch.setattr(reader, "decode_usual_png", (lambda *_: None) if alone else self._decode_fast)
        try:
            found = decode_image(data)
        except ImageFault as fault:
            return fault.reason
        return found.pixels.shape, found.pixels.tobytes(), found.width, found.height, found.note, found.record

    def check(self, data: bytes) -> Any:
        """Asserts that both give the same, and returns it."""
        expected, found = self.run(data, alone=True), self.run(data)
        assert found == expected
        return found


@pytest.fixture
def decoders(monkeypatch: pytest.MonkeyPatch) -> Decoders:
    return Decoders(monkeypatch)


def picture(mode: str, width: int = 37, height: int = 23) -> Image.Image:
    """Noise over a gradient, in any mode."""
    ramp = np.linspace(0, 255, width * height * 4).reshape(height, width, 4)
    noise = np.random.default_rng([width, height]).normal(0, 30, ramp.shape)
    pixels = (ramp + noise).clip(0, 255).astype(np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    return Image.fromarray(pixels).convert(mode)


def split_chunks(data: bytes) -> Chunks:
    start, found = 8, []
    while start < len(data):
        end = start + 8 + int.from_bytes(data[start : start + 4], "big")
        found.append((data[start + 4 : start + 8], data[start + 8 : end]))
        start = end + 4
    return found


def join_chunks(chunks: Chunks) -> bytes:
    """A PNG file with right checksums."""
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def insert(data: bytes, *new: tuple[bytes, bytes], before: bytes = b"IDAT") -> bytes:
    """The file with more chunks."""
    chunks = split_chunks(data)
    place = [kind for kind, _ in chunks].index(before)
    return join_chunks([*chunks[:place], *new, *chunks[place:]])


def replace_pixels(data: bytes, parts: Sequence[bytes]) -> bytes:
    """The file with other IDAT chunks."""
    others = [part for part in split_chunks(data) if part[0] != b"IDAT"]
    return insert(join_chunks(others), *((b"IDAT", part) for part in parts), before=b"IEND")


def write_row(width: int, depth: int, colour: int, row: bytes) -> bytes:
    """A file of one row without a filter."""
    header = struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)
    return join_chunks([(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")])


def make_usual() -> dict[str, bytes]:
    rgb, texts, exif = encode_image(picture("RGB"), "PNG"), PngInfo(), Image.Exif()
    texts.add_text("parameters", INFOTEXT)
    texts.add_itxt("Title", "å", zip=True)
    exif[ExifTags.Base.Orientation] = 6
    opaque = picture("RGB")
    opaque.putalpha(255)
    stream = split_chunks(rgb)[1][1]
    found = {f"{mode} {w}x{h}": encode_image(picture(mode, w, h), "PNG") for mode in ("RGB", "RGBA") for w, h in SIZES}
    found |= {f"level {level}": encode_image(picture("RGB"), "PNG", compress_level=level) for level in (0, 1, 9)}
    return found | {
        "opaque": encode_image(opaque, "PNG"),
        "texts": encode_image(picture("RGBA"), "PNG", pnginfo=texts),
        "turned": encode_image(picture("RGB"), "PNG", exif=exif.tobytes()),
        "colours": insert(rgb, (b"gAMA", struct.pack(">I", 45455)), (b"sRGB", b"\0"), (b"pHYs", bytes(9))),
        "profile": encode_image(picture("RGB"), "PNG", icc_profile=b"profile"),
        "palette": insert(rgb, (b"PLTE", bytes(9))),
        "unknown": insert(rgb, (b"caBX", b"content credentials")),
        "pieces": replace_pixels(rgb, [stream[:1], b"", stream[1:50], stream[50:], b""]),
        "more": rgb + b"more",
        "long": replace_pixels(rgb, [zlib.compress(zlib.decompress(stream) + bytes(500))]),
    }


def make_unusual() -> dict[str, bytes]:
    rgb, exif, moving = encode_image(picture("RGB"), "PNG"), Image.Exif(), [picture("RGB").rotate(180)]
    exif[ExifTags.Base.Orientation] = 6
    deep = np.random.default_rng(0).integers(0, 256, 30, dtype=np.uint8).tobytes()
    found = {mode: encode_image(picture(mode), "PNG") for mode in ("L", "LA", "P", "1", "I;16")}
    return found | {
        "16 bits": write_row(5, 16, 2, deep),
        "16 bits, alpha": write_row(3, 16, 6, deep[:24]),
        "interlaced": interlace(write_row(1, 8, 2, deep[:3])),
        "transparent colour": insert(rgb, (b"tRNS", bytes(6))),
        "animated": encode_image(picture("RGB"), "PNG", save_all=True, append_images=moving),
        "text at the end": insert(rgb, (b"tEXt", b"parameters\0" + INFOTEXT.encode()), before=b"IEND"),
        "turned at the end": insert(rgb, (b"eXIf", exif.tobytes()[6:]), before=b"IEND"),
        "text named interlace": insert(rgb, (b"tEXt", b"interlace\0yes")),
        "no end": rgb[:-12],
        "wrong checksum": rgb[:-13] + bytes([rgb[-13] ^ 1]) + rgb[-12:],
        "no pixels": replace_pixels(rgb, []),
        "two headers": insert(rgb, split_chunks(rgb)[0]),
    }


def interlace(data: bytes) -> bytes:
    """A file that says it is interlaced; the data of a single pixel are the same."""
    (kind, header), *rest = split_chunks(data)
    return join_chunks([(kind, header[:12] + b"\1"), *rest])


SIZES = [(1, 1), (1, 40), (40, 1), (37, 23), (64, 48)]
USUAL, UNUSUAL = make_usual(), make_unusual()


@pytest.mark.parametrize("name", USUAL)
def test_the_usual_png_is_decoded_the_fast_way(name: str, decoders: Decoders) -> None:
    found = decoders.check(USUAL[name])
    assert decoders.fast
    assert not isinstance(found, str)


@pytest.mark.parametrize("name", UNUSUAL)
def test_pillow_decodes_other_png(name: str, decoders: Decoders) -> None:
    decoders.check(UNUSUAL[name])
    assert decoders.fast == (name == "two headers")  # Pillow takes the second


def test_records_are_found_before_and_after_the_pixels(decoders: Decoders) -> None:
    for data in (USUAL["texts"], UNUSUAL["text at the end"]):
        assert decoders.run(data)[-1].prompt == "a red cat"
    shapes = [decoders.run(data)[0] for data in (USUAL["turned"], UNUSUAL["turned at the end"])]
    assert shapes == [(37, 23, 3)] * 2


def damage(seed: int, count: int) -> Iterator[bytes]:
    """Files that are cut short, or have a few wrong bits or bytes."""
    random = np.random.default_rng(seed)
    files = [data for data in [*USUAL.values(), *UNUSUAL.values()] if len(data) < 5000]
    for _ in range(count):
        data = bytearray(files[random.integers(len(files))])
        if random.random() < 0.3:
            yield bytes(data[: random.integers(len(data))])
            continue
        for place in random.integers(len(data), size=random.integers(1, 4)).tolist():
            data[place] = random.integers(256) if random.random() < 0.5 else data[place] ^ 1 << random.integers(8)
        yield bytes(data)


def test_damaged_files_have_the_same_reason(decoders: Decoders) -> None:
    found = [decoders.check(data) for data in damage(1, 1500)]
    assert {"corrupt", "truncated"} < {one for one in found if isinstance(one, str)}


def test_damaged_rows_with_right_checksums_have_the_same_reason(decoders: Decoders) -> None:
    random, ways = np.random.default_rng(2), set()
    for name in ("RGB 37x23", "RGBA 37x23", "RGB 1x1"):
        rows = zlib.decompress(split_chunks(USUAL[name])[1][1])
        for _ in range(150):
            data = bytearray(rows[: random.integers(len(rows))] if random.random() < 0.3 else rows)
            if data:
                data[random.integers(len(data)) if random.random() < 0.5 else 0] = random.integers(8)
            stream = zlib.compress(data, int(random.integers(10)))
            cut = int(random.integers(len(stream)))
            found = decoders.check(replace_pixels(USUAL[name], [stream[:cut], stream[cut:]]))
            ways.add((found == "corrupt", decoders.fast))
    assert ways == {(True, False), (False, True)}


def test_a_wrong_end_after_the_last_row_is_forgiven(decoders: Decoders) -> None:
    data = USUAL["RGB 37x23"]
    stream = split_chunks(data)[1][1]
    for end in (b"", b"\0\0", bytes(4)):
        assert decoders.run(replace_pixels(data, [stream[:-4] + end])) == decoders.run(data)


def test_pillow_takes_over_from_a_decoder_that_fails(monkeypatch: pytest.MonkeyPatch, decoders: Decoders) -> None:
    class PanicException(BaseException):  # as Rust's panics arrive
        pass

    failures: list[type[BaseException]] = [PanicException, ValueError, ImportError]

    def fail(*_: object) -> None:
        raise failures[-1]

    monkeypatch.setattr(kornia_rs.io, "decode_image_png_u8", fail)
    while failures:
        assert not isinstance(decoders.check(USUAL["texts"]), str)
        assert not decoders.fast
        failures.pop()
    failures = [KeyboardInterrupt]
    with pytest.raises(KeyboardInterrupt):
        decoders.run(USUAL["texts"])
