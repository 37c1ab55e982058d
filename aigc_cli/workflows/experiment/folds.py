"""Cross-validation: one recipe trained on all folds but one, with one seed, is a cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from aigc_cli.errors import Diverged
from aigc_cli.metrics.splits import grouped_holdout
from aigc_cli.model.backbone import Backbone
from aigc_cli.model.devices import pick_device
from aigc_cli.model.heads import Scores
from aigc_cli.model.model import Judge
from aigc_cli.progress import Progress
from aigc_cli.recipe import Recipe
from aigc_cli.training.loop import Data, features_of, fit, new_judge, predict
from aigc_cli.uncertainty.intervals import enough
from aigc_cli.uncertainty.out_of_domain import Domain
from aigc_cli.workflows.experiment.rated import (
    TARGETS,
    Rated,
    image_features,
    prepare_views,
    tell_skipped,
    to_mos,
    training_data,
)

Column = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """One recipe's predictions of a fold that it was not trained on.

    Attributes:
        fold, seed: which fold was held out, and the seed of the training.
        names, groups: the n images of the fold and their prompts (or whatever kept the folds apart).
        predicted: {target: (n,)} in MOS units.
        human: {target: (n,)} in MOS units, NaN where an image was not rated.
        cosine: (n,) of the backbone before training.
        seconds: training time.
        trainable: parameters that were trained.
        out_of_domain: (n,) share of the images trained on that lie nearer; None where it was not asked for.
        mismatched: (n,) consistency in MOS units with the prompt of an image of about the same human quality (see
            `other_prompts`); None where there was no other prompt.
    """

    fold: int
    seed: int
    names: Sequence[str]
    groups: Sequence[str]
    predicted: Mapping[str, Column]
    human: Mapping[str, Column]
    cosine: Column
    seconds: float
    trainable: int
    out_of_domain: Column | None = None
    mismatched: Column | None = None

    def rated(self, target: str) -> tuple[Column, Column, list[str]]:
        """(predicted, human, groups) of the images that were rated for `target`."""
        rows = np.flatnonzero(~np.isnan(self.human[target]))
        return self.predicted[target][rows], self.human[target][rows], [self.groups[i] for i in rows.tolist()]


@dataclass(frozen=True)
class Prepared:
    """What the folds of a recipe share: a backbone with all images at its freeze boundary, every view at hand.

    Attributes:
        untouched: the backbone's state before any training, from which every fold starts.
        rated: the images that could be decoded, row by row as in `data`.
    """

    backbone: Backbone
    untouched: Mapping[str, torch.Tensor]
    data: Data
    rated: Rated


def prepare(
    backbone: Backbone, rated: Rated, recipe: Recipe, device: str, cache: bool | float, progress: Progress
) -> Prepared:
    """Puts all images at the freeze boundary of `backbone`; those that can't be decoded leave `rated`."""
    backbone.modules().to(pick_device(device))
    freezing = backbone.boundaries(recipe)
    images, rated = image_features(backbone, freezing, rated, recipe, cache, progress)
    tell_skipped(rated.skipped, progress)
    prepare_views(images, range(len(rated.samples)), recipe, progress)
    untouched = {key: tensor.clone() for key, tensor in backbone.modules().state_dict().items()}
    return Prepared(backbone, untouched, training_data(images, freezing, rated, recipe), rated)


def distance_shares(judge: Judge, data: Data, trained: Sequence[int], rows: Sequence[int]) -> Column:
    """The share (len(rows),) of the images `trained` that lie nearer than each of `rows`; NaN where those are few."""
    prompts = [data.prompts[row] for row in trained]
    if not enough(len(trained), prompts):
        return np.full(len(rows), np.nan)
    domain, _ = Domain.fit(features_of(judge, data, trained), prompts)
    return domain.share(domain.distance(features_of(judge, data, rows)))


def other_prompts(prompts: Sequence[str], quality: Sequence[float]) -> list[str] | None:
    """For each image the prompt of the next better one that had another prompt; None where there is one prompt only.

    So prompts change hands between images of about equal quality, and what a score then loses it owed to the prompt.
    """
    if len(set(prompts)) < 2:
        return None
    order = np.argsort(quality, kind="stable").tolist()
    found = [""] * len(prompts)
    for place, row in enumerate(order):
        following = (order[(place + step) % len(order)] for step in range(1, len(order)))
        found[row] = next(prompts[other] for other in following if prompts[other] != prompts[row])
    return found


def _with_prompts(judge: Judge, data: Data, rows: Sequence[int], prompts: Sequence[str]) -> Scores:
    """Scores of images `rows` as if each had the prompt beside it."""
    changed = list(data.prompts)
    for row, prompt in zip(rows, prompts, strict=True):
        changed[row] = prompt
    return predict(judge, replace(data, prompts=changed), rows)


def train_cell(
    ready: Prepared,
    groups: Sequence[str],
    held_out: Sequence[int],
    fold: int,
    recipe: Recipe,
    progress: Progress,
    unusual: bool = False,
) -> Cell:
    """Trains on every row but `held_out`, which is only predicted: never trained on, nor used to choose a checkpoint.

    A recipe that chooses a checkpoint does so on a validation part of the remaining groups (a nested split).

    Args:
        groups: what kept the folds apart, one for each row.
        fold: the number of the fold that is held out.
        unusual: whether to say how far the images of the fold lie from those trained on.

    Raises:
        Diverged: the loss was not finite.
    """
    backbone, data, rated = ready.backbone, ready.data, ready.rated
    with torch.no_grad():
        for name, tensor in backbone.modules().state_dict().items():
            tensor.copy_(ready.untouched[name])
    judge = new_judge(backbone, recipe)
    apart = set(held_out)
    rest = [row for row in range(len(rated.samples)) if row not in apart]
    fraction = recipe.val_fraction if recipe.chooses else 0.0
    kept, chosen = grouped_holdout([groups[row] for row in rest], fraction, recipe.seed)
    cosine = predict(judge, data, held_out).cosine.double().numpy()
    trained = [rest[i] for i in kept]
    result = fit(judge, data, trained, [rest[i] for i in chosen], recipe, progress)
    if result.diverged:
        raise Diverged(f"Training diverged: {result.diverged}.", f"Try a third of lr ({recipe.lr:g}).")
    scores = predict(judge, data, held_out)
    others = other_prompts([data.prompts[row] for row in held_out], data.targets[list(held_out), 0].tolist())
    human = data.targets[list(held_out)].cpu().double().numpy() * (recipe.mos_max - recipe.mos_min) + recipe.mos_min
    return Cell(
        fold,
        recipe.seed,
        [rated.samples[row].name for row in held_out],
        [groups[row] for row in held_out],
        {"quality": to_mos(scores.quality, recipe), "consistency": to_mos(scores.consistency, recipe)},
        dict(zip(TARGETS, human.T, strict=True)),
        cosine,
        sum(row["seconds"] for row in result.epochs if row["split"] == "train"),
        judge.trainable(),
        distance_shares(judge, data, trained, held_out) if unusual else None,
        None if others is None else to_mos(_with_prompts(judge, data, held_out, others).consistency, recipe),
    )
