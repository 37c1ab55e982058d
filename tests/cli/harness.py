"""Runs `aigc` for the tests of the command line, in this process or in one of its own."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from aigc_cli.cli import main as cli


class Ending(NamedTuple):
    """How a run of `aigc` ended."""

    code: int
    out: str
    err: str


def aigc(*arguments: object, stdin: bytes = b"", encoding: str = "utf-8") -> Ending:
    """Runs `aigc` in this process, with pipes for its streams.

    Args:
        stdin: what standard input holds.
        encoding: of stdout and stderr.
    """
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding, errors="backslashreplace", newline="") for _ in "oe")
    given = io.TextIOWrapper(io.BytesIO(stdin))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), mock.patch("sys.stdin", given):
        code = cli.run([str(argument) for argument in arguments])
    for stream in (out, err):
        stream.flush()
    return Ending(code, *(stream.buffer.getvalue().decode(errors="surrogateescape") for stream in (out, err)))


def process(*arguments: object, stdin: str = "", **environment: str) -> Ending:
    """Runs `aigc` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "aigc_cli", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )
    return Ending(done.returncode, done.stdout, done.stderr)


class Work(NamedTuple):
    """A user's folder: the table, its images, a run trained on them, and how that ended."""

    table: Path
    images: Path
    run: Path
    trained: Ending
    options: tuple[str, ...]

    @property
    def rated(self) -> tuple[str, ...]:
        """Options of a command that reads the rated images."""
        given = ("--data", self.table, "--images", self.images, "--columns", "image=name", "--device", "cpu")
        return tuple(map(str, given))

    @property
    def backbone(self) -> str:
        """The tiny backbone, as a setting."""
        return self.options[self.options.index("--backbone") + 1]
