"""Text files beside images."""

import os
from pathlib import Path

import pytest
from written import A1111, A1111_PROMPT, A1111_SETTINGS

from aigc_cli.images.sidecars import MAX_BYTES, Sidecar, read_sidecar
from aigc_cli.prompts.programs import Recorded


def sidecar(folder: Path, content: bytes) -> Sidecar:
    (folder / "a.b.txt").write_bytes(content)
    found = read_sidecar(folder / "a.b.png", folder)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("content", "prompt"),
    [
        (b"a red fox\n", "a red fox"),
        (b"\xef\xbb\xbfa red fox", "a red fox"),
        ("雪地里的狐狸 🦊\r\nлиса".encode(), "雪地里的狐狸 🦊 лиса"),
        ("a fox".encode("utf-16"), "a fox"),
        (b"a (red:1.2) fox <lora:x:1>", "a (red:1.2) fox <lora:x:1>"),  # it is what somebody wrote, not a generator
        (b"None", "None"),
        (b" \n", None),
        (b"", None),
    ],
)
def test_a_prompt(content: bytes, prompt: str | None, tmp_path: Path) -> None:
    found = sidecar(tmp_path, content).recorded
    assert found is not None
    assert (found.prompt, found.settings()) == (prompt, Recorded().settings())


def test_what_automatic1111_writes_beside_its_images(tmp_path: Path) -> None:
    found = sidecar(tmp_path, f"{A1111}\n".encode()).recorded
    assert found is not None
    assert (found.prompt, found.settings()) == (A1111_PROMPT, A1111_SETTINGS)


@pytest.mark.parametrize("content", [b"a \xff fox", b"a\0fox", b"x" * (MAX_BYTES + 1), b"\xff\xfea"])
def test_what_is_no_text(content: bytes, tmp_path: Path) -> None:
    assert sidecar(tmp_path, content).recorded is None


def test_only_the_file_of_that_name_and_only_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (tmp_path / "secret").write_text("secret")
    assert read_sidecar(folder / "a.png", folder) is None
    (folder / "a.txt").symlink_to(tmp_path / "secret")
    found = read_sidecar(folder / "a.png", folder)
    assert found == Sidecar("a link out of the folder", None)
    (folder / "real").write_text("a fox")
    (folder / "b.txt").symlink_to("real")
    found = read_sidecar(folder / "b.png", folder)
    assert found is not None
    assert found.recorded is not None
    assert found.recorded.prompt == "a fox"
    os.mkfifo(folder / "c.txt")
    (folder / "d.txt").symlink_to("gone")
    (folder / "e.txt").mkdir()
    for name in "cde":
        found = read_sidecar(folder / f"{name}.png", folder)
        assert found is not None
        assert found.recorded is None


def test_other_content_has_another_digest(tmp_path: Path) -> None:
    assert sidecar(tmp_path, b"a fox").digest != sidecar(tmp_path, b"a fox ").digest
