"""What answers say about their raters: agreement, bias, consistency, speed, and the noise ceiling."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aigc_cli.images.sample import TARGETS
from aigc_cli.metrics.opinions import estimate_noise_ceiling
from aigc_cli.storage.pair_tables import SIDES
from aigc_cli.workflows.rate.answers import AGAIN, Answer, list_given


@dataclass(frozen=True)
class RaterSummary:
    """One rater.

    Attributes:
        answers: how many count, repeats included.
        per_minute: from the median time of an answer; None where no time is known.
        bias: {target: mean difference to the mean of the other raters of the same images}, in steps of the scale.
        repeated: how many questions were asked again.
        kept: {target: share of those that got the same answer}.
    """

    rater: str
    answers: int
    per_minute: float | None
    bias: Mapping[str, float]
    repeated: int
    kept: Mapping[str, float]


@dataclass(frozen=True)
class AnswersSummary:
    """All raters.

    Attributes:
        questions: how many different images or pairs were judged.
        alpha: {target: Krippendorff's alpha over raters}; of repeats by one rater where there is only one.
        ceiling: {target: the correlation that a model can be expected to reach with the mean scores}; for ratings.
    """

    raters: Sequence[RaterSummary]
    questions: int
    alpha: Mapping[str, float]
    ceiling: Mapping[str, float]


def summarise_answers(rows: Iterable[Answer]) -> AnswersSummary:
    """Summarises all answers that count."""
    given = list_given(rows)
    names = list(dict.fromkeys(row.rater for row in given))
    units = {target: _collect(given, target) for target in TARGETS}
    alpha, ceiling = dict[str, float](), dict[str, float]()
    for target, of in units.items():
        if len(names) > 1:
            opinions = [[statistics.fmean(values) for values in raters.values()] for raters in of.values()]
        else:
            opinions = [values for raters in of.values() for values in raters.values()]
        if (found := compute_alpha(opinions)) is not None:
            alpha[target] = found
        if (limit := _estimate_ceiling(opinions)) is not None and not any(row.other for row in given):
            ceiling[target] = limit
    raters = [_summarise_rater(name, given, units) for name in names]
    return AnswersSummary(raters, len({_name_question(row) for row in given}), alpha, ceiling)


def compute_alpha(units: Sequence[Sequence[float]]) -> float | None:
    """Krippendorff's alpha with the interval metric; None where no unit has two values, or all values are equal.

    alpha = 1 - observed / expected disagreement (Krippendorff, Content Analysis, 2004, chapter 11).

    Args:
        units: the values of each unit, one for each rater; units with one value do not count.

    Example:
        >>> compute_alpha([[1, 1], [2, 2], [3, 3]])
        1.0
    """
    paired = [np.asarray(values, dtype=np.float64) for values in units if len(values) > 1]
    if not paired:
        return None
    observed = sum(2 * len(v) * float(np.square(v - v.mean()).sum()) / (len(v) - 1) for v in paired)
    every = np.concatenate(paired)
    expected = 2 * len(every) * float(np.square(every - every.mean()).sum()) / (len(every) - 1)
    return 1 - observed / expected if expected > 0 else None


def _estimate_ceiling(opinions: Sequence[Sequence[float]]) -> float | None:
    several = [values for values in opinions if len(values) > 1]
    if len(several) < 5:
        return None
    deviations = [statistics.stdev(values) for values in several]
    means, counts = [statistics.fmean(values) for values in several], [len(values) for values in several]
    return estimate_noise_ceiling(np.array(means), np.array(deviations), np.array(counts, dtype=np.float64))[1]


def _name_question(row: Answer) -> tuple[str, ...]:
    return tuple(sorted((row.image, row.other)))


def _collect(given: Sequence[Answer], target: str) -> dict[tuple[str, ...], dict[str, list[float]]]:
    """{question: {rater: values}}; a choice between two is 1 for the image whose name comes first."""
    found: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for row in given:
        if text := getattr(row, target):
            value = SIDES[text] if row.other else float(text)
            value = 1 - value if row.other and row.other < row.image else value
            found.setdefault(_name_question(row), {}).setdefault(row.rater, []).append(value)
    return found


def _summarise_rater(
    name: str, given: Sequence[Answer], units: Mapping[str, Mapping[Any, Mapping[str, Sequence[float]]]]
) -> RaterSummary:
    own = [row for row in given if row.rater == name]
    times = [float(row.seconds) for row in own if row.seconds]
    bias, kept = dict[str, float](), dict[str, float]()
    for target, of in units.items():
        gaps, same = list[float](), list[bool]()
        for raters in of.values():
            if name not in raters:
                continue
            mine = raters[name]
            same += [value == mine[0] for value in mine[1:]]
            if others := [statistics.fmean(values) for rater, values in raters.items() if rater != name]:
                gaps.append(statistics.fmean(mine) - statistics.fmean(others))
        if gaps:
            bias[target] = statistics.fmean(gaps)
        if same:
            kept[target] = sum(same) / len(same)
    speed = 60 / max(0.1, statistics.median(times)) if times else None
    return RaterSummary(name, len(own), speed, bias, sum(row.kind == AGAIN for row in own), kept)
