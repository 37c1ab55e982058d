"""Images per second of each format that generators write; with another checkout, its code takes turns with ours."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.data import Images, make_large
from benchmarks.measure import Row, divide_rounds, time_in_turns
from benchmarks.process import ROOT, ScoringWorker, name_checkout

TARGETS = {"1024 PNG": 2.0}  # ours over the code of the other checkout
BEFORE, OURS = "before", "ours"


def measure_formats(images: Images, scratch: Path, rounds: int, against: Path | None) -> list[Row]:
    """Rows of part `formats`: the same number of images in each format, with the model loaded."""
    sets = {"512 JPEG": images} | make_large(images, scratch)
    checkouts = {OURS: ROOT} | ({BEFORE: against} if against else {})
    with ExitStack() as stack:
        workers = {side: stack.enter_context(ScoringWorker(checkout)) for side, checkout in checkouts.items()}
        for worker in workers.values():
            worker.score(images.first(min(32, len(images.paths))))  # loads the model and starts the decoders
        sides: dict[str, Callable[[], object]] = {
            f"{side}, {name}": partial(worker.score, found)
            for name, found in sets.items()
            for side, worker in workers.items()
        }
        seconds = time_in_turns(rounds, sides)
    rows = []
    for name, found in sets.items():
        n, ours = len(found.paths), seconds[f"{OURS}, {name}"]
        size = sum(path.stat().st_size for path in found.paths) / n / 1e6
        rows.append(Row("formats", name, [n / s for s in ours], unit="img/s", note=f"{n} images, {size:.2g} MB each"))
        if against:
            before = seconds[f"{BEFORE}, {name}"]
            note = f"{name_checkout(against)}: {n / median(before):.3g} img/s"
            ratio = divide_rounds(before, ours)
            rows.append(Row("formats", f"{name}, over another checkout", ratio, TARGETS.get(name), note=note))
    return rows
