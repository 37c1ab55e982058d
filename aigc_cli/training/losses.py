"""Losses between predictions and scores, both on [0, 1], and the row of the epochs table that they give."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from aigc_cli.errors import AigcError
from aigc_cli.metrics.by_name import compute_metric
from aigc_cli.model.heads import Scores
from aigc_cli.recipe import Recipe
from aigc_cli.runtime.saved import HeadConfig
from aigc_cli.training.pairs import STRENGTH, Pairs, compute_surprise

Loss = Callable[[Tensor, Tensor], Tensor]

RANK_MARGIN = 0.02
CONTRAST_TEMPERATURE = 1 / 15
MISMATCH_MARGIN = 0.2


def compute_plcc_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """(1 - Pearson correlation of the batch) / 2, in [0, 1]; 0 where either side is constant or has one element."""
    p, t = predicted - predicted.mean(), target - target.mean()
    scale = p.norm() * t.norm()
    return (1 - (p * t).sum() / scale.clamp(min=1e-8)) / 2 if scale > 1e-8 else predicted.sum() * 0


def compute_rank_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean hinge loss over pairs whose human scores differ by more than `RANK_MARGIN`, which is the wanted lead."""
    gap = target.unsqueeze(1) - target.unsqueeze(0)
    lead = predicted.unsqueeze(1) - predicted.unsqueeze(0)
    pairs = gap > RANK_MARGIN
    return F.relu(RANK_MARGIN - lead)[pairs].mean() if pairs.any() else predicted.sum() * 0


LOSSES: dict[str, Loss] = {"mse": F.mse_loss, "l1": F.l1_loss, "plcc": compute_plcc_loss, "rank": compute_rank_loss}


def make_loss(name: str) -> Loss:
    """The loss with this name: one of `LOSSES`, or a sum of several, joined by `+`.

    Rows whose target is NaN (not rated) are left out of every term.

    Raises:
        AigcError: an unknown name.
    """
    parts = [part.strip() for part in name.split("+")]
    if unknown := [part for part in parts if part not in LOSSES]:
        raise AigcError(f"Expected losses out of {', '.join(LOSSES)}, found '{unknown[0]}'.", "Join several with +.")

    def compute_total(predicted: Tensor, target: Tensor) -> Tensor:
        rated = ~torch.isnan(target)
        if not rated.any():
            return predicted.sum() * 0
        return torch.stack([LOSSES[part](predicted[rated], target[rated]) for part in parts]).sum()

    return compute_total


def compute_contrastive_loss(image: Tensor, text: Tensor, shown: Tensor, same: Tensor) -> Tensor:
    """InfoNCE between B images and their prompts, both ways, as in CLIP (Radford et al. 2021, arXiv:2103.00020).

    Args:
        image, text: (B, D), L2-normalised.
        shown: (B,), human consistency on [0, 1], the weight of each pair; NaN where an image was not rated.
        same: (B, B) bool, whether two rows have the same prompt; such rows are not negatives of each other.
    """
    weight = shown.nan_to_num()
    if weight.sum() <= 0:
        return image.sum() * 0
    own = torch.eye(len(image), dtype=torch.bool, device=image.device)
    logits = (image @ text.T / CONTRAST_TEMPERATURE).masked_fill(same & ~own, -torch.inf)
    wanted = torch.arange(len(image), device=image.device)
    loss = F.cross_entropy(logits, wanted, reduction="none") + F.cross_entropy(logits.T, wanted, reduction="none")
    return (weight * loss).sum() / (2 * weight.sum())


def compute_mismatch_loss(own: Tensor, other: Tensor, shown: Tensor, differs: Tensor) -> Tensor:
    """Mean hinge loss: an image should score `MISMATCH_MARGIN` higher with its own prompt than with another one.

    Args:
        own, other: (B,) predicted consistency on [0, 1] with the own and with the other prompt.
        shown: (B,), human consistency on [0, 1]; twice this is the weight of a row. NaN where an image was not rated.
        differs: (B,) bool, whether the other prompt differs from the own one.
    """
    weight = 2 * shown.nan_to_num()
    return (F.relu(MISMATCH_MARGIN + other - own) * weight * differs).mean()


