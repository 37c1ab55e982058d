"""Predictions in bins of equal numbers, to see whether people's mean score is what was predicted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aigc_cli.metrics.by_name import Estimate, mean_estimate

MOST, PER_BIN = 10, 15  # bins, and the images that one should have


@dataclass(frozen=True)
class Bin:
    """Images whose predictions are near each other.

    Attributes:
        predicted: their mean prediction, in MOS.
        human: the mean of people's scores with its 95% bootstrap interval over prompts; n is how many images.
        low, high: the means of their predicted intervals' ends; None without such intervals.
    """

    predicted: float
    human: Estimate
    low: float | None = None
    high: float | None = None


def binned(predicted: Any, human: Any, groups: Sequence[str], low: Any = None, high: Any = None) -> list[Bin]:
    """At most ten bins with about as many images each, by rising prediction; equal predictions share a bin.

    Args:
        predicted, human: (n,) in MOS, finite.
        groups: the prompt of each image.
        low, high: ends of each image's predicted interval, (n,); NaN where there is none. None: no intervals at all.
    """
    p, h = np.asarray(predicted, dtype=np.float64), np.asarray(human, dtype=np.float64)
    if not len(p):
        return []
    edges = np.unique(np.quantile(p, np.linspace(0, 1, max(1, min(MOST, len(p) // PER_BIN)) + 1)))
    numbers = np.clip(np.searchsorted(edges, p, side="right") - 1, 0, max(0, len(edges) - 2))
    found = []
    for number in np.unique(numbers):
        rows = np.flatnonzero(numbers == number)
        mean = mean_estimate(h[rows], [groups[row] for row in rows.tolist()])
        found.append(Bin(float(p[rows].mean()), mean, *_interval(rows, low, high)))
    return found


def _interval(rows: Any, low: Any, high: Any) -> tuple[float | None, float | None]:
    """Mean ends of the rows that have an interval."""
    if low is None or high is None:
        return None, None
    ends = [np.asarray(side, dtype=np.float64)[rows] for side in (low, high)]
    known = ~(np.isnan(ends[0]) | np.isnan(ends[1]))
    return (float(ends[0][known].mean()), float(ends[1][known].mean())) if known.any() else (None, None)
