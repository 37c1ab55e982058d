"""How consistency should be read on prompts that a model was not trained on."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from aigc_cli.uncertainty.intervals import Column, enough


class Recalibration(NamedTuple):
    """What is added to consistency: offset + share * quality, all on [0, 1] or all in MOS."""

    offset: float = 0.0
    share: float = 0.0

    def __call__(self, consistency: Column, quality: Column) -> Column:
        """Consistency (N,) as it should be read, not clipped, of images with these scores (N,)."""
        return consistency + self.offset + (self.share * quality if self.share else 0.0)


def recalibration(consistency: Column, quality: Column, human: Column, prompts: Sequence[str]) -> Recalibration:
    """What brings consistency nearest to what people said of images whose prompts no model saw.

    The line through its errors over quality, by least squares, not falling. A model fits the prompts that it is trained
    on better than any other: the consistency of a new one comes out too low as a whole, and too low by more where the
    image is good, since people's consistency goes with quality. The weight of consistency itself stays 1, though a free
    one would be nearer to people: it would also take away from what the prompt counts for.

    Args:
        consistency, quality: (N,) scores by models that had not seen the prompt; NaN where there is none.
        human: (N,) people's consistency; NaN where nobody rated.
        prompts: of each image.

    Returns:
        one that changes nothing where there are too few such images, see `enough`; without any quality, an offset.
    """
    known = np.isfinite(quality).any()
    seen = quality if known else np.zeros(len(human))
    rows = np.flatnonzero(np.isfinite(consistency) & np.isfinite(seen) & np.isfinite(human))
    if not enough(len(rows), [prompts[row] for row in rows.tolist()]):
        return Recalibration()
    error, x = (human - consistency)[rows], seen[rows]
    spread = float(x.var())
    share = max(0.0, float(np.mean((x - x.mean()) * error)) / spread) if spread > 0 else 0.0
    return Recalibration(float(error.mean() - share * x.mean()), share)
