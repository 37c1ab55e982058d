"""Whether memory and time of `aigc score` grow with the folder as they should: not at all, and in proportion.

What could grow is what is kept of every image: its name, its row, its shard. That does not hang on the model or on the
size of the images, so a tiny model rates small ones: 100,000 take minutes, and less memory beside it hides growth less.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.data import Images
from benchmarks.measure import Row
from benchmarks.models import tiny_run

FIRST_ROWS = 10.0  # seconds
GROWTH = 1.1
LINKED, SIDE = 64, 128  # images that everything else is a hard link to, and their pixels a side


@dataclass
class Run:
    """One `aigc score`: images, peak memory in MiB, seconds, and seconds until rows were on disk."""

    images: int
    peak: float
    seconds: float
    first_rows: float


def memory(images: Images, scratch: Path, short: bool) -> list[Row]:
    """Rows of part `memory`."""
    little = images.small(LINKED, SIDE)
    model = tiny_run(scratch / "memory", little)
    small, large = (scored(little, model, n, scratch) for n in ((1000, 4000) if short else (2000, 100_000)))
    sizes = f"{large.images:,} images over {small.images:,}"
    each = [run.seconds / run.images for run in (large, small)]
    return [
        Row("memory", f"peak memory, {sizes}", [large.peak / small.peak], GROWTH, False, note=f"{large.peak:.0f} MiB"),
        Row(
            "memory", f"time for each image, {sizes}", [each[0] / each[1]], GROWTH, False, note=f"{large.seconds:.0f} s"
        ),
        Row("memory", "first rows on disk", [large.first_rows], FIRST_ROWS, at_least=False, unit="s"),
    ]


def scored(images: Images, model: Path, n: int, scratch: Path) -> Run:
    """Scores a folder of n hard links to `images` in a process of its own."""
    folder, results = scratch / f"links-{n}", scratch / f"results-{n}"
    folder.mkdir()
    results.mkdir()
    for i in range(n):
        path = images.paths[i % len(images.paths)]
        (folder / f"{i:06}{path.suffix}").hardlink_to(path)
    command = [sys.executable, "-m", "aigc_cli", "score", str(folder), "-o", str(results / "scores.parquet"), "-q"]
    command += ["--prompt", "a red boat", "--device", "cpu", "--engine", "onnx", "--model", str(model)]
    begun, first = time.perf_counter(), 0.0
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        passed = time.perf_counter() - begun
        if not first and any(_rows(path) for path in results.rglob("*.parquet")):
            first = passed
        if pid:
            break
        time.sleep(0.1)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"aigc score ended with {child.returncode}")
    return Run(n, usage.ru_maxrss / 1024, passed, first or passed)


def _rows(path: Path) -> int:
    """Rows of scores in a file that is whole."""
    try:
        found = pq.read_metadata(path)
    except (OSError, pa.ArrowInvalid):
        return 0
    return int(found.num_rows) if "quality" in found.schema.names else 0
