"""Cross-validation: one recipe trained on all folds but one, with one seed, is a cell; a finished cell is a file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from aigc_cli.core.backbone import Backbone
from aigc_cli.core.splits import grouped_holdout
from aigc_cli.core.training import Data, fit, new_judge, predict
from aigc_cli.errors import Diverged
from aigc_cli.io.results import read_metadata, read_rows, write_table
from aigc_cli.progress import Progress
from aigc_cli.recipe import Recipe
from aigc_cli.workflows.ratings import TARGETS, Rated
from aigc_cli.workflows.train import to_mos

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

    def rated(self, target: str) -> tuple[Column, Column, list[str]]:
        """(predicted, human, groups) of the images that were rated for `target`."""
        rows = np.flatnonzero(~np.isnan(self.human[target]))
        return self.predicted[target][rows], self.human[target][rows], [self.groups[i] for i in rows.tolist()]


@dataclass(frozen=True)
class Failure:
    """A cell that could not be trained, and why."""

    fold: int
    seed: int
    reason: str


def train_cell(
    backbone: Backbone,
    untouched: Mapping[str, torch.Tensor],
    data: Data,
    rated: Rated,
    held_out: Sequence[int],
    fold: int,
    recipe: Recipe,
    progress: Progress,
) -> Cell:
    """Trains on every row but `held_out`, which is only predicted: never trained on, nor used to choose a checkpoint.

    A recipe that chooses a checkpoint does so on a validation part of the remaining groups (a nested split).

    Args:
        untouched: the backbone's state before any training; it is put back first.

    Raises:
        Diverged: the loss was not finite.
    """
    with torch.no_grad():
        for name, tensor in backbone.modules().state_dict().items():
            tensor.copy_(untouched[name])
    judge = new_judge(backbone, recipe)
    groups, apart = rated.groups(recipe.group_by), set(held_out)
    rest = [row for row in range(len(rated.samples)) if row not in apart]
    fraction = recipe.val_fraction if recipe.chooses else 0.0
    kept, chosen = grouped_holdout([groups[row] for row in rest], fraction, recipe.seed)
    cosine = predict(judge, data, held_out).cosine.double().numpy()
    result = fit(judge, data, [rest[i] for i in kept], [rest[i] for i in chosen], recipe, progress)
    if result.diverged:
        raise Diverged(f"Training diverged: {result.diverged}.", f"Try a third of lr ({recipe.lr:g}).")
    scores = predict(judge, data, held_out)
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
    )


def cell_file(folder: Path, data: str, weights: str, recipe: Recipe, folds: int, fold: int) -> Path:
    """Where a cell lies; its name is a digest of everything that its predictions depend on."""
    key = {"data": data, "weights": weights, "recipe": asdict(recipe), "folds": folds, "fold": fold}
    return folder / f"{sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]}.parquet"


def save_cell(path: Path, cell: Cell, about: Mapping[str, str]) -> None:
    """Writes one finished cell; `about` says for a person which variant it belongs to."""
    rows = [
        {
            "name": name,
            "group": group,
            "quality": cell.predicted["quality"][i],
            "consistency": cell.predicted["consistency"][i],
            "human_quality": cell.human["quality"][i],
            "human_consistency": cell.human["consistency"][i],
            "clip_cosine": cell.cosine[i],
        }
        for i, (name, group) in enumerate(zip(cell.names, cell.groups, strict=True))
    ]
    facts = {"fold": cell.fold, "seed": cell.seed, "seconds": cell.seconds, "trainable": cell.trainable}
    write_table(path, "predictions", rows, {**about, "cell": json.dumps(facts)})


def load_cell(path: Path) -> Cell:
    """Reads what `save_cell` wrote; AigcError when the file is damaged."""
    rows, facts = read_rows(path), json.loads(read_metadata(path)["cell"])

    def column(name: str) -> Column:
        return np.array([row[name] for row in rows], dtype=np.float64)

    return Cell(
        facts["fold"],
        facts["seed"],
        [row["name"] for row in rows],
        [row["group"] for row in rows],
        {target: column(target) for target in TARGETS},
        {target: column(f"human_{target}") for target in TARGETS},
        column("clip_cosine"),
        facts["seconds"],
        facts["trainable"],
    )
