"""`aigc compare`: differences between tables of scores, or folders of images; the first is the baseline."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from aigc_cli import __version__
from aigc_cli.errors import AigcError
from aigc_cli.images.folders import is_folder
from aigc_cli.images.sample import TARGETS
from aigc_cli.metrics.by_name import Estimate, estimate_mean, judge_difference
from aigc_cli.progress import Progress, SilentProgress
from aigc_cli.report.plots import draw_comparison
from aigc_cli.storage.atomic_files import TABLE_SUFFIXES, check_output
from aigc_cli.storage.results import Row, clean_value, iterate_rows, write_table
from aigc_cli.storage.schemas import SCHEMAS
from aigc_cli.text import to_printable
from aigc_cli.workflows.pick import TIE, read_metadata_or_nothing
from aigc_cli.workflows.score.plan import ScoringPlan

PAIRINGS = ("auto", "image", "prompt")


@dataclass(frozen=True)
class ComparisonPlan:
    """How tables are compared, and where the results go.

    Attributes:
        by: a column; the rows of each of its values are compared too.
        pair: image (the same names with the same prompts: two models on one folder), prompt (the mean of each prompt's
            images), or auto: image if all tables hold the same images, else prompt.
        labels: names of the tables; default: those of `label_tables`.
        output, plot: the comparison table (.parquet, .csv, .jsonl), and a plot of the differences (.png, .svg).
        scoring: how folders are scored: all by one model, with one table of prompts.
    """

    by: str | None = None
    pair: str = "auto"
    labels: Sequence[str] = ()
    output: Path | None = None
    plot: Path | None = None
    overwrite: bool = False
    scoring: ScoringPlan | None = None


@dataclass(frozen=True)
class ScoredTable:
    """A table of scores, or a folder of images that was scored.

    Attributes:
        all_rows: of the scores table.
        metadata: the model, its hash, the MOS scale.
        base: the folder of the table, where its images count; None for rows that were scored now.
    """

    label: str
    all_rows: list[Row]
    metadata: dict[str, str]
    base: Path | None = None

    @cached_property
    def rows(self) -> list[Row]:
        return [row for row in self.all_rows if row["status"] == "ok"]

    @property
    def failure_note(self) -> str:
        """Why rows failed: ` (2 truncated, 1 not_an_image)`; empty if no reason is known."""
        reasons = Counter(row["reason"] for row in self.all_rows if row["status"] != "ok" and row["reason"])
        shown = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
        return f" ({shown})" if shown else ""


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison.

    Attributes:
        rows: of the comparison table: each later table against the baseline, for each target, over all and per group.
            A difference is the later table's mean minus the baseline's, in MOS; paired by prompt, every prompt counts
            the same. The win rate is the share of prompts whose mean is higher; a tie counts half.
    """

    labels: list[str]
    paired_by: str
    rows: list[dict[str, Any]]
    notes: list[str]
    scores: list[ScoredTable]


def compare_tables(
    tables: Sequence[Path], plan: ComparisonPlan | None = None, progress: Progress | None = None
) -> Comparison:
    """Compares tables of scores with the first one; intervals are 95% bootstrap intervals over prompts.

    Args:
        tables: tables of scores, or folders of images; the scores of folders are not written.

    Raises:
        AigcError: there are fewer than two tables, one is invalid, a folder has no images, `scoring` is given without a
            folder, the model or the column does not exist, the tables have nothing in common, or their scales differ.
        EnvironmentProblem: an output can't be written, or the model's backbone is not available.
    """
    plan = plan or ComparisonPlan()
    if len(tables) < 2:
        raise AigcError(f"Expected two tables or more to compare, found {len(tables)}.", "Example: compare a.csv b.csv")
    if plan.pair not in PAIRINGS:
        raise AigcError(
            f"Expected --pair {', '.join(PAIRINGS)}, found {to_printable(plan.pair, 80)}.", "Leave it out for auto."
        )
    for path, suffixes, option in ((plan.output, TABLE_SUFFIXES, "-o"), (plan.plot, (".png", ".svg"), "--plot")):
        if path is not None:
            check_output(path, overwrite=plan.overwrite, suffixes=suffixes, option=option)
    names = list(plan.labels or label_tables(tables))
    if plan.by is not None:
        for table in filter(is_folder, tables):
            _check_column(plan.by, str(table), SCHEMAS["scores"].names)  # before its images are scored
    read = _read_all(tables, names, plan.scoring, progress or SilentProgress())
    _check_scales(read)
    paired_by = _choose_pairing(read, plan.pair)
    rows = [row for later in read[1:] for row in _compare_with_first(read[0], later, paired_by, plan.by)]
    found = Comparison(names, paired_by, rows, _list_notes(read, paired_by), read)
    if plan.output is not None:
        write_table(plan.output, "comparison", rows, {"aigc_version": __version__, "paired_by": paired_by})
    if plan.plot is not None:
        draw_comparison(rows, [plan.plot])
    return found


