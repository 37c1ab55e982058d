"""Choices between two images of one prompt, and how likely scores make them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

NOISE = 0.14  # of one rating on [0, 1]: the raters' standard deviation in AGIQA-3K, root mean square
# What a difference of scores on [0, 1] means to one rater: the log odds of a choice. Two opinions differ by
# NOISE * sqrt(2) by chance; 1.7 turns a normal deviation into a logistic one.
STRENGTH = 1.7 / (NOISE * math.sqrt(2))


@dataclass(frozen=True)
class Pairs:
    """P choices.

    Attributes:
        a, b: (P,), the rows of the two images.
        question: (P,), 0 for quality, 1 for consistency.
        preferred: (P,), 1 where a is preferred, 0 where b is, 0.5 for a tie.
    """

    a: Tensor
    b: Tensor
    question: Tensor
    preferred: Tensor

    def __len__(self) -> int:
        return len(self.a)

    @classmethod
    def make_empty(cls) -> "Pairs":
        """No choices."""
        none = torch.empty(0, dtype=torch.long)
        return cls(none, none, none, torch.empty(0))

    def select(self, chosen: Tensor) -> "Pairs":
        """The choices at `chosen`, places or a mask."""
        return Pairs(self.a[chosen], self.b[chosen], self.question[chosen], self.preferred[chosen])

    def place(self, rows: Sequence[int]) -> "Pairs":
        """The choices between two of `rows`, which then are places in `rows`."""
        place = {row: index for index, row in enumerate(rows)}
        sides = zip(self.a.tolist(), self.b.tolist(), strict=True)
        inside = [i for i, (a, b) in enumerate(sides) if a in place and b in place]
        kept = self.select(torch.tensor(inside, dtype=torch.long))
        a, b = (torch.tensor([place[row] for row in side.tolist()], dtype=torch.long) for side in (kept.a, kept.b))
        return Pairs(a, b, kept.question, kept.preferred)


def weigh_ties(preferred: Tensor) -> float:
    """The weight of a tie in `compute_surprise`, so that equal images give as many ties as there are in `preferred`."""
    share = float((preferred == 0.5).double().mean()) if len(preferred) else 0.0
    return 2 * share / max(1 - share, 1e-3)


def compute_surprise(lead: Tensor, preferred: Tensor, tie_weight: float) -> Tensor:
    """The negative log-likelihood (P,) of choices under Bradley-Terry with ties (Davidson, On extending the
    Bradley-Terry model to accommodate ties in paired comparison experiments, JASA 65, 1970).

    Args:
        lead: (P,), score of a minus score of b, on [0, 1].
        preferred: (P,), 1, 0.5 or 0, see `Pairs`.
        tie_weight: what `weigh_ties` returns for all choices.
    """
    return F.cross_entropy(_make_logits(lead, tie_weight), (2 - 2 * preferred).long(), reduction="none")


def differentiate_surprise(lead: Tensor, preferred: Tensor, tie_weight: float) -> tuple[Tensor, Tensor]:
    """The first and the second derivative (P,) of `compute_surprise` by the lead."""
    p = _make_logits(lead, tie_weight).softmax(1)
    mean = p[:, 0] - p[:, 2]
    return STRENGTH / 2 * (mean - (2 * preferred - 1)), (STRENGTH / 2) ** 2 * (p[:, 0] + p[:, 2] - mean**2)


def _make_logits(lead: Tensor, tie_weight: float) -> Tensor:
    """Of a, a tie, and b."""
    half = STRENGTH * lead / 2
    return torch.stack([half, torch.full_like(half, max(tie_weight, 1e-6)).log(), -half], 1)
