"""Scoring that is killed again and again: the table is that of one go, and no half of a file is ever seen.

Repeat a failure with KILL_SEED set to the number that it printed.
"""

import csv
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from aigc_cli.images.sample import Sample

KILLS = 20


def test_twenty_kills(
    tiny_model: Path, many: Callable[..., Path], demo: list[Sample], tmp_path: Path, environment: dict[str, str]
) -> None:
    seed = int(os.environ.get("KILL_SEED") or random.SystemRandom().randrange(10**6))
    print(f"KILL_SEED={seed}")
    images, place = many(48), tmp_path / "place"
    place.mkdir()
    for name in ("003.jpg", "017.jpg"):
        (images / name).write_bytes(b"")
    with (tmp_path / "p.csv").open("w", newline="") as stream:
        rows = [(f"{i:03}.jpg", f"{demo[i].prompt} {i}") for i in range(48)]
        csv.writer(stream).writerows([("name", "prompt"), *rows, ("gone.jpg", "a fox")])
    driver = Path(__file__).with_name("score_driver.py")
    line = [sys.executable, str(driver), str(tiny_model), str(images), str(tmp_path / "p.csv"), str(place)]
    done = subprocess.run([*line, str(seed), str(KILLS)], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] == KILLS
    assert found["tables"] >= 1
    assert found["different"] == 0
    assert set(found["codes"]) <= {0, -9}
    assert found["left"] == ["t.csv", "t.csv.meta.json", "whole.csv", "whole.csv.meta.json"]
    assert len(found["looks"]) >= 50
    assert sum(found["looks"]) > 0