SATURATED = 0.95  # a correction above this share of its largest value is at its limit
UNUSED = 0.05  # a correction below this, on [0, 1], is hardly used


class EpochStats:
    """Predictions and losses of one epoch; `heads` is the configuration of the heads that predict."""

    def __init__(self, recipe: Recipe, heads: HeadConfig) -> None:
        self.recipe, self.heads = recipe, heads
        self.compute_loss = make_loss(recipe.loss or "")
        self.predicted: list[Tensor] = []  # (4, B) of each batch: quality, consistency and their corrections
        self.losses: list[Sequence[float]] = []  # (rows, loss of quality, loss of consistency) of each batch

    def add_batch(self, scores: Scores, targets: Tensor, pairs: Pairs, tie_weights: Sequence[float]) -> Tensor:
        """Adds a batch and returns its weighted loss: of ratings, and of choices where there are some.

        Args:
            targets: human scores (B, 2) on [0, 1], NaN where an image was not rated.
            pairs: choices between images of the batch.
            tie_weights: of choices by quality and by consistency, see `weigh_ties`.
        """
        sides = (scores.quality, scores.consistency)
        losses = [self.compute_loss(side, targets[:, i]) for i, side in enumerate(sides)]
        for index, side in enumerate(sides):
            own = pairs.select(pairs.question == index)
            if len(own):
                surprise = compute_surprise(side[own.a] - side[own.b], own.preferred, tie_weights[index])
                losses[index] = losses[index] + surprise.mean() / STRENGTH  # a gradient as large as that of l1
        loss_q, loss_c = losses
        self.losses.append((len(targets), float(loss_q.detach()), float(loss_c.detach())))
        columns = (scores.quality, scores.consistency, scores.quality_delta, scores.consistency_delta)
        self.predicted.append(torch.stack(columns).detach().cpu())
        return self.recipe.w_q * loss_q + self.recipe.w_c * loss_c

    def summarise(self, targets: Tensor) -> dict[str, Any]:
        """The columns of the epochs table.

        Args:
            targets: (N, 2), human scores on [0, 1] of all batches, in the order of the batches.
        """
        quality, consistency, delta_q, delta_c = torch.cat(self.predicted, dim=1).numpy()
        human_q, human_c = targets.cpu().numpy().T
        weights = np.array([n for n, _, _ in self.losses], dtype=float)
        loss_q, loss_c = (float(np.average([x[i] for x in self.losses], weights=weights)) for i in (1, 2))
        loss = self.recipe.w_q * loss_q + self.recipe.w_c * loss_c
        row: dict[str, Any] = {"loss": loss, "loss_q": loss_q, "loss_c": loss_c}
        for metric in ("srocc", "plcc"):
            for letter, predicted, human in (("q", quality, human_q), ("c", consistency, human_c)):
                rated = ~np.isnan(human)
                row[f"{metric}_{letter}"] = compute_metric(metric, predicted[rated], human[rated])
        scales = (self.heads.residual_scale_q, self.heads.residual_scale_c)
        for letter, delta, scale in zip("qc", (delta_q, delta_c), scales, strict=True):
            row[f"saturated_{letter}"] = float((np.abs(delta) > SATURATED).mean())
            row[f"unused_{letter}"] = float((scale * np.abs(delta) < UNUSED).mean())
        return row


def rate_epoch(row: dict[str, Any], recipe: Recipe) -> float:
    """The figure that chooses the checkpoint: the mean SROCC of both targets, weighted as their losses.

    Without a defined SROCC it is -2 - loss, which is below every SROCC.
    """
    parts = [(recipe.w_q, row["srocc_q"]), (recipe.w_c, row["srocc_c"])]
    known = [(weight, srocc) for weight, srocc in parts if srocc is not None and weight > 0]
    if not known:
        return -2 - float(row["loss"])
    return float(sum(weight * srocc for weight, srocc in known) / sum(weight for weight, _ in known))
