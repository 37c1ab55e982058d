"""`aigc eval`: how far a model's scores agree with people's."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from aigc_cli import __version__
from aigc_cli.metrics.by_name import interval_rows
from aigc_cli.model.loading import load_backbone
from aigc_cli.model.model import Judge
from aigc_cli.model.trained import Model, load_model
from aigc_cli.progress import Progress
from aigc_cli.recipe import Recipe
from aigc_cli.storage.files import check_output
from aigc_cli.storage.results import write_table
from aigc_cli.training.loop import Data, features_of, predict
from aigc_cli.workflows.experiment.predictions import rated_rows
from aigc_cli.workflows.experiment.rated import (
    TARGETS,
    image_features,
    prompt_digest,
    read_rated,
    tell_skipped,
    to_mos,
    training_data,
    with_recorded,
)
from aigc_cli.workflows.experiment.source import Source
from aigc_cli.workflows.reports import evaluation_gallery
from aigc_cli.workflows.train.train import ZERO_SHOT, evaluation_rows

UNSEEN = "unseen"


@dataclass(frozen=True)
class EvalResult:
    """What an evaluation found.

    Attributes:
        metrics: rows of the metrics table; `split` says whether the model saw the prompts in training (train), chose
            its checkpoint on them (val), or never saw them (unseen).
        skipped: (name, reason) of the images that were left out.
        model: the model's name.
        images: each image with the model's scores and people's, for a report.
        metadata: what made the scores.
    """

    metrics: list[dict[str, Any]]
    skipped: Sequence[tuple[str, str]]
    model: str
    images: list[dict[str, Any]]
    metadata: dict[str, str]


def evaluate(
    place: Path | None,
    source: Source,
    *,
    progress: Progress,
    by: str | None = None,
    output: Path | None = None,
    predictions: Path | None = None,
    device: str = "auto",
    cache: bool | float = True,
    overwrite: bool = False,
    mos: tuple[float, float] | None = None,
) -> EvalResult:
    """Every metric of both targets with prompt-clustered intervals, the zero-shot cosine beside them.

    Args:
        place: a run or model folder; None for the shipped scorer.
        by: a column of the table (or prompt, name, or a setting that images record) whose values get own rows.
        output: where the metrics table goes, if anywhere.
        predictions: where each image's scores go, beside people's, if anywhere.
        mos: the range of the human scores when it is not the model's own; predictions are moved onto it.

    Raises:
        AigcError: the model, the table or the output is not as it should be.
    """
    for path in filter(None, (output, predictions)):
        check_output(path, overwrite=overwrite)
    model = load_model(place, device)
    recipe, judge = model.recipe, model.judge
    if mos is not None:
        recipe = replace(recipe, mos_min=mos[0], mos_max=mos[1])
    rated = with_recorded(read_rated(source, recipe, progress), by, progress)
    if by:
        rated.groups(by)  # an unknown column is an error before anything is computed
    images, rated = image_features(judge.backbone, judge.freezing, rated, recipe, cache, progress)
    tell_skipped(rated.skipped, progress)
    groups = rated.groups(by) if by else []
    data = training_data(images, judge.freezing, rated, recipe)
    all_rows = range(len(rated.samples))
    scores = predict(judge, data, all_rows)._asdict() | {ZERO_SHOT: _zero_shot(judge, data, all_rows)}
    bars = _error_bars(model, data, scores, recipe)
    splits, metrics = _splits(model, data.prompts), list[dict[str, Any]]()
    name = model.metadata()["model"]
    for split in (UNSEEN, "val", "train"):
        rows = [row for row, found in enumerate(splits) if found == split]
        chosen: dict[str, list[int]] = {"all": rows}
        for row in rows if groups else ():
            chosen.setdefault(f"{by}={groups[row]}", []).append(row)
        for group, members in sorted(chosen.items(), key=lambda item: (item[0] != "all", item[0])):
            labels = {"run": name, "split": split, "group": group}
            metrics += evaluation_rows(_of(scores, members), data, members, recipe, labels)
            metrics += _bars_rows(bars, data, members, recipe, labels)
    sides, metadata = {target: to_mos(scores[target], recipe) for target in TARGETS}, _described(model, recipe)
    if output:
        write_table(output, "metrics", metrics, metadata)
    if predictions:
        found = rated_rows(rated.samples, sides, scores[ZERO_SHOT], split=splits)
        write_table(predictions, "predictions", found, metadata, ["split"])
    shown = {target: sides[target] for target in model.targets} | bars
    return EvalResult(metrics, rated.skipped, name, evaluation_gallery(rated.samples, shown, splits), metadata)


def _of(scores: Mapping[str, Tensor], rows: Sequence[int]) -> dict[str, Tensor]:
    """What metrics are of, for images `rows` alone."""
    return {target: scores[target][list(rows)] for target in (*TARGETS, ZERO_SHOT)}


def _described(model: Model, recipe: Recipe) -> dict[str, str]:
    """What the tables say of their making."""
    scale = {"mos_min": str(recipe.mos_min), "mos_max": str(recipe.mos_max)}
    return {"aigc_version": __version__, **model.metadata(), **scale}


def _splits(model: Model, prompts: Sequence[str]) -> list[str]:
    """Whether the model was trained on each prompt (train), chosen on it (val), or never saw it (unseen)."""
    memory = model.checkpoint.description.get("prompts", {})
    part_of = {digest: split for split in ("val", "train") for digest in memory.get(split, ())}
    return [part_of.get(prompt_digest(prompt), UNSEEN) for prompt in prompts]


def _error_bars(model: Model, data: Data, scores: Mapping[str, Tensor], recipe: Recipe) -> dict[str, Any]:
    """{column: (N,)} of the error bars of all images of `data`; nothing without a calibration."""
    if model.calibration is None:
        return {}
    features = features_of(model.judge, data, range(len(data.prompts)))
    return model.calibration.columns(features, scores, (recipe.mos_min, recipe.mos_max))


def _bars_rows(
    bars: Mapping[str, Any], data: Data, rows: Sequence[int], recipe: Recipe, labels: Mapping[str, str]
) -> list[dict[str, Any]]:
    """How often the intervals of images `rows` hold what people said, and how wide they are."""
    chosen = list(rows)
    human = (recipe.mos_min + (recipe.mos_max - recipe.mos_min) * data.targets[chosen].cpu().double()).numpy()
    there = [target for target in TARGETS if f"{target}_low" in bars]
    intervals = {target: (bars[f"{target}_low"][chosen], bars[f"{target}_high"][chosen]) for target in there}
    prompts = [data.prompts[row] for row in chosen]
    return interval_rows(intervals, dict(zip(TARGETS, human.T, strict=True)), prompts, labels)


def _zero_shot(judge: Judge, data: Data, rows: Sequence[int]) -> Tensor:
    """The cosine (len(rows),) of the backbone as it was before training."""
    learnt = [name for name in judge.state() if name.startswith("backbone.")]
    if not learnt:
        return predict(judge, data, rows).cosine
    fresh = load_backbone(judge.backbone.name, judge.backbone.preprocessing.size[0])
    fresh.modules().to(next(judge.heads.parameters()).device)
    plain = Judge(fresh, judge.heads, judge.freezing)
    images, texts = copy.copy(data.images), copy.copy(data.texts)
    images.backbone = texts.backbone = fresh
    return predict(plain, Data(images, texts, data.prompts, data.targets), rows).cosine
