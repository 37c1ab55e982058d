"""How far a warm start may leave its start model: as far as it helps on prompts that it was not adapted to."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aigc_cli.metrics.splits import Split, make_folds
from aigc_cli.model.model import Model
from aigc_cli.progress import Progress
from aigc_cli.recipe import Recipe
from aigc_cli.training.batches import TrainingData
from aigc_cli.training.loop import fit_model, predict
from aigc_cli.training.pairs import NOISE, compute_surprise

SHARES = (0.0, 0.125, 0.25, 0.5, 1.0)  # of the way from the start model to the adapted one
MOST_PARTS = 5


def mix_weights(start: Mapping[str, Tensor], adapted: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Weights at `share` of the way from `start` to `adapted`; both have the same tensors.

    Between a model and its fine-tuned form, weights on the way often generalise better than either end (Wortsman et
    al., Robust fine-tuning of zero-shot models, CVPR 2022).
    """
    return {
        name: torch.lerp(begun, adapted[name], share) if begun.is_floating_point() else begun.clone()
        for name, begun in start.items()
    }


def limit_change(
    model: Model,
    start: Mapping[str, Tensor],
    data: TrainingData,
    rows: Sequence[int],
    groups: Sequence[str],
    recipe: Recipe,
    progress: Progress,
) -> float:
    """Takes `model`, which was trained on `rows` from the weights `start`, back as `choose_share` says; the share."""
    adapted = model.copy_trained()
    share = choose_share(model, start, data, rows, groups, recipe, progress)
    model.load_trained(mix_weights(start, adapted, share))
    model.eval()
    return share


def choose_share(
    model: Model,
    start: Mapping[str, Tensor],
    data: TrainingData,
    rows: Sequence[int],
    groups: Sequence[str],
    recipe: Recipe,
    progress: Progress,
) -> float:
    """The share of the way from `start` that has the least squared error on groups which were held out.

    Trains from `start` without each of up to five parts of the groups. A share other than 0 is only taken if its gain
    is larger than the gain's own standard error over groups: a few ratings show little, and the start model has seen
    more. `model` has other weights afterwards.

    Args:
        rows: the rated images to adapt to.
        groups: the group of each of them, such as its prompt.
    """
    count = min(MOST_PARTS, len(set(groups)))
    if count < 2:
        return 0.0
    gains = np.zeros((len(SHARES), len(rows)))
    for number, held_out in enumerate(make_folds(groups, count, recipe.seed)):
        progress.say(f"How far to leave the start model: part {number + 1} of {count}.")
        apart = set(held_out)
        model.load_trained(dict(start))
        rest = [row for place, row in enumerate(rows) if place not in apart]
        fit_model(model, data, Split(rest, []), recipe, progress, warm=True)
        adapted = model.copy_trained()
        for index, share in enumerate(SHARES):
            model.load_trained(mix_weights(start, adapted, share))
            gains[index, held_out] = -_measure_errors(model, data, [rows[place] for place in held_out])
    gains -= gains[0]
    names, place = np.unique(np.asarray(groups), return_inverse=True)
    by_group = np.stack([np.bincount(place, row, len(names)) for row in gains])
    total, error = by_group.sum(1), np.sqrt(np.square(by_group).sum(1))
    best = int(total.argmax())
    return SHARES[best] if total[best] > error[best] else 0.0


def _measure_errors(model: Model, data: TrainingData, rows: Sequence[int]) -> NDArray[np.float64]:
    """The squared error (len(rows),) on [0, 1], summed over the targets for which an image was rated.

    The surprise of a choice, in the same units, counts with the first of its images.
    """
    scores, pairs = predict(model, data, rows), data.pairs.place(rows)
    columns = torch.stack([scores.quality, scores.consistency], 1)
    errors = (columns - data.targets[list(rows)].cpu()).square().nan_to_num().sum(1)
    for index, tie_weight in enumerate(data.tie_weights):
        own = pairs.select(pairs.question == index)
        lead = columns[own.a, index] - columns[own.b, index]
        errors.index_add_(0, own.a, 2 * NOISE**2 * compute_surprise(lead, own.preferred, tie_weight))
    return np.asarray(errors.double().numpy())
