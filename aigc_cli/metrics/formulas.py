"""The formulas: how far predictions agree with human scores, over all rows and within prompts.

All take float64 arrays (n,) of predictions and human scores; those within groups also take the group of each row as
numbers (n,) from 0. What is not defined is for `metrics.undefined` to say before one of them is called.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

Values = NDArray[np.float64]
Codes = NDArray[np.int64]
FITTED = 5  # the fewest points that the four parameters of the logistic don't simply pass through


def srocc(predicted: Values, target: Values) -> float:
    """Spearman's rank correlation, ties with their average rank, in [-1, 1]."""
    return float(np.corrcoef(stats.rankdata(predicted), stats.rankdata(target))[0, 1])


def plcc(predicted: Values, target: Values) -> float:
    """Pearson's linear correlation, in [-1, 1]."""
    return float(stats.pearsonr(predicted, target).statistic)


def krocc(predicted: Values, target: Values) -> float:
    """Kendall's tau-b, in [-1, 1]."""
    return float(stats.kendalltau(predicted, target).statistic)


def rmse(predicted: Values, target: Values) -> float:
    """Root mean squared error, in the unit of the scores."""
    return float(np.sqrt(np.mean((predicted - target) ** 2)))


def pairwise(predicted: Values, target: Values) -> float:
    """The share of the pairs that people ordered which the predictions order the same way, in [0, 1].

    A tie in the predictions counts half; pairs that people tied are left out. With C concordant and D discordant pairs
    that is 1/2 + (C - D) / (2 * pairs that people ordered), and tau-b gives C - D, a whole number.
    """
    ordered_p, ordered_t = _untied_pairs(predicted), _untied_pairs(target)
    if ordered_p == 0:
        return 0.5
    excess = round(krocc(predicted, target) * np.sqrt(ordered_p * ordered_t))
    return float(0.5 + 0.5 * excess / ordered_t)


def _untied_pairs(values: Values) -> float:
    sizes = np.unique(values, return_counts=True)[1].astype(np.float64)
    return float((len(values) ** 2 - (sizes**2).sum()) / 2)


def logistic(predicted: Values, target: Values) -> Values:
    """Predictions after the usual monotone map onto human scores, before which PLCC would punish any curve.

    f(x) = b2 + (b1 - b2) / (1 + exp(-(x - b3) / |b4|)), fitted by least squares (VQEG, Final report on the validation
    of objective models of video quality assessment, 2000). b1 and b2 are a linear regression, which no correlation
    sees, so the least squares are where the correlation is largest over b3 and b4, and f rises: predictions that run
    against people keep a negative correlation. In standard deviations of x, b3 is within 10 of the mean and |b4| from
    0.01 (a step) to 10 (a line); the search starts from two widths and is deterministic.

    Returns:
        (n,) 1 / (1 + exp(-(x - b3) / |b4|)); the predictions themselves with fewer than 5 rows, where the fit fails,
        and where it correlates less than a straight line, so that the result is never worse than linear.
    """
    if len(predicted) < FITTED:
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
    """PLCC after `logistic`, in [-1, 1]."""
    return plcc(logistic(predicted, target), target)


# --- within groups: (sum, weight) of each group, arrays (G,); the value is the ratio of their totals


def _best(values: Values, codes: Codes) -> tuple[NDArray[np.bool_], Values]:
    """(whether a row has its group's largest value (n,), that value (G,))."""
    largest = np.full(codes.max(initial=-1) + 1, -np.inf)
    np.maximum.at(largest, codes, values)
    largest[np.isneginf(largest)] = 0  # a number that no row has
    return values == largest[codes], largest


def _mean_of(values: Values, codes: Codes, chosen: NDArray[np.bool_]) -> Values:
    """The mean of `values` over the chosen rows of each group (G,)."""
    return np.asarray(np.bincount(codes[chosen], values[chosen]) / np.maximum(np.bincount(codes[chosen]), 1))


def _choice(target: Values, codes: Codes) -> Values:
    """1 for a group in which people preferred some row to another, else 0: there is nothing to choose."""
    return np.asarray(_best(target, codes)[1] > -_best(-target, codes)[1], dtype=np.float64)


def best_of_n(predicted: Values, target: Values, codes: Codes) -> tuple[Values, Values]:
    """Whether the row that the predictions put first is the one that people put first.

    Among rows that tie for the first prediction one is picked at random (its expectation is taken); any of those that
    tie for people's first place is right. Groups whose rows people all scored alike are left out.
    """
    counted = _choice(target, codes)
    right = _best(target, codes)[0].astype(np.float64)
    return counted * _mean_of(right, codes, _best(predicted, codes)[0]), counted


def best_of_n_chance(predicted: Values, target: Values, codes: Codes) -> tuple[Values, Values]:
    """What `best_of_n` is for a pick at random, over the same groups; the predictions play no part."""
    return best_of_n(np.zeros_like(predicted), target, codes)


def regret(predicted: Values, target: Values, codes: Codes) -> tuple[Values, Values]:
    """The human score lost: the group's largest minus that of the row which the predictions put first, ties averaged.

    In the unit of the scores, over the same groups as `best_of_n`.
    """
    counted = _choice(target, codes)
    return counted * (_best(target, codes)[1] - _mean_of(target, codes, _best(predicted, codes)[0])), counted


def within_srocc(predicted: Values, target: Values, codes: Codes) -> tuple[Values, Values]:
    """SROCC of each group of at least 3 rows in which neither side is constant."""
    sizes = np.bincount(codes)
    x, y = (_centred_ranks(side, codes) for side in (predicted, target))
    spread = np.sqrt(np.bincount(codes, x * x) * np.bincount(codes, y * y))
    counted = (sizes >= 3) & (spread > 0)
    return np.where(counted, np.bincount(codes, x * y) / np.where(counted, spread, 1), 0.0), counted.astype(np.float64)


def _centred_ranks(values: Values, codes: Codes) -> Values:
    """Average ranks within each row's group, minus the group's mean rank."""
    dense = stats.rankdata(values, method="dense").astype(np.int64)
    ranks = stats.rankdata(codes * (len(values) + 1) + dense)  # groups one after the other: ranks differ by an offset
    return np.asarray(ranks - (np.bincount(codes, ranks) / np.maximum(np.bincount(codes), 1))[codes])


def within_pairwise(predicted: Values, target: Values, codes: Codes) -> tuple[Values, Values]:
    """(pairs of a group ordered as people did, pairs that people ordered): see `pairwise`."""
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
    """SROCC of two sides after what both share with `control` is taken out: the partial correlation of their ranks.

    In [-1, 1]; NaN where `control` already orders one of them fully. None of the three may be constant. Formula:
    Kendall and Stuart, The Advanced Theory of Statistics, vol. 2, ch. 27.
    """
    xy, xz, yz = (srocc(*pair) for pair in ((predicted, target), (predicted, control), (target, control)))
    left = (1 - xz**2) * (1 - yz**2)
    return float((xy - xz * yz) / np.sqrt(left)) if left > 1e-12 else float("nan")


def auc(matched: Values, shuffled: Values) -> float:
    """The chance that a value of `matched` (n,) lies above one of `shuffled` (m,), ties counted half; 0.5 is chance."""
    return float(stats.mannwhitneyu(matched, shuffled).statistic / (len(matched) * len(shuffled)))
