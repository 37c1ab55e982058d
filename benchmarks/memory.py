"""Whether memory and time of `aigc score` grow with the folder as they should: not at all, and in proportion.

What could grow is what is kept of every image: its name, its row, its shard. That does not hang on the model or on the
size of the images, so a tiny model rates small ones: 100,000 take minutes, and less memory beside it hides growth less.
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
from benchmarks.models import tiny_run

FIRST_ROWS = 10.0  # seconds
GROWTH = 1.1
WHY = (
    "Importing PyTorch, pandas and open_clip takes most of it; listing and the export of the engine's graph, the rest."
)
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
    few, many = (1000, 4000) if short else (2000, 100_000)
    small, large = (scored(little, n, scratch / f"tiny-{n}", model) for n in (few, many))
    shipped = scored(little, many, scratch / "shipped", until_rows=True)
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


def scored(images: Images, n: int, scratch: Path, model: Path | None = None, *, until_rows: bool = False) -> Run:
    """Scores a folder of n hard links to `images` in a process of its own, or until the first rows are on disk."""
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
        peak = max(peak, _peak(child.pid))
        if not first and any(_rows(path) for path in results.rglob("*.parquet")):
            first = time.perf_counter() - begun
        time.sleep(0.1)
    seconds = time.perf_counter() - begun
    child.terminate()
    if child.wait() and not until_rows:
        raise RuntimeError(f"aigc score ended with {child.returncode}")
    return Run(n, peak, seconds, first or seconds)


def _peak(pid: int) -> float:
    """Peak resident memory of a process in MiB; 0 once it is gone, and where the system has no /proc.

    What wait4 and getrusage report takes in what the parent held before exec, which can be far more.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


def _rows(path: Path) -> int:
    """Rows of scores in a file that is whole."""
    try:
        found = pq.read_metadata(path)
    except (OSError, pa.ArrowInvalid):
        return 0
    return int(found.num_rows) if "quality" in found.schema.names else 0
