"""Writes files and folders atomically: under a temporary name in the same folder, then synced, then renamed.

A reader sees the old result or the complete new one, never a part.
"""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from aigc_cli.errors import AigcError, EnvironmentProblem, explain_os_errors
from aigc_cli.regular_file import read_regular
from aigc_cli.text import show_path, to_printable

TABLE_SUFFIXES = (".parquet", ".csv", ".jsonl")
TEMPORARY_PREFIX = ".aigc-"  # prefix of the names of temporary files and folders
LOCK = ".aigc-lock"


@contextlib.contextmanager
def open_atomic(path: Path, mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """Open a file for writing; it appears at `path` when the block ends without an error.

    Text is UTF-8; surrogates (bytes of file names) become escapes such as `\\udcff`, which JSON reads back unchanged.

    Raises:
        EnvironmentProblem: the disk is full or the folder is not writable.
    """
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": "", "errors": "backslashreplace"}
    temporary = name_temporary(path)
    with explain_os_errors(f"{path} could not be written", "Free some space or choose another place with -o."):
        try:
            with temporary.open(mode.replace("w", "x"), **text) as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def fill_atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder to fill; it replaces the folder at `path` when the block ends without an error.

    Raises:
        EnvironmentProblem: the disk is full or the parent folder is not writable.
    """
    temporary, old = name_temporary(path), name_temporary(path)
    with explain_os_errors(f"{path} could not be written", "Free some space."):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            for entry in (*temporary.iterdir(), temporary):
                _sync(entry)
            if path.exists():
                path.rename(old)
            try:
                temporary.rename(path)
            except BaseException:
                if old.exists():
                    old.rename(path)
                raise
            shutil.rmtree(old, ignore_errors=True)
            _sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def discard_folder(path: Path) -> None:
    """Remove a folder if it exists. It is renamed first, so that no reader sees a part of it."""
    old = name_temporary(path)
    with contextlib.suppress(OSError):
        path.rename(old)
    shutil.rmtree(old, ignore_errors=True)


def sweep_leftovers(*folders: Path) -> None:
    """Remove temporary files of killed processes from `folders`; the caller must hold them, see `own_folder`."""
    for entry in (entry for folder in folders if folder.is_dir() for entry in folder.glob(f"{TEMPORARY_PREFIX}*")):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != LOCK:
            entry.unlink(missing_ok=True)


def name_temporary(path: Path) -> Path:
    """Return a new path for a temporary file or folder beside `path`."""
    return path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:8]}")


def _sync(path: Path) -> None:
    """Flush a file or a folder's list of names to the disk; skip folders where the system cannot open them."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_output(path: Path, *, overwrite: bool, suffixes: Sequence[str] = TABLE_SUFFIXES, option: str = "-o") -> None:
    """Check before a computation that its output can be written; no `suffixes`: the output is a folder.

    `option` is the option that named it, for messages.

    Raises:
        AigcError: the suffix is not allowed, the output exists and `overwrite` is off, or `path` is a link, a device,
            or a folder where a file is expected (or the reverse).
        EnvironmentProblem: the parent folder is missing or not writable.
    """
    hint = f"Change {option}."
    try:
        path.lstat()
    except (FileNotFoundError, PermissionError, ValueError):
        pass
    except OSError as error:
        raise AigcError(f"Expected an output path, found {show_path(path)}: {error.strerror}.", hint) from error
    if suffixes and path.suffix not in suffixes:
        found = to_printable(str(path))
        raise AigcError(f"Expected an output ending in {', '.join(suffixes)}, found {found}.", hint)
    if path.is_symlink() or (path.exists() and suffixes and not path.is_file()):
        raise AigcError(f"Expected a plain file for the output, found a link, device or folder: {path}.", hint)
    if path.exists() and not suffixes and not path.is_dir():
        raise AigcError(f"Expected a folder for the output, found a file: {path}.", hint)
    if (
        path.exists()
        and not overwrite
        and (suffixes or any(not entry.name.startswith(TEMPORARY_PREFIX) for entry in path.iterdir()))
    ):
        raise AigcError(f"The output {path} exists.", f"Add --overwrite, or choose another place with {option}.")
    parent = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
    if suffixes and parent.resolve() != path.absolute().parent.resolve():
        raise EnvironmentProblem(f"The folder {path.parent} does not exist.", f"Create it, or change {option}.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise EnvironmentProblem(f"The folder {parent} is not writable.", f"Change its permissions, or {option}.")


@dataclass(frozen=True)
class Output:
    """The place of a result: a file, or the folder of a run, and whether it may be replaced or continued."""

    path: Path
    overwrite: bool = False
    resume: bool = False

    def check(self, suffixes: Sequence[str] = TABLE_SUFFIXES) -> None:
        """Check that the result can be written there, see `check_output`; no suffixes: a folder."""
        check_output(self.path, overwrite=self.overwrite or self.resume, suffixes=suffixes)


def read_json(path: Path) -> Any:
    """Read a JSON file from an untrusted source.

    Raises:
        OSError: the file is missing or not a regular file.
        ValueError: the content is not JSON in UTF-8, or nested too deeply.
    """
    try:
        return json.loads(read_regular(path).decode("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def write_json(path: Path, value: Any) -> None:
    """Write a value as a JSON file; errors as in `open_atomic`, and ValueError for NaN or infinity."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8; errors as in `open_atomic`."""
    with open_atomic(path) as stream:
        stream.write(text)
