"""Runs `aigc` for the tests of the command line, in this process or in one of its own."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from aigc_cli.cli import commands
from aigc_cli.cli import main as cli


class Ending(NamedTuple):
    """How a run of `aigc` ended."""

    code: int
    out: str
    err: str


def aigc(*arguments: object) -> Ending:
    """Runs `aigc` in this process."""
    if not cli.app.registered_commands:
        commands.register(cli.app)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli._run([str(argument) for argument in arguments])
    return Ending(code, out.getvalue(), err.getvalue())


def process(*arguments: object, **environment: str) -> Ending:
    """Runs `aigc` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "aigc_cli", *map(str, arguments)],
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
