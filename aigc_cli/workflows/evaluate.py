"""`aigc eval`: how well a model's scores agree with human ratings."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_cli import __version__
from aigc_cli.images.sample import TARGETS
from aigc_cli.metrics.by_name import make_interval_rows
from aigc_cli.mos_scale import MosScale
from aigc_cli.progress import Progress
from aigc_cli.runtime.saved import SavedModel, read_model
from aigc_cli.storage.atomic_files import check_output
from aigc_cli.storage.results import write_table
from aigc_cli.workflows.experiment.predictions import make_rated_rows
from aigc_cli.workflows.experiment.rated import (
    ZERO_SHOT_TARGET,
    add_recorded_setting,
    convert_to_mos,
    freeze_images,
    hash_prompt,
    make_evaluation_rows,
    make_training_data,
    measure_choices,
    read_rated,
    report_skipped,
)
from aigc_cli.workflows.experiment.source import Compute, Source

if TYPE_CHECKING:
    from torch import Tensor

    from aigc_cli.model.model import Model
    from aigc_cli.training.batches import TrainingData

UNSEEN = "unseen"


@dataclass(frozen=True)
class EvaluationPlan:
    """What is evaluated, and where the tables go.

    Attributes:
        model: a run or model folder; None for the shipped scorer.
        by: a column of the table, prompt, name, or a setting recorded in images; each of its values gets own rows.
        scale: of the human scores, if it is not the model's; predictions are converted to it.
        output, predictions: the tables of the metrics, and of each image's scores beside the human ones.
    """

    model: Path | None = None
    by: str | None = None
    scale: MosScale | None = None
    output: Path | None = None
    predictions: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class EvaluationResult:
    """The result of an evaluation.

    Attributes:
        metrics: rows of the metrics table; `split` says whether the model saw the prompts in training (train), chose
            its checkpoint on them (val), or never saw them (unseen).
        skipped: (name, reason) of the images that were left out.
        images: each image with the model's and the human scores, for a report.
    """

    metrics: list[dict[str, Any]]
    skipped: Sequence[tuple[str, str]]
    model: str
    images: list[dict[str, Any]]
    metadata: dict[str, str]


def evaluate_model(source: Source, plan: EvaluationPlan, compute: Compute, progress: Progress) -> EvaluationResult:
    """Computes all metrics of both targets and of the zero-shot cosine, with intervals; AigcError for invalid input."""
    for path in filter(None, (plan.output, plan.predictions)):
        check_output(path, overwrite=plan.overwrite)
    saved = read_model(plan.model)
    recipe = saved.recipe
    if plan.scale is not None:
        recipe = replace(recipe, mos_min=plan.scale.low, mos_max=plan.scale.high)
    scale = recipe.scale
    rated = add_recorded_setting(read_rated(source, scale, progress), plan.by, progress)
    if plan.by:
        rated.list_groups(plan.by)  # an unknown column is an error before anything is computed
    progress.start("loading the model", None)
    from aigc_cli.model.trained import load_saved
    from aigc_cli.training.loop import collect_features, predict
    from aigc_cli.workflows.reports import make_evaluation_gallery

    model = load_saved(saved, compute.device).model
    images, rated = freeze_images(model.backbone, model.freezing.image, rated, recipe, compute.cache, progress)
    report_skipped(rated.skipped, progress)
    groups = rated.list_groups(plan.by) if plan.by else []
    data = make_training_data(images, model.freezing.text, rated, scale)
    rows = range(len(rated.samples))
    scores = predict(model, data, rows)._asdict() | {ZERO_SHOT_TARGET: _predict_zero_shot(model, data, rows)}
    intervals: dict[str, Any] = {}
    if saved.calibration is not None:
        arrays = {target: scores[target].cpu().double().numpy() for target in TARGETS}
        features = collect_features(model, data, rows)
        intervals = dict(saved.calibration.describe_scores(features, arrays, scale))
    splits, metrics = _find_splits(saved, data.prompts), list[dict[str, Any]]()
    for split in (UNSEEN, "val", "train"):
        members: dict[str, list[int]] = {"all": [row for row in rows if splits[row] == split]}
        for row in members["all"] if groups else ():
            members.setdefault(f"{plan.by}={groups[row]}", []).append(row)
        for group, chosen in sorted(members.items(), key=lambda item: (item[0] != "all", item[0])):
            labels = {"run": saved.name, "split": split, "group": group}
            own = {target: scores[target][chosen] for target in (*TARGETS, ZERO_SHOT_TARGET)}
            metrics += make_evaluation_rows(own, data, chosen, scale, labels)
            metrics += measure_choices(rated, own, chosen, labels)
            metrics += _make_coverage_rows(intervals, data, chosen, scale, labels)
    predicted = {target: convert_to_mos(scores[target], scale) for target in TARGETS}
    metadata = {"aigc_version": __version__, **saved.make_metadata()}
    metadata |= {"mos_min": str(scale.low), "mos_max": str(scale.high)}
    if plan.output:
        write_table(plan.output, "metrics", metrics, metadata)
    if plan.predictions:
        found = make_rated_rows(rated.samples, predicted, scores[ZERO_SHOT_TARGET], split=splits)
        write_table(plan.predictions, "predictions", found, metadata, ["split"])
    columns = {target: predicted[target] for target in saved.targets} | intervals
    gallery = make_evaluation_gallery(rated.samples, columns, splits)
    return EvaluationResult(metrics, rated.skipped, saved.name, gallery, metadata)


def _find_splits(saved: SavedModel, prompts: Sequence[str]) -> list[str]:
    """Whether the model was trained on each prompt (train), chosen on it (val), or never saw it (unseen)."""
    record = saved.checkpoint.description.get("prompts", {})
    split_of = {digest: split for split in ("val", "train") for digest in record.get(split, ())}
    return [split_of.get(hash_prompt(prompt), UNSEEN) for prompt in prompts]


def _make_coverage_rows(
    intervals: Mapping[str, Any], data: "TrainingData", rows: Sequence[int], scale: MosScale, labels: Mapping[str, str]
) -> list[dict[str, Any]]:
    """How often the intervals of images `rows` contain the human scores, and how wide they are."""
    human = scale.to_mos(data.targets[list(rows)].cpu().double().numpy())
    known = [target for target in TARGETS if f"{target}_low" in intervals]
    ends = {target: (intervals[f"{target}_low"][rows], intervals[f"{target}_high"][rows]) for target in known}
    prompts = [data.prompts[row] for row in rows]
    return make_interval_rows(ends, dict(zip(TARGETS, human.T, strict=True)), prompts, labels)


def _predict_zero_shot(model: "Model", data: "TrainingData", rows: Sequence[int]) -> "Tensor":
    """The cosine (len(rows),) of the backbone as it was before training."""
    import torch

    from aigc_cli.model.loading import load_backbone
    from aigc_cli.model.model import Model
    from aigc_cli.training.batches import TrainingData
    from aigc_cli.training.loop import predict

    if not any(name.startswith("backbone.") for name in model.collect_trained()):
        return predict(model, data, rows).cosine
    fresh = load_backbone(model.backbone.name, model.backbone.preprocessing.size[0], model.backbone.levels)
    fresh.modules().to(model.device)
    images, texts = copy.copy(data.images), copy.copy(data.texts)
    images.backbone = texts.backbone = fresh
    plain = Model(fresh, model.heads, model.freezing, model.kept)
    with torch.no_grad():
        return predict(plain, TrainingData(images, texts, data.prompts, data.targets), rows).cosine
