"""Bootstrap samples of whole groups, and statistics of all of them at once.

A prompt's images share its difficulty, so rows are not independent; groups are (Cameron, Gelbach and Miller 2008). A
sample is kept as how often each group was drawn, and a statistic of it is one with weights: no sample is ever laid out.
"""

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from aigc_cli.metrics.formulas import Codes, Values

BLOCK = 1 << 17  # elements of a temporary array, so that memory does not grow with samples times rows
STEP = 64  # rows of the matrix of pairs at a time, at least
SAME = 1e-12  # a side whose range is below this share of its size is constant but for rounding


def is_constant(values: Values) -> bool:
    """Whether the values are all the same but for rounding."""
    return bool(np.ptp(values) <= SAME * max(1.0, float(np.abs(values).max())))


def draw_counts(groups: int, samples: int, seed: int) -> Values:
    """How often each of `groups` groups is in each sample of as many, drawn with replacement: (samples, groups)."""
    random = np.random.default_rng(seed)
    counts = np.empty((samples, groups))
    for row in counts:
        row[:] = np.bincount(random.integers(groups, size=groups), minlength=groups)
    return counts


class Resamples:
    """Bootstrap samples of rows with two sides; every statistic is an array (samples,), NaN where not defined.

    Args:
        predicted, target: the two sides, finite, (n,).
        codes: the group of each row as a number below `counts.shape[1]`, (n,).
        counts: see `draw_counts`.
    """

    def __init__(self, predicted: Values, target: Values, codes: Codes, counts: Values) -> None:
        self.predicted, self.target, self.codes, self.counts = predicted, target, codes, counts

    def _weights(self) -> Iterator[Values]:
        """How often each row is in each sample, some samples at a time: (some, n)."""
        step = max(1, BLOCK // max(1, len(self.codes)))
        for start in range(0, len(self.counts), step):
            yield self.counts[start : start + step, self.codes]

    def pearson(self, x: Values, y: Values) -> Values:
        """Pearson's correlation of two sides (n,), from the scatter within groups and that of their means."""
        sizes = np.bincount(self.codes, minlength=self.counts.shape[1])
        means = [np.bincount(self.codes, side, len(sizes)) / np.maximum(sizes, 1) for side in (x, y)]
        dx, dy = x - means[0][self.codes], y - means[1][self.codes]
        within = [np.bincount(self.codes, product, len(sizes)) for product in (dx * dy, dx * dx, dy * dy)]
        between = _scatter(self.counts * sizes, means[0], means[1])
        xy, xx, yy = (self.counts @ inside + outside for inside, outside in zip(within, between, strict=True))
        return self._varying(_correlation(xy, xx, yy), x, y)

    def spearman(self) -> Values:
        """Spearman's correlation: Pearson's of the ranks that the rows have within each sample."""
        x, y = _Order(self.predicted), _Order(self.target)
        found = [_correlation(*_scatter(w, x.ranks(w), y.ranks(w))) for w in self._weights()]
        return self._varying(np.concatenate(found), self.predicted, self.target)

    def kendall(self) -> Values:
        """Kendall's tau-b."""
        with np.errstate(invalid="ignore", divide="ignore"):
            pairs = np.sqrt(self._untied(self.predicted) * self._untied(self.target))
            return self._varying(self._concordance / pairs, self.predicted, self.target)

    def pairwise(self) -> Values:
        """The share of pairs that people ordered which the predictions order the same way, see `agreement`."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self._varying(0.5 + 0.5 * self._concordance / self._untied(self.target), self.target)

    def ratio(self, totals: Values, weights: Values) -> Values:
        """The total of `totals` over that of `weights`, both one number for each group (G,)."""
        padding = (0, self.counts.shape[1] - len(totals))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((self.counts @ np.pad(totals, padding)) / (self.counts @ np.pad(weights, padding)))

    def mean(self, values: Values) -> Values:
        """The mean of values (n,)."""
        sums, sizes = np.bincount(self.codes, values), np.bincount(self.codes)
        return self.ratio(sums.astype(np.float64), sizes.astype(np.float64))

    def _varying(self, statistic: Values, *sides: Values) -> Values:
        """`statistic` without the samples in which one of the sides is constant."""
        present = np.bincount(self.codes, minlength=self.counts.shape[1]) > 0
        for side in sides:
            low, high = np.full(len(present), np.inf), np.full(len(present), -np.inf)
            np.minimum.at(low, self.codes, side)
            np.maximum.at(high, self.codes, side)
            step = max(1, BLOCK // len(present))
            for start in range(0, len(statistic), step):
                drawn = self.counts[start : start + step] * present > 0
                lowest, highest = np.where(drawn, low, np.inf).min(1), np.where(drawn, high, -np.inf).max(1)
                size = np.maximum(1, np.maximum(np.abs(lowest), np.abs(highest)))
                statistic[start : start + step][highest - lowest <= SAME * size] = np.nan
        return statistic

    def _untied(self, side: Values) -> Values:
        """The pairs of rows that differ on one side: those of all rows minus those of equal ones."""
        order = _Order(side)
        sums = [(w.sum(1), (order.per_value(w) ** 2).sum(1)) for w in self._weights()]
        n, squares = (np.concatenate(column) for column in zip(*sums, strict=True))
        return np.asarray((n**2 - squares) / 2)

    @cached_property
    def _concordance(self) -> Values:
        """Concordant minus discordant pairs of rows.

        With S the (n, n) matrix sign(dx) * sign(dy) and w a sample's weights that is w S w / 2. All rows of a group
        have one weight, so S is summed over pairs of groups first, a block of rows at a time; then it is one matrix
        product for all samples, of cost samples * groups^2 and memory samples * groups.
        """
        order = np.argsort(self.codes, kind="stable")
        codes = self.codes[order]
        # float32 is exact for ranks and for sums of signs below 2^24, and half as much to move
        x, y = (_Order(side).dense[order].astype(np.float32) for side in (self.predicted, self.target))
        present, starts = np.unique(codes, return_index=True)
        counts, total = self.counts[:, present], np.zeros(len(self.counts))
        step = max(STEP, BLOCK // max(1, len(codes)))
        for begin in range(0, len(codes), step):
            rows = slice(begin, begin + step)
            signs = np.sign((x[rows, None] - x) * (y[rows, None] - y))
            mine, edges = np.unique(codes[rows], return_index=True)
            between = np.add.reduceat(np.add.reduceat(signs, starts, axis=1), edges, axis=0).astype(np.float64)
            total += ((counts @ between.T) * self.counts[:, mine]).sum(1)
        return np.asarray(total / 2)


class _Order:
    """The order of one side's values, which samples share: only how often each occurs differs."""

    def __init__(self, values: Values) -> None:
        distinct, self.dense = np.unique(values, return_inverse=True)
        self._rows = np.argsort(self.dense, kind="stable")
        self._starts = np.searchsorted(self.dense[self._rows], np.arange(len(distinct)))

    def per_value(self, weights: Values) -> Values:
        """How often each distinct value occurs: (samples, values) from the weights of rows (samples, n)."""
        ordered = weights[:, self._rows]
        return ordered if len(self._starts) == ordered.shape[1] else np.add.reduceat(ordered, self._starts, axis=1)

    def ranks(self, weights: Values) -> Values:
        """The average rank of each row's value in each sample, (samples, n)."""
        times = self.per_value(weights)
        return np.asarray((np.cumsum(times, axis=1) - (times - 1) / 2)[:, self.dense])


def _scatter(weights: Values, x: Values, y: Values) -> tuple[Values, Values, Values]:
    """Weighted sums (samples,) of dx * dy, dx^2 and dy^2 about the means; sides are (n,), or (samples, n)."""
    n = np.maximum(weights.sum(1), 1)
    totals = [np.einsum("ij,ij->i", weights, np.broadcast_to(side, weights.shape)) for side in (x, y)]
    dx, dy = (side - (total / n)[:, None] for side, total in zip((x, y), totals, strict=True))
    wx = weights * dx
    return np.einsum("ij,ij->i", wx, dy), np.einsum("ij,ij->i", wx, dx), np.einsum("ij,ij,ij->i", weights, dy, dy)


def _correlation(xy: Values, xx: Values, yy: Values) -> Values:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.clip(xy / np.sqrt(xx * yy), -1, 1))
