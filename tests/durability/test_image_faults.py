"""Every fault that an image can have, among good images: each gets its row, and no other row changes."""

import csv
import io
import json
import os
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

GOOD = 96  # three full batches: readable images that sort after them can't change the last bits of their scores
MEASURE = """
import re, sys
from pathlib import Path
from aigc_cli.cli import main
from aigc_cli.images.decoder import POOL
code = main.run(sys.argv[1:])
here = ["self", *(process.child.pid for process in POOL.waiting)]  # getrusage would count the parent too
sizes = [int(re.search(r"VmHWM:\\s+(\\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) for pid in here]
print(code, sum(sizes), file=sys.stderr)
"""


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def make_png(width: int, height: int, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG of white one-bit pixels with `extra` chunks before them."""
    rows = zlib.compressobj(9)
    line = b"\0" + b"\xff" * ((width + 7) // 8)
    pixels = b"".join([*(rows.compress(line) for _ in range(height)), rows.flush()])
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)),
        *extra,
        (b"IDAT", pixels),
        (b"IEND", b""),
    ]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def make_bombs() -> dict[str, tuple[bytes, str]]:
    much = zlib.compress(b"A" * 300_000_000, 9)
    return {
        "pixels 179 million.png": (make_png(13_380, 13_380), "too_many_pixels"),
        "pixels 400 million.png": (make_png(20_000, 20_000), "too_many_pixels"),
        "ztxt.png": (make_png(64, 64, (b"zTXt", b"k\0\0" + much)), "bad_metadata"),
        "iccp.png": (make_png(64, 64, (b"iCCP", b"k\0\0" + much)), "bad_metadata"),
    }


def make_damaged(good: bytes, png: bytes) -> dict[str, tuple[bytes, str]]:
    wrong = bytearray(png)
    wrong[len(wrong) // 2] ^= 0xFF
    page = b"<!DOCTYPE html><html>not found</html>"
    return {
        "empty.png": (b"", "not_an_image"),
        "page.jpg": (page, "not_an_image"),
        "text.jpg": (b"=cmd|' /C calc'!A0", "not_an_image"),
        "cut.jpg": (good[: len(good) // 2], "truncated"),
        "cut.png": (png[: len(png) // 2], "truncated"),
        "crc.png": (bytes(wrong), "corrupt"),
        "eps.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unsupported_format"),
        "float.tif": (encode(Image.new("F", (64, 64)), "TIFF"), "unsupported_format"),
        "long.png": (encode(Image.new("RGB", (20_000, 1)), "PNG"), "extreme_aspect"),
        "crash.png": (png, "decoder_crash"),
        "=1+1.png": (b"", "not_an_image"),
        "[bold]x[[red].png": (b"", "not_an_image"),
        "esc\x1b[2J\x1b]0;x\x07.png": (b"", "not_an_image"),
        "line\nbreak.png": (b"", "not_an_image"),
        "latin\udce9.png": (b"", "not_an_image"),
    }


def make_unusual(picture: Image.Image) -> dict[str, tuple[bytes, str]]:
    """Images that get scores; other tests check their pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = Image.fromarray(np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16))
    alpha = picture.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(alpha.size))
    frames = {"save_all": True, "append_images": [picture.rotate(90)]}
    return {
        "moving.gif": (encode(picture, "GIF", **frames), "animated_first_frame"),
        "transparent.png": (encode(alpha, "PNG"), ""),
        "grey16.png": (encode(grey, "PNG"), ""),
        "turned.jpg": (encode(picture, "JPEG", exif=exif), ""),
        "naïve 画像 \udcff.png": (encode(picture, "PNG"), ""),
    }


def make_special(folder: Path) -> dict[str, str]:
    """Paths that are no regular file, and a file that is too large."""
    os.mkfifo(folder / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        before = Path.cwd()
        os.chdir(folder)  # the path of a socket must be short
        server.bind("socket.png")
        os.chdir(before)
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "one.png").symlink_to("two.png")
    (folder / "two.png").symlink_to("one.png")
    (folder / "dead.png").symlink_to("nothing.png")
    (folder / "folder.png").mkdir()
    with (folder / "sparse.png").open("wb") as stream:
        stream.truncate(10 << 30)
    found = dict.fromkeys(["pipe.png", "socket.png", "device.png", "loop.png", "one.png", "two.png"], "not_regular")
    return found | {"dead.png": "missing_file", "sparse.png": "too_many_pixels"}


