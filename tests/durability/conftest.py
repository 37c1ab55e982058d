"""What the tests that kill share: the warm process, and a user's table."""

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from killing import Forge

from aigc_cli.io.samples import Sample


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
