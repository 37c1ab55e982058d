"""`-` in place of a table: reads standard input, writes standard output."""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from aigc_cli.errors import AigcError, EnvironmentProblem

STREAM = Path("-")


@contextlib.contextmanager
def send_tables(paths: Iterable[Path]) -> Iterator[list[Path]]:
    """The same paths, with `-` replaced by a temporary file that holds standard input (Parquet, CSV or JSON lines).

    Raises:
        AigcError: `-` is given twice, or standard input is a terminal or empty.
    """
    paths = list(paths)
    if paths.count(STREAM) > 1:
        raise AigcError("Expected one table from standard input, found two.", "Give a file for the other table.")
    if STREAM not in paths:
        yield paths
        return
    if sys.stdin.isatty():
        raise AigcError("Expected a table on standard input, found a terminal.", "Example: ... | aigc pick -")
    import tempfile

    with tempfile.TemporaryDirectory(prefix="aigc-") as folder:
        received = Path(folder) / "stdin"
        with received.open("wb") as stream:
            shutil.copyfileobj(sys.stdin.buffer, stream)
        with received.open("rb") as stream:
            start = stream.read(4)
        if not start:
            raise AigcError("Expected a table on standard input, found nothing.", "Check the command before the pipe.")
        suffix = ".parquet" if start == b"PAR1" else ".jsonl" if start[:1] == b"{" else ".csv"
        table = received.rename(received.with_suffix(suffix))
        try:
            yield [table if path == STREAM else path for path in paths]
        except AigcError as error:
            error.message = error.message.replace(str(table), "standard input")
            raise


@contextlib.contextmanager
def receive_table(path: Path | None) -> Iterator[Path | None]:
    """The path to write a table to; for `-` a temporary file, which is printed as CSV at the end."""
    if path != STREAM:
        yield path
        return
    if sys.__stdout__ is None:
        raise EnvironmentProblem("Expected standard output for the table, found it closed.", "Name a file with -o.")
    import tempfile

    with tempfile.TemporaryDirectory(prefix="aigc-") as folder:
        table = Path(folder) / "stdout.csv"
        yield table
        _write_stdout(table.read_bytes())


def print_paths(files: Iterable[Path], null: bool) -> None:
    """Prints paths as the bytes the file system holds: one per line, or with `null` each followed by a NUL.

    Raises:
        AigcError: a path holds a line break and `null` is off.
    """
    names = [os.fsencode(file) for file in files]
    if not null and any(b"\n" in name for name in names):
        raise AigcError("Expected paths without a line break, found one with a line break.", "Use --null and xargs -0.")
    _write_stdout(b"".join(name + (b"\0" if null else b"\n") for name in names))


def _write_stdout(data: bytes) -> None:
    sys.stdout.flush()
    stream: BinaryIO | None = getattr(sys.stdout, "buffer", None)
    if stream is None:  # a text stream replaces standard output
        sys.stdout.write(os.fsdecode(data))
    else:
        stream.write(data)
        stream.flush()
