"""The correction of consistency scores for prompts that are not in the training set."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from aigc_cli.metrics.formulas import Values
from aigc_cli.uncertainty.intervals import is_enough


class ConsistencyCorrection(NamedTuple):
    """The term offset + weight * quality, which is added to consistency; all three on [0, 1], or all in MOS."""

    offset: float = 0.0
    weight: float = 0.0

    def apply(self, consistency: Values, quality: Values) -> Values:
        """The corrected consistency (N,), not clipped, from both scores (N,)."""
        return consistency + self.offset + (self.weight * quality if self.weight else 0.0)


def fit_consistency_correction(
    consistency: Values, quality: Values, human: Values, prompts: Sequence[str]
) -> ConsistencyCorrection:
    """Fits the correction with the least squared error on prompts that the model was not trained on.

    The correction is the regression line of the errors on quality, with a slope of at least 0. It is needed because a
    model fits its training prompts better than others: the consistency of new prompts is too low, most of all for good
    images, whose human consistency is higher too. The weight of consistency itself stays 1: with a free weight the
    error is smaller, but the prompt counts less.

    Args:
        consistency, quality: (N,) scores by models that were not trained on the prompt; NaN where there is none.
        human: (N,) human consistency; NaN where an image was not rated.

    Returns:
        a correction that changes nothing where there are too few images or prompts, see `is_enough`; only an offset
        where no image has a quality score.
    """
    seen = quality if np.isfinite(quality).any() else np.zeros(len(human))
    rows = np.flatnonzero(np.isfinite(consistency) & np.isfinite(seen) & np.isfinite(human))
    if not is_enough(len(rows), [prompts[row] for row in rows.tolist()]):
        return ConsistencyCorrection()
    error, x = (human - consistency)[rows], seen[rows]
    spread = float(x.var())
    weight = max(0.0, float(np.mean((x - x.mean()) * error)) / spread) if spread > 0 else 0.0
    return ConsistencyCorrection(float(error.mean() - weight * x.mean()), weight)
