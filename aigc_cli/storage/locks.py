"""A lock that gives a folder to one process; the system releases it when the process ends."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from aigc_cli.errors import FolderConflict, explain_os_errors
from aigc_cli.storage.atomic_files import LOCK, check_output


@contextlib.contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Create `folder` if necessary and hold it: no other process can hold it at the same time.

    The lock file contains the process number of the holder. The end of the block removes it, and new empty folders.

    Raises:
        AigcError: `folder` is a link or a file.
        FolderConflict: another process holds the folder; the message gives its process number.
        EnvironmentProblem: the folder cannot be created or written.
    """
    from filelock import FileLock, Timeout  # takes 20 ms to import, and refusals come before it

    check_output(folder, overwrite=True, suffixes=())
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    place = folder / LOCK
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
        place.write_text(f"{os.getpid()}\n", encoding="ascii")
        yield
    finally:
        place.unlink(missing_ok=True)  # before the release: afterwards it may belong to another process
        lock.release()
        with contextlib.suppress(OSError):
            for empty in made:
                empty.rmdir()


def _read_holder(place: Path) -> str:
    try:
        return place.read_text(encoding="ascii").strip() or "unknown"
    except (OSError, ValueError):
        return "unknown"
