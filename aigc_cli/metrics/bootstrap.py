"""Bootstrap samples of whole groups, and statistics of all samples at once.

Images of one prompt share its difficulty: rows are not independent, groups are. So a sample draws groups (Cameron,
Gelbach and Miller 2008, "Bootstrap-based improvements for inference with clustered errors"). It is stored as the number
of times that each group was drawn; its statistics are computed with these numbers as weights.
"""

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from aigc_cli.metrics.formulas import Codes, Values

BLOCK = 1 << 17  # elements of a temporary array: memory does not grow with samples times rows
STEP = 64  # the least number of rows of the matrix of pairs that are computed at a time
SAME = 1e-12  # values whose range is below this share of their size differ only by rounding


def is_constant(values: Values) -> bool:
    """Whether all values are equal up to rounding."""
    return bool(np.ptp(values) <= SAME * max(1.0, float(np.abs(values).max())))


def draw_counts(groups: int, samples: int, seed: int) -> Values:
    """The number of times that each group is in each bootstrap sample, float64 (samples, groups).

    A sample draws as many groups as there are, with replacement.
    """
    random = np.random.default_rng(seed)
    counts = np.empty((samples, groups))
    for row in counts:
        row[:] = np.bincount(random.integers(groups, size=groups), minlength=groups)
    return counts


class Resamples:
    """Bootstrap samples of rows with two sides; every statistic is an array (samples,), NaN where it is not defined.

    Args:
        predicted, target: the two sides, (n,), finite.
        codes: the group of each row as an integer below `counts.shape[1]`, (n,).
        counts: (samples, groups) as `draw_counts` returns them.
    """

    def __init__(self, predicted: Values, target: Values, codes: Codes, counts: Values) -> None:
        self.predicted, self.target, self.codes, self.counts = predicted, target, codes, counts

    def _iterate_weights(self) -> Iterator[Values]:
        """The number of times that each row is in each sample, a block of samples at a time: (block, n)."""
        step = max(1, BLOCK // max(1, len(self.codes)))
        for start in range(0, len(self.counts), step):
            yield self.counts[start : start + step, self.codes]

    def compute_pearson(self, x: Values, y: Values) -> Values:
        """Pearson's correlation of two sides (n,): from the scatter within groups and the scatter of group means."""
        sizes = np.bincount(self.codes, minlength=self.counts.shape[1])
        means = [np.bincount(self.codes, side, len(sizes)) / np.maximum(sizes, 1) for side in (x, y)]
        dx, dy = x - means[0][self.codes], y - means[1][self.codes]
        within = [np.bincount(self.codes, product, len(sizes)) for product in (dx * dy, dx * dx, dy * dy)]
        between = _sum_scatter(self.counts * sizes, means[0], means[1])
        xy, xx, yy = (self.counts @ inside + outside for inside, outside in zip(within, between, strict=True))
        return self._mask_constant(_correlate(xy, xx, yy), x, y)

    def compute_spearman(self) -> Values:
        """Spearman's correlation: Pearson's correlation of the ranks within each sample."""
        x, y = _Order(self.predicted), _Order(self.target)
        found = [_correlate(*_sum_scatter(w, x.compute_ranks(w), y.compute_ranks(w))) for w in self._iterate_weights()]
        return self._mask_constant(np.concatenate(found), self.predicted, self.target)

    def compute_kendall(self) -> Values:
        """Kendall's tau-b."""
        with np.errstate(invalid="ignore", divide="ignore"):
            pairs = np.sqrt(self._count_untied_pairs(self.predicted) * self._count_untied_pairs(self.target))
            return self._mask_constant(self._concordance / pairs, self.predicted, self.target)

    def compute_pairwise(self) -> Values:
        """The share of pairs that the predictions order as people do, see `formulas.pairwise`."""
        with np.errstate(invalid="ignore", divide="ignore"):
            share = 0.5 + 0.5 * self._concordance / self._count_untied_pairs(self.target)
        return self._mask_constant(share, self.target)

    def compute_ratio(self, totals: Values, weights: Values) -> Values:
        """The sum of `totals` divided by the sum of `weights`; both hold one number per group (G,)."""
        padding = (0, self.counts.shape[1] - len(totals))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((self.counts @ np.pad(totals, padding)) / (self.counts @ np.pad(weights, padding)))

    def compute_mean(self, values: Values) -> Values:
        """The mean of values (n,)."""
        sums, sizes = np.bincount(self.codes, values), np.bincount(self.codes)
        return self.compute_ratio(sums.astype(np.float64), sizes.astype(np.float64))

    def _mask_constant(self, statistic: Values, *sides: Values) -> Values:
        """`statistic` with NaN for the samples in which one of the sides is constant."""
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

    def _count_untied_pairs(self, side: Values) -> Values:
        """The number of pairs of rows that differ on one side: all pairs minus the pairs of equal rows."""
        order = _Order(side)
        sums = [(w.sum(1), (order.count_values(w) ** 2).sum(1)) for w in self._iterate_weights()]
        n, squares = (np.concatenate(column) for column in zip(*sums, strict=True))
        return np.asarray((n**2 - squares) / 2)

    @cached_property
    def _concordance(self) -> Values:
        """The number of concordant pairs of rows minus the number of discordant ones.

        With S the (n, n) matrix sign(dx) * sign(dy) and w a sample's weights, the difference is w S w / 2. All rows of
        a group have the same weight, so S is first summed over pairs of groups, a block of rows at a time. One matrix
        product then serves all samples: it costs samples * groups^2 steps and samples * groups numbers of memory.
        """
        order = np.argsort(self.codes, kind="stable")
        codes = self.codes[order]
        # float32 needs half the memory and is exact for ranks and for sums of signs below 2^24
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
    """The order of one side's values. All samples share it; only the number of times that a value occurs differs."""

    def __init__(self, values: Values) -> None:
        distinct, self.dense = np.unique(values, return_inverse=True)
        self._rows = np.argsort(self.dense, kind="stable")
        self._starts = np.searchsorted(self.dense[self._rows], np.arange(len(distinct)))

    def count_values(self, weights: Values) -> Values:
        """The number of times that each distinct value occurs, (samples, values), from row weights (samples, n)."""
        ordered = weights[:, self._rows]
        return ordered if len(self._starts) == ordered.shape[1] else np.add.reduceat(ordered, self._starts, axis=1)

    def compute_ranks(self, weights: Values) -> Values:
        """The average rank of each row's value in each sample, (samples, n)."""
        times = self.count_values(weights)
        return np.asarray((np.cumsum(times, axis=1) - (times - 1) / 2)[:, self.dense])


def _sum_scatter(weights: Values, x: Values, y: Values) -> tuple[Values, Values, Values]:
    """Weighted sums (samples,) of dx * dy, dx^2 and dy^2 about the means; a side is (n,) or (samples, n)."""
    n = np.maximum(weights.sum(1), 1)
    totals = [np.einsum("ij,ij->i", weights, np.broadcast_to(side, weights.shape)) for side in (x, y)]
    dx, dy = (side - (total / n)[:, None] for side, total in zip((x, y), totals, strict=True))
    wx = weights * dx
    return np.einsum("ij,ij->i", wx, dy), np.einsum("ij,ij->i", wx, dx), np.einsum("ij,ij,ij->i", weights, dy, dy)


def _correlate(xy: Values, xx: Values, yy: Values) -> Values:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.clip(xy / np.sqrt(xx * yy), -1, 1))
