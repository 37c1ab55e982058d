"""`aigc verify`: whether a table of scores is what the model at hand says of the images."""

import itertools
import math
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from aigc_cli.errors import AigcError
from aigc_cli.images.folders import Finder, list_images
from aigc_cli.model.trained import load_model
from aigc_cli.progress import Progress, Silent
from aigc_cli.storage.results import iter_rows, read_metadata
from aigc_cli.storage.schemas import ERROR_BARS
from aigc_cli.text import printable
from aigc_cli.workflows.score.scorer import Entry, Scorer

TOLERANCE = 1e-3  # MOS; batches and engines move scores by a tenth of it at most
COMPARED = ("model_hash", "backbone", "backbone_hash", "preprocessing", "mos_min", "mos_max")
LATER = ("calibration",)  # what tables of earlier versions don't say
SCORES = ("quality", "consistency")
_ESCAPE = re.compile(r"\\x[0-9a-f]{2}")
BARS = tuple(name for name in ERROR_BARS if not name.endswith("percentile"))  # the scores fix those
BARS_TOLERANCE = 0.02  # MOS of an interval, or a share of a distance


@dataclass(frozen=True)
class Verification:
    """What a verification found.

    Attributes:
        scored: rows of the table that have a score.
        checked: how many of them were scored again.
        largest: the largest change of a score, in MOS; None where nothing was compared.
        problems: what is not as the table says; empty when the table is verified.
    """

    scored: int
    checked: int
    largest: float | None
    problems: list[str]


def verify(
    table: Path,
    *,
    images: Path | None = None,
    n: int = 50,
    seed: int = 0,
    model: Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Verification:
    """Scores a random sample of a table's rows again and compares; also the model's hashes with those in the table.

    Args:
        table: what `aigc score` wrote.
        images: the folder of the images; None takes the paths in the table.
        n: rows in the sample, out of those with a score.
        seed: of the sample.
        model: a run or model folder; None for the shipped scorer.

    Raises:
        AigcError: no such table, or no such model.
        EnvironmentProblem: the backbone's weights can't be had.
    """
    if n < 1:
        raise AigcError(f"Expected at least one row to check, found --n {n}.", "Leave it out for 50.")
    if table.suffix not in (".parquet", ".csv", ".jsonl"):
        raise AigcError(f"Expected a table .parquet, .csv or .jsonl, found {printable(str(table))}.", "Name a table.")
    said = read_metadata(table)
    known = (row for row in iter_rows(table) if row["status"] == "ok" and not _rewritten(row, table))
    scored, rows = _sample(known, n, seed)
    scorer = Scorer(load_model(model, device), progress=progress)
    now = scorer.model.metadata()
    compared = [*COMPARED, *(key for key in LATER if key in said)]
    problems = [f"{key}: {said.get(key)} in the table, {now[key]} now" for key in compared if said.get(key) != now[key]]
    if problems:
        return Verification(scored, 0, None, problems)
    entries = _entries(rows, images)
    (progress or Silent()).start("scoring again", len(entries))
    changes = [_change(row, again) for row, again in zip(rows, scorer.rows(entries), strict=True)]
    problems = [
        f"{row['name']}: {change}" if isinstance(change, str) else f"{row['name']}: moved by {change:.4f} MOS"
        for row, change in zip(rows, changes, strict=True)
        if isinstance(change, str) or change > TOLERANCE
    ]
    numbers = [change for change in changes if not isinstance(change, str)]
    return Verification(scored, len(rows), max(numbers, default=None), problems)


def _rewritten(row: Mapping[str, Any], table: Path) -> bool:
    """Whether a CSV table may hold an escape where the prompt had a control character: another prompt, so no check."""
    return table.suffix == ".csv" and _ESCAPE.search(row["prompt"] or "") is not None


def _sample(rows: Iterable[dict[str, Any]], n: int, seed: int) -> tuple[int, list[dict[str, Any]]]:
    """(how many rows there are, n of them at random in their order), with n rows in memory."""
    draw, kept, count = random.Random(seed), list[tuple[int, dict[str, Any]]](), 0
    for count, row in zip(itertools.count(1), rows, strict=False):
        if len(kept) < n:
            kept.append((count, row))
        elif (place := draw.randrange(count)) < n:
            kept[place] = (count, row)
    return count, [row for _, row in sorted(kept, key=lambda pair: pair[0])]


def _entries(rows: Sequence[Mapping[str, Any]], images: Path | None) -> list[Entry]:
    shown = {} if images is None else {printable(name): name for name in list_images(images)}
    find, entries = Finder(), []
    for row in rows:
        name = str(row["name"])
        if images is None:
            place = find(row["path"]) or Path(row["path"] or "")
        else:
            parts = PurePosixPath(shown.get(name, name))
            if parts.is_absolute() or ".." in parts.parts:
                raise AigcError(f"Expected names inside the image folder, found '{printable(name, 80)}'.", "Mend it.")
            place = images / parts
        entries.append(Entry(name, place, row["prompt"], row["prompt_source"]))
    return entries


def _change(row: Mapping[str, Any], again: Mapping[str, Any]) -> float | str:
    """How far the scores of a row are from the table's, or why that can't be said."""
    if again["status"] != "ok":
        return f"can't be read any more ({again['reason']})"
    pairs = [(row[name], again[name]) for name in SCORES]
    if any((one is None) != (other is None) for one, other in pairs):
        return "has a score now where it had none, or none where it had one"
    largest = max((abs(one - other) for one, other in pairs if one is not None), default=0.0)
    for name in BARS:
        one, other = row.get(name), again[name]
        if one is not None and (other is None or not abs(one - other) <= BARS_TOLERANCE):
            return f"its {name} is {one:.3f} in the table, {'none' if other is None else f'{other:.3f}'} now"
    return largest if math.isfinite(largest) else "has a score that is no number"
