"""`aigc ablate`: does each idea help? The same folds, seeds and features for every variant."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aigc_cli import __version__
from aigc_cli.core.backbone import Backbone
from aigc_cli.core.backbones import load_backbone
from aigc_cli.core.devices import pick_device
from aigc_cli.core.metrics import Estimate, fold_mean, interval, value
from aigc_cli.core.splits import grouped_folds, grouped_holdout
from aigc_cli.core.training import fit, new_judge, predict
from aigc_cli.errors import AigcError
from aigc_cli.io.files import check_output, write_text
from aigc_cli.io.results import write_table
from aigc_cli.progress import Progress
from aigc_cli.recipe import Recipe, find_recipe, read_recipe
from aigc_cli.workflows.ratings import TARGETS, Rated, Source, image_features, read_rated, tell_skipped, training_data
from aigc_cli.workflows.train import to_mos

VARIANTS: dict[str, dict[str, Any]] = {
    "traditional": {"residual": False, "freeze": "none"},
    "residual": {"residual": True, "freeze": "none"},
    "residual + partial freeze": {"residual": True, "freeze": "partial"},
    "residual + all frozen": {"residual": True, "freeze": "all"},
}
ZERO_SHOT = "zero-shot cosine"
METRIC_NAMES = ("srocc", "plcc")


@dataclass(frozen=True)
class Summary:
    """One variant over all folds and seeds.

    Attributes:
        variant: its name.
        srocc: {target: mean SROCC over folds with its 95% interval}.
        difference: {target: paired difference of mean SROCC to the first variant, with its interval}.
        verdict: {target: better, worse or can't tell at this n}.
        seconds: training time of one fold, mean.
        trainable: parameters that were trained.
    """

    variant: str
    srocc: dict[str, Estimate]
    difference: dict[str, Estimate]
    verdict: dict[str, str]
    seconds: float
    trainable: int


@dataclass(frozen=True)
class _Fold:
    """One trained variant on one fold: predictions in MOS units beside the human scores.

    `cosine` is the untrained backbone's, of the same images.
    """

    number: int
    predicted: Mapping[str, Any]
    human: Mapping[str, Any]
    groups: Sequence[str]
    seconds: float
    trainable: int
    cosine: Any


def recipe_variants(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Whole recipes as variants, by name or path."""
    return {Path(name).stem: read_recipe(find_recipe(name)) for name in names}


def ablate(
    base: Recipe,
    variants: Mapping[str, Mapping[str, Any]],
    source: Source,
    output: Path,
    *,
    progress: Progress,
    folds: int = 5,
    seeds: Sequence[int] = (0,),
    device: str = "auto",
    cache: bool = True,
    overwrite: bool = False,
) -> list[Summary]:
    """Trains every variant on every fold and seed, and writes `ablation.parquet` and `ablation.md` into `output`.

    A fold's own part is only predicted, never trained on nor used to choose a checkpoint: a recipe that chooses one
    does so on a validation part of the remaining prompts.

    Raises:
        AigcError: the table, the folds or the output is not as it should be; nothing was written.
    """
    if folds < 2:
        raise AigcError(f"Expected at least 2 folds, found {folds}.", "Use --folds 5.")
    check_output(output, overwrite=overwrite, suffixes=())
    recipes = {name: dataclasses.replace(base, **changes) for name, changes in variants.items()}
    rated = read_rated(source, base, progress)
    grouped_folds(rated.groups(base.group_by), folds, 0)  # too few prompts are an error before anything is computed
    results: dict[str, list[_Fold]] = {}
    rows: list[dict[str, Any]] = []
    for name, recipe in recipes.items():
        for seed in seeds:
            found = _variant(name, dataclasses.replace(recipe, seed=seed), rated, folds, device, cache, progress)
            results.setdefault(name, []).extend(found)
            rows += [row for fold in found for row in _rows(name, fold.number, seed, fold)]
    results[ZERO_SHOT] = [_zero_shot(fold) for fold in next(iter(results.values()))]
    summaries = summarise(results)
    output.mkdir(parents=True, exist_ok=True)
    write_table(output / "ablation.parquet", "ablation", rows, {"aigc_version": __version__, "data": source.describe()})
    write_text(output / "ablation.md", markdown(summaries, results, source, folds, seeds))
    return summaries


def _variant(
    name: str, recipe: Recipe, rated: Rated, folds: int, device: str, cache: bool, progress: Progress
) -> list[_Fold]:
    """All folds of one variant with one seed."""
    backbone = load_backbone(recipe.backbone, recipe.image_size)
    backbone.modules().to(pick_device(device))
    freezing = backbone.boundaries(recipe.freeze, recipe.freeze_depth)  # type: ignore[arg-type]
    images, rated = image_features(backbone, freezing, rated, recipe, cache, progress)
    tell_skipped(rated.skipped, progress)
    everything = range(len(rated.samples))
    images.prepare(dict.fromkeys(range(recipe.views), everything), progress)
    groups = rated.groups(recipe.group_by)
    data = training_data(images, freezing, rated, recipe)
    untouched = {key: tensor.clone() for key, tensor in backbone.modules().state_dict().items()}
    found = []
    for index, held_out in enumerate(grouped_folds(groups, folds, 0)):
        progress.say(f"{name}: fold {index + 1} of {folds}, seed {recipe.seed}")
        _restore(backbone, untouched)
        judge = new_judge(backbone, recipe)
        apart = set(held_out)
        rest = [row for row in everything if row not in apart]
        fraction = recipe.val_fraction if recipe.chooses else 0.0
        cosine = predict(judge, data, held_out).cosine.double().numpy()
        kept, chosen = grouped_holdout([groups[row] for row in rest], fraction, recipe.seed)
        result = fit(judge, data, [rest[i] for i in kept], [rest[i] for i in chosen], recipe, progress)
        scores = predict(judge, data, held_out)
        human = data.targets[held_out].cpu().double().numpy() * (recipe.mos_max - recipe.mos_min) + recipe.mos_min
        found.append(
            _Fold(
                index,
                {"quality": to_mos(scores.quality, recipe), "consistency": to_mos(scores.consistency, recipe)},
                {"quality": human[:, 0], "consistency": human[:, 1]},
                [groups[row] for row in held_out],
                sum(row["seconds"] for row in result.epochs if row["split"] == "train"),
                judge.trainable(),
                cosine,
            )
        )
    return found


def _zero_shot(fold: _Fold) -> _Fold:
    """The baseline beside every variant: the raw cosine for consistency, nothing for quality."""
    predicted = {"quality": np.zeros_like(fold.cosine), "consistency": fold.cosine}
    return _Fold(fold.number, predicted, fold.human, fold.groups, 0.0, 0, fold.cosine)


def _restore(backbone: Backbone, state: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in backbone.modules().state_dict().items():
            tensor.copy_(state[name])


def _rows(name: str, index: int, seed: int, fold: _Fold) -> list[dict[str, Any]]:
    rows = []
    for target in TARGETS:
        rated = ~np.isnan(fold.human[target])
        for metric in METRIC_NAMES:
            found = value(metric, fold.predicted[target][rated], fold.human[target][rated])
            rows.append(
                {
                    "variant": name,
                    "fold": index,
                    "seed": seed,
                    "target": target,
                    "metric": metric,
                    "value": found,
                    "seconds": fold.seconds,
                    "trainable_parameters": fold.trainable,
                }
            )
    return rows


def summarise(results: Mapping[str, Sequence[_Fold]]) -> list[Summary]:
    """Means with intervals, and each variant's paired difference to the first; the bootstrap draws are shared."""
    summaries: list[Summary] = []
    first: dict[str, tuple[float | None, Any]] = {}
    for name, folds in results.items():
        srocc, difference, verdict = {}, {}, {}
        for target in TARGETS:
            triples = []
            for fold in folds:
                rated = np.flatnonzero(~np.isnan(fold.human[target]))
                groups = [fold.groups[i] for i in rated.tolist()]
                triples.append((fold.predicted[target][rated], fold.human[target][rated], groups))
            srocc[target], draws = fold_mean("srocc", triples, [fold.number for fold in folds])
            point = srocc[target].value
            if target not in first:
                first[target] = (point, draws)
                continue
            reference, reference_draws = first[target]
            if point is None or reference is None:
                continue
            low, high = interval([None if np.isnan(d) else float(d) for d in draws - reference_draws])
            difference[target] = Estimate(point - reference, low, high, srocc[target].n)
            verdict[target] = _verdict(low, high)
        seconds = float(np.mean([fold.seconds for fold in folds]))
        summaries.append(Summary(name, srocc, difference, verdict, seconds, folds[0].trainable))
    return summaries


def _verdict(low: float | None, high: float | None) -> str:
    if low is None or high is None or low <= 0 <= high:
        return "can't tell at this n"
    return "better" if low > 0 else "worse"


def shown(estimate: Estimate | None, signed: bool = False) -> str:
    """`0.812 [0.790, 0.833]`, or a dash."""
    if estimate is None or estimate.value is None:
        return "-"
    form = "+.3f" if signed else ".3f"
    span = "" if estimate.low is None or estimate.high is None else f" [{estimate.low:{form}}, {estimate.high:{form}}]"
    return f"{estimate.value:{form}}{span}"


def markdown(
    summaries: Sequence[Summary],
    results: Mapping[str, Sequence[_Fold]],
    source: Source,
    folds: int,
    seeds: Sequence[int],
) -> str:
    """The result as a page."""
    images = sum(len(fold.groups) for fold in results[ZERO_SHOT]) // len(seeds)
    lines = [
        "# Ablation",
        "",
        f"{images:,} images of {source.describe()}, {folds} prompt-disjoint folds, seeds "
        f"{', '.join(map(str, seeds))}. SROCC is the mean over folds; intervals are 95% bootstrap intervals over "
        "prompts; differences are paired with the first variant.",
        "",
        "| variant | SROCC quality | SROCC consistency | difference in quality | difference in consistency | "
        "seconds per fold | trainable parameters |",
        "|---|---|---|---|---|---|---|",
    ]
    for summary in summaries:
        differences = [
            f"{shown(summary.difference[target], signed=True)} {summary.verdict[target]}"
            if target in summary.difference
            else "-"
            for target in TARGETS
        ]
        lines.append(
            f"| {summary.variant} | {shown(summary.srocc['quality'])} | {shown(summary.srocc['consistency'])} | "
            f"{differences[0]} | {differences[1]} | {summary.seconds:.0f} | {summary.trainable:,} |"
        )
    return "\n".join(lines) + "\n"