def label_tables(tables: Sequence[Path]) -> list[str]:
    """Labels of tables: folders as given; for files the shortest distinct names, such as a and b, or x/a and y/a."""
    for parts in range(1, max(len(table.absolute().parts) for table in tables)):
        found = [to_printable(_shorten_label(table, parts), 80) for table in tables]
        if len(set(found)) == len(found):
            return found
    return [f"{index}: {to_printable(_shorten_label(table, 1), 80)}" for index, table in enumerate(tables, 1)]


def _shorten_label(table: Path, parts: int) -> str:
    return str(table) if is_folder(table) else "/".join(table.absolute().with_suffix("").parts[-parts:])


def _read_all(
    tables: Sequence[Path], labels: Sequence[str], scoring: ScoringPlan | None, progress: Progress
) -> list[ScoredTable]:
    """Reads the tables, then scores the folders: a bad table is reported before any image is scored."""
    named = list(zip(tables, labels, strict=True))
    folders = [(path, label) for path, label in named if is_folder(path)]
    kept = []
    for path, label in named:
        if is_folder(path):
            continue
        if path.suffix not in TABLE_SUFFIXES:
            shown = to_printable(str(path), 200)
            raise AigcError(
                f"Expected a table {', '.join(TABLE_SUFFIXES)} or a folder of images, found {shown}.",
                "Name what `aigc score` wrote, or the folder that it would score.",
            )
        scores = ScoredTable(label, list(iterate_rows(path)), read_metadata_or_nothing(path), path.parent)
        kept.append(_check_scored(scores, path))
    if not folders and scoring is not None:
        raise AigcError(
            "Expected a folder of images for the scoring options, found tables only.", "Leave out the scoring options."
        )
    made = _score_folders(folders, scoring, progress) if folders else []
    return [(made if is_folder(path) else kept).pop(0) for path in tables]


def _check_scored(scores: ScoredTable, path: Path) -> ScoredTable:
    if not scores.rows:
        shown = to_printable(str(path), 200)
        raise AigcError(f"Expected scored images in {shown}, found none{scores.failure_note}.", "Score them again.")
    return scores


def _score_folders(
    folders: Sequence[tuple[Path, str]], scoring: ScoringPlan | None, progress: Progress
) -> list[ScoredTable]:
    """The rows that `aigc score` would write for each folder, all by the same model."""
    # here: these import the image reader, which tables don't need
    from aigc_cli.workflows.score.inputs import explain_unmatched, list_entries

    plan = scoring or ScoringPlan()
    plan.check()
    prompts = plan.read_prompts([folder for folder, _ in folders])
    entries = [list_entries(folder, prompts, plan) for folder, _ in folders]
    unused = [name for name in entries[0].unmatched if all(name in found.unmatched for found in entries)]
    if plan.prompts and unused:  # one table of prompts serves all folders
        progress.say(explain_unmatched(plan.prompts, len(prompts), unused, entries[0]))
    scorer = plan.load_scorer(progress)
    scores = []
    for (folder, label), found in zip(folders, entries, strict=True):
        progress.start(f"scoring {label}", len(found))
        rows: list[Row] = []
        for batch in scorer.iterate_batches(found):
            rows += ({name: clean_value(value) for name, value in row.items()} for row in batch)
            progress.advance(len(batch))
        metadata = {"aigc_version": __version__, **scorer.saved.make_metadata()}
        scores.append(_check_scored(ScoredTable(label, rows, metadata), folder))
    return scores


def _check_scales(tables: Sequence[ScoredTable]) -> None:
    scales = {
        (t.metadata["mos_min"], t.metadata["mos_max"]) for t in tables if {"mos_min", "mos_max"} <= t.metadata.keys()
    }
    if len(scales) > 1:
        shown = " and ".join(f"{low} to {high}" for low, high in sorted(scales))
        raise AigcError(
            f"Expected scores on one scale, found {shown}.", "Compare models that were trained on the same scale."
        )


def _choose_pairing(tables: Sequence[ScoredTable], pair: str) -> str:
    failed = {row["name"] for t in tables for row in t.all_rows if row["status"] != "ok"}
    kept = [[row for row in t.rows if row["name"] not in failed] for t in tables]
    prompts = [{row["name"]: row["prompt"] for row in rows} for rows in kept]
    one_each = all(len(of) == len(rows) for of, rows in zip(prompts, kept, strict=True))
    same = one_each and bool(prompts[0]) and all(of == prompts[0] for of in prompts)
    if pair == "image" and not same:
        raise AigcError(
            "Expected the same images under the same prompts in all tables, found others.", "Use --pair prompt."
        )
    return ("image" if same else "prompt") if pair == "auto" else pair


