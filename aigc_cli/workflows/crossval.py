"""`aigc eval --protocol`: how well a recipe does on images that its models never saw, by cross-validation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aigc_cli import __version__
from aigc_cli.errors import AigcError
from aigc_cli.metrics.by_name import Part, crossval_rows, interval_rows
from aigc_cli.metrics.splits import grouped_folds
from aigc_cli.model.loading import load_backbone
from aigc_cli.progress import Progress
from aigc_cli.recipe import Recipe, Resolved, to_yaml
from aigc_cli.storage.files import check_output
from aigc_cli.storage.results import write_table
from aigc_cli.uncertainty.intervals import crossfit_intervals
from aigc_cli.workflows.experiment.folds import Cell, Column, Prepared, prepare, train_cell
from aigc_cli.workflows.experiment.predictions import prediction_rows, save_predictions
from aigc_cli.workflows.experiment.rated import TARGETS, Rated, read_rated, with_recorded
from aigc_cli.workflows.experiment.saved_splits import Folds, saved_folds, straddling
from aigc_cli.workflows.experiment.source import Source
from aigc_cli.workflows.reports import evaluation_gallery
from aigc_cli.workflows.train.train import ZERO_SHOT, without_units


@dataclass(frozen=True)
class Plan:
    """What is held out from what.

    Attributes:
        protocol: `prompt` or `group:COLUMN`: no value of it is in two folds; `image`: images are dealt out one by one.
        folds, repeats: how many; a repeat draws other folds and trains with the next seed.
        saved: a splits table whose folds are used instead.
        save: where the folds that were used go, if anywhere.
        predictions: where every image's held-out score goes, if anywhere; of the first repeat.
    """

    protocol: str = "prompt"
    folds: int = 5
    repeats: int = 1
    saved: Path | None = None
    save: Path | None = None

    def protocols(self) -> list[str]:
        """The protocol, and behind an image split the one that says how new prompts fare."""
        return ["image", "prompt"] if self.protocol == "image" else [self.protocol]


@dataclass(frozen=True)
class ProtocolResult:
    """What cross-validation found.

    Attributes:
        metrics: rows of the metrics table: means over folds, and with `by` each value of a column.
        folds: rows of the metrics table for every single fold.
        spread: for each split and target the standard deviation of SROCC over folds and, with repeats, of its mean
            over folds between repeats: the noise of drawing folds and training.
        warnings: what a reader of the figures must know.
        skipped: (name, reason) of the images that were left out.
        images: each image with people's scores and those of the first repeat's model that never saw it, for a report;
            of an image split also, in rows of their own, those of the prompt-disjoint split beside it.
        metadata: what made the scores.
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
    """All images predicted once, each by the model of the fold that held it out."""

    folds: Folds
    predicted: Mapping[str, tuple[Column, Column]]
    prompts: Sequence[str]
    cells: Sequence[Cell]
    intervals: Mapping[str, tuple[Column, Column]]
    unusual: Column

    def part(self, rows: Sequence[int]) -> Part:
        chosen = list(rows)
        sides = {target: (found[chosen], human[chosen]) for target, (found, human) in self.predicted.items()}
        return sides, [self.prompts[row] for row in chosen]

    def shown(self, rated: Rated) -> dict[str, Column]:
        """{column of the scores table: (n,)} of all images, of the targets that were rated."""
        columns = {"clip_cosine": self.predicted[ZERO_SHOT][0], "out_of_domain": self.unusual}
        for target in rated.targets(range(len(self.prompts))):
            columns[target] = self.predicted[target][0]
            if target in self.intervals:
                columns[f"{target}_low"], columns[f"{target}_high"] = self.intervals[target]
        return columns


