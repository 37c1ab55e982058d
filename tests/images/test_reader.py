"""A good image is decoded to upright RGB; a damaged one raises an ImageFault with the right reason."""

import io
import os
import pickle
import socket
import struct
import threading
import warnings
import zlib
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageFile
from written import encode_image

from aigc_cli.images import reader
from aigc_cli.images.reader import (
    IMAGE_FORMATS,
    MAX_ASPECT,
    MAX_IMAGE_BYTES,
    MAX_PIXELS,
    NOTE_REASONS,
    REASONS,
    DecodedImage,
    ImageFault,
    Reason,
    convert_pil,
    decode_image,
    hash_bytes,
    read_image_bytes,
)

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def noise(width: int = 24, height: int = 16) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = b"".join(extra) + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


def reason_of(data: bytes) -> str:
    with pytest.raises(ImageFault) as caught:
        decode_image(data)
    return caught.value.reason


def colours(image: Image.Image) -> list[tuple[int, int, int]]:
    return [tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()]


STORED = {  # EXIF orientation -> the turn from the upright picture to the stored one
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
SAMPLES = {kind: encode_image(noise(), kind) for kind in IMAGE_FORMATS}


# --- reasons


def test_every_reason_is_explained() -> None:
    assert set(get_args(Reason)) == set(REASONS)
    assert all(text and "\n" not in text for text in REASONS.values())
    assert set(REASONS) > NOTE_REASONS


def test_a_fault_says_its_reason_and_survives_pickling() -> None:
    fault = pickle.loads(pickle.dumps(ImageFault("truncated")))
    assert fault.reason == "truncated"
    assert str(fault) == "truncated: the file ends before the image is complete"


def test_truncated_images_are_never_completed() -> None:
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


# --- good images


@pytest.mark.parametrize("kind", IMAGE_FORMATS)
def test_every_format_decodes(kind: str) -> None:
    decoded = decode_image(SAMPLES[kind])
    assert (decoded.image.mode, decoded.image.size, decoded.width, decoded.height) == ("RGB", (24, 16), 24, 16)
    assert decoded.note is None
    if kind in ("PNG", "TIFF", "BMP"):
        assert colours(decoded.image) == colours(noise())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(kind: str, orientation: int) -> None:
    upright = Image.new("RGB", (32, 16), BLUE)
    upright.paste(RED, (0, 0, 16, 8))
    stored = upright if orientation == 1 else upright.transpose(STORED[orientation])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    decoded = decode_image(encode_image(stored, kind, exif=exif.tobytes()))
    assert (decoded.width, decoded.height) == (32, 16)
    difference = np.asarray(decoded.image).astype(int) - np.asarray(upright)
    assert np.abs(difference).mean() < 12  # JPEG blurs; a wrong turn differs by about 100


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b""])
def test_broken_exif_leaves_the_image_as_it_is(exif: bytes) -> None:
    assert decode_image(encode_image(noise(), "JPEG", exif=exif)).width == 24


def test_16_bit_grey_is_divided_by_257() -> None:
    values = [0, 257, 1000, 32896, 65535]
    expected = [(round(value / 257),) * 3 for value in values]
    for kind in ("PNG", "TIFF"):
        image = Image.fromarray(np.array([values], dtype=np.uint16))
        assert colours(decode_image(encode_image(image, kind)).image) == expected
    big_endian = Image.frombytes("I;16B", (5, 1), struct.pack(">5H", *values))
    assert colours(convert_pil(big_endian).image) == expected
    assert colours(convert_pil(Image.fromarray(np.array([values], dtype=np.int32))).image) == expected


def test_transparent_16_bit_grey_is_white() -> None:
    rows = b"\0" + struct.pack(">2H", 1000, 2570)
    data = png(2, 1, 16, 0, rows, chunk(b"tRNS", struct.pack(">H", 1000)))
    assert colours(decode_image(data).image) == [WHITE, (10, 10, 10)]


@pytest.mark.parametrize("value", [-1, 65536, 2**31 - 1])
def test_32_bit_grey_is_refused(value: int) -> None:
    image = Image.fromarray(np.full((2, 2), value, dtype=np.int32))
    assert reason_of(encode_image(image, "TIFF")) == "unsupported_format"


