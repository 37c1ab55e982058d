"""Agreement between predictions and human scores, with bootstrap intervals clustered by prompt.

SciPy computes what it can. A metric that is not defined (n < 2, a constant side) is None with a reason, never NaN.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Values = NDArray[np.float64]
RESAMPLES = 1000


@dataclass(frozen=True)
class Metric:
    """One metric: its function of (predicted, target) and whether a larger value is better."""

    function: Callable[[Values, Values], float]
    higher_is_better: bool
    needs_spread: bool = True


def _srocc(predicted: Values, target: Values) -> float:
    return float(np.corrcoef(stats.rankdata(predicted), stats.rankdata(target))[0, 1])


def _plcc(predicted: Values, target: Values) -> float:
    return float(stats.pearsonr(predicted, target).statistic)


def _krocc(predicted: Values, target: Values) -> float:
    return float(stats.kendalltau(predicted, target).statistic)


def _rmse(predicted: Values, target: Values) -> float:
    return float(np.sqrt(np.mean((predicted - target) ** 2)))


METRICS: dict[str, Metric] = {
    "srocc": Metric(_srocc, higher_is_better=True),
    "plcc": Metric(_plcc, higher_is_better=True),
    "krocc": Metric(_krocc, higher_is_better=True),
    "rmse": Metric(_rmse, higher_is_better=False, needs_spread=False),
}


@dataclass(frozen=True)
class Estimate:
    """A metric's value with its 95% interval and n; value None comes with a reason."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    reason: str = ""


def undefined(name: str, predicted: Values, target: Values) -> str:
    """Why the metric is not defined on these values, or an empty string."""
    if len(predicted) < 2:
        return f"n = {len(predicted)}, at least 2 are needed"
    if not (np.isfinite(predicted).all() and np.isfinite(target).all()):
        return "some values are not finite"
    if METRICS[name].needs_spread:
        for label, values in (("predictions", predicted), ("human scores", target)):
            if np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())):
                return f"the {label} are constant"
    return ""


def value(name: str, predicted: Any, target: Any) -> float | None:
    """One metric of two sequences of equal length, or None where it is not defined."""
    p, t = np.asarray(predicted, dtype=np.float64), np.asarray(target, dtype=np.float64)
    return None if undefined(name, p, t) else METRICS[name].function(p, t)


def cluster_resamples(groups: Sequence[str], resamples: int = RESAMPLES, seed: int = 0) -> list[NDArray[np.int64]]:
    """Row indices of bootstrap samples that draw whole groups with replacement.

    A prompt's images share its difficulty, so rows are not independent; groups are (Cameron, Gelbach and Miller 2008).
    """
    rows: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    members = [np.array(indices) for indices in rows.values()]
    random = np.random.default_rng(seed)
    return [
        np.concatenate([members[i] for i in random.integers(len(members), size=len(members))]) for _ in range(resamples)
    ]


def interval(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """The 95% percentile interval; None where fewer than half of the resamples are defined."""
    defined = [v for v in values if v is not None]
    if len(defined) * 2 < len(values) or len(defined) < 2:
        return None, None
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def estimate(
    name: str, predicted: Any, target: Any, groups: Sequence[str], resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """A metric with its prompt-clustered bootstrap interval; rows where either side is NaN are left out."""
    p, t = np.asarray(predicted, dtype=np.float64), np.asarray(target, dtype=np.float64)
    kept = np.flatnonzero(~(np.isnan(p) | np.isnan(t)))
    p, t = p[kept], t[kept]
    if reason := undefined(name, p, t):
        return Estimate(None, None, None, len(p), reason)
    draws = cluster_resamples([groups[i] for i in kept.tolist()], resamples, seed)
    low, high = interval([value(name, p[rows], t[rows]) for rows in draws])
    return Estimate(METRICS[name].function(p, t), low, high, len(p))


def fold_mean(
    name: str,
    folds: Sequence[tuple[Values, Values, Sequence[str]]],
    numbers: Sequence[int] | None = None,
    resamples: int = RESAMPLES,
) -> tuple[Estimate, Values]:
    """The mean of a metric over folds, its interval from resampling groups within each fold.

    Args:
        name: the metric.
        folds: (predicted, target, groups) of each fold's reported part.
        numbers: which fold each one is (default: 0, 1, ...); the same fold under another seed has the same number and
            draws the same groups.

    Returns:
        (the estimate, the bootstrap draws (resamples,)); draws of two variants over the same folds are paired.
    """
    values, draws = [], np.zeros(resamples)
    for seed, (predicted, target, groups) in zip(numbers or range(len(folds)), folds, strict=True):
        point = value(name, predicted, target)
        if point is None:
            reason = undefined(name, np.asarray(predicted), np.asarray(target))
            return Estimate(None, None, None, sum(len(f[0]) for f in folds), f"fold {seed}: {reason}"), draws * np.nan
        values.append(point)
        resampled = [value(name, predicted[rows], target[rows]) for rows in cluster_resamples(groups, resamples, seed)]
        draws += np.array([np.nan if v is None else v for v in resampled]) / len(folds)
    low, high = interval([None if np.isnan(v) else float(v) for v in draws])
    return Estimate(float(np.mean(values)), low, high, sum(len(f[0]) for f in folds)), draws


def metric_rows(
    predictions: Mapping[str, tuple[Any, Any]],
    groups: Sequence[str],
    labels: Mapping[str, str],
    resamples: int = RESAMPLES,
) -> list[dict[str, Any]]:
    """Rows of the metrics table: every metric of every target.

    Args:
        predictions: {target's name: (predicted, human scores)}.
        groups: what the bootstrap draws, one for each row.
        labels: the columns `run`, `split` and `group` of these rows.
    """
    rows = []
    for target, (predicted, human) in predictions.items():
        for name in METRICS:
            found = estimate(name, predicted, human, groups, resamples)
            rows.append(
                {
                    **labels,
                    "target": target,
                    "metric": name,
                    "value": found.value,
                    "ci_low": found.low,
                    "ci_high": found.high,
                    "n": found.n,
                }
            )
    return rows
