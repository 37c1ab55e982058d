"""`aigc compare`: two or more tables of scores in pairs, and what the data can tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aigc_cli import __version__
from aigc_cli.core.metrics import Estimate, mean_estimate, verdict
from aigc_cli.errors import AigcError
from aigc_cli.io.files import TABLE_SUFFIXES, check_output
from aigc_cli.io.plots import comparison_plot
from aigc_cli.io.results import iter_rows, write_table
from aigc_cli.io.text import printable
from aigc_cli.workflows.picking import TIE, check_table, metadata_of

TARGETS = ("quality", "consistency")
PAIRINGS = ("auto", "image", "prompt")
PLOTS = (".png", ".svg")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        labels: what the tables are called; the first is the baseline.
        paired_by: image or prompt.
        rows: of the comparison table: each later table against the first, for each target, over all and per group. A
            difference is the later table's mean minus the first's, in MOS; by prompt every prompt counts the same. The
            win rate is the share of prompts whose mean is higher, ties counted half.
        notes: what the figures alone don't say, one line each.
    """

    labels: list[str]
    paired_by: str
    rows: list[dict[str, Any]]
    notes: list[str]


@dataclass(frozen=True)
class _Table:
    label: str
    rows: list[Row]  # those that were scored
    names: dict[str, str | None]  # {image: prompt} of all rows
    images: int
    made_by: dict[str, str]


def compare(
    tables: Sequence[Path],
    *,
    by: str | None = None,
    pair: str = "auto",
    labels: Sequence[str] | None = None,
    output: Path | None = None,
    plot: Path | None = None,
    overwrite: bool = False,
) -> Comparison:
    """Compares tables of scores with the first of them; intervals are 95% bootstrap intervals over prompts.

    Args:
        by: a column; also compares the rows of each of its values.
        pair: image (the same names with the same prompts: two models on one folder), prompt (the mean of each prompt's
            images), or auto, which takes image where all tables hold the same images.
        labels: what to call the tables; default: their files' names.
        output: the comparison table (.parquet, .csv, .jsonl).
        plot: the differences, drawn (.png, .svg).

    Raises:
        AigcError: fewer than two tables, one that is none, nothing in common, no such column, or scales that differ.
        EnvironmentProblem: an output can't be written.
    """
    if len(tables) < 2:
        raise AigcError(f"Expected two tables or more to compare, found {len(tables)}.", "Example: compare a.csv b.csv")
    if pair not in PAIRINGS:
        raise AigcError(
            f"Expected --pair {', '.join(PAIRINGS)}, found {printable(pair, 80)}.", "Leave it out for auto."
        )
    for path, suffixes in ((output, TABLE_SUFFIXES), (plot, PLOTS)):
        if path is not None:
            check_output(path, overwrite=overwrite, suffixes=suffixes)
    names = list(labels or labels_of(tables))
    read = [_read(table, label) for table, label in zip(tables, names, strict=True)]
    _check_scales(read)
    paired_by = _pairing(read, pair)
    rows = [row for later in read[1:] for row in _against(read[0], later, paired_by, by)]
    found = Comparison(names, paired_by, rows, _notes(read, paired_by))
    if output is not None:
        write_table(output, "comparison", rows, {"aigc_version": __version__, "paired_by": paired_by})
    if plot is not None:
        comparison_plot(rows, [plot])
    return found


def labels_of(tables: Sequence[Path]) -> list[str]:
    """The shortest names that tell the tables apart: a.csv and b.csv, else x/scores and y/scores."""
    for parts in range(1, max(len(table.absolute().parts) for table in tables)):
        found = [printable("/".join(table.absolute().with_suffix("").parts[-parts:]), 80) for table in tables]
        if len(set(found)) == len(found):
            return found
    return [f"{index}: {table.stem}" for index, table in enumerate(tables, 1)]


def _read(path: Path, label: str) -> _Table:
    check_table(path)
    rows: list[Row] = list(iter_rows(path))
    scored = [row for row in rows if row["status"] == "ok"]
    if not scored:
        raise AigcError(f"Expected scored images in {printable(str(path), 200)}, found none.", "Score them again.")
    return _Table(label, scored, {row["name"]: row["prompt"] for row in rows}, len(rows), metadata_of(path))


def _check_scales(tables: Sequence[_Table]) -> None:
    scales = {
        (t.made_by["mos_min"], t.made_by["mos_max"]) for t in tables if {"mos_min", "mos_max"} <= t.made_by.keys()
    }
    if len(scales) > 1:
        shown = " and ".join(f"{low} to {high}" for low, high in sorted(scales))
        raise AigcError(
            f"Expected scores on one scale, found {shown}.", "Compare models that were trained on one scale."
        )


def _pairing(tables: Sequence[_Table], pair: str) -> str:
    first = tables[0]
    same = all(t.names == first.names for t in tables) and all(t.images == len(t.names) for t in tables)
    if pair == "image" and not same:
        raise AigcError(
            "Expected the same images under the same prompts in all tables, found others.", "Pair them by prompt."
        )
    return ("image" if same else "prompt") if pair == "auto" else pair


