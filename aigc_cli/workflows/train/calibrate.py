"""The calibration of a trained model on held-out scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aigc_cli.errors import AigcError
from aigc_cli.images.sample import TARGETS
from aigc_cli.metrics.formulas import Values
from aigc_cli.progress import Progress
from aigc_cli.recipe import Recipe
from aigc_cli.runtime.saved import SavedModel
from aigc_cli.storage.checkpoints import save_checkpoint
from aigc_cli.uncertainty.calibration import Calibration, fit_calibration
from aigc_cli.uncertainty.intervals import INTERVAL_LEVEL, MIN_IMAGES, MIN_PROMPTS, is_enough
from aigc_cli.workflows.experiment.folds import FoldDriver
from aigc_cli.workflows.experiment.predictions import FoldResult, make_fold_rows, read_predictions
from aigc_cli.workflows.experiment.rated import RatedImages, freeze_images, hash_prompt, make_training_data, read_rated
from aigc_cli.workflows.experiment.source import Compute, Source
from aigc_cli.workflows.experiment.splits import Dealing

if TYPE_CHECKING:
    from torch import Tensor

    from aigc_cli.model.model import Model
    from aigc_cli.training.batches import TrainingData

NOTHING_HELD_OUT = "no images were held out"


@dataclass(frozen=True)
class HeldOutSource:
    """Where held-out scores come from; by default from the validation part."""

    folds: int = 0  # the number of further trainings, each without one part of the prompts
    predictions: Path | None = None  # a table, or the folder of an earlier ablation, cross-validation or training

    def check(self, rated: RatedImages, recipe: Recipe) -> None:
        """Raises AigcError for a source that can't be used, before anything is computed."""
        if self.folds < 0 or self.folds == 1:
            raise AigcError(f"Expected --calibrate-folds of 2 or more, or 0, found {self.folds}.", "Use 5.")
        if self.folds and self.predictions:
            raise AigcError("Expected either --calibrate-folds or --calibrate-from, found both.", "Leave one out.")
        if self.folds:
            Dealing("prompt", self.folds).deal(rated)
        if self.predictions:
            read_held_out_scores(self.predictions, rated, recipe)


@dataclass(frozen=True)
class HeldOutScores:
    """Scores of images by models that were not trained on their prompts."""

    origin: str  # where they come from, in words
    predicted: Mapping[str, Values]  # {target: (N,)} on [0, 1]; NaN where an image has none
    out_of_domain: Values  # (N,) in [0, 1] for those models; NaN where it is to be measured with the final model
    rows: Sequence[Mapping[str, Any]] = ()  # as rows of a predictions table, when folds were trained for them


def take_validation_scores(
    predicted: "Mapping[str, Tensor]", rows: Sequence[int], n: int, recipe: Recipe
) -> HeldOutScores:
    """The model's own scores {target: (len(rows),)} on [0, 1] of the rows of its validation part, out of n."""
    columns = {target: np.full(n, np.nan) for target in TARGETS}
    for target, column in columns.items():
        column[list(rows)] = predicted[target].double().numpy()
    origin = "the validation part" if rows else NOTHING_HELD_OUT
    if rows and recipe.selects_checkpoint:
        origin += ", which also chose the checkpoint, so the intervals are a little too narrow"
    return HeldOutScores(origin, columns, np.full(n, np.nan))


def train_held_out_folds(
    folds: int, rated: RatedImages, recipe: Recipe, folder: Path, compute: Compute, progress: Progress
) -> HeldOutScores:
    """Each fold's scores by a model trained on the other folds; `folder` keeps finished folds."""
    driver = FoldDriver(replace(rated, skipped=()), folder, compute, progress)
    results = driver.run(recipe, Dealing("prompt", folds), "calibration")
    rows = [row for found in results if isinstance(found, FoldResult) for row in make_fold_rows(found)]
    return _place_rows(f"{folds} trainings, each without a part of the prompts", rows, rated, recipe, keep=True)


def read_held_out_scores(path: Path, rated: RatedImages, recipe: Recipe) -> HeldOutScores:
    """Reads held-out scores of earlier trainings of this recipe on these images, see `HeldOutSource`.

    Raises:
        AigcError: `path` has no predictions, or they are of another recipe or of other images.
    """
    return _place_rows(f"the predictions in {path.name}", read_predictions(path, recipe), rated, recipe)


