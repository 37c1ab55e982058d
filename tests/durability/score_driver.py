"""Scores in forked processes and kills them at random moments; started by test_score_kill.py.

    score_driver.py MODEL IMAGES PROMPTS FOLDER SEED KILLS

The table is written again and again, each time by as many processes as it takes; every one is compared with that of an
uninterrupted process, and whatever can be seen in between is read. Prints what happened as JSON.
"""

import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from aigc_cli.model.trained import load_model
from aigc_cli.workflows.score import score, scorer

MODEL, IMAGES, PROMPTS, FOLDER = map(Path, sys.argv[1:5])
SEED, KILLS = map(int, sys.argv[5:])


def fork(output: Path, event: int | None = None) -> int:
    """A process that scores to `output` and resumes; `event` is the file operation at which it kills itself."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        if event is not None:
            kill_at(event)
        score.score_folder(IMAGES, output, prompts=PROMPTS, model=MODEL, device="cpu", resume=True)
        code = 0
    finally:
        os._exit(code)


def kill_at(event: int) -> None:
    """Kills this process before or after its nth operation on files that others could see."""
    count = itertools.count()

    def harmful(honest: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*given: Any, **options: Any) -> Any:
            now = next(count)
            if now == event and event % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            result = honest(*given, **options)
            if now == event:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return operation

    os.fsync = harmful(os.fsync)
    for name in ("replace", "unlink", "rmdir", "mkdir"):
        setattr(Path, name, harmful(getattr(Path, name)))


def read_all(output: Path) -> int:
    """Reads every file in sight as what its name says; one that goes away meanwhile was there whole before."""
    count = 0
    parts = output.with_name(f"{output.name}.parts")
    # os.walk rather than glob, which raises on Python 3.11 when a folder goes away under it.
    shards = [parts / name for _, _, names in os.walk(parts) for name in names]
    for path in [output, output.with_name(f"{output.name}.meta.json"), *shards]:
        try:
            if path.name.startswith(".aigc-") or not path.exists():
                continue
            if path.suffix == ".parquet":
                pq.read_table(path)
            elif path.suffix == ".json":
                json.loads(path.read_text())
            else:
                text = path.read_text()
                assert text.count("\n") == 1 + ROWS, f"{path}: half a table"
                assert text.endswith("\n"), f"{path}: half a line"
            count += 1
        except FileNotFoundError:
            continue
    return count


def wait(pid: int, until: float, output: Path, draw: random.Random) -> int | None:
    """Looks around at random moments until the process ends (its status) or the time has come (None)."""
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        looks.append(read_all(output))
        time.sleep(draw.uniform(0, 0.03))
    return None


draw, looks = random.Random(SEED), list[int]()
ROWS = sum(1 for _ in PROMPTS.open()) - 1
torch.set_num_threads(1)
model = load_model(MODEL, "cpu")
score.load_model = lambda place, device: model  # type: ignore[assignment]
score.SHARD_SECONDS = 0
scorer.BATCH, scorer.SEGMENT = 4, 3

begun = time.monotonic()
whole = FOLDER / "whole.csv"
assert os.waitpid(fork(whole), 0)[1] == 0
duration = time.monotonic() - begun

kills, tables, different, codes = 0, 0, 0, set[int]()
output = FOLDER / "t.csv"
while kills < KILLS or not output.exists():
    by_event = kills < KILLS and draw.random() < 0.5
    pid = fork(output, draw.randrange(60) if by_event else None)
    patience = duration * draw.uniform(0, 1) if kills < KILLS and not by_event else 120
    code = wait(pid, time.monotonic() + patience, output, draw)
    if code is None:
        os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    kills += code == -signal.SIGKILL
    codes.add(code)
    if output.exists():
        different += output.read_bytes() != whole.read_bytes()
        if code == 0:
            tables += 1
            left = sorted(path.name for path in FOLDER.iterdir())
            if kills < KILLS:
                output.unlink()
                output.with_name("t.csv.meta.json").unlink()
print(
    json.dumps(
        {"kills": kills, "tables": tables, "different": different, "codes": sorted(codes), "left": left, "looks": looks}
    )
)
