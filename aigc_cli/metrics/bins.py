"""Bins of images by prediction: they show whether the mean human score equals the mean prediction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aigc_cli.metrics.by_name import Estimate, estimate_mean

MAX_BINS = 10
IMAGES_PER_BIN = 15  # fewer bins are made where a bin would have fewer images


@dataclass(frozen=True)
class Bin:
    """Images with similar predictions.

    Attributes:
        predicted: the mean prediction, in MOS.
        human: the mean human score with its 95% bootstrap interval over prompts; n is the number of images.
        low, high: the mean lower and upper ends of the predicted intervals; None without such intervals.
    """

    predicted: float
    human: Estimate
    low: float | None = None
    high: float | None = None


def make_bins(predicted: Any, human: Any, groups: Sequence[str], low: Any = None, high: Any = None) -> list[Bin]:
    """At most ten bins of about equal size, by rising prediction; equal predictions share a bin.

    Args:
        predicted, human: (n,) in MOS, finite.
        groups: the prompt of each image.
        low, high: the ends of the images' predicted intervals, (n,), NaN where an image has none; None without any.
    """
    p, h = np.asarray(predicted, dtype=np.float64), np.asarray(human, dtype=np.float64)
    if not len(p):
        return []
    edges = np.unique(np.quantile(p, np.linspace(0, 1, max(1, min(MAX_BINS, len(p) // IMAGES_PER_BIN)) + 1)))
    numbers = np.clip(np.searchsorted(edges, p, side="right") - 1, 0, max(0, len(edges) - 2))
    low, high = (np.full(len(p), np.nan) if side is None else np.asarray(side, np.float64) for side in (low, high))
    known, bins = ~(np.isnan(low) | np.isnan(high)), []
    for number in np.unique(numbers):
        rows = np.flatnonzero(numbers == number)
        mean = estimate_mean(h[rows], [groups[row] for row in rows.tolist()])
        inside = rows[known[rows]]
        ends = [float(side[inside].mean()) for side in (low, high)] if len(inside) else []
        bins.append(Bin(float(p[rows].mean()), mean, *ends))
    return bins