def cross_validate(
    resolved: Resolved,
    source: Source,
    plan: Plan,
    *,
    progress: Progress,
    run: str = "",
    by: str | None = None,
    output: Path | None = None,
    predictions: Path | None = None,
    device: str = "auto",
    cache: bool | float = True,
    overwrite: bool = False,
) -> ProtocolResult:
    """Trains the recipe once for each fold and repeat and reports every image by a model that never saw it.

    Args:
        run: what the column `run` says, for example the recipe's name.
        by: a column of the table (or prompt, name, or a setting that images record) whose values get own rows.
        output: where the metrics table goes, if anywhere.
        predictions: where the prediction of every image goes, if anywhere, for each split and repeat.

    Raises:
        AigcError: the plan, the table, the saved folds or the output is not as it should be; nothing was written.
        Diverged: a training's loss was not finite.
    """
    for path in filter(None, (output, predictions, plan.save)):
        check_output(path, overwrite=overwrite)
    recipe = resolved.recipe
    rated = with_recorded(read_rated(source, recipe, progress), by, progress)
    if by:
        rated.groups(by)
    _dealt(plan, rated, recipe.seed)  # whatever is wrong with folds or columns is an error before anything is computed
    ready = prepare(load_backbone(recipe.backbone, recipe.image_size), rated, recipe, device, cache, progress)
    rated = ready.rated
    dealt = _dealt(plan, rated, recipe.seed)
    warnings = _warnings(dealt, rated)
    metrics, folds, spread, predicted, gallery = [], [], [], [], []
    for protocol, repeats in dealt.items():
        labels, groups = {"run": run, "split": _label(protocol, repeats, rated)}, rated.groups(_grouping(protocol))
        found = []
        for number, parts in enumerate(repeats):
            seeded = replace(recipe, seed=recipe.seed + number)
            found.append(_repeat(ready, groups, parts, seeded, labels["split"], progress))
        for number, one in enumerate(found):
            of = {"split": labels["split"], "repeat": str(number)}
            predicted += [{**row, **of} for cell in one.cells for row in prediction_rows(cell)]
        metrics += _means(found, rated.groups(by) if by else [], by, labels)
        gallery += evaluation_gallery(rated.samples, found[0].shown(rated), [labels["split"]] * len(rated.samples))
        single = _single(found, labels)
        spread += _spread(single, labels["split"], len(repeats))
        folds += single
    meta = _described(resolved, source, plan, warnings)
    if output:
        write_table(output, "metrics", [*metrics, *folds], meta)
    if predictions:
        save_predictions(predictions, predicted, recipe, meta)
    if plan.save:
        write_table(plan.save, "splits", _saved(dealt, rated), meta)
    return ProtocolResult(metrics, folds, spread, warnings, rated.skipped, gallery, meta)


def _grouping(protocol: str) -> str:
    """The column that a protocol splits by."""
    if protocol in ("prompt", "image"):
        return {"prompt": "prompt", "image": "name"}[protocol]
    kind, _, column = protocol.partition(":")
    if kind != "group" or not column:
        raise AigcError(f"Expected the protocol prompt, image or group:COLUMN, found '{protocol}'.", "Try prompt.")
    return column


def _label(protocol: str, repeats: Sequence[Folds], rated: Rated) -> str:
    """`prompt-disjoint 5-fold`, as tables name the split; saved folds that don't keep the column apart don't say so."""
    column = _grouping(protocol)
    mixed = any(straddling(rated.groups(column), folds) for folds in repeats)
    what = "image-level" if protocol == "image" else "saved" if mixed else f"{column}-disjoint"
    return f"{what} {len(repeats[0])}-fold" + (f" x {len(repeats)}" if len(repeats) > 1 else "")


def _dealt(plan: Plan, rated: Rated, seed: int) -> dict[str, list[Folds]]:
    """{protocol: the folds of each repeat}, drawn or as they were saved."""
    if plan.folds < 2 or plan.repeats < 1:
        raise AigcError(
            f"Expected at least 2 folds and 1 repeat, found {plan.folds} and {plan.repeats}.", "Use --folds 5."
        )
    dealt = {}
    for protocol in plan.protocols():
        column = _grouping(protocol)
        groups = rated.groups(column)
        if plan.saved:
            dealt[protocol] = saved_folds(plan.saved, rated, protocol)
            continue
        if (found := len(set(groups))) < plan.folds:
            raise AigcError(
                f"Expected at least {plan.folds} different values of {column} for {plan.folds} folds, found {found}.",
                f"Use --folds {found}." if found > 1 else "Split by something else with --protocol.",
            )
        dealt[protocol] = [grouped_folds(groups, plan.folds, seed + repeat) for repeat in range(plan.repeats)]
    return dealt


def _warnings(dealt: Mapping[str, Sequence[Folds]], rated: Rated) -> list[str]:
    found, prompts = [], rated.groups("prompt")
    for protocol, repeats in dealt.items():
        if count := max(straddling(prompts, folds) for folds in repeats):
            beside = " The prompt-disjoint figures beside it say how new prompts fare." if protocol == "image" else ""
            found.append(
                f"{_label(protocol, repeats, rated)}: {count} of {len(set(prompts))} prompts have images in several "
                f"folds, so prompts seen in training reappear in what is reported, which flatters it.{beside}"
            )
    return found


