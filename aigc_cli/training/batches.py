"""What a training reads: images at the freeze boundary with their prompts, ratings and choices, and its batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from aigc_cli.training.feature_store import FrozenImages, FrozenTexts
from aigc_cli.training.pairs import Pairs, weigh_ties


@dataclass(frozen=True)
class TrainingData:
    """Images at the freeze boundary, their prompts and their human scores.

    `prompts` has the prompt of each row; `targets` (N, 2) are quality and consistency on [0, 1], NaN where not rated;
    `pairs` are choices between rows.
    """

    images: FrozenImages
    texts: FrozenTexts
    prompts: Sequence[str]
    targets: Tensor
    pairs: Pairs = field(default_factory=Pairs.make_empty)

    def list_units(self, rows: Sequence[int]) -> list[int]:
        """What an epoch over images `rows` is made of: rows, and -1 - p for each choice p between two of them."""
        if not len(self.pairs):
            return list(rows)
        rated, inside = ~self.targets.isnan().all(1).cpu(), torch.zeros(len(self.targets), dtype=torch.bool)
        inside[list(rows)] = True
        chosen = (inside[self.pairs.a] & inside[self.pairs.b]).nonzero()[:, 0].tolist()
        return [row for row in rows if rated[row]] + [-1 - place for place in chosen]

    @cached_property
    def tie_weights(self) -> list[float]:
        """The weights of ties in choices by quality and by consistency, see `weigh_ties`."""
        return [weigh_ties(self.pairs.preferred[self.pairs.question == index]) for index in range(2)]


@dataclass(frozen=True)
class Batch:
    """Images of a training step: those whose ratings are learnt, then both images of each choice.

    Attributes:
        rows, views: each image's row and its view.
        rated: how many of the images count with their ratings.
        pairs: the choices, between places in `rows`.
    """

    rows: list[int]
    views: list[int]
    rated: int
    pairs: Pairs

    @classmethod
    def make(cls, units: Sequence[int], views: Sequence[int], pairs: Pairs) -> "Batch":
        """The batch of `units` (see `TrainingData.list_units`), each in its view."""
        own = [(unit, view) for unit, view in zip(units, views, strict=True) if unit >= 0]
        chosen = [(-1 - unit, view) for unit, view in zip(units, views, strict=True) if unit < 0]
        of = pairs.select(torch.tensor([place for place, _ in chosen], dtype=torch.long))
        n, seen, places = len(own), [view for _, view in chosen], torch.arange(len(chosen))
        return cls(
            [row for row, _ in own] + of.a.tolist() + of.b.tolist(),
            [view for _, view in own] + 2 * seen,
            n,
            Pairs(n + places, n + len(chosen) + places, of.question, of.preferred),
        )


def draw_batches(
    rows: Sequence[int], size: int, views: range, random: np.random.Generator
) -> Iterator[tuple[list[int], list[int]]]:
    """Yields one epoch's batches (rows, their views), shuffled; a last batch of one row joins the batch before it."""
    order = [rows[i] for i in random.permutation(len(rows))]
    drawn = random.integers(views.start, views.stop, size=len(rows)).tolist()
    starts = list(range(0, len(order), size))
    if len(starts) > 1 and len(order) - starts[-1] == 1:
        starts.pop()
    for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
        yield order[start:stop], drawn[start:stop]
