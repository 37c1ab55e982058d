"""The metrics by name, with bootstrap intervals clustered by prompt.

SciPy computes what it can. A metric that is not defined (n < 2, a constant side) is None with a reason, never NaN.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from aigc_cli.metrics import formulas as agreement
from aigc_cli.metrics.bootstrap import Resamples, draw_counts, is_constant
from aigc_cli.metrics.formulas import Codes, Values

RESAMPLES = 1000
FEWEST_GROUPS = 5
UNTOLD = "can't tell at this n"
NO_INTERVAL = f"no interval: fewer than {FEWEST_GROUPS} prompts"
BOTH = ("predictions", "human scores")


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        function: of (predicted, target), arrays (n,); with `needs_groups` also of the rows' group numbers, and it
            returns (sums, weights) of each group, whose ratio of totals is the value.
        resampled: the same of every bootstrap sample at once; a metric within groups has it from `function`.
        needs_spread: the sides that must not be constant.
        needs_groups: the fewest rows that a group must have to count; 0 for a metric over all rows.
    """

    function: Callable[..., Any]
    resampled: Callable[[Resamples], Values] | None = None
    needs_spread: tuple[str, ...] = BOTH
    needs_groups: int = 0


def _logistic(of: Resamples) -> Values:
    """PLCC of every sample after the one map that all rows gave: to fit it a thousand times would change little."""
    return of.pearson(agreement.logistic(of.predicted, of.target), of.target)


def _rmse(of: Resamples) -> Values:
    return np.sqrt(of.mean((of.predicted - of.target) ** 2))


_within = partial(Metric, needs_spread=(), needs_groups=2)

METRICS: dict[str, Metric] = {
    "srocc": Metric(agreement.srocc, Resamples.spearman),
    "plcc": Metric(agreement.plcc, lambda of: of.pearson(of.predicted, of.target)),
    "plcc_logistic": Metric(agreement.plcc_logistic, _logistic),
    "krocc": Metric(agreement.krocc, Resamples.kendall),
    "pairwise": Metric(agreement.pairwise, Resamples.pairwise, needs_spread=("human scores",)),
    "rmse": Metric(agreement.rmse, _rmse, needs_spread=()),
    "best_of_n": _within(agreement.best_of_n),
    "best_of_n_chance": _within(agreement.best_of_n_chance),
    "regret": _within(agreement.regret),
    "within_srocc": _within(agreement.within_srocc, needs_groups=3),
    "within_pairwise": _within(agreement.within_pairwise),
}


@dataclass(frozen=True)
class Estimate:
    """A metric's value with its 95% interval and n; what is None has a reason.

    n counts the rows, for a metric within groups the groups that count.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    reason: str = ""


Fold = tuple[Any, Any, Sequence[str]]  # predicted, target, group of each row


def undefined(name: str, predicted: Values, target: Values, codes: Codes | None = None) -> str:
    """Why the metric is not defined on these values, or an empty string; without `codes` all rows are one group."""
    metric = METRICS[name]
    if len(predicted) < 2:
        return f"n = {len(predicted)}, at least 2 are needed"
    if not (np.isfinite(predicted).all() and np.isfinite(target).all()):
        return "some values are not finite"
    for label, side in zip(BOTH, (predicted, target), strict=True):
        if label in metric.needs_spread and is_constant(side):
            return f"the {label} are constant"
    if metric.needs_groups and not metric.function(predicted, target, _or_one(codes, predicted))[1].any():
        return f"no prompt has {metric.needs_groups} images with different scores"
    return ""


def value(name: str, predicted: Any, target: Any, codes: Codes | None = None) -> float | None:
    """One metric of two sequences of equal length, or None where it is not defined.

    Args:
        codes: the group of each row as a number from 0, for metrics within groups; None: all rows are one group.
    """
    p, t = np.asarray(predicted, dtype=np.float64), np.asarray(target, dtype=np.float64)
    return None if undefined(name, p, t, codes) else _defined(METRICS[name], p, t, _or_one(codes, p))


def _or_one(codes: Codes | None, rows: Values) -> Codes:
    return np.zeros(len(rows), dtype=np.int64) if codes is None else codes


def _defined(metric: Metric, predicted: Values, target: Values, codes: Codes) -> float:
    if not metric.needs_groups:
        return float(metric.function(predicted, target))
    totals, weights = metric.function(predicted, target, codes)
    return float(totals.sum() / weights.sum())


def interval(values: Any) -> tuple[float | None, float | None]:
    """The 95% percentile interval; None where fewer than half of the resamples are defined (not None nor NaN)."""
    drawn = np.asarray(values, dtype=np.float64)
    defined = drawn[~np.isnan(drawn)]
    if len(defined) * 2 < len(drawn) or len(defined) < 2:
        return None, None
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def estimate(
    name: str, predicted: Any, target: Any, groups: Sequence[str], resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """A metric with its prompt-clustered bootstrap interval; rows where either side is NaN are left out."""
    return _mean(name, _drawn([(predicted, target, groups)], resamples, seed), [""])[0]


def verdict(difference: Estimate) -> str:
    """better, worse or can't tell at this n: whether the interval of a difference leaves zero out."""
    low, high = difference.low, difference.high
    if low is None or high is None or low <= 0 <= high:
        return UNTOLD
    return "better" if low > 0 else "worse"


