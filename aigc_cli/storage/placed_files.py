"""Copies, links and moves of image files into one folder: nothing is overwritten, and a list undoes all of it.

The list is on disk before the first file is touched, and every file appears whole, so that whatever interrupts it, the
list says what has to be undone.
"""

import contextlib
import filecmp
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aigc_cli.errors import AigcError, EnvironmentProblem
from aigc_cli.storage.files import TEMPORARY, read_json, sweep, write_json
from aigc_cli.storage.locks import owned
from aigc_cli.text import printable

Action = Literal["copy", "link", "symlink", "move"]
UNDO = "undo-"
VERSION = 1


@dataclass(frozen=True)
class Placing:
    """What is to be done.

    Attributes:
        action: copy, link (hard), symlink or move.
        folder: where the files go.
        pairs: (file, its new place) of each, both absolute; no two new places are the same, in any case of letters.
    """

    action: Action
    folder: Path
    pairs: list[tuple[Path, Path]]


def plan_placing(action: Action, files: Sequence[Path], folder: Path) -> Placing:
    """Where each file will go; looks at everything that could go wrong before anything is touched.

    Two files of one name get distinct ones: the second `a.png` becomes `a-2.png`.

    Raises:
        AigcError: a file is missing or no regular one, is a link that should be moved, or something of its name is in
            `folder` already; or `folder` is a file.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise AigcError(f"Expected a folder, found a file: {_shown(folder)}.", "Name another place.")
    there = {entry.name.casefold() for entry in folder.iterdir()} if folder.is_dir() else set()
    taken: set[str] = set()
    pairs = []
    for file in files:
        try:
            kind = (file.lstat() if action == "move" else file.stat()).st_mode
        except (OSError, ValueError) as error:
            raise AigcError(
                f"Expected an image at {_shown(file)}, found none.",
                "Was it moved since? Run where `aigc score` ran, or name the images' folder by --images.",
            ) from error
        if not stat.S_ISREG(kind):
            raise AigcError(f"Expected a plain file to {action}, found another: {_shown(file)}.", "Use --copy.")
        name = _distinct(file.name, taken)
        if name.casefold() in there:
            raise AigcError(
                f"{_shown(folder / name)} exists, and nothing is overwritten.", "Name an empty folder, or a new one."
            )
        taken.add(name.casefold())
        pairs.append((file.absolute(), folder.absolute() / name))
    return Placing(action, folder, pairs)


def _distinct(name: str, taken: set[str]) -> str:
    stem, suffix = os.path.splitext(name)  # noqa: PTH122  (a name, not a path)
    number, found = 2, name
    while found.casefold() in taken:
        found, number = f"{stem}-{number}{suffix}", number + 1
    return found


def place(placing: Placing, ready: Callable[[Path], None], done: Callable[[], None]) -> Path:
    """Does it, and returns the list that `undo` takes, which lies in the folder.

    Args:
        ready: is told of the list before anything is touched.
        done: is called after each file; what it raises ends it there.

    Raises:
        AigcError: something of a file's name has come into the folder.
        EnvironmentProblem: no space, no rights, or no links between these places.
        RunHeld: another process places files there.
    """
    made = not placing.folder.exists()
    with owned(placing.folder):
        sweep(placing.folder)
        stamp = time.strftime("%Y%m%d-%H%M%S")
        record = placing.folder.absolute() / f"{UNDO}{stamp}-{uuid.uuid4().hex[:4]}.json"
        pairs = [[str(path) for path in pair] for pair in placing.pairs]
        write_json(record, {"version": VERSION, "action": placing.action, "made_folder": made, "files": pairs})
        ready(record)
        for source, target in placing.pairs:
            with _hint(target, record):
                _ACTIONS[placing.action](source, target)
            done()
    return record


@contextlib.contextmanager
def _hint(target: Path, record: Path) -> Iterator[None]:
    back = f"`aigc pick --undo {_shown(record)}` takes back what was done."
    try:
        yield
    except FileExistsError as error:
        raise AigcError(f"{_shown(target)} has come to exist, and nothing is overwritten.", back) from error
    except OSError as error:
        raise EnvironmentProblem(f"{_shown(target)} could not be made: {error.strerror or error}.", back) from error


def _copy(source: Path, target: Path) -> None:
    temporary = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:8]}")
    try:
        shutil.copy2(source, temporary)
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        _rename(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _rename(old: Path, new: Path) -> None:
    """A rename that never replaces: a link is made or refused in one step, and `new` has all of `old` or is not there.

    Raises:
        FileExistsError: there is a `new` already.
    """
    try:
        os.link(old, new)
    except FileExistsError:
        raise
    except OSError:  # a file system without links: the name is reserved first, so that only our own file is replaced
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


def undo(record: Path) -> tuple[int, list[tuple[Path, str]]]:
    """Takes back what `place` did, or as much of it as was done; the list goes when nothing is left of it.

    A file that somebody changed since, or whose original is gone, stays: no content is ever lost.

    Returns:
        (files taken back, (file, why it stays) of the others).

    Raises:
        AigcError: there is no such list.
        EnvironmentProblem: a file can't be written.
    """
    action, made, pairs = _read(record)
    count, left = 0, []
    folder = record.absolute().parent
    with owned(folder):
        sweep(folder)
        for source, target in reversed(pairs):
            if not os.path.lexists(target):
                continue
            try:
                reason = _return(source, target) if action == "move" else _withdraw(action, source, target)
            except OSError as error:
                raise EnvironmentProblem(
                    f"{_shown(target)} could not be taken back: {error.strerror or error}.", "Mend it and try again."
                ) from error
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
    """Removes a copy or a link while its original is there; otherwise says why not."""
    if action == "symlink":
        if not (target.is_symlink() and target.readlink() == source):
            return "it is no longer the link that was made"
    elif target.is_symlink() or not target.is_file():
        return "something else is there now"
    elif not source.is_file() or source.resolve() == target.resolve():
        return f"the original {_shown(source)} is gone"
    elif not _same(source, target):
        return "it or its original was changed since"
    target.unlink()
    return ""


def _return(source: Path, target: Path) -> str:
    """Moves a file back; otherwise says why not. Both are there when the move was cut off before its last step."""
    if target.is_symlink() or not target.is_file():
        return "something else is there now"
    if not os.path.lexists(source):
        source.parent.mkdir(parents=True, exist_ok=True)
        _move(target, source)
        return ""
    if source.is_symlink() or not source.is_file() or not _same(source, target):
        return f"another file is at {_shown(source)} now"
    target.unlink()
    return ""


def _same(one: Path, other: Path) -> bool:
    return os.path.samefile(one, other) or filecmp.cmp(one, other, shallow=False)  # noqa: PTH121


def _read(record: Path) -> tuple[Action, bool, list[tuple[Path, Path]]]:
    """(action, whether the folder was made, pairs); every new place must be in the list's own folder."""
    try:
        found = read_json(record)
        action, made = found["action"], found["made_folder"]
        pairs = [(Path(source), Path(target)) for source, target in found["files"]]
        folder = record.absolute().parent
        if found["version"] != VERSION or action not in _ACTIONS:
            raise ValueError("another version")
        if not all(source.is_absolute() and target.parent.resolve() == folder.resolve() for source, target in pairs):
            raise ValueError("files of another folder; is the list still where it was written?")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AigcError(
            f"Expected a list that `aigc pick` wrote at {_shown(record)}, found {printable(str(error), 200)}.",
            f"Name the file {UNDO}*.json in the folder of the picks.",
        ) from error
    return action, made is True, pairs


def _shown(path: Path) -> str:
    return printable(str(path), 200)