def _compare_with_first(first: ScoredTable, later: ScoredTable, paired_by: str, by: str | None) -> list[dict[str, Any]]:
    rows = _compare_rows(first, later, paired_by, "all", first.rows, later.rows)
    if all(row["difference"] is None for row in rows):
        raise AigcError(
            f"Expected prompts that {first.label} and {later.label} have in common, found none.",
            "Score both with the same --prompts.",
        )
    if by is None:
        return rows
    before, after = _group_rows(first, by), _group_rows(later, by)
    common = [value for value in before if value in after]
    if not common:
        raise AigcError(
            f"Expected values of {by} that {first.label} and {later.label} have in common, found none.",
            "Leave out --by: the whole tables already differ in it.",
        )
    for value in common:
        rows += _compare_rows(first, later, paired_by, f"{by}={value}", before[value], after[value])
    return rows


def _check_column(by: str, label: str, columns: Iterable[str]) -> None:
    if by not in columns:
        found = f"{to_printable(by, 80)} in {to_printable(label, 80)}, found {', '.join(columns)}"
        raise AigcError(f"Expected a column {found}.", "Change --by.")


def _group_rows(table: ScoredTable, by: str) -> dict[str, list[Row]]:
    _check_column(by, table.label, table.rows[0])
    groups: dict[str, list[Row]] = {}
    for row in table.rows:
        groups.setdefault("" if row[by] is None else str(row[by]), []).append(row)
    return groups


def _compare_rows(
    first: ScoredTable, later: ScoredTable, paired_by: str, group: str, one: Sequence[Row], other: Sequence[Row]
) -> list[dict[str, Any]]:
    rows = []
    for target in TARGETS:
        before, after = _list_units(one, target, paired_by), _list_units(other, target, paired_by)
        common = [key for key in before if key in after]
        prompts = [before[key][0] for key in common]
        a, b = (np.array([side[key][1] for key in common], dtype=np.float64) for side in (before, after))
        difference, wins = estimate_mean(b - a, prompts), _estimate_wins(b - a, prompts)
        row: dict[str, Any] = {"table": later.label, "baseline": first.label, "target": target, "group": group}
        means = (float(b.mean()), float(a.mean())) if common else (None, None)
        row |= {"pairs": len(common), "prompts": len(set(prompts)), "mean": means[0], "baseline_mean": means[1]}
        row |= {"difference": difference.value, "ci_low": difference.low, "ci_high": difference.high}
        row |= {"win_rate": wins.value, "win_low": wins.low, "win_high": wins.high}
        rows.append(row | {"verdict": judge_difference(difference), "reason": difference.reason or None})
    return rows


def _list_units(rows: Sequence[Row], target: str, paired_by: str) -> dict[str, tuple[str, float]]:
    """{unit: (prompt, score)}: a unit is an image, or a prompt with the mean of its images; others are left out."""
    scored = [row for row in rows if row[target] is not None]
    if paired_by == "image":  # an image without a prompt is a cluster of its own
        return {row["name"]: (row["prompt"] or f"\0{row['name']}", row[target]) for row in scored}
    of: dict[str, list[float]] = {}
    for row in scored:
        if row["prompt"]:
            of.setdefault(row["prompt"], []).append(row[target])
    return {prompt: (prompt, float(np.mean(scores))) for prompt, scores in of.items()}


def _estimate_wins(changes: Any, prompts: Sequence[str]) -> Estimate:
    """The share of prompts whose mean rose; a change of at most `TIE` counts half."""
    names, codes = np.unique(np.asarray(prompts, dtype=object), return_inverse=True)
    means = np.bincount(codes, changes) / np.bincount(codes)
    return estimate_mean(np.where(np.abs(means) <= TIE, 0.5, means > 0), list(names))


def _list_notes(tables: Sequence[ScoredTable], paired_by: str) -> list[str]:
    notes = []
    hashes = [table.metadata.get("model_hash") for table in tables]
    if len(set(hashes) - {None}) > 1:
        shown = ", ".join(f"{t.label}: {t.metadata.get('model', '?')}" for t in tables)
        notes.append(f"Different models scored the tables ({shown}): a difference may come from the model.")
    elif None in hashes:
        unknown = ", ".join(t.label for t, found in zip(tables, hashes, strict=True) if found is None)
        notes.append(f"The model behind {unknown} is unknown; if it is another one, a difference may come from it.")
    for table in tables:
        if failed := len(table.all_rows) - len(table.rows):
            notes.append(f"{table.label}: {failed:,} failed rows left out{table.failure_note}.")
        if paired_by == "prompt" and (bare := sum(not row["prompt"] for row in table.rows)):
            notes.append(f"{table.label}: {bare:,} images without a prompt left out.")
    if paired_by == "prompt":
        prompts = [{row["prompt"] for row in table.rows if row["prompt"]} for table in tables]
        common = set.intersection(*prompts)
        for table, found in zip(tables, prompts, strict=True):
            if alone := len(found - common):
                notes.append(f"{table.label}: {alone:,} prompts are not in all tables.")
    return notes
