"""Checks that a path is a regular file before it is opened.

Reading a pipe can block for ever, and a device such as /dev/zero has no end.
"""

import errno
import hashlib
import os
import stat
from pathlib import Path


class NotRegularFile(OSError):
    """The path is a folder, pipe, socket or device."""

    def __init__(self) -> None:
        super().__init__(errno.EINVAL, "it is a folder, pipe, socket or device")


class FileTooLarge(OSError):
    """The file of `size` bytes is larger than allowed."""

    def __init__(self, size: int) -> None:
        super().__init__(errno.EFBIG, f"it has {size:,} bytes")
        self.size = size


def check_regular(path: Path | str) -> os.stat_result:
    """Return the status of the regular file at `path`; symbolic links are followed.

    Raises:
        NotRegularFile: the path is something else.
        OSError: the path does not exist or is not accessible.
        ValueError: the path contains a NUL character.
    """
    status = os.stat(path)  # noqa: PTH116  (faster than Path.stat, and called for every image)
    if not stat.S_ISREG(status.st_mode):
        raise NotRegularFile
    return status


def read_regular(path: Path, limit: int | None = None) -> bytes:
    """Read the regular file at `path`, of at most `limit` bytes; symbolic links are followed.

    Raises:
        FileTooLarge: the file has more than `limit` bytes.
        NotRegularFile, OSError, ValueError: see `check_regular`.
    """
    status = check_regular(path)
    if limit is not None and status.st_size > limit:
        raise FileTooLarge(status.st_size)
    return path.read_bytes()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of the regular file at `path` as 64 hexadecimal digits; it is not read as a whole.

    Raises:
        NotRegularFile, OSError, ValueError: see `check_regular`.
    """
    check_regular(path)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
