"""A summary of rated data: the spread of its scores, the noise of its raters, and the noise ceiling of a model."""

import contextlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from aigc_cli.errors import AigcError
from aigc_cli.images.sample import STD_COLUMNS, TARGETS, Sample
from aigc_cli.metrics.by_name import compute_metric
from aigc_cli.metrics.formulas import Values
from aigc_cli.mos_scale import MosScale
from aigc_cli.storage.rating_tables import RATERS

ASSUMED_RATERS = 15  # the least number that ITU-R BT.500-15 asks for
END_SHARE = 0.01  # the share of the scale that counts as its end


@dataclass(frozen=True)
class TargetSummary:
    """The scores of one target, in MOS units.

    Attributes:
        n: the number of rated images.
        low, high: minimum and maximum of their MOS.
        at_low, at_high: the shares of images within 1% of the lower and the upper end of the scale.
        rater_std: the root mean square of the raters' standard deviations; None where the table has none.
        raters: the mean number of raters of an image; None without `rater_std`.
        reliability: the share of the scores' variance that is not rater noise, in [0, 1]; None without `rater_std`.
        ceiling: the highest correlation with these scores that a model can be expected to reach, see
            `estimate_noise_ceiling`; None without `rater_std`.
    """

    n: int
    mean: float
    std: float
    low: float
    high: float
    at_low: float
    at_high: float
    rater_std: float | None = None
    raters: float | None = None
    reliability: float | None = None
    ceiling: float | None = None


@dataclass(frozen=True)
class RatingsSummary:
    """The main numbers of a rated data set.

    Attributes:
        per_prompt: the fewest, the median and the most images of a prompt.
        single: the number of prompts with one image.
        srocc, plcc: the correlation of both targets over images rated for both; None where it is not defined.
        raters_assumed: whether `ASSUMED_RATERS` is used because the number of raters is not known.
    """

    images: int
    prompts: int
    per_prompt: tuple[int, float, int]
    single: int
    targets: Mapping[str, TargetSummary]
    srocc: float | None
    plcc: float | None
    raters_assumed: bool


def summarise_ratings(samples: Sequence[Sample], scale: MosScale, raters: int | None = None) -> RatingsSummary:
    """Summarises rated images.

    The noise of the raters comes from the columns `std_quality`, `std_align` and `raters`.

    Args:
        raters: the number of opinions behind each score, where the table has no column `raters`.

    Raises:
        AigcError: a standard deviation or a number of raters is not a number, or out of range.
    """
    sizes = list(Counter(sample.topic for sample in samples).values())
    columns = {target: np.array([s.get_mos(target) for s in samples], dtype=np.float64) for target in TARGETS}
    counts = _collect_numbers(samples, RATERS, 1)
    known = np.where(np.isnan(counts), math.nan if raters is None else raters, counts)
    targets = {
        target: _summarise_target(columns[target], _collect_numbers(samples, std, 0), known, scale)
        for target, std in STD_COLUMNS.items()
        if not np.isnan(columns[target]).all()
    }
    quality, consistency = columns.values()
    both = ~np.isnan(quality) & ~np.isnan(consistency)
    noisy = any(opinions.rater_std is not None for opinions in targets.values())
    return RatingsSummary(
        images=len(samples),
        prompts=len(sizes),
        per_prompt=(min(sizes), float(np.median(sizes)), max(sizes)),
        single=sizes.count(1),
        targets=targets,
        srocc=compute_metric("srocc", quality[both], consistency[both]),
        plcc=compute_metric("plcc", quality[both], consistency[both]),
        raters_assumed=noisy and bool(np.isnan(known).any()),
    )


def estimate_noise_ceiling(mos: Values, std: Values, raters: Values) -> tuple[float, float]:
    """(reliability of the MOS, highest expected correlation with them), from the disagreement of raters.

    The mean of `raters` opinions with standard deviation `std` has the error variance std^2 / raters. So

        reliability = 1 - mean(std^2 / raters) / var(mos)        ceiling = sqrt(reliability)

    The ceiling is the correlation (PLCC) of the MOS with the mean opinion of infinitely many raters. Formula:
    Spearman's correction for attenuation (The Proof and Measurement of Association between Two Things, Am. J.
    Psychology 15, 1904). It assumes that raters err independently. The ceiling of SROCC is the same within 0.02 for
    normally distributed scores.

    Args:
        mos, std, raters: (N,) each, N >= 2, without NaN; std is over the raters of an image (divided by raters - 1).
    """
    spread = float(np.var(mos, ddof=1))
    noise = float(np.mean(std**2 / raters))
    reliability = max(0.0, 1 - noise / spread) if spread > 0 else 0.0
    return reliability, math.sqrt(reliability)


def _summarise_target(mos: Values, std: Values, raters: Values, scale: MosScale) -> TargetSummary:
    rated = mos[~np.isnan(mos)]
    edge = END_SHARE * scale.span
    ends = (rated.min(), rated.max(), (rated <= scale.low + edge).mean(), (rated >= scale.high - edge).mean())
    spread = float(rated.std(ddof=1)) if len(rated) > 1 else 0.0
    found = TargetSummary(len(rated), float(rated.mean()), spread, *map(float, ends))
    judged = ~np.isnan(mos) & ~np.isnan(std) & ~(raters < 2)  # one rater has no standard deviation
    if judged.sum() < 2:
        return found
    counts = np.where(np.isnan(raters), ASSUMED_RATERS, raters)[judged]
    reliability, ceiling = estimate_noise_ceiling(mos[judged], std[judged], counts)
    noise, mean = float(np.sqrt(np.mean(std[judged] ** 2))), float(counts.mean())
    return replace(found, rater_std=noise, raters=mean, reliability=reliability, ceiling=ceiling)


def _collect_numbers(samples: Sequence[Sample], column: str, low: float) -> Values:
    """An extra column of the table as numbers (N,); NaN where it is blank or missing."""
    numbers = np.full(len(samples), math.nan)
    for row, sample in enumerate(samples):
        if not (text := sample.groups.get(column, "").strip()):
            continue
        with contextlib.suppress(ValueError):
            numbers[row] = float(text)
        if not low <= numbers[row] < math.inf:
            raise AigcError(
                f"Expected a number of {low:g} or more in the column {column} for '{sample.name}', found '{text}'.",
                "Leave the cell blank where it is not known, or rename the column with --columns.",
            )
    return numbers
