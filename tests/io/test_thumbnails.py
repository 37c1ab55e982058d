"""Small pictures, and the files that a table's paths mean."""

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from aigc_cli.io.text import printable
from aigc_cli.io.thumbnails import SIDE, Finder, thumbnails


def test_a_picture_for_each_path_in_order(tmp_path: Path, noise_image: Image.Image) -> None:
    large, bad = tmp_path / "large.png", tmp_path / "bad.png"
    noise_image.resize((3 * SIDE, SIDE)).save(large)
    bad.write_bytes(b"no image")
    found = list(thumbnails([bad, large, None, tmp_path / "gone.png"]))
    assert [picture is None for picture in found] == [True, False, True, True]
    with Image.open(io.BytesIO(found[1] or b"")) as picture:
        assert (picture.format, max(picture.size)) == ("WEBP", SIDE)


def test_files_are_found_by_the_names_that_are_shown(tmp_path: Path) -> None:
    for name in ("plain.png", "esc\x1b.png", "line\n.png"):
        (tmp_path / name).write_bytes(b"x")
    find = Finder()
    assert find(str(tmp_path / "plain.png")) == tmp_path / "plain.png"
    assert find(str(tmp_path / "esc\\x1b.png")) == tmp_path / "esc\x1b.png"
    assert find(str(tmp_path / "line\\n.png")) == tmp_path / "line\n.png"
    (tmp_path / "real\\x1b.png").write_bytes(b"x")
    assert find(str(tmp_path / "real\\x1b.png")) == tmp_path / "real\\x1b.png"


def test_so_are_files_in_folders(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"pictures-\xff") / "esc\x1b"
    folder.mkdir(parents=True)
    (folder / os.fsdecode(b"\xe9.png")).write_bytes(b"x")
    find = Finder()
    assert find(printable(str(folder / os.fsdecode(b"\xe9.png")))) == folder / os.fsdecode(b"\xe9.png")
    assert find(printable(str(folder / "gone.png"))) is None


@pytest.mark.parametrize("shown", [None, "nowhere/a.png", "nowhere/a\\x1b.png", "a\0b.png", "a\\\0b.png", "\\" * 5000])
def test_what_is_no_file(shown: str | None) -> None:
    assert Finder()(shown) is None
