"""`aigc crossval`: the agreement of a recipe with human scores on images that its models were not trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aigc_cli import __version__
from aigc_cli.errors import AigcError
from aigc_cli.images.sample import TARGETS
from aigc_cli.metrics.by_name import RatedPart, make_crossval_rows, make_interval_rows
from aigc_cli.metrics.choices import make_choice_rows
from aigc_cli.metrics.formulas import Values
from aigc_cli.mos_scale import MosScale
from aigc_cli.progress import Progress
from aigc_cli.recipe import ResolvedRecipe, format_recipe
from aigc_cli.runtime.hints import check_backbone
from aigc_cli.storage.atomic_files import Output
from aigc_cli.storage.locks import own_folder
from aigc_cli.storage.results import write_table
from aigc_cli.storage.unchanged import list_changes
from aigc_cli.training.rates import complete_resolved
from aigc_cli.uncertainty.intervals import crossfit_intervals
from aigc_cli.workflows.experiment.folds import FoldDriver, open_folds
from aigc_cli.workflows.experiment.predictions import PREDICTIONS, FoldResult, make_fold_rows, save_predictions
from aigc_cli.workflows.experiment.rated import (
    ZERO_SHOT_TARGET,
    RatedImages,
    add_recorded_setting,
    drop_cosine_error,
    drop_undecoded,
    hash_rated,
    read_rated,
)
from aigc_cli.workflows.experiment.source import Compute, Source
from aigc_cli.workflows.experiment.splits import Dealing, FoldRows, count_shared_groups, load_dealings

CROSSVAL_PLAN = "crossval.json"


@dataclass(frozen=True)
class CrossvalPlan:
    """How images are held out.

    Attributes:
        recipe: the recipe's name, for the column `run` of the tables.
        protocol: `prompt` or `group:COLUMN`: no value of it is in two folds; `image`: images are dealt out one by one.
        folds: the number of folds, at least 2.
        repeats: the number of repeats, at least 1; each draws other folds and trains with the next seed.
        saved: a splits table whose folds are used instead.
        by: a column of the table (or prompt, name, or a setting that images record); its values get rows of their own.
    """

    recipe: str = ""
    protocol: str = "prompt"
    folds: int = 5
    repeats: int = 1
    saved: Path | None = None
    by: str | None = None

    def deal(self, rated: RatedImages, seed: int) -> dict[str, list[Dealing]]:
        """{protocol: the folds of each repeat}, drawn or saved; raises AigcError when the images can't be dealt."""
        if self.folds < 2 or self.repeats < 1:
            raise AigcError(
                f"Expected at least 2 folds and 1 repeat, found {self.folds} and {self.repeats}.", "Use --folds 5."
            )
        dealings = {}
        # an image split is followed by a prompt split, for the agreement on new prompts
        for protocol in ["image", "prompt"] if self.protocol == "image" else [self.protocol]:
            column = _find_column(protocol)
            if self.saved:
                dealings[protocol] = load_dealings(self.saved, rated, protocol, column)
            else:
                dealings[protocol] = [Dealing(column, self.folds, seed + repeat) for repeat in range(self.repeats)]
            for dealing in dealings[protocol]:
                dealing.deal(rated)
        return dealings


@dataclass(frozen=True)
class CrossvalResult:
    """The result of a cross-validation.

    Attributes:
        metrics: rows of the metrics table: means over folds, and with `by` each value of a column.
        folds: rows of the metrics table for every single fold.
        spread: for each split and target the standard deviation of SROCC over folds and, with repeats, that of its
            mean over folds between repeats, which is the noise of drawing folds and of training.
        warnings: reasons why figures are too optimistic.
        skipped: (name, reason) of the images that were left out.
        images: rows for a report: each image with human scores and those of the first repeat's model that was not
            trained on it. An image split is followed by the rows of the prompt-disjoint split.
    """

    metrics: list[dict[str, Any]]
    folds: list[dict[str, Any]]
    spread: list[dict[str, Any]]
    warnings: list[str]
    skipped: Sequence[tuple[str, str]]
    images: list[dict[str, Any]]
    metadata: dict[str, str]


