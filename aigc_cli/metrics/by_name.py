"""All metrics by name, with bootstrap intervals clustered by prompt.

A metric that is not defined (n < 2, a constant side) is None with a reason, never NaN.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from aigc_cli.metrics import formulas
from aigc_cli.metrics.bootstrap import Resamples, draw_counts, is_constant
from aigc_cli.metrics.formulas import Codes, Values

RESAMPLES = 1000  # bootstrap samples
FEWEST_GROUPS = 5
UNDECIDED = "can't tell at this n"
NO_INTERVAL = f"no interval: fewer than {FEWEST_GROUPS} prompts"
BOTH = ("predictions", "human scores")


@dataclass(frozen=True)
class Metric:
    """How one metric is computed.

    Attributes:
        function: the formula, a function of (predicted, target), arrays (n,). A metric within groups also takes the
            group numbers (n,) and returns (sums, weights) by group; its value is sum(sums) / sum(weights).
        resample: the value in every bootstrap sample (samples,); None for metrics within groups, which use `function`.
        needs_spread: the sides that must not be constant.
        needs_groups: the fewest rows with which a group counts; 0 for a metric over all rows.
    """

    function: Callable[..., Any]
    resample: Callable[[Resamples], Values] | None = None
    needs_spread: tuple[str, ...] = BOTH
    needs_groups: int = 0


def _resample_logistic(of: Resamples) -> Values:
    """PLCC of every sample after one map that is fitted on all rows: a fit per sample would change little."""
    return of.compute_pearson(formulas.fit_logistic(of.predicted, of.target), of.target)


_GroupMetric = partial(Metric, needs_spread=(), needs_groups=2)

METRICS: dict[str, Metric] = {
    "srocc": Metric(formulas.srocc, Resamples.compute_spearman),
    "plcc": Metric(formulas.plcc, lambda of: of.compute_pearson(of.predicted, of.target)),
    "plcc_logistic": Metric(formulas.plcc_logistic, _resample_logistic),
    "krocc": Metric(formulas.krocc, Resamples.compute_kendall),
    "pairwise": Metric(formulas.pairwise, Resamples.compute_pairwise, needs_spread=("human scores",)),
    "rmse": Metric(
        formulas.rmse, lambda of: np.sqrt(of.compute_mean((of.predicted - of.target) ** 2)), needs_spread=()
    ),
    "best_of_n": _GroupMetric(formulas.best_of_n),
    "best_of_n_chance": _GroupMetric(formulas.best_of_n_chance),
    "regret": _GroupMetric(formulas.regret),
    "within_srocc": _GroupMetric(formulas.within_srocc, needs_groups=3),
    "within_pairwise": _GroupMetric(formulas.within_pairwise),
}


@dataclass(frozen=True)
class Estimate:
    """A metric's value with its 95% interval.

    Attributes:
        value: None where the metric is not defined.
        low, high: the ends of the interval; None where there is none.
        n: the number of rows; for a metric within groups the number of groups that count.
        reason: why something is None, else empty.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    reason: str = ""

    def to_columns(self) -> dict[str, Any]:
        """All fields by their names in the metrics table."""
        columns = ("value", "ci_low", "ci_high", "n", "reason")
        return dict(zip(columns, dataclasses.astuple(self), strict=True))


Fold = tuple[Any, Any, Sequence[str]]  # predicted, target, group of each row
Draws = Values  # a metric of every bootstrap sample, (resamples,)


def explain_undefined(name: str, predicted: Values, target: Values, codes: Codes | None = None) -> str:
    """Why the metric `name` is not defined on these values, else an empty string; metrics within groups need `codes`.

    Example:
        >>> explain_undefined("srocc", np.array([1.0, 1.0]), np.array([1.0, 2.0]))
        'the predictions are constant'
    """
    metric = METRICS[name]
    if len(predicted) < 2:
        return f"n = {len(predicted)}, at least 2 are needed"
    if not (np.isfinite(predicted).all() and np.isfinite(target).all()):
        return "some values are not finite"
    for label, side in zip(BOTH, (predicted, target), strict=True):
        if label in metric.needs_spread and is_constant(side):
            return f"the {label} are constant"
    if metric.needs_groups and not metric.function(predicted, target, codes)[1].any():
        return f"no prompt has {metric.needs_groups} images with different scores"
    return ""


def compute_metric(name: str, predicted: Any, target: Any, codes: Codes | None = None) -> float | None:
    """The metric `name` of two sequences of equal length; None where it is not defined.

    Metrics within groups use `codes`, the group of each row as an integer from 0; None for one group of all rows.
    """
    p, t = np.asarray(predicted, dtype=np.float64), np.asarray(target, dtype=np.float64)
    codes = np.zeros(len(p), dtype=np.int64) if codes is None else codes
    return None if explain_undefined(name, p, t, codes) else _evaluate(METRICS[name], p, t, codes)


