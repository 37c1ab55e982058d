"""Error bars of a model: computed at the end of `aigc train` from images whose prompts training did not see."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from aigc_cli.errors import AigcError
from aigc_cli.metrics.splits import grouped_folds
from aigc_cli.model.loading import load_backbone
from aigc_cli.model.model import Judge
from aigc_cli.model.trained import load_model
from aigc_cli.progress import Progress
from aigc_cli.recipe import Recipe
from aigc_cli.storage.checkpoints import save_checkpoint
from aigc_cli.training.loop import Data, features_of
from aigc_cli.uncertainty.consistency import Recalibration, recalibration
from aigc_cli.uncertainty.intervals import FEWEST_IMAGES, FEWEST_PROMPTS, LEVEL, Calibration, calibrate, enough
from aigc_cli.workflows.experiment.folds import prepare, train_cell
from aigc_cli.workflows.experiment.predictions import cell_file, load_cell, prediction_rows, read_predictions, save_cell
from aigc_cli.workflows.experiment.rated import (
    TARGETS,
    Rated,
    data_digest,
    image_features,
    prompt_digest,
    read_rated,
    training_data,
)
from aigc_cli.workflows.experiment.source import Source

NONE = "no images were held out"


@dataclass(frozen=True)
class Calibrating:
    """Where scores by models that had not seen the prompts come from; by default from the validation part.

    Attributes:
        folds: the recipe is trained so many times more, each time without one part of the prompts; 0: it is not.
        predictions: what such trainings left already: the folder of an `aigc ablate` or an `aigc train`, or a table.
    """

    folds: int = 0
    predictions: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """As a plan remembers it."""
        return {"folds": self.folds, "predictions": None if self.predictions is None else str(self.predictions)}

    def check(self, rated: Rated, recipe: Recipe) -> None:
        """Raises AigcError for what can't work out, before anything is computed."""
        if self.folds < 0 or self.folds == 1:
            raise AigcError(f"Expected --calibrate-folds of 2 or more, or 0, found {self.folds}.", "Use 5.")
        if self.folds and self.predictions:
            raise AigcError("Expected either --calibrate-folds or --calibrate-from, found both.", "Leave one out.")
        if self.folds:
            grouped_folds(rated.groups("prompt"), self.folds, 0)
        if self.predictions:
            from_predictions(self.predictions, rated, recipe)


@dataclass(frozen=True)
class HeldOut:
    """Scores of images by models that had not seen their prompts.

    Attributes:
        origin: where they come from, for a person.
        predicted: {target: (N,)} on [0, 1]; NaN where an image has none.
        out_of_domain: (N,) as those models saw the images; NaN: as the final one sees them.
        rows: the same as rows of a predictions table, where they are worth keeping.
        of_folds: whether they are by other models than the one they calibrate, trained the same way.
    """

    origin: str
    predicted: Mapping[str, Any]
    out_of_domain: Any
    rows: Sequence[Mapping[str, Any]] = ()
    of_folds: bool = False


def from_part(predicted: Mapping[str, Tensor], rows: Sequence[int], n: int, recipe: Recipe) -> HeldOut:
    """The model's own scores {target: (len(rows),)} on [0, 1] of the rows of its validation part, out of n."""
    columns = {target: np.full(n, np.nan) for target in TARGETS}
    for target, column in columns.items():
        column[list(rows)] = predicted[target].double().numpy()
    chosen = ", which also chose the checkpoint, so the intervals are a little too narrow" * recipe.chooses
    return HeldOut(f"the validation part{chosen}" if rows else NONE, columns, np.full(n, np.nan))


def from_folds(
    folds: int,
    rated: Rated,
    recipe: Recipe,
    place: Path,
    *,
    device: str,
    cache: bool | float,
    progress: Progress,
) -> HeldOut:
    """Trains the recipe once for each fold and lets each model score the prompts that it has not seen.

    Args:
        place: a folder for the trainings that are finished; those that lie there are not done again.
    """
    backbone = load_backbone(recipe.backbone, recipe.image_size)
    ready = prepare(backbone, Rated(rated.samples, rated.digests, ()), recipe, device, cache, progress)
    prompts, found = rated.groups("prompt"), []
    place.mkdir(parents=True, exist_ok=True)
    for fold, held_out in enumerate(grouped_folds(prompts, folds, 0)):
        file = cell_file(place, data_digest(rated), backbone.weights_hash, recipe, folds, fold)
        if not file.is_file():
            progress.say(f"error bars: training without fold {fold + 1} of {folds}")
            save_cell(file, train_cell(ready, prompts, held_out, fold, recipe, progress, unusual=True), {})
        found.append(load_cell(file))
    rows = [row for cell in found for row in prediction_rows(cell)]
    return _placed(f"{folds} trainings, each without a part of the prompts", rows, rated, recipe, keep=True)


def from_predictions(path: Path, rated: Rated, recipe: Recipe) -> HeldOut:
    """What earlier trainings of this recipe on these images left, see `Calibrating`.

    Raises:
        AigcError: nothing of the kind is at `path`, or it is of another recipe or of other images.
    """
    return _placed(f"the predictions in {path.name}", read_predictions(path, recipe), rated, recipe)