@dataclass(frozen=True)
class _Repeat:
    """One prediction of every image, by the model of the fold that held it out."""

    parts: FoldRows
    predicted: Mapping[str, tuple[Values, Values]]
    prompts: Sequence[str]
    results: Sequence[FoldResult]
    intervals: Mapping[str, tuple[Values, Values]]
    out_of_domain: Values

    def select(self, rows: Sequence[int]) -> RatedPart:
        chosen = list(rows)
        sides = {target: (found[chosen], human[chosen]) for target, (found, human) in self.predicted.items()}
        return sides, [self.prompts[row] for row in chosen]

    def list_columns(self, rated: RatedImages) -> dict[str, Values]:
        """{column of the scores table: (n,)} of all images, for the targets that were rated."""
        columns = {"clip_cosine": self.predicted[ZERO_SHOT_TARGET][0], "out_of_domain": self.out_of_domain}
        for target in rated.list_targets(range(len(self.prompts))):
            columns[target] = self.predicted[target][0]
            if target in self.intervals:
                columns[f"{target}_low"], columns[f"{target}_high"] = self.intervals[target]
        return columns


def cross_validate(
    resolved: ResolvedRecipe, source: Source, plan: CrossvalPlan, output: Output, compute: Compute, progress: Progress
) -> CrossvalResult:
    """Trains the recipe once for each fold and repeat; models that were not trained on an image predict it.

    Writes `metrics.parquet`, `predictions.parquet` (of every image, for each split and repeat) and `splits.parquet` to
    the folder. Every finished training is a file in its `cells`; `resume` trains only the missing ones.

    Raises:
        AigcError: the plan, the table, the saved folds or the output has a fault; nothing was written.
        Divergence: a training's loss was not finite.
        FolderConflict: another process works in the folder.
        Interruption: a signal ended it; finished trainings are kept.
    """
    resolved = complete_resolved(resolved)
    recipe = resolved.recipe
    check_backbone(recipe.backbone)
    with own_folder(output.path):
        output.check(suffixes=())
        rated = add_recorded_setting(read_rated(source, recipe.scale, progress), plan.by, progress)
        if plan.by:
            rated.list_groups(plan.by)
        dealings = plan.deal(rated, recipe.seed)
        compute.require_device()
        now = {"data": hash_rated(rated), "recipe": asdict(recipe), "folds": plan.folds, "repeats": plan.repeats}
        now |= {"protocol": plan.protocol, "saved": None if plan.saved is None else str(plan.saved)}
        found: dict[str, list[list[FoldResult]]] = {protocol: [] for protocol in dealings}
        total = sum(dealing.folds for repeats in dealings.values() for dealing in repeats)
        with open_folds(output, CROSSVAL_PLAN, "a cross-validation", now, _find_changes, total) as folder:
            driver = FoldDriver(rated, folder, compute, progress)
            for protocol, repeats in dealings.items():
                for number, dealing in enumerate(repeats):
                    results = driver.run(replace(recipe, seed=recipe.seed + number), dealing, protocol)
                    found[protocol].append([one for one in results if isinstance(one, FoldResult)])
        predicted = {name for results in found.values() for fold in results[0] for name in fold.names}
        return _Report(resolved, source, plan, drop_undecoded(rated, predicted), dealings).write(found, output.path)


def _find_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    names = ("protocol", "folds", "repeats", "saved")
    changes = list_changes(dict(then["recipe"]), now["recipe"])
    return changes + list_changes({name: then[name] for name in names}, {name: now[name] for name in names})


def _find_column(protocol: str) -> str:
    """The column that a protocol splits by."""
    if protocol in ("prompt", "image"):
        return "name" if protocol == "image" else "prompt"
    kind, _, column = protocol.partition(":")
    if kind != "group" or not column:
        raise AigcError(f"Expected the protocol prompt, image or group:COLUMN, found '{protocol}'.", "Try prompt.")
    return column