def mean_estimate(values: Any, groups: Sequence[str], resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """The mean of values (n,), such as paired differences, with its interval from resampling whole groups.

    Args:
        groups: the group of each value, for example its prompt; fewer than five give no interval.
    """
    side = np.asarray(values, dtype=np.float64)
    if not len(side):
        return Estimate(None, None, None, 0, "n = 0")
    names, codes = np.unique(np.asarray(groups, dtype=object), return_inverse=True)
    if len(names) < FEWEST_GROUPS:
        return Estimate(float(side.mean()), None, None, len(side), NO_INTERVAL)
    drawn = Resamples(side, side, codes, draw_counts(len(names), resamples, seed)).mean(side)
    return Estimate(float(side.mean()), *interval(drawn), len(side))


def fold_mean(
    name: str, folds: Sequence[Fold], numbers: Sequence[int] | None = None, resamples: int = RESAMPLES
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
    numbers = list(numbers or range(len(folds)))
    samples = [_drawn([fold], resamples, number)[0] for number, fold in zip(numbers, folds, strict=True)]
    distinct = dict(zip(numbers, (sample.counts.shape[1] for sample in samples), strict=True))
    return _mean(name, samples, [f"fold {number}: " for number in numbers], sum(distinct.values()))


def _drawn(parts: Sequence[Fold], resamples: int, seed: int) -> list[Resamples]:
    """Rows of each part that have both sides; a sample draws the same groups for all parts, whose groups it joins."""
    number: dict[str, int] = {}
    cleaned = []
    for predicted, target, groups in parts:
        p, t = np.asarray(predicted, dtype=np.float64), np.asarray(target, dtype=np.float64)
        kept = np.flatnonzero(~(np.isnan(p) | np.isnan(t)))
        codes = [number.setdefault(groups[row], len(number)) for row in kept.tolist()]
        cleaned.append((p[kept], t[kept], np.array(codes, dtype=np.int64)))
    counts = draw_counts(len(number), resamples, seed)
    return [Resamples(p, t, codes, counts) for p, t, codes in cleaned]


def _mean(
    name: str, samples: Sequence[Resamples], labels: Sequence[str], groups: int | None = None
) -> tuple[Estimate, Values]:
    """The mean of a metric over parts and its bootstrap draws.

    `groups` is how many groups are drawn in all when each part draws its own; None when all parts draw the same.
    """
    metric = METRICS[name]
    values, counted, draws = [], [], np.zeros(len(samples[0].counts))
    for sample, label in zip(samples, labels, strict=True):
        p, t, codes = sample.predicted, sample.target, sample.codes
        if reason := undefined(name, p, t, codes):
            rows = 0 if metric.needs_groups else sum(len(s.codes) for s in samples)
            return Estimate(None, None, None, rows, label + reason), draws * np.nan
        if metric.needs_groups:
            totals, weights = metric.function(p, t, codes)
            drawn, n = sample.ratio(totals, weights), int(np.count_nonzero(weights))
        else:
            assert metric.resampled is not None
            drawn, n = metric.resampled(sample), len(p)
        values.append(_defined(metric, p, t, codes))
        counted.append(n)
        draws += drawn / len(samples)
    point, n = float(np.mean(values)), sum(counted)
    clusters = samples[0].counts.shape[1] if groups is None else groups
    if metric.needs_groups:
        clusters = max(counted) if groups is None else n
    if clusters < FEWEST_GROUPS:
        return Estimate(point, None, None, n, NO_INTERVAL), draws
    low, high = interval(draws)
    return Estimate(point, low, high, n, "no interval: not defined in most resamples" if low is None else ""), draws


Part = tuple[Mapping[str, tuple[Any, Any]], Sequence[str]]  # {target's name: (predicted, human)}, group of each row


def metric_rows(
    predictions: Mapping[str, tuple[Any, Any]],
    groups: Sequence[str],
    labels: Mapping[str, str],
    resamples: int = RESAMPLES,
) -> list[dict[str, Any]]:
    """Rows of the metrics table: every metric of every target.

    Args:
        predictions: {target's name: (predicted, human scores)}.
        groups: the prompts: what the bootstrap draws and what images are ranked within, one for each row.
        labels: the columns `run`, `split` and `group` of these rows.
    """
    return crossval_rows([[(predictions, groups)]], labels, resamples)


def crossval_rows(
    repeats: Sequence[Sequence[Part]], labels: Mapping[str, str], resamples: int = RESAMPLES
) -> list[dict[str, Any]]:
    """Rows of the metrics table: every metric of every target as its mean over the folds of all repeats.

    A sample draws the same prompts in every fold and repeat, since a prompt may be in several. Images are ranked
    within a prompt over the folds of one repeat together, so that a prompt which is split still has all its images.

    Args:
        repeats: of each repeat, its folds: see `metric_rows` for a fold's predictions and groups. n is one repeat's.
        labels: the columns `run`, `split` and `group` of these rows.
    """
    rows = []
    for target in repeats[0][0][0]:
        folds = [[(*found[target], groups) for found, groups in parts] for parts in repeats]
        one = [_joined(parts) for parts in folds]
        apart = _drawn([fold for parts in folds for fold in parts], resamples, 0)
        pooled = apart if len(apart) == len(one) else _drawn(one, resamples, 0)
        whole = [f"repeat {r}: " for r in range(len(one))] if len(one) > 1 else [""]
        places = [f"fold {f}, repeat {r}: " for r, parts in enumerate(folds) for f in range(len(parts))]
        for name, metric in METRICS.items():
            samples = pooled if metric.needs_groups else apart
            found, _ = _mean(name, samples, whole if samples is pooled else places)
            found = dataclasses.replace(found, n=found.n // len(repeats))
            rows.append({**labels, **_columns(target, name, found)})
    return rows


def interval_rows(
    intervals: Mapping[str, tuple[Any, Any]],
    human: Mapping[str, Any],
    groups: Sequence[str],
    labels: Mapping[str, str],
    resamples: int = RESAMPLES,
) -> list[dict[str, Any]]:
    """Rows of the metrics table: how often 90% intervals hold (`coverage90`), and how wide they are (`width90`).

    Args:
        intervals: {target: (low, high)}, each (n,) in MOS units, NaN where there is none.
        human: {target: (n,)} in MOS units, NaN where an image was not rated.
        groups: the prompts, one for each row.
        labels: the columns `run`, `split` and `group` of these rows.
    """
    rows = []
    for target, (low, high) in intervals.items():
        given = np.asarray(human[target], dtype=np.float64)
        chosen = np.flatnonzero(~(np.isnan(given) | np.isnan(low)))
        if not len(chosen):
            continue
        names, held = [groups[i] for i in chosen.tolist()], (low <= given) & (given <= high)
        for name, values in (("coverage90", held), ("width90", high - low)):
            found = mean_estimate(values[chosen], names, resamples)
            rows.append({**labels, **_columns(target, name, found)})
    return rows


def _joined(folds: Sequence[Fold]) -> Fold:
    """Several folds as one."""
    sides = [np.concatenate([np.asarray(fold[side], dtype=np.float64) for fold in folds]) for side in (0, 1)]
    return sides[0], sides[1], [group for fold in folds for group in fold[2]]


def _columns(target: str, metric: str, found: Estimate) -> dict[str, Any]:
    return {
        "target": target,
        "metric": metric,
        "value": found.value,
        "ci_low": found.low,
        "ci_high": found.high,
        "n": found.n,
        "reason": found.reason,
    }
