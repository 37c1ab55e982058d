"""Measures how memory and time of `aigc score` grow with the number of images: memory must not, time linearly.

Memory could grow with what is kept of each image: its name, its row, its shard. This does not depend on the model or on
the size of images, so a very small model scores small images: 100,000 take minutes, and growth shows clearly.
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.data import Images
from benchmarks.measure import Row, divide_rounds
from benchmarks.models import train_tiny
from benchmarks.process import make_command, make_environment, watch_process

FIRST_ROWS = 3.0  # seconds
GROWTH, LARGEST = 1.1, 500.0  # MB
WHY = "Listing the images takes most of the time, loading the model the rest."
LINKED, SIDE = 64, 128  # distinct images (all others are hard links to them), and their side in pixels


@dataclass
class Run:
    """One run of `aigc score`: images, peak memory in MB, seconds, and seconds until the first rows were on disk."""

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
    each = divide_rounds([large.seconds / large.images], [small.seconds / small.images])
    rows = [Row("memory", f"time for each image, {sizes}", each, GROWTH, False, note=f"{large.seconds:.0f} s")]
    if small.peak:  # 0 without /proc
        grown, note = [large.peak / small.peak], "the largest process"
        rows = [
            Row("memory", f"peak memory, {sizes}", grown, GROWTH, False),
            Row("memory", f"peak memory, {large.images:,} images", [large.peak], LARGEST, False, "MB", note),
            *rows,
        ]
    what = f"first rows of {shipped.images:,} on disk, shipped model"
    return [*rows, Row("memory", what, [shipped.first_rows], FIRST_ROWS, False, "s", why=WHY)]


def score_links(images: Images, n: int, scratch: Path, model: Path | None = None, *, until_rows: bool = False) -> Run:
    """Scores a folder of n hard links to `images` in a new process; stops after the first rows with `until_rows`."""
    results = scratch / "results"
    results.mkdir(parents=True)
    folder = images.link(n, scratch / "links").paths[0].parent
    command = make_command("score", folder, "-o", results / "scores.parquet", "-q", "--device", "cpu")
    command += ["--prompt", "a red boat", *([] if model is None else ["--model", str(model)])]
    first = 0.0

    def find_rows(seconds: float) -> bool:
        nonlocal first
        if not first and any(_count_rows(path) for path in results.rglob("*.parquet")):
            first = seconds
        return until_rows and first > 0

    usage = watch_process(command, make_environment(), find_rows)
    return Run(n, usage.peak, usage.seconds, first or usage.seconds)


def _count_rows(path: Path) -> int:
    """Rows of scores in a complete file; 0 for any other file."""
    try:
        found = pq.read_metadata(path)
    except (OSError, pa.ArrowInvalid):
        return 0
    return int(found.num_rows) if "quality" in found.schema.names else 0