def _evaluate(metric: Metric, predicted: Values, target: Values, codes: Codes) -> float:
    if not metric.needs_groups:
        return float(metric.function(predicted, target))
    totals, weights = metric.function(predicted, target, codes)
    return float(totals.sum() / weights.sum())


def compute_interval(values: Any) -> tuple[float | None, float | None]:
    """The 95% percentile interval of bootstrap draws (resamples,).

    A draw of None or NaN is not defined. The interval is (None, None) where fewer than half of the draws are defined.
    """
    drawn = np.asarray(values, dtype=np.float64)
    defined = drawn[~np.isnan(drawn)]
    if len(defined) * 2 < len(drawn) or len(defined) < 2:
        return None, None
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def estimate_metric(
    name: str, predicted: Any, target: Any, groups: Sequence[str], resamples: int | None = None, seed: int = 0
) -> Estimate:
    """The metric `name` with its bootstrap interval; rows where either side is NaN are left out.

    Args:
        predicted, target: (n,).
        groups: the group of each row, for example its prompt. Samples draw whole groups.
        resamples, seed: the number of bootstrap samples (None for `RESAMPLES`) and their seed.

    Example:
        >>> estimate = estimate_metric("plcc", [1, 2, 3, 4, 5, 7], [1, 3, 2, 4, 5, 6], list("abcdef"))
        >>> round(estimate.value, 3), round(estimate.low, 3), round(estimate.high, 3), estimate.n
        (0.94, 0.625, 1.0, 6)
    """
    return _average_parts(name, _resample([(predicted, target, groups)], resamples, seed), [""])[0]


def judge_difference(difference: Estimate) -> str:
    """`better` or `worse` if the interval of the difference excludes zero, else `UNDECIDED`.

    Example:
        >>> judge_difference(Estimate(0.1, 0.02, 0.18, n=50))
        'better'
    """
    low, high = difference.low, difference.high
    if low is None or high is None or low <= 0 <= high:
        return UNDECIDED
    return "better" if low > 0 else "worse"


def estimate_mean(values: Any, groups: Sequence[str], resamples: int | None = None, seed: int = 0) -> Estimate:
    """The mean of finite values (n,), for example paired differences, with its bootstrap interval over groups.

    Fewer than five groups give no interval. The other arguments are those of `estimate_metric`.
    """
    side = np.asarray(values, dtype=np.float64)
    if not len(side):
        return Estimate(None, None, None, 0, "n = 0")
    names, codes = np.unique(np.asarray(groups, dtype=object), return_inverse=True)
    if len(names) < FEWEST_GROUPS:
        return Estimate(float(side.mean()), None, None, len(side), NO_INTERVAL)
    drawn = Resamples(side, side, codes, draw_counts(len(names), resamples or RESAMPLES, seed)).compute_mean(side)
    return Estimate(float(side.mean()), *compute_interval(drawn), len(side))


def estimate_fold_mean(
    name: str, folds: Sequence[Fold], labels: Sequence[str] | None = None, resamples: int | None = None
) -> tuple[Estimate, Draws]:
    """The mean of a metric over folds, with its bootstrap interval clustered by prompt.

    A sample draws the same prompts in every fold.

    Args:
        folds: (predicted, target, groups) of each fold's reported part.
        labels: names of the folds, for the reason why a metric is not defined; None for `fold 0`, `fold 1`, ...

    Returns:
        (the estimate, the bootstrap draws (resamples,)). The draws of two variants over the same folds are paired.
    """
    names = labels or [f"fold {number}" for number in range(len(folds))]
    return _average_parts(name, _resample(folds, resamples, 0), [f"{label}: " for label in names])


def _resample(parts: Sequence[Fold], resamples: int | None, seed: int) -> list[Resamples]:
    """Bootstrap samples of each part, over its rows that have both sides; all parts share their draws of groups."""
    number: dict[str, int] = {}
    cleaned = []
    for predicted, target, groups in parts:
        p, t = np.asarray(predicted, dtype=np.float64), np.asarray(target, dtype=np.float64)
        kept = np.flatnonzero(~(np.isnan(p) | np.isnan(t)))
        codes = [number.setdefault(groups[row], len(number)) for row in kept.tolist()]
        cleaned.append((p[kept], t[kept], np.array(codes, dtype=np.int64)))
    counts = draw_counts(len(number), resamples or RESAMPLES, seed)
    return [Resamples(p, t, codes, counts) for p, t, codes in cleaned]


