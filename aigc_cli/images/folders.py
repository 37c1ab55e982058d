"""Lists the images of a folder, checks names of images, and finds files by their printed paths."""

import functools
import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from aigc_cli.errors import AigcError
from aigc_cli.text import to_printable

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif"),
    *(".heic", ".heif", ".jxl", ".jp2"),  # Pillow reads none of these: they become failed rows, not missing ones
)
_SUFFIXES = frozenset(IMAGE_SUFFIXES)
_DRIVE = re.compile(r"[A-Za-z]:[/\\]")


def list_images(
    folder: Path, *, recursive: bool = False, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[str]:
    """List the names in `folder` that end in one of IMAGE_SUFFIXES (upper or lower case), in codepoint order.

    Folders are left out, and so are files named `._x.png`, in which macOS keeps attributes of `x.png`. Pipes, dead
    links and other special files are kept: they become failed rows.

    Args:
        recursive: also search the subfolders; names are then relative paths with `/`. Links to folders are not
            followed, so the search cannot loop or leave the folder.
        include: glob patterns (see `matches_pattern`); a name must match one of them. Empty: all names.
        exclude: glob patterns of names and folders to leave out.

    Raises:
        AigcError: `folder` is not a folder, a folder cannot be listed, or no image is left.
    """
    check_folder(folder)
    entries, images, names = 0, 0, list[str]()
    for name, regular in _walk(folder, "", recursive, exclude):
        entries += 1
        if has_image_suffix(name):
            images += 1
            if is_selected(name, include, exclude) and (regular or not is_folder(folder / name)):
                names.append(name)
    if names:
        return sorted(names)
    shown = to_printable(str(folder))
    if images and (include or exclude):
        raise AigcError(
            f"{shown}: expected images selected by --include and --exclude, found none of {images}",
            "In a pattern, * matches any text, also /. A pattern is compared with the whole name and its last part.",
        )
    deeper = "" if recursive else ", or add --recursive to search its subfolders"
    raise AigcError(
        f"{shown}: expected images ({' '.join(IMAGE_SUFFIXES)}), found none in {entries} entries",
        f"Name the folder that contains the images{deeper}.",
    )


def has_image_suffix(name: str) -> bool:
    """Like `Path(name).suffix`, ten times faster: folders may hold hundreds of thousands of names."""
    stem, _, suffix = name.rpartition(".")
    named = stem != "" and not stem.endswith("/") and f".{suffix}".lower() in _SUFFIXES
    return named and not name.startswith("._", name.rfind("/") + 1)


def _walk(folder: Path, below: str, recursive: bool, exclude: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Yield (name, is a regular file) of every entry, in subfolders too if `recursive`; not the subfolders searched."""
    deeper = []
    try:
        with os.scandir(folder / below) as entries:
            for entry in entries:  # not a list of them: a million take 200 MB
                name = f"{below}{entry.name}"
                if recursive and entry.is_dir(follow_symlinks=False):
                    deeper.append(name)
                else:
                    yield name, entry.is_file(follow_symlinks=False)
    except OSError as error:
        raise AigcError(
            f"{to_printable(str(folder / below))}: the folder cannot be listed ({error.strerror})",
            f"Check its permissions{', or skip it with --exclude' if below else ''}.",
        ) from error
    for name in deeper:
        if not any(matches_pattern(name, pattern) for pattern in exclude):
            yield from _walk(folder, f"{name}/", recursive, exclude)


def matches_pattern(name: str, pattern: str) -> bool:
    """Whether a relative name, or its last part, matches a glob pattern; `*` also matches `/`."""
    return fnmatchcase(name, pattern) or fnmatchcase(PurePosixPath(name).name, pattern)


def is_selected(name: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether a name matches `include` (or that is empty), and neither it nor a parent matches `exclude`."""
    if include and not any(matches_pattern(name, pattern) for pattern in include):
        return False
    parts = [name, *map(str, PurePosixPath(name).parents)][:-1] if exclude else []
    return not any(matches_pattern(part, pattern) for part in parts for pattern in exclude)


def place_in_folder(folder: Path, name: str, where: str = "", *, escaped: bool = False) -> Path:
    """The path in `folder` of an image that a table names.

    The check looks only at the text of the name and applies the rules of every operating system, so that a table has
    the same meaning on all of them. An absolute name is fine if it lies in `folder`.

    Args:
        where: the start of the error message, such as the table and the line.
        escaped: whether the name comes from a result table, where a backslash begins an escape sequence.

    Raises:
        AigcError: the name has a drive letter or a backslash, or leads out of the folder.
    """
    path, backslash = PurePosixPath(name), "\\" in name and not escaped
    if ".." not in path.parts and path.is_absolute():
        bases = _list_bases(folder.absolute())
        path = next((path.relative_to(base) for base in bases if path.is_relative_to(base)), path)
    if path.is_absolute() or ".." in re.split(r"[/\\]", name) or backslash or _DRIVE.match(name):
        problem = f"a name inside the image folder, found '{to_printable(name, 80)}', outside the image folder"
        raise AigcError(
            f"{where}: expected {problem}" if where else f"Expected {problem}.",
            "Write names relative to the image folder, with / between folders and without '..'.",
        )
    return folder / path


@functools.lru_cache(maxsize=8)
def _list_bases(folder: Path) -> tuple[Path, Path]:
    """The paths by which an absolute name can lie in a folder: as it was given, and without links."""
    return folder, folder.resolve()


def leads_outside(path: Path, folder: Path) -> bool:
    """Whether `path` lies outside `folder` once all links in both are followed."""
    try:
        linked = path.is_symlink() or path.parent != folder
        return linked and not path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # such as a loop of links
        return False


def check_folder(folder: Path) -> None:
    """Raise AigcError if `folder` is neither a folder nor a link to one."""
    if not is_folder(folder):
        found = "something that is not a folder" if os.path.lexists(folder) else "nothing there"
        raise AigcError(
            f"{to_printable(str(folder))}: expected a folder of images, found {found}",
            "Name the folder that contains the images.",
        )


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder or a link to one; False if that cannot be determined."""
    return os.path.isdir(path)  # noqa: PTH112  (Path.is_dir raises errors: name too long, no permission)


class FileFinder:
    """Finds files by their printed paths, in which control characters are escaped (see `to_printable`)."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, Path]] = {}

    def __call__(self, shown: str | None) -> Path | None:
        """The file whose printed path is `shown`; None if there is no such file."""
        if shown is None:
            return None
        try:
            path = Path(shown)
            if "\\" in shown and not path.is_file():
                path = self._find_unescaped(path)
            return path if path.is_file() else None
        except (OSError, ValueError):
            return None

    def _find_unescaped(self, path: Path) -> Path:
        """Replace each part by the entry that is printed like it; a part without such an entry stays."""
        found = Path(path.anchor)
        for part in path.relative_to(path.anchor).parts:
            if "\\" in part and not (found / part).exists():
                if found not in self._folders:
                    self._folders[found] = {to_printable(entry.name): entry for entry in found.iterdir()}
                found = self._folders[found].get(part, found / part)
            else:
                found /= part
        return found
