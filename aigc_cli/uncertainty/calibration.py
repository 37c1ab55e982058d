"""The calibration of a model: what its 90% intervals, percentiles and `out_of_domain` are computed from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from aigc_cli.images.sample import TARGETS
from aigc_cli.metrics.formulas import Values
from aigc_cli.mos_scale import UNIT, MosScale
from aigc_cli.storage.tensors import Array
from aigc_cli.uncertainty.intervals import ExpectedResidual, FittedIntervals, is_enough
from aigc_cli.uncertainty.out_of_domain import TrainingDomain


@dataclass(frozen=True)
class Calibration:
    """The fitted numbers behind the columns `out_of_domain`, `*_low`, `*_high` and `*_percentile`.

    Attributes:
        domain: the distribution of the training images.
        intervals: {target: its intervals and percentiles}; a target with too few images is missing.
    """

    domain: TrainingDomain
    intervals: Mapping[str, FittedIntervals]

    def describe_scores(
        self, features: Array, scores: Mapping[str, Array], scale: MosScale = UNIT
    ) -> dict[str, Values]:
        """Columns of the scores table, each (B,): `out_of_domain`; intervals and percentiles of targets that have them.

        Args:
            features: (B, F) of the images, see `HeadConfig.feature_width`.
            scores: {target: (B,)} on [0, 1], clipped or not.
            scale: the MOS scale of the intervals. Percentiles are 0 to 100.
        """
        found = {"out_of_domain": self.domain.rank(self.domain.measure(features))}
        for target, intervals in self.intervals.items():
            column = np.asarray(scores[target], dtype=np.float64)
            ends = intervals.compute(column, found["out_of_domain"])
            found[f"{target}_low"], found[f"{target}_high"] = (scale.to_mos(end) for end in ends)
            found[f"{target}_percentile"] = intervals.rank(column)
        return found

    def to_tensors(self) -> dict[str, Array]:
        """All arrays by name, as a checkpoint stores them."""
        found = {f"domain.{name}": array for name, array in self.domain.to_tensors().items()}
        for target, fitted in self.intervals.items():
            numbers = [*fitted.expected.weights, fitted.expected.mean, fitted.quantile]
            found[f"{target}.spread"] = np.array(numbers, dtype=np.float32)
            found[f"{target}.known"] = fitted.known.astype(np.float32)
        return found

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Array]) -> Self:
        """Reads what `to_tensors` wrote; KeyError or ValueError where the tensors are not a calibration."""
        parts = {name.removeprefix("domain."): t for name, t in tensors.items() if name.startswith("domain.")}
        domain = TrainingDomain.from_tensors(parts)
        intervals = {}
        for target in TARGETS:
            if f"{target}.spread" in tensors:
                *weights, mean, quantile = tensors[f"{target}.spread"].astype(np.float64).tolist()
                known = tensors[f"{target}.known"].astype(np.float64)
                intervals[target] = FittedIntervals(ExpectedResidual(np.array(weights), mean), quantile, known)
        return cls(domain, intervals)


def fit_calibration(
    features: Array,
    prompts: Sequence[str],
    trained: Sequence[int],
    predicted: Mapping[str, Values],
    human: Mapping[str, Values],
    out_of_domain: Values | None = None,
) -> Calibration | None:
    """Fits the calibration of a model; None where it was trained on too few images or prompts, see `is_enough`.

    Args:
        features: (N, F) of all images.
        trained: the rows that the model was trained on.
        predicted: {target: (N,)} on [0, 1], by a model that was not trained on the image's prompt: this model, or one
            trained in the same way without the prompt. NaN where there is none.
        human: {target: (N,)} on [0, 1]; NaN where an image was not rated.
        out_of_domain: (N,) as measured by the models of `predicted`; where it is NaN, or None, this model measures it.
    """
    rows = list(trained)
    known_prompts = [prompts[row] for row in rows]
    if not is_enough(len(rows), known_prompts):
        return None
    domain, shares_trained = TrainingDomain.fit(features[rows], known_prompts)
    shares = domain.rank(domain.measure(features))
    shares[rows] = shares_trained
    if out_of_domain is not None:
        shares = np.where(np.isnan(out_of_domain), shares, out_of_domain)
    fitted = {target: FittedIntervals.fit(predicted[target], human[target], shares, prompts) for target in TARGETS}
    made = Calibration(domain, {target: found for target, found in fitted.items() if found is not None})
    # Rounded as a checkpoint stores it: saving and loading changes nothing.
    return Calibration.from_tensors(made.to_tensors())