@dataclass(frozen=True)
class _Report:
    """The tables of a cross-validation, made from the predictions of its folds."""

    resolved: ResolvedRecipe
    source: Source
    plan: CrossvalPlan
    rated: RatedImages
    dealings: Mapping[str, Sequence[Dealing]]

    def write(self, found: Mapping[str, Sequence[Sequence[FoldResult]]], folder: Path) -> CrossvalResult:
        """Writes the tables to the folder and returns all results."""
        from aigc_cli.workflows.reports import make_evaluation_gallery

        metrics, folds, spread, predictions, images = [], [], [], [], []
        warnings = self._list_warnings()
        groups = self.rated.list_groups(self.plan.by) if self.plan.by else []
        for protocol, results in found.items():
            labels = {"run": self.plan.recipe, "split": self._label(protocol)}
            repeats = [
                self._collect(dealing, one) for dealing, one in zip(self.dealings[protocol], results, strict=True)
            ]
            for number, one in enumerate(repeats):
                of = {"split": labels["split"], "repeat": str(number)}
                predictions += [{**row, **of} for fold in one.results for row in make_fold_rows(fold)]
            metrics += _average_folds(repeats, groups, self.plan.by, labels)
            metrics += self._measure_choices(repeats[0], {**labels, "group": "all"})
            splits = [labels["split"]] * len(self.rated.samples)
            images += make_evaluation_gallery(self.rated.samples, repeats[0].list_columns(self.rated), splits)
            single = [
                row
                for repeat, one in enumerate(repeats)
                for fold, rows in enumerate(one.parts)
                for row in _measure_parts([[one.select(rows)]], labels, f"fold={fold},repeat={repeat}")
            ]
            spread += _measure_spread(single, labels["split"], len(repeats))
            folds += single
        recipe = self.resolved.recipe
        metadata = {
            **{"aigc_version": __version__, "mos_min": str(recipe.mos_min), "mos_max": str(recipe.mos_max)},
            **{"protocol": self.plan.protocol, "data": self.source.describe()},
            **{"recipe": format_recipe(self.resolved), "warnings": " ".join(warnings)},
        }
        write_table(folder / "metrics.parquet", "metrics", [*metrics, *folds], metadata)
        save_predictions(folder / PREDICTIONS, predictions, self.resolved.recipe, metadata)
        write_table(folder / "splits.parquet", "splits", self._list_splits(), metadata)
        return CrossvalResult(metrics, folds, spread, warnings, self.rated.skipped, images, metadata)

    def _measure_choices(self, one: _Repeat, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """The choices between two images of the same fold, which one model predicted."""
        names, fold_of = [sample.name for sample in self.rated.samples], dict[str, int]()
        for fold, rows in enumerate(one.parts):
            fold_of |= {names[row]: fold for row in rows}
        choices = [c for c in self.rated.choices if c.a in fold_of and fold_of[c.a] == fold_of.get(c.b)]
        of = {target: dict(zip(names, one.predicted[target][0].tolist(), strict=True)) for target in TARGETS}
        return make_choice_rows(choices, of, labels) if choices else []

    def _label(self, protocol: str) -> str:
        """Names the split, such as `prompt-disjoint 5-fold`; `saved 5-fold` when folds share values of the column."""
        column, dealings = _find_column(protocol), self.dealings[protocol]
        groups = self.rated.list_groups(column)
        mixed = any(count_shared_groups(groups, dealing.deal(self.rated)) for dealing in dealings)
        what = "image-level" if protocol == "image" else "saved" if mixed else f"{column}-disjoint"
        return f"{what} {dealings[0].folds}-fold" + (f" x {len(dealings)}" if len(dealings) > 1 else "")

    def _list_warnings(self) -> list[str]:
        found, prompts = [], self.rated.list_groups("prompt")
        for protocol, dealings in self.dealings.items():
            if count := max(count_shared_groups(prompts, dealing.deal(self.rated)) for dealing in dealings):
                warning = (
                    f"{self._label(protocol)}: {count} of {len(set(prompts))} prompts have images in several folds. "
                    "Prompts seen in training reappear in the held-out images, so figures are too optimistic."
                )
                if protocol == "image":
                    warning += " The prompt-disjoint figures beside it show the agreement on new prompts."
                found.append(warning)
        return found

    def _collect(self, dealing: Dealing, results: Sequence[FoldResult]) -> _Repeat:
        """Puts the predictions of every fold in the order of the images."""
        n, parts = len(self.rated.samples), dealing.deal(self.rated)
        sides = {target: (np.empty(n), np.empty(n)) for target in (*TARGETS, ZERO_SHOT_TARGET)}
        out_of_domain = np.full(n, np.nan)
        for rows, found in zip(parts, results, strict=True):
            if found.out_of_domain is not None:
                out_of_domain[rows] = found.out_of_domain
            for target in TARGETS:
                sides[target][0][rows], sides[target][1][rows] = found.predicted[target], found.human[target]
            sides[ZERO_SHOT_TARGET][0][rows] = found.cosine
            sides[ZERO_SHOT_TARGET][1][rows] = found.human["consistency"]
        prompts, scale = self.rated.list_groups("prompt"), self.resolved.recipe.scale
        intervals = {target: _fit_intervals(*sides[target], out_of_domain, prompts, scale) for target in TARGETS}
        known = {name: found for name, found in intervals.items() if found is not None}
        return _Repeat(parts, sides, prompts, results, known, out_of_domain)

    def _list_splits(self) -> list[dict[str, Any]]:
        names = [{"name": sample.name, "prompt": sample.prompt} for sample in self.rated.samples]
        return [
            {**names[row], "split": protocol, "fold": fold, "repeat": repeat}
            for protocol, dealings in self.dealings.items()
            for repeat, dealing in enumerate(dealings)
            for fold, rows in enumerate(dealing.deal(self.rated))
            for row in rows
        ]


def _fit_intervals(
    predicted: Values, human: Values, out_of_domain: Values, prompts: Sequence[str], scale: MosScale
) -> tuple[Values, Values] | None:
    """The 90% intervals in MOS that a calibrated model would give; None when there are too few images."""
    known = np.where(np.isnan(out_of_domain), 0.5, out_of_domain)
    found = crossfit_intervals(scale.to_unit(predicted), scale.to_unit(human), known, prompts)
    return None if found is None else (scale.to_mos(found[0]), scale.to_mos(found[1]))


def _average_folds(
    repeats: Sequence[_Repeat], groups: Sequence[str], by: str | None, labels: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Means over folds. Values of a column are pooled over folds, because one fold may have too few images of them."""
    found = _measure_parts([[one.select(rows) for rows in one.parts] for one in repeats], labels, "all")
    found += _measure_coverage(repeats[0], range(len(repeats[0].prompts)), {**labels, "group": "all"})
    for value in sorted(set(groups)):
        rows = [row for row, group in enumerate(groups) if group == value]
        found += _measure_parts([[one.select(rows)] for one in repeats], labels, f"{by}={value}")
        found += _measure_coverage(repeats[0], rows, {**labels, "group": f"{by}={value}"})
    return found


def _measure_parts(parts: Sequence[Sequence[RatedPart]], labels: Mapping[str, str], group: str) -> list[dict[str, Any]]:
    return drop_cosine_error(make_crossval_rows(parts, {**labels, "group": group}))


def _measure_coverage(one: _Repeat, rows: Sequence[int], labels: Mapping[str, str]) -> list[dict[str, Any]]:
    chosen = list(rows)
    intervals = {target: (low[chosen], high[chosen]) for target, (low, high) in one.intervals.items()}
    human = {target: one.predicted[target][1][chosen] for target in TARGETS}
    return make_interval_rows(intervals, human, [one.prompts[row] for row in chosen], labels)


def _measure_spread(folds: Sequence[Mapping[str, Any]], split: str, repeats: int) -> list[dict[str, Any]]:
    found = []
    for target in (*TARGETS, ZERO_SHOT_TARGET):
        values = [row["value"] for row in folds if (row["target"], row["metric"]) == (target, "srocc")]
        if None in values:
            continue
        each = np.array(values).reshape(repeats, -1)
        between = float(each.mean(1).std(ddof=1)) if repeats > 1 else None
        within = float(np.sqrt(each.var(axis=1, ddof=1).mean()))
        found.append({"split": split, "target": target, "over_folds": within, "over_repeats": between})
    return found
