"""Measures how memory and time of `aigc score` grow with the number of images: memory must not, time linearly.

Memory could grow with what is kept of each image: its name, its row, its shard. This does not depend on the model or on
the size of images, so a very small model scores small images: 100,000 take minutes, and growth shows clearly.
"""

import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.data import Images
from benchmarks.measure import Row
from benchmarks.models import train_tiny

FIRST_ROWS = 10.0  # seconds
GROWTH = 1.1
WHY = "Importing PyTorch, pandas and open_clip takes most of the time, listing images and exporting the graph the rest."
LINKED, SIDE = 64, 128  # distinct images (all others are hard links to them), and their side in pixels


@dataclass
class Run:
    """One run of `aigc score`: images, peak memory in MiB, seconds, and seconds until the first rows were on disk."""

    images: int
    peak: float
    seconds: float
    first_rows: float


def measure_memory(images: Images, scratch: Path, short: bool) -> list[Row]:
    """Rows of part `memory`."""
    little = images.small(LINKED, SIDE)
    model = train_tiny(scratch / "memory", little)
    few, many = (1000, 4000) if short else (2000, 100_000)
    small, large = (score_links(little, n, scratch / f"tiny-{n}", model) for n in (few, many))
    shipped = score_links(little, many, scratch / "shipped", until_rows=True)
    sizes = f"{large.images:,} images over {small.images:,}"
    each = [run.seconds / run.images for run in (large, small)]
    peak = Row("memory", f"peak memory, {sizes}", [large.peak / max(small.peak, 1.0)], GROWTH, False)
    return [
        *([replace(peak, note=f"{large.peak:.0f} MiB")] if small.peak else []),
        Row(
            "memory", f"time for each image, {sizes}", [each[0] / each[1]], GROWTH, False, note=f"{large.seconds:.0f} s"
        ),
        Row(
            "memory",
            f"first rows of {shipped.images:,} on disk, shipped model",
            [shipped.first_rows],
            FIRST_ROWS,
            at_least=False,
            unit="s",
            why=WHY,
        ),
    ]


def score_links(images: Images, n: int, scratch: Path, model: Path | None = None, *, until_rows: bool = False) -> Run:
    """Scores a folder of n hard links to `images` in a new process; stops after the first rows with `until_rows`."""
    folder, results = scratch / "links", scratch / "results"
    folder.mkdir(parents=True)
    results.mkdir()
    for i in range(n):
        path = images.paths[i % len(images.paths)]
        (folder / f"{i:06}{path.suffix}").hardlink_to(path)
    command = [sys.executable, "-m", "aigc_cli", "score", str(folder), "-o", str(results / "scores.parquet"), "-q"]
    command += ["--prompt", "a red boat", "--device", "cpu", "--engine", "onnx"]
    command += [] if model is None else ["--model", str(model)]
    begun, first, peak = time.perf_counter(), 0.0, 0.0
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while child.poll() is None and not (first and until_rows):
        peak = max(peak, _read_peak(child.pid))
        if not first and any(_count_rows(path) for path in results.rglob("*.parquet")):
            first = time.perf_counter() - begun
        time.sleep(0.1)
    seconds = time.perf_counter() - begun
    child.terminate()
    if child.wait() and not until_rows:
        raise RuntimeError(f"aigc score ended with {child.returncode}")
    return Run(n, peak, seconds, first or seconds)


def _read_peak(pid: int) -> float:
    """Peak resident memory of a process in MiB; 0 if it has ended or the system has no /proc.

    wait4 and getrusage also count the parent's memory before exec, which can be much more.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


def _count_rows(path: Path) -> int:
    """Rows of scores in a complete file; 0 for any other file."""
    try:
        found = pq.read_metadata(path)
    except (OSError, pa.ArrowInvalid):
        return 0
    return int(found.num_rows) if "quality" in found.schema.names else 0
