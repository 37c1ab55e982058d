"""One row of the epochs table, collected batch by batch, and what it is worth."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aigc_cli.metrics.by_name import value
from aigc_cli.model.heads import Scores
from aigc_cli.recipe import Recipe
from aigc_cli.training.losses import loss_named

SATURATED, UNUSED = 0.95, 0.05


class Tally:
    """Collects an epoch's predictions and losses.

    Attributes:
        predicted: (4, B) of each batch: quality, consistency and their corrections.
        losses: (rows, loss of quality, loss of consistency) of each batch.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.loss_of = loss_named(recipe.loss)
        self.predicted: list[Tensor] = []
        self.losses: list[Sequence[float]] = []

    def loss(self, scores: Scores, targets: Tensor) -> Tensor:
        """The weighted loss of a batch with human scores `targets` (B, 2), remembered."""
        loss_q, loss_c = self.loss_of(scores.quality, targets[:, 0]), self.loss_of(scores.consistency, targets[:, 1])
        self.losses.append((len(targets), float(loss_q.detach()), float(loss_c.detach())))
        columns = (scores.quality, scores.consistency, scores.quality_delta, scores.consistency_delta)
        self.predicted.append(torch.stack(columns).detach().cpu())
        return self.recipe.w_q * loss_q + self.recipe.w_c * loss_c

    def row(self, targets: Tensor) -> dict[str, Any]:
        """loss, srocc, plcc and the spread of the corrections; `targets` (N, 2) of all batches in their order."""
        quality, consistency, delta_q, delta_c = torch.cat(self.predicted, dim=1).numpy()
        human_q, human_c = targets.cpu().numpy().T
        weights = np.array([n for n, _, _ in self.losses], dtype=float)
        loss_q, loss_c = (float(np.average([x[i] for x in self.losses], weights=weights)) for i in (1, 2))
        row: dict[str, Any] = {
            "loss": self.recipe.w_q * loss_q + self.recipe.w_c * loss_c,
            "loss_q": loss_q,
            "loss_c": loss_c,
        }
        for metric in ("srocc", "plcc"):
            for letter, predicted, human in (("q", quality, human_q), ("c", consistency, human_c)):
                rated = ~np.isnan(human)
                row[f"{metric}_{letter}"] = value(metric, predicted[rated], human[rated])
        for letter, delta, scale in (("q", delta_q, self.recipe.scale_q), ("c", delta_c, self.recipe.scale_c)):
            row[f"saturated_{letter}"] = float((np.abs(delta) > SATURATED).mean())
            row[f"unused_{letter}"] = float((scale * np.abs(delta) < UNUSED).mean())
        return row


def merit(row: dict[str, Any], recipe: Recipe) -> float:
    """What chooses the checkpoint: SROCC of both targets weighted as their losses, else the negative loss - 2."""
    parts = [(recipe.w_q, row["srocc_q"]), (recipe.w_c, row["srocc_c"])]
    known = [(weight, srocc) for weight, srocc in parts if srocc is not None and weight > 0]
    if not known:
        return -2 - float(row["loss"])
    return float(sum(weight * srocc for weight, srocc in known) / sum(weight for weight, _ in known))
