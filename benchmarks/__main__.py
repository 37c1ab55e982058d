"""Measures what aigc costs: `python -m benchmarks [PART ...] [--short] [--images FOLDER]`.

A full run writes benchmarks/RESULTS.md; a short one only prints, and fails where a ratio is far off its target.
"""

import argparse
import datetime
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.data import images
from benchmarks.measure import Row
from benchmarks.memory import memory
from benchmarks.score import score
from benchmarks.startup import startup
from benchmarks.train import finetune, train

PARTS = ("score", "train", "finetune", "cli", "memory")
RESULTS = Path(__file__).with_name("RESULTS.md")
LIBRARIES = ("torch", "onnxruntime", "open_clip_torch", "timm", "pillow", "numpy")
INTRODUCTION = """# What aigc costs

Written by `python -m benchmarks`, the section of each part when it was last measured.

- Both sides of a ratio take turns in one process group and get every core; median and spread are of rounds.
- The plain training loop is timed for one epoch; its 20 epochs are 20 times that.
- A short run (`--short`, in continuous integration) fails where less than half of a target is reached; on ratios
  alone, never on seconds, and not on the share of the matrix products: no engine reaches it everywhere.
"""
HEADER = ("part", "what", "median", "spread", "target", "met", "note")


def main() -> int:
    """Runs the parts that were named, all by default."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--short", action="store_true", help="few images, one round; for continuous integration")
    parser.add_argument("--images", type=Path, help="JPEGs of your own instead of generated ones")
    chosen = parser.parse_args()
    if unknown := set(chosen.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; known are {', '.join(PARTS)}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(cores)  # whatever OMP_NUM_THREADS says: both sides get every core
    os.environ["OMP_NUM_THREADS"] = str(cores)
    with tempfile.TemporaryDirectory(prefix="aigc-benchmark-") as name:
        os.environ.setdefault("AIGC_CACHE", str(Path(name) / "cache"))
        rows: list[Row] = []
        for part, found in measured(chosen.parts or PARTS, chosen.short, chosen.images, Path(name)):
            rows += found
            if not chosen.short:  # after every part: the later ones take long
                before = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
                RESULTS.write_text(report(part, found, cores, before), encoding="utf-8")
    if not chosen.short:
        print(f"Written to {RESULTS}")
    far = [row for row in rows if row.far_off]
    for row in far:
        print(f"far off: {row.what}: {row.median:.3g} against {row.target:g}", file=sys.stderr)
    return 1 if far else 0


def measured(
    parts: list[str] | tuple[str, ...], short: bool, given: Path | None, scratch: Path
) -> Iterator[tuple[str, list[Row]]]:
    """The rows of each of `parts`, printed when they are there."""
    rounds = 1 if short else 5
    pictures = images(scratch, 192 if short else 384, given)
    runs = {
        "score": lambda: score(pictures.first(64 if short else 320), 3 if short else rounds),
        "train": lambda: train(pictures, scratch, short),
        "finetune": lambda: finetune(pictures, scratch, short),
        "cli": lambda: startup(3 if short else 10),
        "memory": lambda: memory(pictures, scratch, short),
    }
    for part in parts:
        rows = runs[part]()
        for row in rows:
            print("  ".join(row.cells()).rstrip(), flush=True)
        yield part, rows


def report(part: str, rows: list[Row], cores: int, before: str = "") -> str:
    """RESULTS.md with the section of `part` made anew; the other parts' are those of the text `before`."""
    lines = [
        f"- {datetime.date.today()}, {_processor()}, {cores} cores, Python {platform.python_version()}",
        "- " + ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        "",
        "| " + " | ".join(HEADER) + " |",
        "|" + "---|" * len(HEADER),
        *("| " + " | ".join(row.cells()) + " |" for row in rows),
    ]
    if short := [row for row in rows if row.share < 1]:
        lines += ["", "What falls short:", ""]
        lines += [f"- {row.what}: {row.share:.0%} of the target.{' ' * bool(row.why)}{row.why}" for row in short]
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", before, re.DOTALL | re.MULTILINE))
    sections[part] = "\n" + "\n".join(lines) + "\n"
    found = [f"## {name}\n{sections[name].rstrip()}\n" for name in PARTS if name in sections]
    return "\n".join([INTRODUCTION, *found])


def _processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        return next(line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"


if __name__ == "__main__":
    sys.exit(main())
