"""What a table of ratings says before anything is learnt: spread, raters' noise, and how far a model can get."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aigc_cli.errors import AigcError
from aigc_cli.images.sample import Sample
from aigc_cli.metrics.by_name import value

ASSUMED_RATERS = 15  # the least that ITU-R BT.500-15 asks for
AT_THE_END = 0.01  # share of the scale that counts as its end
RATERS = "raters"
COLUMNS = {"quality": ("mos_quality", "std_quality"), "consistency": ("mos_align", "std_align")}
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Opinions:
    """The scores of one target, in MOS units.

    Attributes:
        n: rated images.
        mean, std, low, high: of their mean opinion scores.
        at_low, at_high: share of them within 1% of either end of the scale.
        rater_std: root mean square of the raters' standard deviations; None where the table has none.
        raters: mean number of raters of an image, None without `rater_std`.
        reliability: share of the scores' variance that is no rater noise, in [0, 1]; None without `rater_std`.
        ceiling: the highest correlation with these scores that anything but luck can reach; None without `rater_std`.
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
class Survey:
    """A rated data set at a glance.

    Attributes:
        images, prompts: how many.
        per_prompt: fewest, median and most images of a prompt.
        single: prompts with one image.
        targets: the rated ones, by name.
        srocc, plcc: between both targets, over images rated for both; None where not defined.
        raters_assumed: whether the number of raters is `ASSUMED_RATERS` for want of a better one.
    """

    images: int
    prompts: int
    per_prompt: tuple[int, float, int]
    single: int
    targets: Mapping[str, Opinions]
    srocc: float | None
    plcc: float | None
    raters_assumed: bool


def survey(samples: Sequence[Sample], scale: tuple[float, float], raters: int | None = None) -> Survey:
    """Looks at rated images; their further columns `std_quality`, `std_align` and `raters` tell the raters' noise.

    Args:
        samples: with a prompt each.
        scale: the lowest and the highest score that people could give.
        raters: opinions behind each score, where the table has no column `raters`.

    Raises:
        AigcError: a standard deviation or a number of raters is no number, or out of range.
    """
    sizes = list(Counter(sample.prompt for sample in samples).values())
    columns = {target: _column(samples, mos) for target, (mos, _) in COLUMNS.items()}
    counts = _numbers(samples, RATERS, 1)
    known = np.where(np.isnan(counts), math.nan if raters is None else raters, counts)
    targets = {
        target: _opinions(columns[target], _numbers(samples, std, 0), known, scale)
        for target, (_, std) in COLUMNS.items()
        if not np.isnan(columns[target]).all()
    }
    quality, consistency = columns.values()
    both = ~np.isnan(quality) & ~np.isnan(consistency)
    noisy = any(opinions.rater_std is not None for opinions in targets.values())
    return Survey(
        images=len(samples),
        prompts=len(sizes),
        per_prompt=(min(sizes), float(np.median(sizes)), max(sizes)),
        single=sizes.count(1),
        targets=targets,
        srocc=value("srocc", quality[both], consistency[both]),
        plcc=value("plcc", quality[both], consistency[both]),
        raters_assumed=noisy and bool(np.isnan(known).any()),
    )


def noise_ceiling(mos: Values, std: Values, raters: Values) -> tuple[float, float]:
    """(reliability of the mean opinion scores, ceiling of a correlation with them), from the raters' disagreement.

    Raters that differ by `std` leave a mean of `raters` opinions with the error variance std^2 / raters, so

        reliability = 1 - mean(std^2 / raters) / var(mos)        ceiling = sqrt(reliability)

    The ceiling is the correlation (PLCC) of the scores with the opinion of infinitely many raters: Spearman's
    correction for attenuation (The Proof and Measurement of Association between Two Things, Am. J. Psychology 15,
    1904). It assumes that raters err independently; SROCC has the same ceiling within 0.02 for normal scores.

    Args:
        mos, std, raters: (N,) each, N >= 2, without NaN; std over the raters of each image (divided by raters - 1).
    """
    spread = float(np.var(mos, ddof=1))
    noise = float(np.mean(std**2 / raters))
    reliability = max(0.0, 1 - noise / spread) if spread > 0 else 0.0
    return reliability, math.sqrt(reliability)


def _opinions(mos: Values, std: Values, raters: Values, scale: tuple[float, float]) -> Opinions:
    rated = mos[~np.isnan(mos)]
    edge = AT_THE_END * (scale[1] - scale[0])
    found = {
        "mean": float(rated.mean()),
        "std": float(rated.std(ddof=1)) if len(rated) > 1 else 0.0,
        "low": float(rated.min()),
        "high": float(rated.max()),
        "at_low": float((rated <= scale[0] + edge).mean()),
        "at_high": float((rated >= scale[1] - edge).mean()),
    }
    judged = ~np.isnan(mos) & ~np.isnan(std) & ~(raters < 2)  # one rater's deviation is 0 and says nothing
    if judged.sum() > 1:
        counts = np.where(np.isnan(raters), ASSUMED_RATERS, raters)[judged]
        found["reliability"], found["ceiling"] = noise_ceiling(mos[judged], std[judged], counts)
        found["rater_std"], found["raters"] = float(np.sqrt(np.mean(std[judged] ** 2))), float(counts.mean())
    return Opinions(n=len(rated), **found)


def _column(samples: Sequence[Sample], name: str) -> Values:
    given = (getattr(sample, name) for sample in samples)
    return np.array([math.nan if mos is None else mos for mos in given])


def _numbers(samples: Sequence[Sample], column: str, low: float) -> Values:
    """A further column of the table as numbers, NaN where it is blank or not there."""
    return np.array([_number(sample, column, low) for sample in samples])


def _number(sample: Sample, column: str, low: float) -> float:
    text = sample.groups.get(column, "").strip()
    if not text:
        return math.nan
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= low):
        raise AigcError(
            f"Expected a number of {low:g} or more in the column {column} for '{sample.name}', found '{text}'.",
            "Leave the cell blank where it is not known, or rename the column with --columns.",
        )
    return number
