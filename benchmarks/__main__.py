"""Measures speed and memory of aigc: `python -m benchmarks [PART ...] [--short] [--images FOLDER] [--against PATH]`.

A full run writes benchmarks/RESULTS.md. A short run only prints, and fails if a ratio misses its target by far.
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

from benchmarks.data import make_images
from benchmarks.formats import measure_formats
from benchmarks.measure import Row
from benchmarks.memory import measure_memory
from benchmarks.score import measure_scoring
from benchmarks.startup import measure_startup
from benchmarks.train import measure_finetuning, measure_training
from benchmarks.whole import measure_whole

PARTS = ("whole", "score", "formats", "train", "finetune", "cli", "memory")
RESULTS = Path(__file__).with_name("RESULTS.md")
LIBRARIES = ("torch", "onnxruntime", "open_clip_torch", "timm", "pillow", "numpy")
INTRODUCTION = """# Speed and memory

Written by `python -m benchmarks`. Each section holds the last measurement of its part.

- Both sides of a ratio take turns and use all cores. Median and spread are over rounds.
- `whole` measures processes from start to end; `score`, `limits` and `formats` measure a model that is loaded.
- With `--against PATH`, scoring with the code of another checkout takes turns with ours.
- The plain training loop is timed for one epoch; 20 epochs count as 20 times that.
- A short run (`--short`, in continuous integration) fails if a ratio reaches less than half of its target. It never
  fails on seconds, nor on the share of matrix products, which no engine reaches on every machine.
"""
HEADER = ("part", "what", "median", "spread", "target", "met", "note")


def main() -> int:
    """Runs the named parts, by default all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--short", action="store_true", help="few images, one round; for continuous integration")
    parser.add_argument("--images", type=Path, help="folder of JPEGs to use instead of generated ones")
    parser.add_argument("--against", type=Path, metavar="PATH", help="checkout of other code, measured beside ours")
    arguments = parser.parse_args()
    if arguments.against and not (arguments.against / "aigc_cli" / "__init__.py").is_file():
        parser.error(f"expected a checkout of aigc, found no aigc_cli in {arguments.against}")
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; known are {', '.join(PARTS)}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(cores)  # overrides OMP_NUM_THREADS: both sides use all cores
    os.environ["OMP_NUM_THREADS"] = str(cores)
    with tempfile.TemporaryDirectory(prefix="aigc-benchmark-") as name:
        os.environ.setdefault("AIGC_CACHE", str(Path(name) / "cache"))
        rows: list[Row] = []
        for part, found in measure_parts(arguments, Path(name)):
            rows += found
            if not arguments.short:  # after each part, because later ones take long
                before = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
                RESULTS.write_text(format_report(part, found, cores, before), encoding="utf-8")
    if not arguments.short:
        print(f"Written to {RESULTS}")
    far = [row for row in rows if row.far_off]
    for row in far:
        print(f"far from target: {row.what}: {row.median:.3g} against {row.target:g}", file=sys.stderr)
    return 1 if far else 0


def measure_parts(arguments: argparse.Namespace, scratch: Path) -> Iterator[tuple[str, list[Row]]]:
    """Yields (part, rows) for each part and prints the rows."""
    short, against = arguments.short, arguments.against and arguments.against.absolute()
    rounds = 3 if short else 5
    pictures = make_images(scratch, 192 if short else 384, arguments.images)
    runs = {
        "whole": lambda: measure_whole(pictures, scratch, short, against),
        "score": lambda: measure_scoring(pictures.first(64 if short else 320), rounds),
        "formats": lambda: measure_formats(pictures.first(24 if short else 96), scratch, rounds, against),
        "train": lambda: measure_training(pictures, scratch, short),
        "finetune": lambda: measure_finetuning(pictures, scratch, short),
        "cli": lambda: measure_startup(3 if short else 10),
        "memory": lambda: measure_memory(pictures, scratch, short),
    }
    for part in arguments.parts or PARTS:
        rows = runs[part]()
        for row in rows:
            print("  ".join(row.cells()).rstrip(), flush=True)
        yield part, rows


def format_report(part: str, rows: list[Row], cores: int, before: str = "") -> str:
    """RESULTS.md with a new section for `part`; the other sections come from the text `before`."""
    lines = [
        f"- {datetime.date.today()}, {_read_processor()}, {cores} cores, Python {platform.python_version()}",
        "- " + ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        "",
        "| " + " | ".join(HEADER) + " |",
        "|" + "---|" * len(HEADER),
        *("| " + " | ".join(row.cells()) + " |" for row in rows),
    ]
    if short := [row for row in rows if row.share < 1]:
        lines += ["", "Missed targets:", ""]
        lines += [f"- {row.what}: {row.share:.0%} of the target.{' ' * bool(row.why)}{row.why}" for row in short]
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", before, re.DOTALL | re.MULTILINE))
    sections[part] = "\n" + "\n".join(lines) + "\n"
    found = [f"## {name}\n{sections[name].rstrip()}\n" for name in PARTS if name in sections]
    return "\n".join([INTRODUCTION, *found])


def _read_processor() -> str:
    """Name of the processor, if the system knows it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        return next(line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"


if __name__ == "__main__":
    sys.exit(main())
