"""Lists of images in a folder, patterns, links out of it, names in tables, and files by their printed paths."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from aigc_cli.errors import AigcError
from aigc_cli.images.folders import (
    IMAGE_SUFFIXES,
    FileFinder,
    is_selected,
    leads_outside,
    list_images,
    matches_pattern,
    place_in_folder,
)
from aigc_cli.text import to_printable


def test_images_are_listed_in_codepoint_order(tmp_path: Path) -> None:
    for name in (
        "b.png",
        "a.JPG",
        "Z.webp",
        "é.tiff",
        "c.bmp",
        "d.gif",
        "e.jpeg",
        "f.tif",
        "g.heic",
        "notes.txt",
        ".jpg",
        "._a.png",
    ):
        (tmp_path / name).write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png" / "inside.png").write_bytes(b"")
    (tmp_path / "folder.png" / ".png").write_bytes(b"")
    (tmp_path / "link.png").symlink_to("folder.png")
    expected = [
        "Z.webp",
        "a.JPG",
        "b.png",
        "c.bmp",
        "d.gif",
        "e.jpeg",
        "f.tif",
        "g.heic",
        "loop.png",
        "pipe.png",
        "é.tiff",
    ]
    assert list_images(tmp_path) == expected
    assert set(list_images(tmp_path, recursive=True)) == {*expected, "folder.png/inside.png"}


def test_a_name_that_is_not_utf8_is_listed(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.png")).write_bytes(b"")
    assert [to_printable(name) for name in list_images(tmp_path)] == ["a\\xff.png"]


def message_of(call: Callable[[], object]) -> str:
    with pytest.raises(AigcError) as caught:
        call()
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"")
    assert message_of(lambda: list_images(tmp_path)) == (
        f"{tmp_path}: expected images ({' '.join(IMAGE_SUFFIXES)}), found none in 1 entries\n"
        "Name the folder that contains the images, or add --recursive to search its subfolders."
    )


def test_no_folder(tmp_path: Path) -> None:
    hint = "Name the folder that contains the images."
    gone, file = tmp_path / "g\x1b[31m", tmp_path / "file"
    file.write_bytes(b"")
    assert message_of(lambda: list_images(gone)) == (
        f"{tmp_path}/g\\x1b[31m: expected a folder of images, found nothing there\n{hint}"
    )
    assert message_of(lambda: list_images(file)) == (
        f"{file}: expected a folder of images, found something that is not a folder\n{hint}"
    )
    assert "found nothing there" in message_of(lambda: list_images(tmp_path / ("x" * 300)))


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", fail)
    assert message_of(lambda: list_images(tmp_path)) == (
        f"{tmp_path}: the folder cannot be listed (Permission denied)\nCheck its permissions."
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Images at three depths, links to folders in and out of it, and a link out."""
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    for place in (folder / "sub" / "deep", folder / "thumbs", outside):
        place.mkdir(parents=True)
    for name in ("a.png", "b.jpg", "notes.txt", "sub/c.png", "sub/deep/d.webp", "thumbs/a.png", "sub/folder.png/e.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    (outside / "x.png").write_bytes(b"")
    (folder / "sub" / "up").symlink_to("..")
    (folder / "away").symlink_to(outside)
    (folder / "out.png").symlink_to(outside / "x.png")
    (folder / "in.png").symlink_to("sub/c.png")
    return folder


def test_subfolders_are_searched_only_with_recursive(tree: Path) -> None:
    here = ["a.png", "b.jpg", "in.png", "out.png"]
    below = ["sub/c.png", "sub/deep/d.webp", "sub/folder.png/e.png", "thumbs/a.png"]
    assert list_images(tree) == here
    assert list_images(tree, recursive=True) == here + below
    assert [name for name in here + below if leads_outside(tree / name, tree)] == ["out.png"]
    assert not leads_outside(tree / "gone.png", tree)
    assert leads_outside(tree / "away" / "x.png", tree)
    assert not leads_outside(tree / "sub" / "up" / "a.png", tree)
    (tree / "loop.png").symlink_to("loop.png")
    assert not leads_outside(tree / "loop.png", tree)


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (["*.png"], [], ["a.png", "in.png", "out.png", "sub/c.png", "sub/folder.png/e.png", "thumbs/a.png"]),
        (["*.webp", "b.*"], [], ["b.jpg", "sub/deep/d.webp"]),
        (["sub/*"], [], ["sub/c.png", "sub/deep/d.webp", "sub/folder.png/e.png"]),
        (["a.png"], [], ["a.png", "thumbs/a.png"]),
        ([], ["thumbs", "sub/deep", "*.jpg"], ["a.png", "in.png", "out.png", "sub/c.png", "sub/folder.png/e.png"]),
        (["*.png"], ["sub"], ["a.png", "in.png", "out.png", "thumbs/a.png"]),
        (["[ab].*"], ["thumbs/*"], ["a.png", "b.jpg"]),
    ],
)
def test_patterns(include: list[str], exclude: list[str], expected: list[str], tree: Path) -> None:
    found = list_images(tree, recursive=True, include=include, exclude=exclude)
    assert found == expected
    assert all(is_selected(name, include, exclude) for name in found)