def _against(first: _Table, later: _Table, paired_by: str, by: str | None) -> list[dict[str, Any]]:
    """The rows of one table against the first."""
    rows = _compared(first, later, paired_by, "all", first.rows, later.rows)
    if all(row["difference"] is None for row in rows):
        raise AigcError(
            f"Expected prompts that {first.label} and {later.label} have in common, found none.",
            "Score both with the same --prompts.",
        )
    if by is not None:
        values = []
        for table in (first, later):
            if by not in table.rows[0]:
                columns = ", ".join(table.rows[0])
                raise AigcError(
                    f"Expected a column {printable(by, 80)} in {table.label}, found {columns}.", "Change --by."
                )
            values.append(dict.fromkeys(_value(row, by) for row in table.rows))
        common = [value for value in values[0] if value in values[1]]
        if not common:
            raise AigcError(
                f"Expected values of {by} that {first.label} and {later.label} have in common, found none.",
                "Its effect is the difference of the tables itself.",
            )
        for value in common:
            parts = [[row for row in table.rows if _value(row, by) == value] for table in (first, later)]
            rows += _compared(first, later, paired_by, f"{by}={value}", *parts)
    return rows


def _value(row: Row, by: str) -> str:
    return "" if row[by] is None else str(row[by])


def _compared(
    first: _Table, later: _Table, paired_by: str, group: str, one: Sequence[Row], other: Sequence[Row]
) -> list[dict[str, Any]]:
    rows = []
    for target in TARGETS:
        before, after = _units(one, target, paired_by), _units(other, target, paired_by)
        common = [key for key in before if key in after]
        prompts = [before[key][0] for key in common]
        a, b = (np.array([side[key][1] for key in common], dtype=np.float64) for side in (before, after))
        difference, wins = mean_estimate(b - a, prompts), _wins(b - a, prompts)
        row: dict[str, Any] = {"table": later.label, "baseline": first.label, "target": target, "group": group}
        row |= {"pairs": len(common), "prompts": len(set(prompts)), "mean": None, "baseline_mean": None}
        if common:
            row |= {"mean": float(b.mean()), "baseline_mean": float(a.mean())}
        row |= {"difference": difference.value, "ci_low": difference.low, "ci_high": difference.high}
        row |= {"win_rate": wins.value, "win_low": wins.low, "win_high": wins.high}
        rows.append(row | {"verdict": verdict(difference), "reason": difference.reason or None})
    return rows


def _units(rows: Sequence[Row], target: str, paired_by: str) -> dict[str, tuple[str, float]]:
    """{what is paired: (its prompt, its score)}: each image, or each prompt with the mean of its images.

    An image without a prompt is a cluster of its own; by prompt it has no pair.
    """
    scored = [row for row in rows if row[target] is not None]
    if paired_by == "image":
        return {row["name"]: (row["prompt"] or f"\0{row['name']}", row[target]) for row in scored}
    of: dict[str, list[float]] = {}
    for row in scored:
        if row["prompt"]:
            of.setdefault(row["prompt"], []).append(row[target])
    return {prompt: (prompt, float(np.mean(scores))) for prompt, scores in of.items()}


def _wins(changes: Any, prompts: Sequence[str]) -> Estimate:
    """The share of prompts whose mean rose, those that moved by no more than `TIE` counted half."""
    if not prompts:
        return mean_estimate([], [])
    names, codes = np.unique(np.asarray(prompts, dtype=object), return_inverse=True)
    means = np.bincount(codes, changes) / np.bincount(codes)
    return mean_estimate(np.where(np.abs(means) <= TIE, 0.5, means > 0), list(names))


def _notes(tables: Sequence[_Table], paired_by: str) -> list[str]:
    notes = []
    hashes = [table.made_by.get("model_hash") for table in tables]
    if len(set(hashes) - {None}) > 1:
        shown = ", ".join(f"{t.label}: {t.made_by.get('model', '?')}" for t in tables)
        notes.append(f"Different scorers ({shown}): a difference is the scorers' as well as the images'.")
    elif None in hashes:
        unknown = ", ".join(t.label for t, found in zip(tables, hashes, strict=True) if found is None)
        notes.append(f"Which scorer made {unknown} is not known; with another one, a difference is the scorer's too.")
    for table in tables:
        if failed := table.images - len(table.rows):
            notes.append(f"{table.label}: {failed:,} failed rows left out.")
        if paired_by == "prompt" and (bare := sum(not row["prompt"] for row in table.rows)):
            notes.append(f"{table.label}: {bare:,} images without a prompt left out.")
    if paired_by == "prompt":
        prompts = [{row["prompt"] for row in table.rows if row["prompt"]} for table in tables]
        common = set.intersection(*prompts)
        for table, found in zip(tables, prompts, strict=True):
            if alone := len(found - common):
                notes.append(f"{table.label}: {alone:,} prompts that not all tables have.")
    return notes