def _average_parts(name: str, samples: Sequence[Resamples], labels: Sequence[str]) -> tuple[Estimate, Draws]:
    """The mean of a metric over parts that share their draws of groups, and its bootstrap draws."""
    metric = METRICS[name]
    values, counted, draws = [], [], np.zeros(len(samples[0].counts))
    for sample, label in zip(samples, labels, strict=True):
        p, t, codes = sample.predicted, sample.target, sample.codes
        if reason := explain_undefined(name, p, t, codes):
            rows = 0 if metric.needs_groups else sum(len(s.codes) for s in samples)
            return Estimate(None, None, None, rows, label + reason), draws * np.nan
        if metric.needs_groups:
            totals, weights = metric.function(p, t, codes)
            drawn, n = sample.compute_ratio(totals, weights), int(np.count_nonzero(weights))
        else:
            assert metric.resample is not None
            drawn, n = metric.resample(sample), len(p)
        values.append(_evaluate(metric, p, t, codes))
        counted.append(n)
        draws += drawn / len(samples)
    point, n = float(np.mean(values)), sum(counted)
    clusters = max(counted) if metric.needs_groups else samples[0].counts.shape[1]
    if clusters < FEWEST_GROUPS:
        return Estimate(point, None, None, n, NO_INTERVAL), draws
    low, high = compute_interval(draws)
    return Estimate(point, low, high, n, "no interval: not defined in most resamples" if low is None else ""), draws


RatedPart = tuple[Mapping[str, tuple[Any, Any]], Sequence[str]]  # {target: (predicted, human)}, group of each row


def make_metric_rows(
    predictions: Mapping[str, tuple[Any, Any]],
    groups: Sequence[str],
    labels: Mapping[str, str],
    resamples: int | None = None,
) -> list[dict[str, Any]]:
    """Rows of the metrics table: every metric of every target.

    Args:
        predictions: {target: (predicted, human scores)}, each (n,).
        groups: the prompt of each row. The bootstrap draws prompts, and metrics within groups compare their images.
        labels: the columns `run`, `split` and `group` of these rows.
    """
    return make_crossval_rows([[(predictions, groups)]], labels, resamples)


def make_crossval_rows(
    repeats: Sequence[Sequence[RatedPart]], labels: Mapping[str, str], resamples: int | None = None
) -> list[dict[str, Any]]:
    """Rows of the metrics table: the mean of every metric of every target over the folds of all repeats.

    A sample draws the same prompts in every fold and repeat, since a prompt may be in several. A metric within groups
    compares a prompt's images over all folds of a repeat, so that a prompt in several folds keeps all its images.

    Args:
        repeats: the folds of each repeat; a fold is (predictions, groups) as in `make_metric_rows`.

    Returns:
        one row for each target and metric; its n is that of one repeat.
    """
    rows = []
    for target in repeats[0][0][0]:
        folds = [[(*found[target], groups) for found, groups in parts] for parts in repeats]
        one = [_pool_folds(parts) for parts in folds]
        apart = _resample([fold for parts in folds for fold in parts], resamples, 0)
        pooled = apart if len(apart) == len(one) else _resample(one, resamples, 0)
        whole = [f"repeat {r}: " for r in range(len(one))] if len(one) > 1 else [""]
        places = [f"fold {f}, repeat {r}: " for r, parts in enumerate(folds) for f in range(len(parts))]
        for name, metric in METRICS.items():
            samples = pooled if metric.needs_groups else apart
            found, _ = _average_parts(name, samples, whole if samples is pooled else places)
            found = dataclasses.replace(found, n=found.n // len(repeats))
            rows.append({**labels, "target": target, "metric": name, **found.to_columns()})
    return rows


def make_interval_rows(
    intervals: Mapping[str, tuple[Any, Any]],
    human: Mapping[str, Any],
    groups: Sequence[str],
    labels: Mapping[str, str],
    resamples: int | None = None,
) -> list[dict[str, Any]]:
    """Rows of the metrics table: the share of images inside their 90% interval, and the mean width of the intervals.

    Args:
        intervals: {target: (low, high)}, each (n,) in MOS; NaN where an image has none.
        human: {target: (n,)} in MOS; NaN where an image was not rated.
        groups, labels: as in `make_metric_rows`.

    Returns:
        rows of the metrics `coverage90` and `width90` for each target that has both an interval and a rating.
    """
    rows = []
    for target, (low, high) in intervals.items():
        given = np.asarray(human[target], dtype=np.float64)
        chosen = np.flatnonzero(~(np.isnan(given) | np.isnan(low)))
        if not len(chosen):
            continue
        names, held = [groups[i] for i in chosen.tolist()], (low <= given) & (given <= high)
        for name, values in (("coverage90", held), ("width90", high - low)):
            found = estimate_mean(values[chosen], names, resamples)
            rows.append({**labels, "target": target, "metric": name, **found.to_columns()})
    return rows


def _pool_folds(folds: Sequence[Fold]) -> Fold:
    sides = [np.concatenate([np.asarray(fold[side], dtype=np.float64) for fold in folds]) for side in (0, 1)]
    return sides[0], sides[1], [group for fold in folds for group in fold[2]]
