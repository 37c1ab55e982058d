"""What the tests that harm processes share: a warm process, a table, decoders that misbehave, `aigc` itself."""

import contextlib
import csv
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from killing import Forge

from aigc_cli.images.sample import Sample

sys.path.append(str(Path(__file__).parents[1] / "fuzz"))  # its damage is used here too

# Runs in every process of this Python, before anything else: the names of some files make the reader misbehave.
MISBEHAVE = """
import os, time
from aigc_cli.images import reader as images
honest = images.read_bytes
def read_bytes(path):
    if "crash" in path.name:
        os.abort()
    if "hang" in path.name:
        time.sleep(600)
    if "slow" in path.name:
        time.sleep(0.05)
    return honest(path)
images.read_bytes = read_bytes
"""


@pytest.fixture
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process whose decoders misbehave."""
    site = tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text(MISBEHAVE)
    path = os.pathsep.join([str(site), str(Path(__file__).parents[2])])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def aigc_here() -> Callable[..., tuple[int, str, str]]:
    """Runs `aigc` in this process: its exit code, stdout and stderr."""
    from aigc_cli.cli import commands, main

    def run(*arguments: object) -> tuple[int, str, str]:
        if not main.app.registered_commands:
            commands.register(main.app)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main._run([str(argument) for argument in arguments])
        return code, out.getvalue(), err.getvalue()

    return run


@pytest.fixture
def many(demo: list[Sample], tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of n good images, whose names all begin in the same way."""

    def make(n: int, name: str = "") -> Path:
        folder = tmp_path / "images"
        folder.mkdir()
        for i in range(n):
            (folder / f"{name}{i:03}.jpg").write_bytes(demo[i % len(demo)].path.read_bytes())
        return folder

    return make


@pytest.fixture(scope="session")
def forge(tiny_folder: Path) -> Iterator[Forge]:
    line = [sys.executable, str(Path(__file__).with_name("forge.py")), f"local-dir:{tiny_folder}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        yield Forge(process)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="session")
def rated(demo: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's table of 40 images, which lie beside it."""
    folder = tmp_path_factory.mktemp("rated")
    rows = [(s.name, s.prompt, s.mos_quality, s.mos_align) for s in demo[:40]]
    for sample in demo[:40]:
        (folder / sample.name).write_bytes(sample.path.read_bytes())
    with (folder / "ratings.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("name", "prompt", "mos_quality", "mos_align"), *rows])
    return folder / "ratings.csv"
