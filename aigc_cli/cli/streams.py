"""`-` for a table: read from standard input, written to standard output."""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from aigc_cli.errors import AigcError

STREAM = Path("-")


@contextlib.contextmanager
def tables_in(paths: Iterable[Path]) -> Iterator[list[Path]]:
    """The same paths, `-` as a file with what came by standard input: a table in any of the formats.

    Raises:
        AigcError: `-` is there twice, or standard input is a terminal.
    """
    paths = list(paths)
    if paths.count(STREAM) > 1:
        raise AigcError("Expected one table from standard input, found two.", "Name a file for the other one.")
    if STREAM not in paths:
        yield paths
        return
    if sys.stdin.isatty():
        raise AigcError("Expected a table by standard input, found a terminal.", "Example: ... | aigc pick -")
    with tempfile.TemporaryDirectory(prefix="aigc-") as folder:
        received = Path(folder) / "stdin"
        with received.open("wb") as stream:
            shutil.copyfileobj(sys.stdin.buffer, stream)
        with received.open("rb") as stream:
            start = stream.read(4)
        if not start:
            raise AigcError("Expected a table by standard input, found nothing.", "Did the command before fail?")
        suffix = ".parquet" if start == b"PAR1" else ".jsonl" if start[:1] == b"{" else ".csv"
        table = received.rename(received.with_suffix(suffix))
        try:
            yield [table if path == STREAM else path for path in paths]
        except AigcError as error:
            error.message = error.message.replace(str(table), "standard input")
            raise


@contextlib.contextmanager
def table_out(path: Path | None) -> Iterator[Path | None]:
    """The path to write a table to, if any; what is written for `-` goes to standard output as CSV at the end."""
    if path != STREAM:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="aigc-") as folder:
        table = Path(folder) / "stdout.csv"
        yield table
        _write(table.read_bytes())


def print_paths(files: Iterable[Path], null: bool) -> None:
    """Paths on standard output, byte for byte as the system has them: one a line, or each ended by NUL for `xargs -0`.

    Raises:
        AigcError: a path holds the end of a line, which no reader of lines could tell apart.
    """
    names = [os.fsencode(file) for file in files]
    if not null and any(b"\n" in name for name in names):
        raise AigcError("Expected paths of one line each, found one with a line break.", "Add --null, for xargs -0.")
    _write(b"".join(name + (b"\0" if null else b"\n") for name in names))


def _write(data: bytes) -> None:
    sys.stdout.flush()
    stream: Any = getattr(sys.stdout, "buffer", None)
    if stream is None:  # standard output was replaced by a text stream
        sys.stdout.write(os.fsdecode(data))
    else:
        stream.write(data)
        stream.flush()
