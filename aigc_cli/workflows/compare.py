"""`aigc compare`: tables of scores, or folders of images, in pairs, and what the data can tell."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from aigc_cli import __version__
from aigc_cli.errors import AigcError
from aigc_cli.images.folders import is_folder
from aigc_cli.metrics.by_name import Estimate, mean_estimate, verdict
from aigc_cli.progress import Progress, Silent
from aigc_cli.report.plots import comparison_plot
from aigc_cli.storage.csv_tables import read_prompts
from aigc_cli.storage.files import TABLE_SUFFIXES, check_output
from aigc_cli.storage.results import clean, iter_rows, write_table
from aigc_cli.text import counted, printable
from aigc_cli.workflows.pick import TIE, metadata_of

TARGETS = ("quality", "consistency")
PAIRINGS = ("auto", "image", "prompt")
PLOTS = (".png", ".svg")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Scoring:
    """How folders are scored, see `score_folder` and `Selection`: all by one model, with one table of prompts."""

    prompts: Path | None = None
    prompt: str | None = None
    columns: Mapping[str, str] | None = None
    sep: str = ","
    recursive: bool = False
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    model: Path | None = None
    device: str = "auto"


@dataclass(frozen=True)
class Scores:
    """A table of scores, or a folder of images that was scored.

    Attributes:
        label: what it is called.
        every: all rows of the scores table.
        made_by: what the table says of its making.
    """

    label: str
    every: list[Row]
    made_by: dict[str, str]

    @cached_property
    def rows(self) -> list[Row]:
        """The rows that have scores."""
        return [row for row in self.every if row["status"] == "ok"]

    @cached_property
    def names(self) -> dict[str, str | None]:
        """{image: prompt} of all rows."""
        return {row["name"]: row["prompt"] for row in self.every}

    @property
    def why(self) -> str:
        """` (2 truncated, 1 not_an_image)`: why rows failed; empty where no reason is known."""
        reasons = Counter(row["reason"] for row in self.every if row["status"] != "ok" and row["reason"])
        shown = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
        return f" ({shown})" if shown else ""


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
        scores: what was compared, in the order of the labels.
    """

    labels: list[str]
    paired_by: str
    rows: list[dict[str, Any]]
    notes: list[str]
    scores: list[Scores]


