"""Scores in forked processes and kills them at random moments; test_score_kill.py starts it.

    score_driver.py MODEL IMAGES PROMPTS FOLDER SEED KILLS

It writes the table several times, each time with as many processes as needed, and compares it with the table of an
uninterrupted process. Meanwhile it reads every visible file. Prints the counts as JSON.
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

from aigc_cli.storage.atomic_files import Output
from aigc_cli.workflows.score import score, scorer
from aigc_cli.workflows.score.plan import ScoringPlan
from aigc_cli.workflows.score.scorer import Scorer


def fork(images: Path, plan: ScoringPlan, output: Path, event: int | None = None) -> int:
    """Starts a process that scores to `output` or resumes it; it kills itself at file operation number `event`."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        if event is not None:
            kill_at(event)
        score.score_folder(images, Output(output, resume=True), plan)
        code = 0
    finally:
        os._exit(code)


def kill_at(event: int) -> None:
    """Kills this process before or after its nth operation on visible files."""
    count = itertools.count()

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*given: Any, **options: Any) -> Any:
            now = next(count)
            if now == event and event % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*given, **options)
            if now == event:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return operation

    os.fsync = wrap(os.fsync)
    for name in ("replace", "unlink", "rmdir", "mkdir"):
        setattr(Path, name, wrap(getattr(Path, name)))


def read_all(output: Path, rows: int) -> int:
    """Reads every visible file and returns their number. A file may be removed meanwhile."""
    count = 0
    parts = output.with_name(f"{output.name}.parts")
    # os.walk, because glob raises on Python 3.11 when a folder is removed meanwhile.
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
                assert text.count("\n") == 1 + rows, f"{path}: incomplete table"
                assert text.endswith("\n"), f"{path}: incomplete line"
            count += 1
        except FileNotFoundError:
            continue
    return count


def wait(pid: int, until: float, draw: random.Random, look: Callable[[], None]) -> int | None:
    """Calls `look` at random moments until the process ends (returns its exit code) or time is up (None)."""
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        look()
        time.sleep(draw.uniform(0, 0.03))
    return None


def main() -> None:
    model_folder, images, prompts, folder = map(Path, sys.argv[1:5])
    seed, kills_wanted = map(int, sys.argv[5:])
    draw, looks = random.Random(seed), list[int]()
    rows = sum(1 for _ in prompts.open()) - 1
    loaded = Scorer.load(model_folder, "cpu")
    Scorer.load = lambda *_: loaded  # type: ignore[method-assign]
    score.SHARD_SECONDS = 0
    scorer.BATCH = 4
    plan = ScoringPlan(prompts=prompts, model=model_folder, device="cpu")

    begun = time.monotonic()
    whole, output = folder / "whole.csv", folder / "t.csv"
    assert os.waitpid(fork(images, plan, whole), 0)[1] == 0
    duration = time.monotonic() - begun
    kills, tables, different, codes, left = 0, 0, 0, set[int](), list[str]()
    while kills < kills_wanted or not output.exists():
        by_event = kills < kills_wanted and draw.random() < 0.5
        pid = fork(images, plan, output, draw.randrange(60) if by_event else None)
        patience = duration * draw.uniform(0, 1) if kills < kills_wanted and not by_event else 120
        code = wait(pid, time.monotonic() + patience, draw, lambda: looks.append(read_all(output, rows)))
        if code is None:
            os.kill(pid, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        kills += code == -signal.SIGKILL
        codes.add(code)
        if output.exists():
            different += output.read_bytes() != whole.read_bytes()
            if code == 0:
                tables += 1
                left = sorted(path.name for path in folder.iterdir())
                if kills < kills_wanted:
                    output.unlink()
                    output.with_name("t.csv.meta.json").unlink()
    found = {"kills": kills, "tables": tables, "different": different, "codes": sorted(codes)}
    print(json.dumps(found | {"left": left, "looks": looks}))


if __name__ == "__main__":
    main()
