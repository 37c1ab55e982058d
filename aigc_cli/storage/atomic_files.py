"""The one place that writes files and folders: under a temporary name in the same folder, synced and renamed.

So a result is whole or it is not there, and the old one stays until the new one is complete.
"""

import contextlib
import errno
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from aigc_cli.errors import AigcError, EnvironmentProblem
from aigc_cli.text import printable

TABLE_SUFFIXES = (".parquet", ".csv", ".jsonl")
TEMPORARY = ".aigc-"  # how the names of our temporary files and folders begin
LOCK = ".aigc-lock"


@contextlib.contextmanager
def whole_file(path: Path, mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """A file that appears under `path` only when it is complete; the old one stays until then.

    Text is UTF-8; the bytes of a file name that are not are written as escapes, which JSON reads back as they were.

    Raises:
        EnvironmentProblem: the disk is full or the folder can't be written.
    """
    temporary: Path | None = None
    try:
        text: dict[str, str] = {} if "b" in mode else {"encoding": "utf-8", "newline": "", "errors": "backslashreplace"}
        with tempfile.NamedTemporaryFile(mode, dir=path.parent, prefix=TEMPORARY, delete=False, **text) as stream:  # type: ignore[call-overload]
            temporary = Path(stream.name)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(new_file_mode())
        temporary.replace(path)
    except OSError as error:
        raise EnvironmentProblem(
            f"{path} could not be written: {error.strerror or error}.",
            "Free some space or choose another place with -o.",
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill with files that takes the name `path` only when it is complete; the old one stays until then.

    Raises:
        EnvironmentProblem: the disk is full or the place can't be written.
    """
    temporary = _temporary_beside(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for entry in (*temporary.iterdir(), temporary):
            _sync(entry)
        if path.exists():
            old = _temporary_beside(path)
            path.rename(old)
            try:
                temporary.rename(path)
            except BaseException:
                old.rename(path)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.rename(path)
        _sync(path.parent)
    except OSError as error:
        raise EnvironmentProblem(
            f"{path} could not be written: {error.strerror or error}.", "Free some space."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def discard_folder(path: Path) -> None:
    """Removes a folder that may not be there; nobody sees half of it."""
    old = _temporary_beside(path)
    with contextlib.suppress(OSError):
        path.rename(old)
    shutil.rmtree(old, ignore_errors=True)


def sweep(*folders: Path) -> None:
    """Removes what a killed process left in `folders`, which the caller must own: see `locks.owned`."""
    for entry in (entry for folder in folders if folder.is_dir() for entry in folder.glob(f"{TEMPORARY}*")):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != LOCK:
            entry.unlink(missing_ok=True)


def _temporary_beside(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:8]}")


def _sync(path: Path) -> None:
    """Waits until a file or the names in a folder are on the disk; not every system can open a folder."""
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


def new_file_mode() -> int:
    """The permissions that this process gives to a new file."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def check_output(path: Path, *, overwrite: bool, suffixes: Sequence[str] = TABLE_SUFFIXES) -> None:
    """Refuses an output that can't or must not be written, before anything is computed.

    Raises:
        AigcError: another suffix than `suffixes` (none given: a folder), or it exists and `overwrite` is off, or it is
            a link, a device or a folder where a file is meant.
        EnvironmentProblem: its folder is missing or can't be written.
    """
    with contextlib.suppress(ValueError):
        try:
            path.lstat()
        except (FileNotFoundError, PermissionError):
            pass
        except OSError as error:
            raise AigcError(
                f"The output {printable(str(path), 200)} can't be: {error.strerror}.", "Change -o."
            ) from error
    if suffixes and path.suffix not in suffixes:
        raise AigcError(
            f"Expected an output ending in {', '.join(suffixes)}, found {printable(str(path))}.", "Change -o."
        )
    if path.is_symlink() or (path.exists() and suffixes and not path.is_file()):
        raise AigcError(f"Expected a plain file for the output, found a link, device or folder: {path}.", "Change -o.")
    if path.exists() and not suffixes and not path.is_dir():
        raise AigcError(f"Expected a folder for the output, found a file: {path}.", "Change -o.")
    if (
        path.exists()
        and not overwrite
        and (suffixes or any(not entry.name.startswith(TEMPORARY) for entry in path.iterdir()))
    ):
        raise AigcError(f"The output {path} exists.", "Add --overwrite, or choose another place with -o.")
    parent = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
    if suffixes and parent.resolve() != path.absolute().parent.resolve():
        raise EnvironmentProblem(f"The folder {path.parent} does not exist.", "Make it, or change -o.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise EnvironmentProblem(f"The folder {parent} can't be written.", "Change its permissions, or -o.")


def read_json(path: Path) -> Any:
    """The JSON in a file that somebody else may have written.

    Raises:
        OSError: it is missing, or no regular file: a pipe would wait for ever.
        ValueError: it is no JSON in UTF-8, or nested too deeply.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no regular file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def write_json(path: Path, value: Any) -> None:
    """Writes JSON with sorted keys; NaN is an error here, so clean first."""
    with whole_file(path) as stream:
        stream.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file."""
    with whole_file(path) as stream:
        stream.write(text)
