"""The formulas of all metrics, over all rows and within prompts.

Each takes predictions and human scores as float64 arrays (n,). The metrics within groups also take the group of each
row as an integer from 0, (n,). No formula checks its input: `metrics.by_name.explain_undefined` says beforehand whether
a metric is defined. SciPy takes a second to import and is imported by the functions that need it; correlations of
values and of ranks do without it.
"""

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Codes = NDArray[np.int64]
MIN_LOGISTIC_ROWS = 5  # a curve with four parameters passes through any four points


def srocc(predicted: Values, target: Values) -> float:
    """Spearman's rank correlation, in [-1, 1]; equal values share their average rank."""
    return plcc(rank(predicted), rank(target))


def rank(values: Values) -> Values:
    """The ranks (n,) of values (n,) from 1; equal values share their average rank.

    Example:
        >>> rank(np.array([5.0, 1.0, 5.0])).tolist()
        [2.5, 1.0, 2.5]
    """
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place])


def plcc(predicted: Values, target: Values) -> float:
    """Pearson's linear correlation, in [-1, 1]."""
    return float(np.corrcoef(predicted, target)[0, 1])


def krocc(predicted: Values, target: Values) -> float:
    """Kendall's rank correlation tau-b, in [-1, 1]."""
    from scipy import stats

    return float(stats.kendalltau(predicted, target).statistic)


def rmse(predicted: Values, target: Values) -> float:
    """Root mean squared error, in the unit of the scores."""
    return float(np.sqrt(np.mean((predicted - target) ** 2)))


def pairwise(predicted: Values, target: Values) -> float:
    """The share of pairs that the predictions order as people do, in [0, 1].

    Only pairs with different human scores count. Equal predictions count half. With C concordant and D discordant
    pairs out of P that count, the share is 1/2 + (C - D) / (2 P). C - D is a whole number and follows from tau-b.

    Example:
        >>> round(pairwise(np.array([1.0, 2.0, 2.0]), np.array([1.0, 2.0, 3.0])), 3)  # two of three pairs, and one tie
        0.833
    """
    ordered_p, ordered_t = _count_untied_pairs(predicted), _count_untied_pairs(target)
    if ordered_p == 0:
        return 0.5
    excess = round(krocc(predicted, target) * np.sqrt(ordered_p * ordered_t))
    return float(0.5 + 0.5 * excess / ordered_t)


def _count_untied_pairs(values: Values) -> float:
    sizes = np.unique(values, return_counts=True)[1].astype(np.float64)
    return float((len(values) ** 2 - (sizes**2).sum()) / 2)


def fit_logistic(predicted: Values, target: Values) -> Values:
    """Predictions after the usual monotone map onto human scores: PLCC alone punishes every curved relation.

    f(x) = b2 + (b1 - b2) / (1 + exp(-(x - b3) / |b4|)), fitted by least squares (VQEG, Final report on the validation
    of objective models of video quality assessment, 2000). b1 and b2 only shift and scale, which changes no
    correlation. The least squares fit is therefore the largest correlation over b3 and b4. f always rises, so a
    negative correlation stays negative. In standard deviations of x, b3 is within 10 of the mean, and |b4| is between
    0.01 (a step) and 10 (a line). The search starts at two values of b4 and is deterministic.

    Returns:
        (n,) 1 / (1 + exp(-(x - b3) / |b4|)). The predictions themselves where there are fewer than 5 rows, where the
        fit fails, and where it correlates less than a straight line: the result is never worse than linear.

    Example:
        >>> x, y = np.arange(20.0), 1 / (1 + np.exp(8 - np.arange(20.0)))
        >>> round(plcc(x, y), 3), round(plcc(fit_logistic(x, y), y), 3)
        (0.928, 1.0)
    """
    from scipy import optimize, special

    if len(predicted) < MIN_LOGISTIC_ROWS:
        return predicted
    x, y = ((side - side.mean()) / side.std() for side in (predicted, target))
    linear = float(np.mean(x * y))

    def curve(b: Values) -> Values:
        return np.asarray(special.expit((x - b[0]) * np.exp(-b[1])))

    def loss(b: Values) -> float:
        z = curve(b)
        spread = float(z.std())
        return -float(np.mean((z - z.mean()) * y)) / spread * np.sign(linear) if spread > 1e-9 else 1.0

    bounds = [(-10.0, 10.0), (np.log(0.01), np.log(10.0))]
    starts = [np.array([0.0, np.log(width)]) for width in (0.25, 1.0)]
    fits = [optimize.minimize(loss, start, method="Nelder-Mead", bounds=bounds) for start in starts]
    best = min(fits, key=lambda fit: float(fit.fun))
    return curve(best.x) if best.fun < -abs(linear) else predicted


def plcc_logistic(predicted: Values, target: Values) -> float:
    """PLCC of the predictions that `fit_logistic` returns, in [-1, 1]."""
    return plcc(fit_logistic(predicted, target), target)


# --- within groups: each returns (sums, weights) by group, arrays (G,); the metric is sum(sums) / sum(weights)