def _placed(
    origin: str, rows: Sequence[Mapping[str, Any]], rated: Rated, recipe: Recipe, keep: bool = False
) -> HeldOut:
    """Rows of a predictions table, put where their images are in `rated`."""
    low, span, n = recipe.mos_min, recipe.mos_max - recipe.mos_min, len(rated.samples)
    number = {sample.name: row for row, sample in enumerate(rated.samples)}
    readable = [row for row in rows if row["name"] in number]
    columns = {target: np.full(n, np.nan) for target in TARGETS}
    unusual = np.full(n, np.nan)
    wrong = []
    for row in readable:
        i = number[row["name"]]
        for target, name in TARGETS.items():
            given, then = getattr(rated.samples[i], name), row[f"human_{target}"]
            columns[target][i] = (row[target] - low) / span
            if (given is None) != (then is None) or (given is not None and abs(given - then) > 1e-4 * span):
                wrong.append(row["name"])
        if row.get("out_of_domain") is not None:
            unusual[i] = row["out_of_domain"]
    if wrong or len(readable) < n:
        what = f"other scores of {wrong[0]}" if wrong else f"{len(readable)} of {n} images"
        raise AigcError(f"Expected {origin} to be of the images to train on, found {what}.", "Is it the same --data?")
    return HeldOut(origin, columns, unusual, list(rows) if keep else (), of_folds=True)


@dataclass(frozen=True)
class Calibrated:
    """A model's calibration, None where there can't be one, and what to say of it."""

    calibration: Calibration | None
    description: dict[str, Any]
    rows: Sequence[Mapping[str, Any]] = ()

    def tensors(self) -> dict[str, Tensor]:
        """For the checkpoint; empty without a calibration."""
        return self.calibration.tensors() if self.calibration else {}


def recalibrated(
    judge: Judge, held_out: HeldOut, human: Mapping[str, Any], prompts: Sequence[str]
) -> tuple[HeldOut, Recalibration]:
    """Lets `judge` read consistency as models of folds show that new prompts want it read, see `recalibration`.

    Without folds it reads it as it was trained. What an earlier call set is set anew.

    Args:
        human: {target: (N,)} on [0, 1], NaN where nobody rated; a quality that nobody rated is no help.

    Returns:
        the held-out scores as such models would have given them, and what was added.
    """
    found, predicted = Recalibration(), held_out.predicted
    if held_out.of_folds:
        rated = not np.isnan(human["quality"]).all()
        quality = predicted["quality"] if rated else np.full(len(prompts), np.nan)
        found = recalibration(predicted["consistency"], quality, human["consistency"], prompts)
    judge.heads.recalibrate(*found)
    read = found(predicted["consistency"], predicted["quality"])
    return replace(held_out, predicted={**predicted, "consistency": read}), found


def calibrated(judge: Judge, data: Data, trained: Sequence[int], held_out: HeldOut, recipe: Recipe) -> Calibrated:
    """The error bars of `judge`, which was trained on rows `trained` of `data`; its consistency is `recalibrated`."""
    human = dict(zip(TARGETS, data.targets.cpu().double().numpy().T, strict=True))
    held_out, added = recalibrated(judge, held_out, human, data.prompts)
    said: dict[str, Any] = {"level": LEVEL, "held_out": held_out.origin, "targets": {}, "notes": []}
    said["added"] = {"offset": added.offset * (recipe.mos_max - recipe.mos_min), "share": added.share}
    least = f"at least {FEWEST_IMAGES} of {FEWEST_PROMPTS} prompts are needed"
    found = None
    if enough(len(trained), [data.prompts[row] for row in trained]):
        features = features_of(judge, data, range(len(data.prompts)))
        found = calibrate(features, data.prompts, trained, held_out.predicted, human, held_out.out_of_domain)
    if found is None:
        said["notes"].append(f"no error bars: trained on {len(trained)} images, {least}")
        return Calibrated(None, said, held_out.rows)
    for target in TARGETS:
        rows = np.flatnonzero(~(np.isnan(human[target]) | np.isnan(held_out.predicted[target])))
        prompts = {data.prompts[row] for row in rows.tolist()}
        if target not in found.bars:
            if not np.isnan(human[target]).all():
                count = f"{len(rows)} images of {len(prompts)} prompts were held out"
                said["notes"].append(f"no {target} intervals: {count if len(rows) else NONE}, {least}")
            continue
        bars = found.bars[target]
        unusual = found.domain.share(found.domain.distance(features[rows]))
        low, high = bars.interval(held_out.predicted[target][rows], unusual)
        width = float((high - low).mean()) * (recipe.mos_max - recipe.mos_min)
        said["targets"][target] = {"images": len(rows), "prompts": len(prompts), "width": round(width, 4)}
    return Calibrated(found, said, held_out.rows)


def calibrate_checkpoint(
    place: Path,
    source: Source,
    predictions: Path,
    *,
    progress: Progress,
    device: str = "auto",
    cache: bool = True,
) -> dict[str, Any]:
    """Gives a model that was trained on `source` its error bars, from predictions of the same recipe.

    No weight changes, but how consistency is read, see `recalibrated`.

    Returns:
        what its description says of them.

    Raises:
        AigcError: no model, table or predictions there, or they don't belong together.
    """
    model = load_model(place, device)
    judge, recipe = model.judge, model.recipe
    rated = read_rated(source, recipe, progress)
    images, rated = image_features(judge.backbone, judge.freezing, rated, recipe, cache, progress)
    data = training_data(images, judge.freezing, rated, recipe)
    seen = set(model.checkpoint.description.get("prompts", {}).get("train", ()))
    trained = [row for row, prompt in enumerate(data.prompts) if prompt_digest(prompt) in seen]
    found = calibrated(judge, data, trained, from_predictions(predictions, rated, recipe), recipe)
    checkpoint = model.checkpoint
    description = {**checkpoint.description, "heads": judge.heads.config.to_json(), "calibration": found.description}
    save_checkpoint(checkpoint.folder, checkpoint.tensors, description, calibration=found.tensors())
    return found.description
