"""Texts that programs hide in the lowest bits of the pixels."""

import gzip
import io
import json
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image
from written import A1111, A1111_PROMPT, novelai_texts, png

from aigc_cli.images.reader import decode_image
from aigc_cli.prompts.record import MAX_TEXT, GenerationRecord
from aigc_cli.prompts.stealth import read_stealth


def hide(text: bytes, name: bytes, size: tuple[int, int] = (100, 80), length: int | None = None) -> Image.Image:
    """A picture with `text` hidden under `name`, whose letters say where; `length` replaces the number of its bits."""
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    values[..., 3] = 255
    content = name + (len(text) * 8 if length is None else length).to_bytes(4, "big") + text
    bits = np.unpackbits(np.frombuffer(content, np.uint8))
    chosen = values[..., 3:] if b"png" in name else values[..., :3]
    columns = np.ascontiguousarray(chosen.swapaxes(0, 1))  # (W, H, channels)
    flat = columns.reshape(-1)
    bits = bits[: flat.size]
    flat[: bits.size] = (flat[: bits.size] & 254) | bits
    chosen[...] = columns.swapaxes(0, 1)
    return Image.fromarray(values if b"png" in name else values[..., :3].copy())


NAMES = [b"stealth_pnginfo", b"stealth_pngcomp", b"stealth_rgbinfo", b"stealth_rgbcomp"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(100, 80), (300, 13), (20, 500)])
def test_a_hidden_text(name: bytes, size: tuple[int, int]) -> None:
    data = A1111.encode()
    image = hide(gzip.compress(data) if name.endswith(b"comp") else data, name, size)
    assert read_stealth(image) == A1111
    record = decode_image(png(image)).record
    assert (record.source, record.prompt) == ("a1111", A1111_PROMPT)


def test_novelai() -> None:
    texts: dict[str, Any] = novelai_texts()
    image = hide(gzip.compress(json.dumps(texts).encode()), b"stealth_pngcomp")
    record = decode_image(png(image)).record
    assert (record.source, record.prompt) == ("novelai", "red fox, snow, very aesthetic, girl, blue hat")


def test_the_texts_of_a_png_win() -> None:
    image = hide(b"a cat\nSteps: 20, Sampler: DDIM, Seed: 1", b"stealth_pnginfo")
    assert decode_image(png(image, parameters=A1111)).record.prompt == A1111_PROMPT


def test_other_texts_are_no_prompts() -> None:
    assert decode_image(png(hide(b"hello", b"stealth_pnginfo"))).record == GenerationRecord()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [0, 7, 2**20, 2**32 - 8])
def test_wrong_lengths(name: bytes, length: int) -> None:
    image = hide(A1111.encode(), name, length=length)
    assert not read_stealth(image)
    assert decode_image(png(image)).record == GenerationRecord()


def test_a_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(b" " * (MAX_TEXT * 40))
    image = hide(bomb, b"stealth_pngcomp", (2000, 2000))
    assert read_stealth(image) is None


def test_damaged_texts() -> None:
    for name, data in ((b"stealth_pngcomp", b"no gzip"), (b"stealth_pnginfo", b"\xff\xfe\x80")):
        assert read_stealth(hide(data, name)) is None
    cut = gzip.compress(A1111.encode())[:-20]
    assert read_stealth(hide(cut, b"stealth_pngcomp")) is None


@pytest.mark.parametrize("mode", ["L", "LA", "P", "I;16", "1", "CMYK", "RGB", "RGBA"])
def test_ordinary_images(mode: str) -> None:
    assert read_stealth(Image.new(mode, (1, 1))) is None
    assert read_stealth(Image.new(mode, (500, 3))) is None


def test_an_ordinary_image_costs_nothing() -> None:
    image = Image.new("RGBA", (4000, 4000), "red")
    buffer = io.BytesIO()
    image.resize((8, 8)).save(buffer, "PNG")
    begun = time.perf_counter()
    for _ in range(100):
        read_stealth(image)
    seconds = time.perf_counter() - begun
    begun = time.perf_counter()
    image.convert("RGB")
    assert seconds / 100 < time.perf_counter() - begun
