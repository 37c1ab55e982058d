"""One run at a time in a folder."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from aigc_cli.errors import EnvironmentProblem, RunHeld
from aigc_cli.io.text import printable

LOCK, OWNER = ".lock", ".owner"


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Makes `folder` and keeps it for this process until the block ends; the lock dies with its process.

    Raises:
        RunHeld: another process has it; the message names its PID.
        EnvironmentProblem: the folder can't be written.
    """
    shown = printable(str(folder), 200)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(blocking=False)
    except Timeout as error:
        holder = _holder(folder)
        raise RunHeld(
            f"Another run{holder} works in {shown}.", "Wait until it ends, or choose another place with -o."
        ) from error
    except OSError as error:
        raise EnvironmentProblem(
            f"{shown} could not be made or locked: {error.strerror or error}.", "Choose another place with -o."
        ) from error
    try:
        (folder / OWNER).write_text(str(os.getpid()))  # beside the lock, which some systems let nobody read
        yield
    finally:
        (folder / OWNER).unlink(missing_ok=True)
        lock.release()


def _holder(folder: Path) -> str:
    try:
        return f" (PID {int((folder / OWNER).read_text())})"
    except (OSError, ValueError):
        return ""
