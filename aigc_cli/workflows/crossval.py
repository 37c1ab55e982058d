"""Cross-validation: what the folds of a recipe share, and one fold trained and predicted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from aigc_cli.core.backbone import Backbone
from aigc_cli.core.backbones import load_backbone
from aigc_cli.core.devices import pick_device
from aigc_cli.core.splits import grouped_holdout
from aigc_cli.core.training import Data, fit, new_judge, predict
from aigc_cli.progress import Progress
from aigc_cli.recipe import Recipe
from aigc_cli.workflows.ratings import Rated, image_features, tell_skipped, training_data
from aigc_cli.workflows.train import to_mos

Values = NDArray[np.float64]
State = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class FoldResult:
    """What one fold's model says of the images that were held out.

    Attributes:
        predicted: {target: MOS (n,)}, in the order of the rows held out.
        human: {target: MOS (n,)}, NaN where an image was not rated.
        cosine: the untrained backbone's cosine of image and prompt (n,).
        seconds: training time.
        trainable: parameters that were trained.
        diverged: what went wrong in training; the last good epoch predicted.
    """

    predicted: Mapping[str, Values]
    human: Mapping[str, Values]
    cosine: Values
    seconds: float
    trainable: int
    diverged: str = ""


@dataclass(frozen=True)
class Prepared:
    """A backbone with all images at its freeze boundary, every view that training asks for stored."""

    backbone: Backbone
    untouched: State
    data: Data
    rated: Rated


def prepare(rated: Rated, recipe: Recipe, device: str, cache: bool, progress: Progress) -> Prepared:
    """Everything that the folds of a recipe share; images that can't be decoded leave `rated`."""
    backbone = load_backbone(recipe.backbone, recipe.image_size)
    backbone.modules().to(pick_device(device))
    freezing = backbone.boundaries(recipe.freeze, recipe.freeze_depth)  # type: ignore[arg-type]
    images, rated = image_features(backbone, freezing, rated, recipe, cache, progress)
    tell_skipped(rated.skipped, progress)
    images.prepare(dict.fromkeys(range(recipe.views), range(len(rated.samples))), progress)
    untouched = {key: tensor.clone() for key, tensor in backbone.modules().state_dict().items()}
    return Prepared(backbone, untouched, training_data(images, freezing, rated, recipe), rated)


def run_fold(
    backbone: Backbone,
    untouched: State,
    data: Data,
    groups: Sequence[str],
    held_out: Sequence[int],
    recipe: Recipe,
    progress: Progress,
) -> FoldResult:
    """Trains on all rows but `held_out` and predicts those.

    A recipe that chooses its checkpoint does so on a part of the training rows, whole groups of them: the rows held
    out are neither trained on nor do they choose anything.

    Args:
        backbone: left with the weights of this fold.
        untouched: its weights before any training, from which every fold starts.
        data: all images.
        groups: what an inner validation part keeps together, one for each row of `data`.
    """
    with torch.no_grad():
        for name, tensor in backbone.modules().state_dict().items():
            tensor.copy_(untouched[name])
    judge = new_judge(backbone, recipe)
    apart = set(held_out)
    rest = [row for row in range(len(groups)) if row not in apart]
    cosine = predict(judge, data, held_out).cosine.double().numpy()
    fraction = recipe.val_fraction if recipe.chooses else 0.0
    kept, chosen = grouped_holdout([groups[row] for row in rest], fraction, recipe.seed)
    result = fit(judge, data, [rest[i] for i in kept], [rest[i] for i in chosen], recipe, progress)
    scores = predict(judge, data, held_out)
    human = data.targets[list(held_out)].cpu().double().numpy() * (recipe.mos_max - recipe.mos_min) + recipe.mos_min
    return FoldResult(
        {"quality": to_mos(scores.quality, recipe), "consistency": to_mos(scores.consistency, recipe)},
        {"quality": human[:, 0], "consistency": human[:, 1]},
        cosine,
        sum(row["seconds"] for row in result.epochs if row["split"] == "train"),
        judge.trainable(),
        result.diverged,
    )
