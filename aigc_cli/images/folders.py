"""Which images a folder holds, and which file a shown path means."""

import os
import stat
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from aigc_cli.errors import AigcError
from aigc_cli.images.reader import SUFFIXES
from aigc_cli.text import printable


def list_images(
    folder: Path, *, recursive: bool = False, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[str]:
    """Return the names in `folder` that end in one of SUFFIXES in any case, in codepoint order.

    Folders are left out. Pipes, dead links and the like stay: they become failed rows.

    Args:
        recursive: also search the folders below; names are then relative paths with `/`. Links to folders are never
            followed, so there is no loop and no way out.
        include: glob patterns; only names that `matches` one of them. None given: all.
        exclude: patterns of names, or of folders, that are left out.

    Raises AigcError when a folder is none, cannot be listed, or holds no such name.
    """
    check_folder(folder)
    found = dict(_walk(folder, "", recursive, exclude))
    images = [name for name in found if _suffix(name) in SUFFIXES]
    names = [name for name in images if wanted(name, include, exclude)]
    names = [name for name in names if found[name] or not is_folder(folder / name)]
    if names:
        return sorted(names)
    if images and (include or exclude):
        raise AigcError(
            f"{printable(str(folder))}: expected images that --include and --exclude leave, found none of "
            f"{len(images)}",
            "In a pattern * stands for any text, / too; it is compared with the whole name and with its last part.",
        )
    raise AigcError(
        f"{printable(str(folder))}: expected images ({' '.join(SUFFIXES)}), found none in {len(found)} entries",
        "Name the folder that holds the images themselves"
        + ("." if recursive else ", or add --recursive to search the folders inside it."),
    )


def _suffix(name: str) -> str:
    """As `Path(name).suffix.lower()`, at a tenth of its cost: folders hold hundreds of thousands of names."""
    before, dot, after = name.rpartition(".")
    return f".{after}".lower() if dot and before and not before.endswith("/") else ""


def _walk(folder: Path, below: str, recursive: bool, exclude: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """What a folder holds, but for those folders that are searched: its name, and whether it is a plain file."""
    try:
        with os.scandir(folder / below) as listed:
            entries = list(listed)
    except OSError as error:
        raise AigcError(
            f"{printable(str(folder / below))}: the folder cannot be listed ({error.strerror})",
            f"Check its permissions{', or leave it out with --exclude' if below else ''}.",
        ) from error
    for entry in entries:
        name = f"{below}{entry.name}"
        if recursive and entry.is_dir(follow_symlinks=False):
            if not any(matches(name, pattern) for pattern in exclude):
                yield from _walk(folder, f"{name}/", recursive, exclude)
        else:
            yield name, entry.is_file(follow_symlinks=False)


def matches(name: str, pattern: str) -> bool:
    """Whether a relative name, or its last part, fits a glob pattern, in which `*` also stands for `/`."""
    return fnmatchcase(name, pattern) or fnmatchcase(PurePosixPath(name).name, pattern)


def wanted(name: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether a relative name fits `include`, where there is one, and neither it nor a folder above fits `exclude`."""
    if include and not any(matches(name, pattern) for pattern in include):
        return False
    parts = [name, *map(str, PurePosixPath(name).parents)][:-1] if exclude else []
    return not any(matches(part, pattern) for part in parts for pattern in exclude)


def leads_outside(path: Path, folder: Path) -> bool:
    """Whether a link, `path` itself or one on the way to it, leads to something that is not in `folder` or below."""
    try:
        linked = path.is_symlink() or path.parent != folder
        return linked and not path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links leads nowhere
        return False


def check_folder(folder: Path) -> None:
    """Raise AigcError unless `folder` is a folder (or a link to one)."""
    if is_folder(folder):
        return
    try:
        folder.lstat()
        found = "something that is not a folder"
    except (OSError, ValueError):
        found = "nothing there"
    raise AigcError(
        f"{printable(str(folder))}: expected a folder of images, found {found}",
        "Name the folder that holds the images.",
    )


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder or a link to one; False where that can't be found out."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError):  # Path.is_dir raises on some of these: a name too long, no permission
        return False


class Finder:
    """Files by the paths that a table shows, where characters that could harm a terminal are escaped."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, Path]] = {}

    def __call__(self, shown: str | None) -> Path | None:
        """The file that is meant, None where there is none."""
        if shown is None:
            return None
        try:
            path = Path(shown)
            if "\\" in shown and not path.is_file():
                path = self._meant(path)
            return path if path.is_file() else None
        except (OSError, ValueError):
            return None

    def _meant(self, path: Path) -> Path:
        """The path whose parts are shown so; a part of which there is none stays."""
        found = Path(path.anchor)
        for part in path.relative_to(path.anchor).parts:
            if "\\" in part and not (found / part).exists():
                if found not in self._folders:
                    self._folders[found] = {printable(entry.name): entry for entry in found.iterdir()}
                found = self._folders[found].get(part, found / part)
            else:
                found /= part
        return found
