"""Reads tables of ratings: names of images with prompts and human scores, one row for each image or each rater."""

import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aigc_cli.errors import AigcError
from aigc_cli.images.folders import check_folder
from aigc_cli.images.sample import MOS_COLUMNS, STD_COLUMNS, Sample
from aigc_cli.mos_scale import DEFAULT_SCALE, MosScale
from aigc_cli.storage.csv_tables import Table, quote, rename_columns
from aigc_cli.storage.named_tables import (
    iterate_named,
    match_missing,
    read_given_table,
    require_columns,
    require_images,
)
from aigc_cli.text import to_printable

_MOS_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_MOS = tuple(MOS_COLUMNS.values())
_OURS = ("name", "prompt", *_MOS)
_USUAL_ENDS = (1, 5, 7, 9, 10, 100)  # of rating scales
RATER, RATERS = "rater", "raters"  # the columns of one rater's name, and of the number of raters


def read_ratings(
    csv: Path,
    images: Path,
    *,
    scale: MosScale = DEFAULT_SCALE,
    columns: Mapping[str, str] | None = None,
    sep: str = ",",
    without_images: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> list[Sample]:
    """Read a table of rated images: `name` and `mos_quality`, `mos_align` or both in MOS units, and mostly `prompt`.

    A blank score means not rated, a blank prompt means no prompt: then the image is not rated for consistency. Other
    columns are kept as text in `Sample.groups`. The samples keep the order of the rows. Some images may be missing:
    the image reader reports them later. With a column `rater`, each row is of one rater: see `average_raters`.

    Args:
        images: the folder where the paths in `name` start.
        columns: {name in the table: name, prompt, mos_quality, mos_align or rater}.
        sep: the separator, see `read_table`.
        without_images: whether all images may be missing.
        say: is told what was made of the rows.

    Raises:
        AigcError: as `read_table`; also for missing columns, names that are blank, duplicate or outside `images`,
            scores that are not finite numbers on the scale, rows without any score, and if all images are missing.
    """
    shown, table = to_printable(str(csv)), read_rated_table(csv, images, columns=columns, sep=sep)
    by_rater = RATER in table.columns
    samples = [
        _make_sample(row, place, f"{shown}, line {line}", scale, table)
        for line, row, place in iterate_named(table, shown, [images], by_rater)
    ]
    if by_rater:
        rows, samples = len(samples), average_raters(samples, shown)
        raters = len({row[RATER] for row in table.to_dicts()})
        say(f"{rows:,} rows of {raters:,} raters: means of {len(samples):,} images, with deviations and counts.")
    places = match_missing({sample.name: sample.path for sample in samples}, images)
    if not without_images:
        require_images(places, images, shown)
    return [replace(sample, path=places[sample.name]) for sample in samples]


def average_raters(samples: Sequence[Sample], shown: str) -> list[Sample]:
    """One sample for each image, from samples of one rater each, whose name is in `groups`.

    A rater's repeated scores are averaged first, then the raters'. `groups` gets the raters' standard deviations
    (divided by raters - 1; blank for one rater) and their number.

    Raises:
        AigcError: an image has several prompts; the message begins with `shown`.
    """
    of: dict[str, list[Sample]] = {}
    for sample in samples:
        of.setdefault(sample.name, []).append(sample)
    found = []
    for name, rows in of.items():
        if len(prompts := {row.prompt for row in rows}) > 1:
            raise AigcError(
                f"{shown}: expected one prompt for {quote(name)}, found {len(prompts)}.", "Give all its rows the same."
            )
        means, deviations = dict[str, Any](), dict[str, str]()
        for target, column in MOS_COLUMNS.items():
            opinions: dict[str, list[float]] = {}
            for row in rows:
                if (score := row.get_mos(target)) is not None:
                    opinions.setdefault(row.groups[RATER], []).append(score)
            own = [statistics.fmean(scores) for scores in opinions.values()]
            means[column] = statistics.fmean(own) if own else None
            deviations[STD_COLUMNS[target]] = repr(statistics.stdev(own)) if len(own) > 1 else ""
        groups = {column: text for column, text in rows[0].groups.items() if column != RATER}
        count = len({row.groups[RATER] for row in rows})
        found.append(replace(rows[0], **means, groups=groups | deviations | {RATERS: str(count)}))
    return found


def read_rated_table(csv: Path, images: Path, *, columns: Mapping[str, str] | None = None, sep: str = ",") -> Table:
    """Read the table of `read_ratings` without a look at its cells; `images` must be a folder."""
    shown = to_printable(str(csv))
    table = rename_columns(read_given_table(csv, sep=sep), columns or {}, shown)
    if MOS_COLUMNS["quality"] in table.columns:
        require_columns(table, shown, ("name",), optional=("prompt",))
    else:
        require_columns(table, shown, ("name",), ("prompt",), _MOS)
    check_folder(images)
    return table


def _make_sample(row: dict[str, str], place: Path, where: str, scale: MosScale, table: Table) -> Sample:
    quality, align = (_parse_mos(row[name], name, where, scale, table) if name in row else None for name in _MOS)
    if quality is None and align is None:
        blank = " and ".join(target for target in _MOS if target in row)
        raise AigcError(f"{where}: expected a score, found {blank} blank", "Give the row a score or remove it.")
    groups = {column: value for column, value in row.items() if column not in _OURS}
    prompt = row["prompt"] if row.get("prompt", "").strip() else None
    if prompt is None and quality is not None:
        align = None  # consistency with what?
    return Sample(row["name"], place, prompt, quality, align, groups)


def _parse_mos(text: str, column: str, where: str, scale: MosScale, table: Table) -> float | None:
    """Parse one score in MOS units; None for a blank cell."""
    if not (value := text.strip()):
        return None
    expected = f"{where}, column {column}: expected a number from {scale}, found {quote(text)}"
    if "," in value:
        raise AigcError(expected, "Write a decimal point, as in 3.5.")
    if not _MOS_NUMBER.fullmatch(value):  # float() also accepts 'inf', 'nan' and '1_0'
        raise AigcError(expected, "Write a plain number such as 3.5, or leave the cell blank where nobody rated.")
    number = float(value)
    if not scale.low <= number <= scale.high:
        raise AigcError(expected, _suggest_scale(scale, table))
    return number


def _suggest_scale(scale: MosScale, table: Table) -> str:
    """The options for the scale that the scores of a table seem to use."""
    texts = (row[name].strip() for row in table.to_dicts() for name in _MOS if name in row)
    numbers = [float(text) for text in texts if _MOS_NUMBER.fullmatch(text)]
    low, high = min(numbers), max(numbers)
    if math.isinf(low) or math.isinf(high):
        return "Correct the score: it is too large for a number."
    options = [f"--mos-min {math.floor(low)}"] if low < scale.low else []
    if high > scale.high:
        options.append(f"--mos-max {next((end for end in _USUAL_ENDS if end >= high), math.ceil(high))}")
    reach = f"The scores reach from {low:g} to {high:g}."
    return f"{reach} If they use another scale, give its ends: {' '.join(options)}"