def escape(name: str) -> str:
    return (
        name.encode("utf-8", "surrogateescape")
        .decode("utf-8", "backslashreplace")
        .translate({27: r"\x1b", 7: r"\x07", 10: r"\n"})
    )


def test_damaged_images_get_a_row_with_their_reason(
    tiny_model: Path, many: Callable[..., Path], tmp_path: Path, aigc_here: Callable[..., tuple[int, str, str]]
) -> None:
    folder = many(2, "good")
    with Image.open(folder / "good000.jpg") as opened:
        picture = opened.convert("RGB")
    files = make_damaged((folder / "good000.jpg").read_bytes(), encode(picture, "PNG"))
    del files["crash.png"]  # only misbehaving decoders crash
    for name, (data, _) in files.items():
        (folder / name).write_bytes(data)
    line = ("score", folder, "--model", tiny_model, "--device", "cpu", "-o", tmp_path / "t.csv")
    code, out, err = aigc_here(*line)
    assert code == 0, err
    assert not set(out + err) & set("\x1b\x07")
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as stream:
        rows = {row["name"].removeprefix("'"): row for row in csv.DictReader(stream)}
    found = {name: row["reason"] for name, row in rows.items() if row["status"] == "failed"}
    assert found == {escape(name): reason for name, (_, reason) in files.items()}
    assert {name for name, row in rows.items() if row["status"] == "ok"} == {"good000.jpg", "good001.jpg"}


@pytest.mark.slow
def test_every_fault_at_once(
    tiny_model: Path,
    many: Callable[..., Path],
    tmp_path: Path,
    environment: dict[str, str],
) -> None:
    folder = many(GOOD, "good")
    prompts = [(f"good{i:03}.jpg", f'=[red]"prompt"[/], {i} \x1b[31m') for i in range(GOOD)]

    def score(rows: list[tuple[str, str]], output: str) -> tuple[list[str], str, int]:
        with (tmp_path / "p.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([("name", "prompt"), *rows])
        options = ["--prompts", tmp_path / "p.csv", "--model", tiny_model, "-o", tmp_path / output, "--device", "cpu"]
        line = [sys.executable, "-c", MEASURE, "score", folder, *options]
        done = subprocess.run([*map(str, line)], env=environment, capture_output=True, text=True, timeout=400)
        code, size = map(int, done.stderr.splitlines()[-1].split())
        assert code == 0, done.stderr
        with (tmp_path / output).open(newline="", encoding="utf-8") as stream:
            return list(stream), done.stdout + done.stderr, size

    alone, _, _ = score(prompts, "alone.csv")
    with Image.open(folder / "good000.jpg") as opened:
        picture = opened.convert("RGB")
    damaged = make_damaged((folder / "good000.jpg").read_bytes(), encode(picture, "PNG"))
    files = damaged | make_bombs() | make_unusual(picture)
    for name, (data, _) in files.items():
        (folder / name).write_bytes(data)
    expected = {escape(name): reason for name, (_, reason) in files.items()} | make_special(folder)
    cpu, begun = os.times(), time.monotonic()
    mixed, said, size = score(prompts, "mixed.csv")
    spent = sum(os.times()[2:4]) - sum(cpu[2:4])
    print(f"{spent:.1f} s of CPU, {time.monotonic() - begun:.1f} s, {size / 1024:.0f} MiB resident")
    assert spent < 60
    assert size < 1.5 * 2**20

    assert [line for line in mixed if "good" in line or line.startswith("name,")] == alone
    rows = {row["name"].removeprefix("'"): row for row in csv.DictReader(mixed)}
    reasons = {
        name: row["reason"].replace("no_prompt", "").strip(",") for name, row in rows.items() if "good" not in name
    }
    assert reasons == expected
    scored = {"", "animated_first_frame", "bad_metadata"}
    for name, reason in expected.items():
        assert rows[name]["status"] == ("ok" if reason in scored else "failed"), name
        assert bool(rows[name]["quality"]) == (reason in scored)
    assert "folder.png" not in rows
    for control in "\x1b\x07":
        assert control not in said
        assert control not in "".join(rows)
    assert json.loads((tmp_path / "mixed.csv.meta.json").read_text())["schema"] == "scores"


@pytest.mark.slow
def test_bombs_are_small_on_disk_and_large_in_memory() -> None:
    for name, (data, _) in make_bombs().items():
        assert len(data) < 3_000_000, name
    with pytest.raises(ValueError, match="too large"), Image.open(io.BytesIO(make_bombs()["ztxt.png"][0])) as image:
        image.load()
    assert PngImagePlugin.MAX_TEXT_CHUNK < 300_000_000
