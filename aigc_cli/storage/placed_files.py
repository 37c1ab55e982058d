"""Copies, links or moves image files into one folder without overwriting, and undoes it.

An undo list is written before the first file is touched, and every file appears complete. After an interruption the
list therefore names everything that has to be undone.
"""

import contextlib
import filecmp
import os
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aigc_cli.errors import AigcError, explain_os_errors
from aigc_cli.regular_file import NotRegularFile, check_regular
from aigc_cli.storage.atomic_files import name_temporary, read_json, sweep_leftovers, write_json
from aigc_cli.storage.locks import own_folder
from aigc_cli.text import format_count, show_path, to_printable

Action = Literal["copy", "link", "symlink", "move"]
RECORD_PREFIX = "undo-"
RECORD_VERSION = 2


@dataclass(frozen=True)
class Placement:
    """A plan with the absolute paths (source, target) of each file; no two targets differ only in case."""

    action: Action
    folder: Path
    pairs: list[tuple[Path, Path]]


def plan_placement(action: Action, files: Sequence[Path], folder: Path) -> Placement:
    """Plan the target of each file, and check the files and the folder. Nothing is written.

    A second file of the same name gets a number: `a.png` becomes `a-2.png`.

    Raises:
        AigcError: a file is missing, not a regular file, or a symbolic link to be moved; a target exists already; or
            `folder` is a file.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise AigcError(f"Expected a folder, found a file: {show_path(folder)}.", "Choose another folder.")
    there = {entry.name.casefold() for entry in folder.iterdir()} if folder.is_dir() else set()
    taken: set[str] = set()
    pairs = []
    for file in files:
        try:
            check_regular(file)
            regular = action != "move" or not file.is_symlink()
        except NotRegularFile:
            regular = False
        except (OSError, ValueError) as error:
            hint = "Run in the folder where `aigc score` ran, or give the image folder with --images."
            raise AigcError(f"Expected an image at {show_path(file)}, found none.", hint) from error
        if not regular:
            found = f"a link, folder or device: {show_path(file)}"
            raise AigcError(f"Expected a regular file to {action}, found {found}.", "Use --copy.")
        name = _make_distinct(file.name, taken)
        if name.casefold() in there:
            exists = f"{show_path(folder / name)} exists, and nothing is overwritten."
            raise AigcError(exists, "Choose an empty or a new folder.")
        taken.add(name.casefold())
        pairs.append((file.absolute(), folder.absolute() / name))
    return Placement(action, folder, pairs)


def _make_distinct(name: str, taken: set[str]) -> str:
    stem, suffix = os.path.splitext(name)  # noqa: PTH122  (a name, not a path)
    number, found = 2, name
    while found.casefold() in taken:
        found, number = f"{stem}-{number}{suffix}", number + 1
    return found


def place_files(placing: Placement, ready: Callable[[Path], None], done: Callable[[], None]) -> Path:
    """Place the files, and return the path of the undo list in the folder, for `undo_placement`.

    Args:
        ready: called with the path of the undo list before any file is touched.
        done: called after each file; an exception from it stops the placement.

    Raises:
        AigcError: a target exists by now.
        EnvironmentProblem: no space, no permission, or no links between these file systems.
        FolderConflict: another process holds the folder.
    """
    made = not placing.folder.exists()
    with own_folder(placing.folder):
        sweep_leftovers(placing.folder)
        stamp = time.strftime("%Y%m%d-%H%M%S")
        record = placing.folder.absolute() / f"{RECORD_PREFIX}{stamp}-{uuid.uuid4().hex[:4]}.json"
        pairs = [[str(path) for path in pair] for pair in placing.pairs]
        identity = _identify(record.parent)
        facts = {"version": RECORD_VERSION, "action": placing.action, "made_folder": made, "folder": identity}
        write_json(record, {**facts, "files": pairs})
        ready(record)
        hint = f"`aigc pick --undo {show_path(record)}` undoes the files placed so far."
        for source, target in placing.pairs:
            shown = show_path(target)
            with explain_os_errors(f"{shown} could not be written", hint):
                try:
                    _ACTIONS[placing.action](source, target)
                except FileExistsError as error:
                    raise AigcError(f"{shown} exists by now, and nothing is overwritten.", hint) from error
            done()
    return record


def _copy(source: Path, target: Path) -> None:
    temporary = name_temporary(target)
    try:
        shutil.copy2(source, temporary)
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        _rename(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _rename(old: Path, new: Path) -> None:
    """Rename a file; FileExistsError if `new` exists. A hard link appears in one step, complete or not at all."""
    try:
        os.link(old, new)
    except FileExistsError:
        raise
    except OSError:  # no hard links here: reserve the name, so that only this empty file is replaced
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        old.replace(new)
        return
    old.unlink()


def _move(source: Path, target: Path) -> None:
    if source.stat().st_dev == target.parent.stat().st_dev:
        _rename(source, target)
    else:
        _copy(source, target)
        source.unlink()


_ACTIONS: dict[Action, Callable[[Path, Path], None]] = {
    "copy": _copy,
    "link": lambda source, target: os.link(source.resolve(), target),
    "symlink": lambda source, target: target.symlink_to(source),
    "move": _move,
}


def describe_undo(record: Path) -> str:
    """What `undo_placement` will do, such as `Move 3 files from /best back to /pictures`; errors as there."""
    action, _, pairs = _read_record(record)
    folder, count = show_path(record.absolute().parent), format_count(len(pairs), "file")
    if action != "move":
        return f"Remove {count} from {folder}"
    places = list(dict.fromkeys(source.parent for source, _ in pairs))
    more = f" and {format_count(len(places) - 1, 'other folder')}" if len(places) > 1 else ""
    return f"Move {count} from {folder} back to {show_path(places[0]) if places else 'nowhere'}{more}"


def undo_placement(record: Path) -> tuple[int, list[tuple[Path, str]]]:
    """Undo a complete or interrupted `place_files`, and remove the list if no file remains.

    A file that was changed since, or whose original is gone, remains: no content is ever lost. Return (number of files
    undone, [(file, reason)] of the remaining files).

    Raises:
        AigcError: `record` is not an undo list.
        EnvironmentProblem: a file cannot be removed or moved.
        FolderConflict: another process holds the folder.
    """
    action, made, pairs = _read_record(record)
    count, left = 0, []
    folder = record.absolute().parent
    with own_folder(folder):
        sweep_leftovers(folder)
        for source, target in reversed(pairs):
            if not os.path.lexists(target):
                continue
            with explain_os_errors(f"{show_path(target)} could not be undone", "Fix the cause and try again."):
                reason = _move_back(source, target) if action == "move" else _withdraw(action, source, target)
            if reason:
                left.append((target, reason))
            else:
                count += 1
        if not left:
            record.unlink()
    if made and not left:
        with contextlib.suppress(OSError):
            folder.rmdir()
    return count, left


def _withdraw(action: Action, source: Path, target: Path) -> str:
    """Remove a copy or a link if its original still exists; return the reason if not, else an empty string."""
    if action == "symlink":
        if not (target.is_symlink() and target.readlink() == source):
            return "it is not the link that was made"
    elif target.is_symlink() or not target.is_file():
        return "there is something else now"
    elif not source.is_file() or source.resolve() == target.resolve():
        return f"the original {show_path(source)} is gone"
    elif not _is_same(source, target):
        return "the file or its original was changed"
    target.unlink()
    return ""


def _move_back(source: Path, target: Path) -> str:
    """Move a file back. Return the reason if not, else an empty string. An interrupted move can leave both files."""
    if target.is_symlink() or not target.is_file():
        return "there is something else now"
    if not os.path.lexists(source):
        source.parent.mkdir(parents=True, exist_ok=True)
        _move(target, source)
        return ""
    if source.is_symlink() or not source.is_file() or not _is_same(source, target):
        return f"there is another file at {show_path(source)} now"
    target.unlink()
    return ""


def _is_same(one: Path, other: Path) -> bool:
    return os.path.samefile(one, other) or filecmp.cmp(one, other, shallow=False)  # noqa: PTH121


def _identify(folder: Path) -> list[Any]:
    """What tells a folder apart from a copy of it on this or another machine: its path and its number on the disk."""
    return [str(folder), folder.stat().st_ino]


def _read_record(record: Path) -> tuple[Action, bool, list[tuple[Path, Path]]]:
    """Return (action, whether the folder was created, pairs); check that the list was made here, by this user.

    A list names places anywhere on the disk. One from elsewhere could move files to them.
    """
    try:
        found = read_json(record)
        action, made = found["action"], found["made_folder"]
        pairs = [(Path(source), Path(target)) for source, target in found["files"]]
        folder = record.absolute().parent
        if found["version"] != RECORD_VERSION or action not in _ACTIONS:
            raise ValueError("another version")
        owner = getattr(os, "getuid", lambda: record.stat().st_uid)()
        if found["folder"] != _identify(folder) or record.lstat().st_uid != owner:
            raise ValueError("a list that was made in another folder, on another machine or by somebody else")
        if not all(source.is_absolute() and target.parent.resolve() == folder.resolve() for source, target in pairs):
            raise ValueError("files of another folder: the list was moved")
    except (OSError, ValueError, KeyError, TypeError) as error:
        wanted, found = f"an undo list of `aigc pick` at {show_path(record)}", to_printable(str(error), 200)
        hint = f"Give the file {RECORD_PREFIX}*.json in the folder of the picks."
        raise AigcError(f"Expected {wanted}, found {found}.", hint) from error
    return action, made is True, pairs
