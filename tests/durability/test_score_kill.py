"""Scoring that is killed many times: the table is that of an uninterrupted run, and no incomplete file is ever seen."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from killing import KILLED, SEED

from aigc_cli.images.sample import Sample

pytestmark = pytest.mark.slow
KILLS = 10


def test_killed_at_random_moments(
    tiny_model: Path, many: Callable[..., Path], demo: list[Sample], tmp_path: Path, environment: dict[str, str]
) -> None:
    print(f"KILL_SEED={SEED}")  # set it to repeat a failure
    images, place = many(48), tmp_path / "place"
    place.mkdir()
    for name in ("003.jpg", "017.jpg"):
        (images / name).write_bytes(b"")
    with (tmp_path / "p.csv").open("w", newline="") as stream:
        rows = [(f"{i:03}.jpg", f"{demo[i].prompt} {i}") for i in range(48)]
        csv.writer(stream).writerows([("name", "prompt"), *rows])
    driver = Path(__file__).with_name("score_driver.py")
    line = [sys.executable, str(driver), str(tiny_model), str(images), str(tmp_path / "p.csv"), str(place)]
    done = subprocess.run([*line, str(SEED), str(KILLS)], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] == KILLS
    assert found["tables"] >= 1
    assert found["different"] == 0
    assert set(found["codes"]) <= {0, KILLED}
    assert found["left"] == ["t.csv", "t.csv.meta.json", "whole.csv", "whole.csv.meta.json"]
    assert len(found["looks"]) >= 25
    assert sum(found["looks"]) > 0