def test_patterns_that_select_nothing(tree: Path) -> None:
    message = message_of(lambda: list_images(tree, include=["*.gif"]))
    assert message.startswith(f"{tree}: expected images selected by --include and --exclude, found none of 4")
    assert not matches_pattern("A.PNG", "*.png")
    assert message_of(lambda: list_images(tree / "sub" / "deep", recursive=True, exclude=["*"])).startswith(str(tree))


def test_a_subfolder_that_cannot_be_listed(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = os.scandir

    def fail(place: Path) -> object:
        if place.name == "deep":
            raise PermissionError(13, "Permission denied")
        return honest(place)

    monkeypatch.setattr(os, "scandir", fail)
    assert message_of(lambda: list_images(tree, recursive=True)) == (
        f"{tree}/sub/deep: the folder cannot be listed (Permission denied)\n"
        "Check its permissions, or skip it with --exclude."
    )
    assert "sub/deep/d.webp" not in list_images(tree, recursive=True, exclude=["deep"])


@pytest.mark.parametrize("name", ["a.png", "sub/b.png", "..png", "a..b/c.png", "c:d.png"])
def test_names_inside_the_folder(name: str, tmp_path: Path) -> None:
    assert place_in_folder(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize("name", ["/a.png", "../a.png", "sub/../../a.png", "sub\\a.png", "..\\a.png", "C:/a.png"])
def test_names_outside_the_folder(name: str, tmp_path: Path) -> None:
    shown = to_printable(name)
    assert message_of(lambda: place_in_folder(tmp_path, name)) == (
        f"Expected a name inside the image folder, found '{shown}', outside the image folder.\n"
        "Write names relative to the image folder, with / between folders and without '..'."
    )
    message = message_of(lambda: place_in_folder(tmp_path, name, "t.csv, line 2"))
    assert message.startswith(f"t.csv, line 2: expected a name inside the image folder, found '{shown}'")


def test_a_backslash_in_an_escaped_name_is_no_separator(tmp_path: Path) -> None:
    assert place_in_folder(tmp_path, "esc\\x1b.png", escaped=True) == tmp_path / "esc\\x1b.png"
    for name in ("..\\a.png", "C:\\a.png", "../a\\x1b.png"):
        with pytest.raises(AigcError):
            place_in_folder(tmp_path, name, escaped=True)


def test_files_are_found_by_their_printed_names(tmp_path: Path) -> None:
    for name in ("plain.png", "esc\x1b.png", "line\n.png"):
        (tmp_path / name).write_bytes(b"x")
    find = FileFinder()
    assert find(str(tmp_path / "plain.png")) == tmp_path / "plain.png"
    assert find(str(tmp_path / "esc\\x1b.png")) == tmp_path / "esc\x1b.png"
    assert find(str(tmp_path / "line\\n.png")) == tmp_path / "line\n.png"
    (tmp_path / "real\\x1b.png").write_bytes(b"x")
    assert find(str(tmp_path / "real\\x1b.png")) == tmp_path / "real\\x1b.png"


def test_files_are_found_by_their_printed_folders(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"pictures-\xff") / "esc\x1b"
    folder.mkdir(parents=True)
    (folder / os.fsdecode(b"\xe9.png")).write_bytes(b"x")
    find = FileFinder()
    assert find(to_printable(str(folder / os.fsdecode(b"\xe9.png")))) == folder / os.fsdecode(b"\xe9.png")
    assert find(to_printable(str(folder / "gone.png"))) is None


@pytest.mark.parametrize("shown", [None, "nowhere/a.png", "nowhere/a\\x1b.png", "a\0b.png", "a\\\0b.png", "\\" * 5000])
def test_a_printed_path_without_a_file_is_not_found(shown: str | None) -> None:
    assert FileFinder()(shown) is None
