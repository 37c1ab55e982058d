"""How far a score may be off, how unusual its image is, and where among the known images it stands.

An interval is split-conformal. Residuals of images whose prompts no model saw, each divided by the residual that is to
be expected of such an image, have a quantile; that times what is to be expected of a new image is half of its interval.
Over images of new prompts it holds nine times out of ten, however good the model and the expectation are; a good
expectation makes it narrow where it can be (Lei et al. 2018, "Distribution-free predictive inference for regression").
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aigc_cli.metrics.splits import grouped_folds
from aigc_cli.uncertainty.out_of_domain import Domain

LEVEL = 0.9
FEWEST_IMAGES, FEWEST_PROMPTS = 50, 10  # fewer say too little about the tenth that is outside
FOLDS = 5
RIDGE = 10.0  # as many images with a mean residual are added to those that a spread is fitted on
LEAST, MOST = 1 / 3, 3.0  # no residual that is to be expected is further than this from their mean
KEPT = 1024  # sorted scores that percentiles are read from
TARGETS = ("quality", "consistency")

Column = NDArray[np.float64]


def conformal_quantile(values: Column, level: float = LEVEL) -> float:
    """The ceil((n + 1) * level)-th smallest of n values (n,): a new one exceeds it with probability 1 - level at most.

    Infinite where n is too small for that (n < 9 for 90%).
    """
    rank = math.ceil((len(values) + 1) * level - 1e-9)  # 0.9 is a little more than nine tenths
    return float(np.sort(values)[rank - 1]) if rank <= len(values) else math.inf


@dataclass(frozen=True)
class Spread:
    """The residual to be expected of an image: ridge regression of absolute residuals, held to a range.

    Attributes:
        weights: (4,) of 1, the score, its square and `out_of_domain`.
        mean: the mean absolute residual, which the range is a multiple of.
    """

    weights: Column
    mean: float

    @classmethod
    def fit(cls, inputs: Column, residuals: Column) -> "Spread":
        """From the inputs (n, 3) of n images and their absolute residuals (n,)."""
        centre = inputs.mean(0)
        scale = np.maximum(inputs.std(0), 1e-6)
        x, mean = (inputs - centre) / scale, float(residuals.mean())
        slopes = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ (residuals - mean)) / scale
        return cls(np.array([mean - centre @ slopes, *slopes]), max(mean, 1e-6))

    def __call__(self, inputs: Column) -> Column:
        """The residuals (n,) to be expected for inputs (n, 3)."""
        expected: Column = self.weights[0] + inputs @ self.weights[1:]
        return expected.clip(LEAST * self.mean, MOST * self.mean)


def spread_inputs(scores: Column, out_of_domain: Column) -> Column:
    """What a spread is predicted from, (n, 3): scores on [0, 1] and shares, both (n,)."""
    return np.stack([scores, scores**2, out_of_domain], axis=1)


def crossfitted(inputs: Column, residuals: Column, prompts: Sequence[str]) -> Column:
    """Residuals (n,) divided by what spreads expect that were fitted on the images of other prompts."""
    scaled = np.empty(len(residuals))
    for held_out in grouped_folds(prompts, FOLDS, 0):
        rest = np.setdiff1d(np.arange(len(residuals)), held_out)
        scaled[held_out] = residuals[held_out] / Spread.fit(inputs[rest], residuals[rest])(inputs[held_out])
    return scaled


@dataclass(frozen=True)
class Bars:
    """What is known of one target's scores; everything on [0, 1].

    Attributes:
        spread: the residual to be expected.
        quantile: what times that is half an interval.
        known: (m,) sorted scores of the calibration's images, each by a model that had not seen its prompt.
    """

    spread: Spread
    quantile: float
    known: Column

    @classmethod
    def fit(cls, predicted: Column, human: Column, out_of_domain: Column, prompts: Sequence[str]) -> "Bars | None":
        """From scores (n,) of images by a model that had not seen their prompts; None where there are too few.

        Args:
            predicted, human: on [0, 1]; rows where either is NaN are left out.
            out_of_domain: (n,) shares.
            prompts: of each image.
        """
        rows = np.flatnonzero(~(np.isnan(human) | np.isnan(predicted)))
        chosen = [prompts[row] for row in rows.tolist()]
        if not enough(len(rows), chosen):
            return None
        predicted = predicted[rows].clip(0, 1)
        inputs, residuals = spread_inputs(predicted, out_of_domain[rows]), np.abs(predicted - human[rows])
        quantile = conformal_quantile(crossfitted(inputs, residuals, chosen))
        known = np.sort(predicted)
        if len(known) > KEPT:
            known = np.quantile(known, np.linspace(0, 1, KEPT))
        return cls(Spread.fit(inputs, residuals), quantile, known)

    def interval(self, scores: Column, out_of_domain: Column) -> tuple[Column, Column]:
        """The 90% interval (low, high), each (n,) within [0, 1], of scores (n,)."""
        scores = scores.clip(0, 1)
        half = self.quantile * self.spread(spread_inputs(scores, out_of_domain))
        return (scores - half).clip(0, 1), (scores + half).clip(0, 1)

    def percentile(self, scores: Column) -> Column:
        """The share (n,) in per cent of the known images whose scores are lower, ties counted by half."""
        low, high = (np.searchsorted(self.known, scores.clip(0, 1), side) for side in ("left", "right"))
        return np.asarray(50 * (low + high) / len(self.known))


def calibrate(
    features: Tensor,
    prompts: Sequence[str],
    trained: Sequence[int],
    predicted: Mapping[str, Column],
    human: Mapping[str, Column],
    out_of_domain: Column | None = None,
) -> "Calibration | None":
    """The calibration of a model; None where it was trained on too few images or prompts.

    Args:
        features: (N, F) of images, as the model sees them, see `domain.joined`.
        prompts: of each image.
        trained: the rows that the model was trained on.
        predicted: {target: (N,)} on [0, 1], by a model that had not seen the image's prompt: this one, or one trained
            the same way without it. NaN where there is none.
        human: {target: (N,)} on [0, 1]; NaN where an image was not rated.
        out_of_domain: (N,) as those models saw the images; where it is NaN, as this one does.
    """
    if not enough(len(trained), [prompts[row] for row in trained]):
        return None
    rows = list(trained)
    domain, unusual = Domain.fit(features[rows], [prompts[row] for row in rows])
    shares = domain.share(domain.distance(features))
    shares[rows] = unusual
    if out_of_domain is not None:
        shares = np.where(np.isnan(out_of_domain), shares, out_of_domain)
    bars = {target: Bars.fit(predicted[target], human[target], shares, prompts) for target in TARGETS}
    made = Calibration(domain, {target: found for target, found in bars.items() if found is not None})
    return Calibration.of(made.tensors())  # rounded as it is kept, so that it is the same once it was read again


def enough(images: int, prompts: Sequence[str]) -> bool:
    """Whether that many images of these prompts say enough about others."""
    return images >= FEWEST_IMAGES and len(set(prompts)) >= FEWEST_PROMPTS


@dataclass(frozen=True)
class Calibration:
    """Everything that error bars are made of.

    Attributes:
        domain: the images that the model was trained on.
        bars: {target: what is known of its scores}; a target without enough images is missing.
    """

    domain: Domain
    bars: Mapping[str, Bars]

    def columns(
        self, features: Tensor, scores: Mapping[str, Tensor], scale: tuple[float, float] = (0.0, 1.0)
    ) -> dict[str, Column]:
        """What the scores table says of B images beside their scores, each column (B,); see `io.results.ERROR_BARS`.

        Args:
            features: (B, F) as `domain.joined` makes them.
            scores: {target: (B,)} on [0, 1], clipped or not.
            scale: what 0 and 1 are in the units of the intervals; percentiles go from 0 to 100. A target without bars
                has no columns.
        """
        (low, high), found = scale, {"out_of_domain": self.domain.share(self.domain.distance(features))}
        for target, bars in self.bars.items():
            column = scores[target].cpu().double().numpy()
            ends = bars.interval(column, found["out_of_domain"])
            found[f"{target}_low"], found[f"{target}_high"] = (low + (high - low) * end for end in ends)
            found[f"{target}_percentile"] = bars.percentile(column)
        return found

    def tensors(self) -> dict[str, Tensor]:
        """All numbers by name, for a checkpoint."""
        found = {f"domain.{name}": tensor for name, tensor in self.domain.tensors().items()}
        for target, bars in self.bars.items():
            numbers = [*bars.spread.weights, bars.spread.mean, bars.quantile]
            found[f"{target}.spread"] = torch.tensor(numbers, dtype=torch.float32)
            found[f"{target}.known"] = torch.from_numpy(bars.known).float()
        return found

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Calibration":
        """From what `tensors` returned; KeyError or ValueError where it is something else."""
        domain = Domain.of({name.removeprefix("domain."): t for name, t in tensors.items() if "domain." in name})
        bars = {}
        for target in TARGETS:
            if f"{target}.spread" in tensors:
                *weights, mean, quantile = tensors[f"{target}.spread"].double().tolist()
                known = tensors[f"{target}.known"].double().numpy()
                bars[target] = Bars(Spread(np.array(weights), mean), quantile, known)
        return cls(domain, bars)


def crossfit_intervals(
    predicted: Column, human: Column, out_of_domain: Column, prompts: Sequence[str]
) -> tuple[Column, Column] | None:
    """The 90% interval (low, high), each (n,), of every score, calibrated on the images of other prompts.

    So an interval says of its image what those of a calibrated model say of new ones. None where there are too few.

    Args:
        predicted, human, out_of_domain: (n,) as in `Bars.fit`.
    """
    if not enough(len(predicted), prompts):
        return None
    low, high = np.full(len(predicted), np.nan), np.full(len(predicted), np.nan)
    for held_out in grouped_folds(prompts, FOLDS, 1):
        rest = np.setdiff1d(np.arange(len(predicted)), held_out)
        others = [prompts[row] for row in rest.tolist()]
        bars = Bars.fit(predicted[rest], human[rest], out_of_domain[rest], others)
        if bars is None:
            return None
        low[held_out], high[held_out] = bars.interval(predicted[held_out], out_of_domain[held_out])
    return low, high
