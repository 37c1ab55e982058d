"""Losses between predictions and scores, both on [0, 1], by name and as sums of names (`l1+plcc`)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from aigc_cli.errors import AigcError

Loss = Callable[[Tensor, Tensor], Tensor]

RANK_MARGIN = 0.02
CONTRAST_TEMPERATURE = 1 / 15
MISMATCH_MARGIN = 0.2


def plcc_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """(1 - Pearson correlation of the batch) / 2, in [0, 1]; 0 where either side is constant or has one element."""
    p, t = predicted - predicted.mean(), target - target.mean()
    scale = p.norm() * t.norm()
    return (1 - (p * t).sum() / scale.clamp(min=1e-8)) / 2 if scale > 1e-8 else predicted.sum() * 0


def rank_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean hinge over all pairs that people ordered: the better one should lead by `RANK_MARGIN`."""
    gap = target.unsqueeze(1) - target.unsqueeze(0)
    lead = predicted.unsqueeze(1) - predicted.unsqueeze(0)
    pairs = gap > RANK_MARGIN
    return F.relu(RANK_MARGIN - lead)[pairs].mean() if pairs.any() else predicted.sum() * 0


LOSSES: dict[str, Loss] = {"mse": F.mse_loss, "l1": F.l1_loss, "plcc": plcc_loss, "rank": rank_loss}


def loss_named(name: str) -> Loss:
    """The loss that `name` stands for: one of `LOSSES`, or several joined by `+`.

    Rows whose target is NaN (not rated) are left out of every term.
    """
    parts = [part.strip() for part in name.split("+")]
    unknown = [part for part in parts if part not in LOSSES]
    if unknown:
        raise AigcError(f"Expected losses out of {', '.join(LOSSES)}, found '{unknown[0]}'.", "Join several with +.")

    def total(predicted: Tensor, target: Tensor) -> Tensor:
        rated = ~torch.isnan(target)
        if not rated.any():
            return predicted.sum() * 0
        terms = [LOSSES[part](predicted[rated], target[rated]) for part in parts]
        return torch.stack(terms).sum()

    return total


def contrastive_loss(image: Tensor, text: Tensor, shown: Tensor, same: Tensor) -> Tensor:
    """InfoNCE between B images and their prompts, both ways, as in CLIP (Radford et al. 2021, arXiv:2103.00020).

    Args:
        image, text: (B, D), L2-normalised.
        shown: (B,), how far each image shows its prompt, in [0, 1]: the weight of its pair; NaN where nobody said.
        same: (B, B) bool, rows of the same prompt, which are no negatives of each other.
    """
    weight = shown.nan_to_num()
    if weight.sum() <= 0:
        return image.sum() * 0
    own = torch.eye(len(image), dtype=torch.bool, device=image.device)
    logits = (image @ text.T / CONTRAST_TEMPERATURE).masked_fill(same & ~own, -torch.inf)
    wanted = torch.arange(len(image), device=image.device)
    loss = F.cross_entropy(logits, wanted, reduction="none") + F.cross_entropy(logits.T, wanted, reduction="none")
    return (weight * loss).sum() / (2 * weight.sum())


def mismatch_loss(own: Tensor, other: Tensor, shown: Tensor, differs: Tensor) -> Tensor:
    """Mean hinge: with its own prompt an image should lead the same image with another one's by `MISMATCH_MARGIN`.

    Args:
        own, other: (B,) predicted consistency with the own and with another prompt.
        shown: (B,), how far the image shows its own prompt, in [0, 1], the weight of its row; NaN where nobody said.
        differs: (B,) bool, whether the other prompt is another one at all.
    """
    weight = 2 * shown.nan_to_num()
    return (F.relu(MISMATCH_MARGIN + other - own) * weight * differs).mean()
