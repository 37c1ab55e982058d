"""A limit on the memory that a stranger's file can take while it is read."""

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_UNPACKED = 2 << 30  # bytes that a table may take in memory: a small file can unpack to any size
_SIZES = Path("/proc/self/statm")  # Linux; the first number counts the process's pages


@contextlib.contextmanager
def limit_memory(extra: int) -> Iterator[None]:
    """Within the block this process gets at most `extra` bytes more; asking for more raises an error.

    Only on Linux: other systems have no such limit.
    """
    try:
        resource: Any = importlib.import_module("resource")
        used = int(_SIZES.read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    known = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([used + extra, *known]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