def compare(
    tables: Sequence[Path],
    *,
    by: str | None = None,
    pair: str = "auto",
    labels: Sequence[str] | None = None,
    output: Path | None = None,
    plot: Path | None = None,
    overwrite: bool = False,
    scoring: Scoring | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compares tables of scores with the first of them; intervals are 95% bootstrap intervals over prompts.

    Args:
        tables: tables, or folders of images, whose scores are kept in memory only.
        by: a column; also compares the rows of each of its values.
        pair: image (the same names with the same prompts: two models on one folder), prompt (the mean of each prompt's
            images), or auto, which takes image where all tables hold the same images.
        labels: what to call the tables; default: see `labels_of`.
        output: the comparison table (.parquet, .csv, .jsonl).
        plot: the differences, drawn (.png, .svg).
        scoring: of folders.

    Raises:
        AigcError: fewer than two tables, one that is none, a folder without images, `scoring` without a folder, no such
            model, nothing in common, no such column, or scales that differ.
        EnvironmentProblem: an output can't be written, or the model's backbone can't be had.
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
    read = _read(tables, names, scoring or Scoring(), progress or Silent())
    _check_scales(read)
    paired_by = _pairing(read, pair)
    rows = [row for later in read[1:] for row in _against(read[0], later, paired_by, by)]
    found = Comparison(names, paired_by, rows, _notes(read, paired_by), read)
    if output is not None:
        write_table(output, "comparison", rows, {"aigc_version": __version__, "paired_by": paired_by})
    if plot is not None:
        comparison_plot(rows, [plot])
    return found


def labels_of(tables: Sequence[Path]) -> list[str]:
    """Folders as they were written, and of tables the shortest names that tell all apart: a and b, else x/a and y/a."""
    for parts in range(1, max(len(table.absolute().parts) for table in tables)):
        found = [printable(_label(table, parts), 80) for table in tables]
        if len(set(found)) == len(found):
            return found
    return [f"{index}: {printable(_label(table, 1), 80)}" for index, table in enumerate(tables, 1)]


def _label(table: Path, parts: int) -> str:
    return str(table) if is_folder(table) else "/".join(table.absolute().with_suffix("").parts[-parts:])


def _read(tables: Sequence[Path], labels: Sequence[str], scoring: Scoring, progress: Progress) -> list[Scores]:
    """The tables, and the folders once they are scored; whatever can be wrong with a table is found before."""
    named = list(zip(tables, labels, strict=True))
    folders = [(path, label) for path, label in named if is_folder(path)]
    kept = iter([_table(path, label) for path, label in named if not is_folder(path)])
    if not folders and scoring != Scoring():
        raise AigcError(
            "Expected a folder of images beside options of scoring, found tables only.", "Leave these options out."
        )
    made = iter(_scored(folders, scoring, progress) if folders else ())
    return [next(made if is_folder(path) else kept) for path in tables]


def _table(path: Path, label: str) -> Scores:
    if path.suffix not in TABLE_SUFFIXES:
        raise AigcError(
            f"Expected a table {', '.join(TABLE_SUFFIXES)} or a folder of images, found {printable(str(path), 200)}.",
            "Name what `aigc score` wrote, or the folder that it would score.",
        )
    return _checked(Scores(label, list(iter_rows(path)), metadata_of(path)), path)


def _checked(scores: Scores, path: Path) -> Scores:
    if not scores.rows:
        shown = printable(str(path), 200)
        raise AigcError(f"Expected scored images in {shown}, found none{scores.why}.", "Score others, or again.")
    return scores


def _scored(folders: Sequence[tuple[Path, str]], scoring: Scoring, progress: Progress) -> list[Scores]:
    """The rows that `aigc score` would write for each folder, all by the same model."""
    from aigc_cli.model.trained import load_model  # torch, which tables alone do without
    from aigc_cli.workflows.score.plan import Selection, entries_of
    from aigc_cli.workflows.score.scorer import Scorer, Texts

    prompts = read_prompts(scoring.prompts, columns=scoring.columns, sep=scoring.sep) if scoring.prompts else {}
    chosen = Selection(scoring.recursive, scoring.include, scoring.exclude)
    entries = [entries_of(folder, prompts, scoring.prompt, chosen) for folder, _ in folders]
    # the table of prompts is that of all folders, so a row without an image here is one of another folder
    entries = [[entry for entry in found if os.path.lexists(str(entry.source))] for found in entries]
    if unused := len(prompts.keys() - {entry.name for found in entries for entry in found}):
        progress.say(f"{scoring.prompts}: {counted(unused, 'prompt')} without an image in any of the folders.")
    scorer = Scorer(load_model(scoring.model, scoring.device), progress=progress)
    scores = []
    for (folder, label), found in zip(folders, entries, strict=True):
        progress.start(f"scoring {label}", len(found))
        rows: list[Row] = []
        for batch in scorer.batches(found, Texts(scorer.model.judge)):  # new texts: the bits of a folder scored alone
            rows += ({name: clean(value) for name, value in row.items()} for row in batch)
            progress.advance(len(batch))
        made_by = {"aigc_version": __version__, **scorer.model.metadata()}
        scores.append(_checked(Scores(label, rows, made_by), folder))
    return scores


def _check_scales(tables: Sequence[Scores]) -> None:
    scales = {
        (t.made_by["mos_min"], t.made_by["mos_max"]) for t in tables if {"mos_min", "mos_max"} <= t.made_by.keys()
    }
    if len(scales) > 1:
        shown = " and ".join(f"{low} to {high}" for low, high in sorted(scales))
        raise AigcError(
            f"Expected scores on one scale, found {shown}.", "Compare models that were trained on one scale."
        )


def _pairing(tables: Sequence[Scores], pair: str) -> str:
    first = tables[0]
    same = all(t.names == first.names for t in tables) and all(len(t.every) == len(t.names) for t in tables)
    if pair == "image" and not same:
        raise AigcError(
            "Expected the same images under the same prompts in all tables, found others.", "Pair them by prompt."
        )
    return ("image" if same else "prompt") if pair == "auto" else pair


def _against(first: Scores, later: Scores, paired_by: str, by: str | None) -> list[dict[str, Any]]:
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
    first: Scores, later: Scores, paired_by: str, group: str, one: Sequence[Row], other: Sequence[Row]
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


def _notes(tables: Sequence[Scores], paired_by: str) -> list[str]:
    notes = []
    hashes = [table.made_by.get("model_hash") for table in tables]
    if len(set(hashes) - {None}) > 1:
        shown = ", ".join(f"{t.label}: {t.made_by.get('model', '?')}" for t in tables)
        notes.append(f"Different scorers ({shown}): a difference is the scorers' as well as the images'.")
    elif None in hashes:
        unknown = ", ".join(t.label for t, found in zip(tables, hashes, strict=True) if found is None)
        notes.append(f"Which scorer made {unknown} is not known; with another one, a difference is the scorer's too.")
    for table in tables:
        if failed := len(table.every) - len(table.rows):
            notes.append(f"{table.label}: {failed:,} failed rows left out{table.why}.")
        if paired_by == "prompt" and (bare := sum(not row["prompt"] for row in table.rows)):
            notes.append(f"{table.label}: {bare:,} images without a prompt left out.")
    if paired_by == "prompt":
        prompts = [{row["prompt"] for row in table.rows if row["prompt"]} for table in tables]
        common = set.intersection(*prompts)
        for table, found in zip(tables, prompts, strict=True):
            if alone := len(found - common):
                notes.append(f"{table.label}: {alone:,} prompts that not all tables have.")
    return notes