def test_float_pixels_are_refused() -> None:
    image = Image.fromarray(np.full((2, 2), 0.5, dtype=np.float32))
    assert reason_of(encode_image(image, "TIFF")) == "unsupported_format"
    with pytest.raises(ImageFault) as caught:
        convert_pil(image)
    assert caught.value.reason == "unsupported_format"


def tiff_of_doubles() -> bytes:
    tags = [(256, 4, 1), (257, 4, 1), (258, 3, 64), (259, 3, 1), (262, 3, 1), (273, 4, 200), (277, 3, 1)]
    tags += [(278, 4, 1), (279, 4, 8), (339, 3, 3)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return (b"II*\0" + struct.pack("<I", 8) + directory).ljust(200, b"\0") + struct.pack("<d", 0.5)


def test_64_bit_float_tiff_is_refused() -> None:
    assert reason_of(tiff_of_doubles()) == "unsupported_format"
    assert reason_of(tiff_of_doubles()[:60]) == "truncated"


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_laid_on_white(kind: str) -> None:
    image = Image.new("RGBA", (16, 16), (255, 0, 0, 0))  # invisible red
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    assert set(colours(decode_image(encode_image(image, kind, **options)).image)) == {WHITE}


def test_an_opaque_alpha_changes_nothing() -> None:
    image = noise()
    image.putalpha(255)
    assert colours(decode_image(encode_image(image, "PNG")).image) == colours(noise())
    image.putpixel((0, 0), (0, 0, 0, 254))
    assert colours(decode_image(encode_image(image, "PNG")).image)[0] == (1, 1, 1)


def test_half_transparent_red_is_pink() -> None:
    pixel = colours(decode_image(encode_image(Image.new("RGBA", (1, 1), (255, 0, 0, 128)), "PNG")).image)[0]
    assert pixel == (255, 127, 127)


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBa"])
def test_other_modes_with_alpha_are_laid_on_white(mode: str) -> None:
    assert colours(convert_pil(Image.new(mode, (1, 1))).image) == [WHITE]


def test_palette_with_a_transparent_colour() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    assert colours(decode_image(encode_image(image, "PNG", transparency=0)).image) == [WHITE, GREEN]
    assert colours(decode_image(encode_image(image, "PNG", transparency=b"\xff\x00")).image) == [RED, WHITE]
    assert colours(decode_image(encode_image(image, "GIF", transparency=0)).image) == [WHITE, GREEN]


def test_trns_chunk_of_rgb_and_grey() -> None:
    rgb = png(2, 1, 8, 2, b"\0" + bytes([*RED, *BLUE]), chunk(b"tRNS", struct.pack(">3H", *RED)))
    assert colours(decode_image(rgb).image) == [WHITE, BLUE]
    grey = png(2, 1, 8, 0, b"\0\x05\x09", chunk(b"tRNS", struct.pack(">H", 5)))
    assert colours(decode_image(grey).image) == [WHITE, (9, 9, 9)]
    bilevel = png(8, 1, 1, 0, b"\0\xf0", chunk(b"tRNS", struct.pack(">H", 0)))
    assert colours(decode_image(bilevel).image) == [WHITE] * 8


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"])
def test_every_other_mode_becomes_rgb(mode: str) -> None:
    assert convert_pil(Image.new(mode, (3, 2))).image.mode == "RGB"


def test_cmyk_jpeg() -> None:
    pixel = colours(decode_image(encode_image(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")).image)[0]
    assert np.abs(np.subtract(pixel, RED)).max() < 4


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_of_several_frames_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = decode_image(encode_image(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert set(colours(decoded.image)) == {RED}
    assert decoded.note == "animated_first_frame"


def test_a_photograph_with_a_second_picture_is_not_animated() -> None:
    decoded = decode_image(encode_image(noise(), "MPO", save_all=True, append_images=[noise(8, 8)]))
    assert (decoded.width, decoded.note) == (24, None)


def test_convert_pil_agrees_with_decode_image_and_keeps_the_image() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    data = encode_image(Image.new("RGBA", (4, 2), (255, 0, 0, 0)), "PNG", exif=exif.tobytes())
    with Image.open(io.BytesIO(data)) as image:
        ours = convert_pil(image)
        assert (image.mode, image.size) == ("RGBA", (4, 2))
    assert colours(ours.image) == colours(decode_image(data).image)
    assert (ours.width, ours.height) == (2, 4)
    mine = noise()
    convert_pil(mine).image.putpixel((0, 0), RED)
    assert colours(mine) == colours(noise())


def test_convert_pil_of_a_cut_file() -> None:
    with Image.open(io.BytesIO(SAMPLES["PNG"][:200])) as image, pytest.raises(ImageFault) as caught:
        convert_pil(image)
    assert caught.value.reason == "truncated"


def test_convert_pil_of_no_pixels() -> None:
    with pytest.raises(ImageFault) as caught:
        convert_pil(Image.new("RGB", (0, 5)))
    assert caught.value.reason == "corrupt"


# --- bad images


@pytest.mark.parametrize("data", [b"", b"\0", b"<!DOCTYPE html><html>", b"BMW is a car", "\ufeffhello".encode()])
def test_not_an_image(data: bytes) -> None:
    assert reason_of(data) == "not_an_image"


@pytest.mark.parametrize("kind", IMAGE_FORMATS)
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.98])
def test_truncated(kind: str, part: float) -> None:
    data = SAMPLES[kind]
    assert reason_of(data[: max(60, int(len(data) * part))]) == "truncated"


def test_a_png_that_lacks_only_its_end_marker_is_whole() -> None:
    assert colours(decode_image(SAMPLES["PNG"][:-12]).image) == colours(noise())


def test_a_download_that_was_never_filled() -> None:
    data = SAMPLES["JPEG"]
    assert reason_of(data[:300] + bytes(len(data) - 300)) == "truncated"


def flip_bits(data: bytes, offset: int, mask: int = 0xFF) -> bytes:
    return data[:offset] + bytes([data[offset] ^ mask]) + data[offset + 1 :]


def test_corrupt() -> None:
    data = SAMPLES["PNG"]
    assert reason_of(flip_bits(data, 29)) == "corrupt"  # the header's CRC
    assert reason_of(flip_bits(data, data.index(b"IDAT") + 4)) == "corrupt"  # the stream's first byte
    jpeg = SAMPLES["JPEG"]
    assert reason_of(flip_bits(jpeg, jpeg.index(b"\xff\xc0") + 9)) == "corrupt"  # 254 components


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt", b"iCCP"])
def test_metadata_bombs(name: bytes) -> None:
    bomb = zlib.compress(bytes(2 * 2**20), 9)
    head = {b"zTXt": b"key\0\0", b"iTXt": b"key\0\1\0\0\0", b"iCCP": b"key\0\0"}[name]
    decoded = decode_image(png(1, 1, 8, 0, b"\0\0", chunk(name, head + bomb)))
    assert (decoded.width, decoded.record.fault) == (1, "bad_metadata")


def test_many_small_metadata_bombs() -> None:
    texts = [chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(2**20)))] * 65  # each within Pillow's limit of 1 MiB
    decoded = decode_image(png(1, 1, 8, 0, b"\0\0", *texts))
    assert (decoded.width, decoded.record.fault) == (1, "bad_metadata")


@pytest.mark.parametrize("side", [8001, 9500, 14000, 60_000])
def test_size_is_checked_before_decoding(side: int) -> None:
    assert side * side > MAX_PIXELS
    data = png(side, side, 8, 0, b"")  # no pixels: the header alone is refused
    assert reason_of(data) == "too_many_pixels"


def test_convert_pil_has_the_same_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_PIXELS", 24 * 16)
    assert convert_pil(noise(24, 16)).width == 24
    with pytest.raises(ImageFault) as caught:
        convert_pil(noise(24, 17))
    assert caught.value.reason == "too_many_pixels"


@pytest.mark.parametrize(("width", "height"), [(1, 20000), (20000, 1), (2, 2 * MAX_ASPECT + 1)])
def test_extreme_aspect(width: int, height: int) -> None:
    assert reason_of(encode_image(Image.new("L", (width, height)), "PNG")) == "extreme_aspect"


def test_the_longest_aspect_allowed() -> None:
    assert decode_image(encode_image(Image.new("L", (2, 2 * MAX_ASPECT)), "PNG")).height == 2 * MAX_ASPECT


OTHERS = {
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n",
    "pdf": b"%PDF-1.7\n",
    "ico": encode_image(noise(16, 16), "ICO"),
    "ppm": encode_image(noise(), "PPM"),
    "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
    "bare svg": b"<svg/>",
    "heic": b"\0\0\0\x18ftypheic" + bytes(40),
    "heif": b"\0\0\0\x18ftypmif1" + bytes(40),
    "jxl": b"\xff\x0a" + bytes(40),
    "psd": b"8BPS\0\1" + bytes(40),
}


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS.keys())
def test_images_of_other_kinds(data: bytes) -> None:
    assert reason_of(data) == "unsupported_format"


def test_ghostscript_is_never_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr("subprocess.Popen", lambda *args, **_: started.append(args))
    (tmp_path / "a.png").write_bytes(OTHERS["eps"])
    assert reason_of(read_image_bytes(tmp_path / "a.png")) == "unsupported_format"
    assert started == []


def test_unsupported_bmp() -> None:
    data = SAMPLES["BMP"]
    assert reason_of(data[:28] + struct.pack("<H", 7) + data[30:]) == "unsupported_format"  # 7 bits a pixel


def test_too_little_memory_is_a_decoder_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", fail)
    assert reason_of(SAMPLES["GIF"]) == "decoder_crash"


# --- warnings


def test_no_warning_leaks_and_filters_come_back(capfd: pytest.CaptureFixture[str]) -> None:
    before = list(warnings.filters)
    bad_exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\xff\0\xff\xff\xff\xff"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decode_image(encode_image(noise(), "JPEG", exif=bad_exif))
        reason_of(png(9500, 9500, 8, 0, b""))  # Pillow warns from 89 million pixels on
        reason_of(tiff_of_doubles())
    assert caught == []
    assert list(warnings.filters) == before
    assert capfd.readouterr() == ("", "")


def test_filters_come_back_after_threads_overlap() -> None:
    before = list(warnings.filters)
    barrier = threading.Barrier(4)
    done: list[DecodedImage] = []

    def work() -> None:
        barrier.wait()
        done.extend(decode_image(SAMPLES["PNG"]) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 80
    assert list(warnings.filters) == before


# --- files


def fault_of(path: Path) -> str:
    with pytest.raises(ImageFault) as caught:
        read_image_bytes(path)
    return caught.value.reason


def test_regular_files_and_links_to_them(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"abc")
    (tmp_path / "link.png").symlink_to("a.png")
    assert read_image_bytes(tmp_path / "a.png") == read_image_bytes(tmp_path / "link.png") == b"abc"


def test_what_is_not_regular_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "to_pipe.png").symlink_to("pipe.png")
    (tmp_path / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.png"))
        assert fault_of(tmp_path / "s.png") == "not_regular"
    for name in ("pipe.png", "loop.png", "to_pipe.png", "folder.png"):
        assert fault_of(tmp_path / name) == "not_regular"
    assert fault_of(Path("/dev/zero")) == "not_regular"


@pytest.mark.parametrize("name", ["none.png", "nul\0.png", "x" * 300, "file/inside.png", "dead.png"])
def test_missing_files(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "dead.png").symlink_to("gone.png")
    assert fault_of(tmp_path / name) == "missing_file"


@pytest.mark.parametrize("error", [PermissionError(13, "denied"), OSError(5, "I/O error")])
def test_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def fail(_: Path) -> bytes:
        raise error

    (tmp_path / "a.png").write_bytes(b"abc")
    monkeypatch.setattr(Path, "read_bytes", fail)
    assert fault_of(tmp_path / "a.png") == "unreadable"


def test_a_file_too_large_to_be_an_image_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)  # sparse: takes no disk
    assert fault_of(tmp_path / "a.png") == "too_many_pixels"


def test_digest() -> None:
    assert hash_bytes(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# --- arbitrary damage


def make_mutations(data: bytes) -> st.SearchStrategy[bytes]:
    changes = st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=8)

    def apply(case: tuple[list[tuple[int, int]], int]) -> bytes:
        copy = bytearray(data)
        for offset, value in case[0]:
            copy[offset] = value
        return bytes(copy[: case[1]])

    return st.tuples(changes, st.one_of(st.just(len(data)), st.integers(0, len(data)))).map(apply)


@pytest.mark.parametrize("kind", IMAGE_FORMATS)
@settings(deadline=None, max_examples=60)
@given(choice=st.data())
def test_any_damage_is_an_image_or_a_fault(kind: str, choice: st.DataObject) -> None:
    data = choice.draw(make_mutations(SAMPLES[kind]))
    try:
        decoded = decode_image(data)
    except ImageFault as fault:
        assert fault.reason in REASONS
    else:
        assert decoded.image.mode == "RGB"
        assert decoded.image.size == (decoded.width, decoded.height)
