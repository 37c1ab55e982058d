"""What tests of faults share: a process that forks runs, a table, decoders that misbehave, `aigc` in this process."""

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

sys.path.append(str(Path(__file__).parents[1] / "fuzz"))  # for mutate.py and seeds.py

# Every process of this Python runs it first: the names of some files make the reader misbehave.
MISBEHAVE = """
import os, time
from aigc_cli.images import reader
original = reader.read_image_bytes
def read_image_bytes(path):
    if "crash" in path.name:
        os.abort()
    if "hang" in path.name:
        time.sleep(600)
    if "slow" in path.name:
        time.sleep(0.05)
    return original(path)
reader.read_image_bytes = read_image_bytes
"""


@pytest.fixture
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a process whose decoders misbehave."""
    site = tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text(MISBEHAVE)
    path = os.pathsep.join([str(site), str(Path(__file__).parents[2])])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def aigc_here() -> Callable[..., tuple[int, str, str]]:
    """Runs `aigc` in this process; returns exit code, stdout and stderr."""
    from aigc_cli.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main.run([str(argument) for argument in arguments])
        return code, out.getvalue(), err.getvalue()

    return run


@pytest.fixture
def many(demo: list[Sample], tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of n good images whose names start with `name`."""

    def make(n: int, name: str = "") -> Path:
        folder = tmp_path / "images"
        folder.mkdir()
        for i in range(n):
            (folder / f"{name}{i:03}.jpg").write_bytes(demo[i % len(demo)].path.read_bytes())
        return folder

    return make


@pytest.fixture(scope="session")
def forge(tiny_folder: Path) -> Iterator[Forge]:
    """Forks runs of `aigc`, see forge.py."""
    line = [sys.executable, str(Path(__file__).with_name("forge.py")), f"local-dir:{tiny_folder}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        yield Forge(process)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="session")
def rated(demo: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 40 rated images, in the folder of the images."""
    folder = tmp_path_factory.mktemp("rated")
    rows = [(s.name, s.prompt, s.mos_quality, s.mos_align) for s in demo[:40]]
    for sample in demo[:40]:
        (folder / sample.name).write_bytes(sample.path.read_bytes())
    with (folder / "ratings.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("name", "prompt", "mos_quality", "mos_align"), *rows])
    return folder / "ratings.csv"
