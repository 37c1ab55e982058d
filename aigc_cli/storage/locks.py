"""A lock that gives a folder to one process; the system releases it when the process ends."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from aigc_cli.errors import AigcError, FolderConflict, explain_os_errors
from aigc_cli.storage.atomic_files import LOCK, check_output


@contextlib.contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Create `folder` if necessary and hold it: no other process can hold it at the same time.

    The lock file contains the process number of the holder. The end of the block removes it, and new empty folders.

    Raises:
        AigcError: `folder` is a link or a file, or the lock file is a link.
        FolderConflict: another process holds the folder; the message gives its process number.
        EnvironmentProblem: the folder cannot be created or written.
    """
    from filelock import FileLock, Timeout  # takes 20 ms to import, and refusals come before it

    check_output(folder, overwrite=True, suffixes=())
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    place = folder / LOCK
    if place.is_symlink():
        raise AigcError(f"Expected a lock file at {place}, found a link, which somebody planted there.", "Remove it.")
    lock = FileLock(place, timeout=0)
    with explain_os_errors(f"The folder {folder} is not writable", "Change its permissions, or -o."):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as error:
            found = f"found it held by process {_read_holder(place)}"
            hint = "Wait until that process has ended, or choose another folder with -o."
            raise FolderConflict(f"Expected {folder} to be free, {found}.", hint) from error
    try:
        with open(place, "w", encoding="ascii", opener=_open_here) as stream:
            stream.write(f"{os.getpid()}\n")
        yield
    finally:
        place.unlink(missing_ok=True)  # before the release: afterwards it may belong to another process
        lock.release()
        with contextlib.suppress(OSError):
            for empty in made:
                empty.rmdir()


def _open_here(path: str, flags: int) -> int:
    """Opens a file, not one that a link leads to."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o644)


def _read_holder(place: Path) -> str:
    try:
        return place.read_text(encoding="ascii").strip() or "unknown"
    except (OSError, ValueError):
        return "unknown"
