"""90% intervals and percentiles of scores.

Intervals are split-conformal (Lei et al. 2018, "Distribution-free predictive inference for regression"). They are
fitted on images whose prompts the model was not trained on. The absolute residual of each image is divided by the
residual that is expected of such an image. Half of a new image's interval is the 90% quantile of these ratios times the
residual expected of the new image. Intervals cover 90% of the images of new prompts, even if the model or the expected
residuals are poor; good expected residuals make them narrow where the model is reliable.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from aigc_cli.metrics.formulas import Values
from aigc_cli.metrics.splits import make_folds

INTERVAL_LEVEL = 0.9
MIN_IMAGES, MIN_PROMPTS = 50, 10  # with fewer, the 90% quantile is too uncertain
CROSSFIT_FOLDS = 5
RIDGE = 10.0  # penalty on the slopes: the weight of that many images with standardised inputs
MIN_RESIDUAL_RATIO, MAX_RESIDUAL_RATIO = 1 / 3, 3.0  # range of an expected residual divided by the mean residual
KEPT_SCORES = 1024  # the most scores that are stored for percentiles


def compute_conformal_quantile(values: Values, level: float = INTERVAL_LEVEL) -> float:
    """The ceil((n + 1) * level)-th smallest of values (n,); infinite where n is too small (n < 9 for 90%).

    A new value exceeds it with a probability of at most 1 - level.

    Example:
        >>> compute_conformal_quantile(np.arange(1.0, 20.0))
        18.0
    """
    rank = math.ceil((len(values) + 1) * level - 1e-9)  # 0.9 in binary is slightly more than 9/10
    return float(np.sort(values)[rank - 1]) if rank <= len(values) else math.inf


@dataclass(frozen=True)
class ExpectedResidual:
    """The absolute residual that is expected of an image: a ridge regression, clipped to a range.

    Attributes:
        weights: (4,) of the constant 1, the score, its square and `out_of_domain`.
        mean: the mean absolute residual. The range is `MIN_RESIDUAL_RATIO` to `MAX_RESIDUAL_RATIO` times it.
    """

    weights: Values
    mean: float

    @classmethod
    def fit(cls, inputs: Values, residuals: Values) -> Self:
        """Fits the regression to inputs (n, 3), see `make_residual_inputs`, and absolute residuals (n,)."""
        centre, scale = inputs.mean(0), np.maximum(inputs.std(0), 1e-6)
        x, mean = (inputs - centre) / scale, float(residuals.mean())
        slopes = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ (residuals - mean)) / scale
        return cls(np.array([mean - centre @ slopes, *slopes]), max(mean, 1e-6))

    def __call__(self, inputs: Values) -> Values:
        """The expected absolute residuals (n,) for inputs (n, 3)."""
        expected: Values = self.weights[0] + inputs @ self.weights[1:]
        return expected.clip(MIN_RESIDUAL_RATIO * self.mean, MAX_RESIDUAL_RATIO * self.mean)


def make_residual_inputs(scores: Values, out_of_domain: Values) -> Values:
    """The inputs (n, 3) of `ExpectedResidual`, from scores (n,) on [0, 1] and `out_of_domain` (n,)."""
    return np.stack([scores, scores**2, out_of_domain], axis=1)


def crossfit_residuals(inputs: Values, residuals: Values, prompts: Sequence[str]) -> Values:
    """Residuals (n,) divided by expected residuals, which are fitted on the images of other prompts."""
    scaled = np.empty(len(residuals))
    for held_out in make_folds(prompts, CROSSFIT_FOLDS, 0):
        rest = np.setdiff1d(np.arange(len(residuals)), held_out)
        scaled[held_out] = residuals[held_out] / ExpectedResidual.fit(inputs[rest], residuals[rest])(inputs[held_out])
    return scaled


@dataclass(frozen=True)
class FittedIntervals:
    """Intervals and percentiles of one target, on [0, 1].

    Attributes:
        expected: the expected residual of an image.
        quantile: half of an interval is this number times the expected residual.
        known: (m,) sorted scores of the calibration images, by models that were not trained on their prompts.
    """

    expected: ExpectedResidual
    quantile: float
    known: Values

    @classmethod
    def fit(cls, predicted: Values, human: Values, out_of_domain: Values, prompts: Sequence[str]) -> Self | None:
        """Fits intervals to the calibration images; None where there are too few, see `is_enough`.

        Args:
            predicted: (n,) scores on [0, 1] by models that were not trained on the images' prompts.
            human: (n,) on [0, 1]. Rows where `predicted` or `human` is NaN are left out.
            out_of_domain: (n,) in [0, 1].
        """
        rows = np.flatnonzero(~(np.isnan(human) | np.isnan(predicted)))
        kept_prompts = [prompts[row] for row in rows.tolist()]
        if not is_enough(len(rows), kept_prompts):
            return None
        predicted = predicted[rows].clip(0, 1)
        inputs, residuals = make_residual_inputs(predicted, out_of_domain[rows]), np.abs(predicted - human[rows])
        quantile = compute_conformal_quantile(crossfit_residuals(inputs, residuals, kept_prompts))
        known = np.sort(predicted)
        if len(known) > KEPT_SCORES:
            known = np.quantile(known, np.linspace(0, 1, KEPT_SCORES))
        return cls(ExpectedResidual.fit(inputs, residuals), quantile, known)

    def compute(self, scores: Values, out_of_domain: Values) -> tuple[Values, Values]:
        """The 90% intervals (low, high) of scores (n,), each (n,) within [0, 1]."""
        scores = scores.clip(0, 1)
        half = self.quantile * self.expected(make_residual_inputs(scores, out_of_domain))
        return (scores - half).clip(0, 1), (scores + half).clip(0, 1)

    def rank(self, scores: Values) -> Values:
        """The percentiles (n,) of scores (n,) among the calibration images, 0 to 100; ties count half."""
        low, high = (np.searchsorted(self.known, scores.clip(0, 1), side) for side in ("left", "right"))
        return np.asarray(50 * (low + high) / len(self.known))


def is_enough(images: int, prompts: Sequence[str]) -> bool:
    """Whether there are enough images and different prompts (`MIN_IMAGES`, `MIN_PROMPTS`) to fit a calibration."""
    return images >= MIN_IMAGES and len(set(prompts)) >= MIN_PROMPTS


def crossfit_intervals(
    predicted: Values, human: Values, out_of_domain: Values, prompts: Sequence[str]
) -> tuple[Values, Values] | None:
    """The 90% intervals (low, high) of all scores, each (n,), fitted on the images of other prompts.

    They cover these images as the intervals of a calibrated model cover new images. None where there are too few
    images or prompts. The arguments are those of `FittedIntervals.fit`.
    """
    if not is_enough(len(predicted), prompts):
        return None
    low, high = np.full(len(predicted), np.nan), np.full(len(predicted), np.nan)
    for held_out in make_folds(prompts, CROSSFIT_FOLDS, 1):
        rest = np.setdiff1d(np.arange(len(predicted)), held_out)
        others = [prompts[row] for row in rest.tolist()]
        fitted = FittedIntervals.fit(predicted[rest], human[rest], out_of_domain[rest], others)
        if fitted is None:
            return None
        low[held_out], high[held_out] = fitted.compute(predicted[held_out], out_of_domain[held_out])
    return low, high
