"""How consistency should be read on prompts that a model was not trained on."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize

from aigc_cli.core.calibration import Column, enough


class Recalibration(NamedTuple):
    """consistency = offset + gain * consistency + share * quality, all on [0, 1] or all in MOS."""

    offset: float = 0.0
    gain: float = 1.0
    share: float = 0.0

    def __call__(self, consistency: Column, quality: Column) -> Column:
        """Consistency (N,) as it should be read, not clipped, of images with these scores (N,)."""
        return self.offset + self.gain * consistency + (self.share * quality if self.share else 0.0)


def recalibration(consistency: Column, quality: Column, human: Column, prompts: Sequence[str]) -> Recalibration:
    """The reading that comes nearest to what people said of images whose prompts no model saw.

    Least squares, gain and share not below 0: stacking (Breiman 1996, "Stacked regressions", Machine Learning 24). A
    model fits the prompts that it is trained on better than any other. So of a new prompt it trusts too much in what it
    reads, and too little in what it sees.

    Args:
        consistency, quality: (N,) scores by models that had not seen the prompt; NaN where there is none.
        human: (N,) people's consistency; NaN where nobody rated.
        prompts: of each image.

    Returns:
        one that changes nothing where there are too few such images, see `enough`. Without any quality its share is 0.
    """
    inputs = [np.ones(len(human)), consistency, quality]
    if not np.isfinite(quality).any():
        inputs.pop()
    x = np.stack(inputs, axis=1)
    rows = np.flatnonzero(np.isfinite(x).all(1) & np.isfinite(human))
    if not enough(len(rows), [prompts[row] for row in rows.tolist()]):
        return Recalibration()
    least = [-np.inf, *[0.0] * (x.shape[1] - 1)]
    return Recalibration(*optimize.lsq_linear(x[rows], human[rows], (least, np.inf), tol=1e-12).x.tolist())
