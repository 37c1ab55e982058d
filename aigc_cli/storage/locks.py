"""One owner for a folder: a lock that dies with its process."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from aigc_cli.errors import EnvironmentProblem, RunHeld
from aigc_cli.storage.files import LOCK, check_output


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Makes `folder` and holds it: no other process gets past this line with the same folder.

    The lock file carries the holder's process number and goes when the block ends, and so does the folder when nothing
    was put into it.

    Raises:
        AigcError: `folder` is a link or a file.
        RunHeld: another process, which the message names, holds it.
        EnvironmentProblem: the folder can't be made or written.
    """
    check_output(folder, overwrite=True, suffixes=())
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    place = folder / LOCK
    lock = FileLock(place, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise RunHeld(
            f"Expected {folder} to be free, found it held by process {_holder(place)}.",
            "Wait until that one is done, or choose another folder with -o.",
        ) from error
    except OSError as error:
        raise EnvironmentProblem(
            f"The folder {folder} can't be written: {error.strerror or error}.", "Change its permissions, or -o."
        ) from error
    try:
        place.write_text(f"{os.getpid()}\n", encoding="ascii")
        yield
    finally:
        place.unlink(missing_ok=True)  # while it is still ours
        lock.release()
        with contextlib.suppress(OSError):
            for empty in made:
                empty.rmdir()


def _holder(place: Path) -> str:
    try:
        return place.read_text(encoding="ascii").strip() or "unknown"
    except (OSError, ValueError):
        return "unknown"