def _place_rows(
    origin: str, rows: Sequence[Mapping[str, Any]], rated: RatedImages, recipe: Recipe, keep: bool = False
) -> HeldOutScores:
    """Rows of a predictions table in the order of the images in `rated`."""
    scale, n = recipe.scale, len(rated.samples)
    number = {sample.name: row for row, sample in enumerate(rated.samples)}
    readable = [row for row in rows if row["name"] in number]
    columns = {target: np.full(n, np.nan) for target in TARGETS}
    out_of_domain = np.full(n, np.nan)
    wrong = []
    for row in readable:
        i = number[row["name"]]
        for target in TARGETS:
            columns[target][i] = scale.to_unit(row[target])
            now, then = np.array([rated.samples[i].get_mos(target), row[f"human_{target}"]], dtype=float)  # None: NaN
            if not np.isclose(now, then, rtol=0, atol=1e-4 * scale.span, equal_nan=True):
                wrong.append(row["name"])
        if row.get("out_of_domain") is not None:
            out_of_domain[i] = row["out_of_domain"]
    if wrong or len(readable) < n:
        what = f"other scores of {wrong[0]}" if wrong else f"{len(readable)} of {n} images"
        raise AigcError(f"Expected {origin} to be of the images to train on, found {what}.", "Is it the same --data?")
    return HeldOutScores(origin, columns, out_of_domain, list(rows) if keep else ())


@dataclass(frozen=True)
class CalibrationResult:
    """A model's calibration and its description."""

    calibration: Calibration | None  # None when the model was trained on too few images
    description: dict[str, Any]  # level, origin of the scores, targets with the width of their intervals, and more
    rows: Sequence[Mapping[str, Any]] = ()  # see `HeldOutScores`

    def complete_from(self, start: SavedModel) -> "CalibrationResult":
        """The calibration of the start model, where this model has too few images for one of its intervals."""
        own, theirs = self.calibration, start.calibration
        if not theirs or (own and theirs.intervals.keys() <= own.intervals.keys()):
            return self
        note = f"too few held-out images for intervals: these, percentiles and out_of_domain are those of {start.name}"
        return CalibrationResult(theirs, {**self.description, "notes": [note]}, self.rows)

    def to_tensors(self) -> dict[str, NDArray[Any]]:
        """The tensors of the checkpoint's calibration; empty without one."""
        return self.calibration.to_tensors() if self.calibration else {}


def calibrate_model(
    model: "Model", data: "TrainingData", trained: Sequence[int], held_out: HeldOutScores, recipe: Recipe
) -> CalibrationResult:
    """Calibrates a model that was trained on rows `trained` of `data`."""
    from aigc_cli.training.loop import collect_features

    human = dict(zip(TARGETS, data.targets.cpu().double().numpy().T, strict=True))
    description: dict[str, Any] = {
        "level": INTERVAL_LEVEL,
        "held_out": held_out.origin,
        "targets": {},
        "notes": [],
    }
    least = f"at least {MIN_IMAGES} of {MIN_PROMPTS} prompts are needed"
    found = None
    if is_enough(len(trained), [data.prompts[row] for row in trained]):
        features = collect_features(model, data, range(len(data.prompts)))
        found = fit_calibration(features, data.prompts, trained, held_out.predicted, human, held_out.out_of_domain)
    if found is None:
        description["notes"].append(f"no intervals: trained on {len(trained)} images, {least}")
        return CalibrationResult(None, description, held_out.rows)
    for target in TARGETS:
        rows = np.flatnonzero(~(np.isnan(human[target]) | np.isnan(held_out.predicted[target])))
        prompts = {data.prompts[row] for row in rows.tolist()}
        if target not in found.intervals:
            count = f"{len(rows)} images of {len(prompts)} prompts were held out" if len(rows) else NOTHING_HELD_OUT
            if not np.isnan(human[target]).all():
                description["notes"].append(f"no {target} intervals: {count}, {least}")
            continue
        out_of_domain = found.domain.rank(found.domain.measure(features[rows]))
        low, high = found.intervals[target].compute(held_out.predicted[target][rows], out_of_domain)
        width = float((high - low).mean()) * recipe.scale.span
        description["targets"][target] = {"images": len(rows), "prompts": len(prompts), "width": round(width, 4)}
    return CalibrationResult(found, description, held_out.rows)


def calibrate_checkpoint(
    place: Path, source: Source, predictions: Path, compute: Compute, progress: Progress
) -> dict[str, Any]:
    """Adds a calibration to a model that was trained on `source`, from predictions of the same recipe; describes it.

    Weights and scores stay the same.

    Raises:
        AigcError: there is no model, table or predictions, or they do not belong together.
    """
    from aigc_cli.model.export import keep_graphs
    from aigc_cli.model.trained import load_model

    trained = load_model(place, compute.device)
    model, recipe, checkpoint = trained.model, trained.recipe, trained.saved.checkpoint
    rated = read_rated(source, recipe.scale, progress)
    images, rated = freeze_images(model.backbone, model.freezing.image, rated, recipe, compute.cache, progress)
    data = make_training_data(images, model.freezing.text, rated, recipe.scale)
    seen = set(checkpoint.description.get("prompts", {}).get("train", ()))
    rows = [row for row, prompt in enumerate(data.prompts) if hash_prompt(prompt) in seen]
    found = calibrate_model(model, data, rows, read_held_out_scores(predictions, rated, recipe), recipe)
    description = {**checkpoint.description, "calibration": found.description}
    graphs = keep_graphs(model, progress)
    save_checkpoint(checkpoint.folder, checkpoint.tensors, description, frozenset(), found.to_tensors(), graphs)
    return found.description