def _find_best(values: Values, codes: Codes) -> tuple[NDArray[np.bool_], Values]:
    """(whether each row has the largest value of its group (n,), that value (G,))."""
    largest = np.full(codes.max(initial=-1) + 1, -np.inf)
    np.maximum.at(largest, codes, values)
    largest[np.isneginf(largest)] = 0  # a group number without rows
    return values == largest[codes], largest


def _average_rows(values: Values, codes: Codes, rows: NDArray[np.bool_]) -> Values:
    """The mean of `values` over the marked rows of each group (G,)."""
    return np.asarray(np.bincount(codes[rows], values[rows]) / np.maximum(np.bincount(codes[rows]), 1))


def _has_choice(target: Values, codes: Codes) -> Values:
    """1 for a group whose human scores differ, 0 for the others: there is nothing to choose between (G,)."""
    return np.asarray(_find_best(target, codes)[1] > -_find_best(-target, codes)[1], dtype=np.float64)


def best_of_n(predicted: Values, target: Values, codes: Codes) -> tuple[Values, Values]:
    """How often the row with the highest prediction has the highest human score.

    Rows that share the highest prediction are picked at random: the expected value is returned. A pick is right if it
    has the highest human score, alone or with others. Groups with equal human scores do not count.
    """
    counted = _has_choice(target, codes)
    right = _find_best(target, codes)[0].astype(np.float64)
    return counted * _average_rows(right, codes, _find_best(predicted, codes)[0]), counted


def best_of_n_chance(predicted: Values, target: Values, codes: Codes) -> tuple[Values, Values]:
    """`best_of_n` of a random pick, over the same groups. The predictions have no influence."""
    return best_of_n(np.zeros_like(predicted), target, codes)


def regret(predicted: Values, target: Values, codes: Codes) -> tuple[Values, Values]:
    """The highest human score of a group minus that of the row with the highest prediction, in the unit of the scores.

    It is over the same groups as `best_of_n`; rows that share the highest prediction are averaged.
    """
    counted = _has_choice(target, codes)
    lost = _find_best(target, codes)[1] - _average_rows(target, codes, _find_best(predicted, codes)[0])
    return counted * lost, counted


def within_srocc(predicted: Values, target: Values, codes: Codes) -> tuple[Values, Values]:
    """SROCC within each group of at least 3 rows in which neither side is constant."""
    sizes = np.bincount(codes)
    x, y = (_rank_within(side, codes) for side in (predicted, target))
    spread = np.sqrt(np.bincount(codes, x * x) * np.bincount(codes, y * y))
    counted = (sizes >= 3) & (spread > 0)
    return np.where(counted, np.bincount(codes, x * y) / np.where(counted, spread, 1), 0.0), counted.astype(np.float64)


def _rank_within(values: Values, codes: Codes) -> Values:
    """The rank of each row within its group (ties averaged), minus the group's mean rank."""
    dense = np.unique(values, return_inverse=True)[1]
    by_group = np.asarray(codes * (len(values) + 1) + dense, dtype=np.float64)
    ranks = rank(by_group)  # a group's ranks are only shifted
    return np.asarray(ranks - (np.bincount(codes, ranks) / np.maximum(np.bincount(codes), 1))[codes])


def within_pairwise(predicted: Values, target: Values, codes: Codes) -> tuple[Values, Values]:
    """`pairwise` over the pairs within groups: (pairs ordered as people do, pairs with different human scores).

    Example:
        >>> right, pairs = within_pairwise(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]), np.zeros(3, dtype=int))
        >>> right.tolist(), pairs.tolist()
        ([2.0], [3.0])
    """
    order = np.argsort(codes, kind="stable")
    p, t, c = predicted[order], target[order], codes[order]
    right, pairs = np.zeros(sizes := codes.max(initial=-1) + 1), np.zeros(sizes)
    for lag in range(1, int(np.bincount(codes).max(initial=0))):
        first = np.flatnonzero(c[lag:] == c[:-lag])
        people = np.sign(t[first + lag] - t[first])
        same = people * np.sign(p[first + lag] - p[first])
        pairs += np.bincount(c[first], people != 0, minlength=sizes)
        right += np.bincount(c[first], (people != 0) * (1 + same) / 2, minlength=sizes)
    return right, pairs


def partial_srocc(predicted: Values, target: Values, control: Values) -> float:
    """SROCC of two sides without what both share with `control`: the partial correlation of their ranks, in [-1, 1].

    NaN where `control` orders one side fully. No array may be constant. Formula: Kendall and Stuart, The Advanced
    Theory of Statistics, vol. 2, ch. 27.
    """
    xy, xz, yz = (srocc(*pair) for pair in ((predicted, target), (predicted, control), (target, control)))
    left = (1 - xz**2) * (1 - yz**2)
    return float((xy - xz * yz) / np.sqrt(left)) if left > 1e-12 else float("nan")


def auc(matched: Values, shuffled: Values) -> float:
    """The chance that a value of `matched` (n,) is above one of `shuffled` (m,), in [0, 1]; ties count half."""
    from scipy import stats

    return float(stats.mannwhitneyu(matched, shuffled).statistic / (len(matched) * len(shuffled)))