def _repeat(
    ready: Prepared, groups: Sequence[str], folds: Folds, recipe: Recipe, split: str, progress: Progress
) -> _Repeat:
    """Trains every fold and puts its predictions where its images are."""
    n = len(ready.rated.samples)
    sides = {target: (np.empty(n), np.empty(n)) for target in (*TARGETS, ZERO_SHOT)}
    unusual, cells = np.empty(n), []
    for number, held_out in enumerate(folds):
        progress.say(f"{split}: fold {number + 1} of {len(folds)}, seed {recipe.seed}")
        found = train_cell(ready, groups, held_out, number, recipe, progress, unusual=True)
        unusual[held_out] = found.out_of_domain
        cells.append(found)
        for target in TARGETS:
            sides[target][0][held_out], sides[target][1][held_out] = found.predicted[target], found.human[target]
        sides[ZERO_SHOT][0][held_out], sides[ZERO_SHOT][1][held_out] = found.cosine, found.human["consistency"]
    prompts = ready.data.prompts
    intervals = {target: _intervals(*sides[target], unusual, prompts, recipe) for target in TARGETS}
    return _Repeat(folds, sides, prompts, cells, {name: found for name, found in intervals.items() if found}, unusual)


def _intervals(
    predicted: Column, human: Column, unusual: Column, prompts: Sequence[str], recipe: Recipe
) -> tuple[Column, Column] | None:
    """The 90% intervals in MOS units that a calibrated model would give; None where there are too few images."""
    low, span = recipe.mos_min, recipe.mos_max - recipe.mos_min
    unusual = np.where(np.isnan(unusual), 0.5, unusual)
    found = crossfit_intervals((predicted - low) / span, (human - low) / span, unusual, prompts)
    return found and (low + span * found[0], low + span * found[1])


def _means(
    repeats: Sequence[_Repeat], groups: Sequence[str], by: str | None, labels: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Means over folds; the values of a column, which a fold may hold too few of, over all folds together."""
    found = crossval_rows([[one.part(rows) for rows in one.folds] for one in repeats], {**labels, "group": "all"})
    found += _held(repeats[0], range(len(repeats[0].prompts)), {**labels, "group": "all"})
    for value in sorted(set(groups)):
        rows = [row for row, group in enumerate(groups) if group == value]
        found += crossval_rows([[one.part(rows)] for one in repeats], {**labels, "group": f"{by}={value}"})
        found += _held(repeats[0], rows, {**labels, "group": f"{by}={value}"})
    return without_units(found)


def _held(one: _Repeat, rows: Sequence[int], labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """How often the intervals of images `rows` hold, and how wide they are."""
    chosen = list(rows)
    intervals = {target: (low[chosen], high[chosen]) for target, (low, high) in one.intervals.items()}
    human = {target: one.predicted[target][1][chosen] for target in TARGETS}
    return interval_rows(intervals, human, [one.prompts[row] for row in chosen], labels)


def _single(repeats: Sequence[_Repeat], labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """The metrics of every fold by itself."""
    found = []
    for repeat, one in enumerate(repeats):
        for fold, rows in enumerate(one.folds):
            found += crossval_rows([[one.part(rows)]], {**labels, "group": f"fold={fold},repeat={repeat}"})
    return without_units(found)


def _spread(folds: Sequence[Mapping[str, Any]], split: str, repeats: int) -> list[dict[str, Any]]:
    found = []
    for target in (*TARGETS, ZERO_SHOT):
        values = [row["value"] for row in folds if (row["target"], row["metric"]) == (target, "srocc")]
        if None in values:
            continue
        each = np.array(values).reshape(repeats, -1)
        between = float(each.mean(1).std(ddof=1)) if repeats > 1 else None
        within = float(np.sqrt(each.var(axis=1, ddof=1).mean()))
        found.append({"split": split, "target": target, "over_folds": within, "over_repeats": between})
    return found


def _described(resolved: Resolved, source: Source, plan: Plan, warnings: Sequence[str]) -> dict[str, str]:
    """What the tables say of their making."""
    return {
        "aigc_version": __version__,
        "mos_min": str(resolved.recipe.mos_min),
        "mos_max": str(resolved.recipe.mos_max),
        "protocol": plan.protocol,
        "data": source.describe(),
        "recipe": to_yaml(resolved),
        "warnings": " ".join(warnings),
    }


def _saved(dealt: Mapping[str, Sequence[Folds]], rated: Rated) -> list[dict[str, Any]]:
    """Rows of the splits table."""
    return [
        {
            "name": rated.samples[row].name,
            "prompt": rated.samples[row].prompt,
            "split": protocol,
            "fold": fold,
            "repeat": repeat,
        }
        for protocol, repeats in dealt.items()
        for repeat, folds in enumerate(repeats)
        for fold, rows in enumerate(folds)
        for row in rows
    ]
