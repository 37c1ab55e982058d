"""Measures `aigc score` as a whole process: a dozen images, where starting counts, and hundreds, where speed counts."""

import itertools
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch

from benchmarks.data import Images
from benchmarks.measure import Row, divide_rounds, time_in_turns
from benchmarks.plain import LAST, PlainLoop
from benchmarks.process import ROOT, make_command, make_environment, name_checkout, run_quietly, watch_process

SECONDS, MEMORY = 1.5, 400.0  # of a dozen images; MB
IMPORTS = 2.0  # torch and open_clip over a dozen images: below 1 one of them is imported
MANY, FEW, TARGET_RATIO = 599, 96, 4.0  # images of a full run and of a short run
EXAMPLES = ROOT / "examples"
WARM, FIRST, TORCH, BEFORE = "warm", "first", "torch", "before"


def measure_whole(images: Images, scratch: Path, short: bool, against: Path | None) -> list[Row]:
    """Rows of part `whole`."""
    many = images.link(FEW if short else MANY, scratch / "many")
    return [*_measure_dozen(scratch, 3 if short else 5, against), *_measure_many(many, 1 if short else 5)]


def _measure_dozen(scratch: Path, rounds: int, against: Path | None) -> list[Row]:
    """The example images with an empty cache folder and with a used one, beside the import of PyTorch and open_clip."""
    numbers = itertools.count()

    def score(cache: str = "", checkout: Path = ROOT) -> None:
        output, found = scratch / f"dozen-{next(numbers)}.parquet", cache or f"cache-{next(numbers)}"
        environment = make_environment(checkout, AIGC_CACHE=str(scratch / found))
        run_quietly(_make_scoring(EXAMPLES, EXAMPLES / "prompts.csv", output), environment)

    imports = [sys.executable, "-c", "import torch, open_clip"]
    sides: dict[str, Callable[[], object]] = {
        WARM: partial(score, "used"),
        FIRST: score,
        TORCH: partial(run_quietly, imports, make_environment()),
    }
    if against:
        sides[BEFORE] = partial(score, "before", against)
    for side in sides.values():
        side()
    seconds = time_in_turns(rounds, sides)
    peaks = []
    for cache in ("used", "cache-of-peak"):
        command = _make_scoring(EXAMPLES, EXAMPLES / "prompts.csv", scratch / f"dozen-{cache}.parquet")
        peaks.append(watch_process(command, make_environment(AIGC_CACHE=str(scratch / cache))).peak)
    what, over = "aigc score, 12 images", divide_rounds(seconds[TORCH], seconds[WARM])
    rows = [
        Row("whole", what, seconds[WARM], SECONDS, False, "s"),
        Row("whole", f"{what}, empty cache", seconds[FIRST], SECONDS, False, "s"),
        Row("whole", "python -c 'import torch, open_clip'", seconds[TORCH], unit="s"),
        Row("whole", f"importing torch and open_clip over {what}", over, IMPORTS),
    ]
    if max(peaks):  # 0 without /proc
        note = "largest process; with a used and an empty cache"
        rows.append(Row("whole", f"{what}, peak memory", peaks, MEMORY, False, "MB", note))
    if against:
        ratio, note = divide_rounds(seconds[BEFORE], seconds[WARM]), name_checkout(against)
        rows.append(Row("whole", f"{what}, over another checkout", ratio, note=note))
    return rows


def _measure_many(images: Images, rounds: int) -> list[Row]:
    """Hundreds of JPEGs: the plain loop in its own process over ours."""
    n, folder, numbers = len(images.paths), images.paths[0].parent, itertools.count()
    channels = [LAST] if PlainLoop(images).format == torch.channels_last else []  # the faster one on this machine
    plain = [sys.executable, "-m", "benchmarks.plain", str(images.table), str(folder), *channels]
    seconds = time_in_turns(
        rounds,
        {
            "plain": lambda: run_quietly(plain, make_environment()),
            "ours": lambda: run_quietly(
                _make_scoring(folder, images.table, folder.with_name(f"many-{next(numbers)}.parquet")),
                make_environment(),
            ),
        },
    )
    note = f"plain: {median(seconds['plain']):.1f} s, ours: {median(seconds['ours']):.1f} s"
    ratio = divide_rounds(seconds["plain"], seconds["ours"])
    return [Row("whole", f"plain loop over ours, {n} JPEGs, both with their start", ratio, TARGET_RATIO, note=note)]


def _make_scoring(folder: Path, prompts: Path, output: Path) -> list[str]:
    return make_command("score", folder, "--prompts", prompts, "-o", output, "-q", "--device", "cpu")
