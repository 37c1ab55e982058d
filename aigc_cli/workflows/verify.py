"""`aigc verify`: scores a sample of a table again and compares it with the table."""

import math
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from aigc_cli.errors import AigcError
from aigc_cli.images.folders import check_folder
from aigc_cli.images.sample import TARGETS
from aigc_cli.progress import Progress, SilentProgress
from aigc_cli.storage.atomic_files import TABLE_SUFFIXES
from aigc_cli.storage.results import iterate_rows, read_table_metadata
from aigc_cli.storage.schemas import ERROR_BARS
from aigc_cli.text import to_printable
from aigc_cli.workflows.pick import find_files
from aigc_cli.workflows.score.plan import ScoringPlan
from aigc_cli.workflows.score.scorer import ImageEntry

SCORE_TOLERANCE = 1e-3  # MOS; batches and engines change scores by at most a tenth of it
IDENTITY_KEYS = ("model_hash", "backbone", "backbone_hash", "preprocessing", "mos_min", "mos_max")
OPTIONAL_KEYS = ("calibration",)  # tables of earlier versions lack them
_ESCAPE = re.compile(r"\\x[0-9a-f]{2}")
UNCERTAINTIES = tuple(name for name in ERROR_BARS if not name.endswith("percentile"))  # percentiles follow from scores
UNCERTAINTY_TOLERANCE = 0.02  # MOS for the ends of intervals, a share for `out_of_domain`


@dataclass(frozen=True)
class Verification:
    """The result of a verification.

    Attributes:
        scored, checked: rows with a score, and those that were scored again.
        largest: the largest change of a score, in MOS; None if nothing was compared.
        problems: differences from the table, one line each; empty if the table is verified.
    """

    scored: int
    checked: int
    largest: float | None
    problems: list[str]


def verify_table(
    table: Path,
    *,
    images: Path | None = None,
    n: int = 50,
    seed: int = 0,
    model: Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Verification:
    """Scores a random sample of a table's rows again; compares the scores and the model's hashes with the table.

    Args:
        images: the folder of the images; None takes the paths in the table.
        n: number of rows in the sample; only rows with a score count.

    Raises:
        AigcError: the table or the model does not exist.
        EnvironmentProblem: the backbone's weights are not available.
    """
    if n < 1:
        raise AigcError(f"Expected at least one row to check, found --n {n}.", "Leave it out for 50.")
    if table.suffix not in TABLE_SUFFIXES:
        shown = to_printable(str(table))
        raise AigcError(f"Expected a table .parquet, .csv or .jsonl, found {shown}.", "Name a table.")
    if images is not None:
        check_folder(images)
    said = read_table_metadata(table)
    known = (row for row in iterate_rows(table) if row["status"] == "ok")
    if table.suffix == ".csv":  # it may hold an escape in place of a control character: such a prompt is left out
        known = (row for row in known if not _ESCAPE.search(row["prompt"] or ""))
    scored, rows = _draw_sample(known, n, seed)
    entries = _make_entries(rows, table.parent, images)
    plan, progress = ScoringPlan(model=model, device=device), progress or SilentProgress()
    plan.check()
    scorer = plan.load_scorer(progress)
    now = scorer.saved.make_metadata()
    compared = [*IDENTITY_KEYS, *(key for key in OPTIONAL_KEYS if key in said)]
    problems = [f"{key}: {said.get(key)} in the table, {now[key]} now" for key in compared if said.get(key) != now[key]]
    if problems:
        return Verification(scored, 0, None, problems)
    progress.start("scoring again", len(entries))
    moves: list[float] = []
    for row, again in zip(rows, scorer.iterate_rows(entries), strict=True):
        change = _measure_change(row, again)
        if isinstance(change, str):
            problems.append(f"{row['name']}: {change}")
            continue
        moves.append(change)
        if change > SCORE_TOLERANCE:
            problems.append(f"{row['name']}: moved by {change:.4f} MOS")
    return Verification(scored, len(rows), max(moves, default=None), problems)


def _draw_sample(rows: Iterable[dict[str, Any]], n: int, seed: int) -> tuple[int, list[dict[str, Any]]]:
    """(number of rows, n random ones in their order); holds n rows in memory."""
    draw, kept, count = random.Random(seed), list[tuple[int, dict[str, Any]]](), 0
    for count, row in enumerate(rows, 1):
        if len(kept) < n:
            kept.append((count, row))
        elif (place := draw.randrange(count)) < n:
            kept[place] = (count, row)
    return count, [row for _, row in sorted(kept, key=itemgetter(0))]


def _make_entries(rows: Sequence[Mapping[str, Any]], base: Path, images: Path | None) -> list[ImageEntry]:
    places = find_files(rows, base, images)
    return [
        ImageEntry(str(row["name"]), place, row["prompt"], row["prompt_source"])
        for row, place in zip(rows, places, strict=True)
    ]


def _measure_change(row: Mapping[str, Any], again: Mapping[str, Any]) -> float | str:
    """The largest change of a row's scores, in MOS, or a problem in words."""
    if again["status"] != "ok":
        return f"can no longer be read ({again['reason']})"
    pairs = [(row[name], again[name]) for name in TARGETS]
    if any((one is None) != (other is None) for one, other in pairs):
        return "has a score now but none in the table, or the reverse"
    largest = max((abs(one - other) for one, other in pairs if one is not None), default=0.0)
    for name in UNCERTAINTIES:
        one, other = row.get(name), again[name]
        if one is not None and (other is None or not abs(one - other) <= UNCERTAINTY_TOLERANCE):
            return f"its {name} is {one:.3f} in the table, {'none' if other is None else f'{other:.3f}'} now"
    return largest if math.isfinite(largest) else "has a score that is not a number"
