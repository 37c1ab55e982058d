"""Text files beside images hold prompts."""

import os
from pathlib import Path

import pytest
from written import A1111, A1111_PROMPT, A1111_SETTINGS

from aigc_cli.images.sidecars import MAX_SIDECAR_BYTES, Sidecar, read_sidecar
from aigc_cli.prompts.record import GenerationRecord


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
        (b"a (red:1.2) fox <lora:x:1>", "a (red:1.2) fox <lora:x:1>"),  # a text by a person keeps its brackets
        (b"None", "None"),
        (b" \n", None),
        (b"", None),
    ],
)
def test_a_prompt(content: bytes, prompt: str | None, tmp_path: Path) -> None:
    found = sidecar(tmp_path, content).record
    assert found is not None
    assert (found.prompt, found.get_settings()) == (prompt, GenerationRecord().get_settings())


def test_a_text_of_automatic1111(tmp_path: Path) -> None:
    found = sidecar(tmp_path, f"{A1111}\n".encode()).record
    assert found is not None
    assert (found.prompt, found.get_settings()) == (A1111_PROMPT, A1111_SETTINGS)


@pytest.mark.parametrize("content", [b"a \xff fox", b"a\0fox", b"x" * (MAX_SIDECAR_BYTES + 1), b"\xff\xfea"])
def test_unreadable_texts(content: bytes, tmp_path: Path) -> None:
    assert sidecar(tmp_path, content).record is None


def test_links_and_special_files(tmp_path: Path) -> None:
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
    assert found.record is not None
    assert found.record.prompt == "a fox"
    os.mkfifo(folder / "c.txt")
    (folder / "d.txt").symlink_to("gone")
    (folder / "e.txt").mkdir()
    for name in "cde":
        found = read_sidecar(folder / f"{name}.png", folder)
        assert found is not None
        assert found.record is None


def test_other_content_has_another_digest(tmp_path: Path) -> None:
    assert sidecar(tmp_path, b"a fox").digest != sidecar(tmp_path, b"a fox ").digest
