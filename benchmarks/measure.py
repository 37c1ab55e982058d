"""Timing in turns, and the rows that the report is made of."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

FAR_OFF = 0.5  # a short run fails only where less than this share of a target is reached


@dataclass(frozen=True)
class Row:
    """One line of the report.

    Attributes:
        part, what: where it belongs, and what was compared.
        values: one for each round: a ratio, or seconds.
        target: what the median should reach; None for a figure that is only told.
        at_least: whether more is better.
        unit: `x` for a ratio, `s`, `img/s` or `GFLOP/s`.
        note: what the reader must know.
        why: what holds it back, for where the target is missed.
        firm: whether a short run may fail on it.
    """

    part: str
    what: str
    values: Sequence[float]
    target: float | None = None
    at_least: bool = True
    unit: str = "x"
    note: str = ""
    why: str = ""
    firm: bool = True

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return statistics.median(self.values)

    @property
    def share(self) -> float:
        """The share of the target that is reached; 1 and more is met."""
        if self.target is None:
            return 1.0
        return self.median / self.target if self.at_least else self.target / self.median

    @property
    def far_off(self) -> bool:
        """Whether a ratio is so far from its target that no noise explains it; seconds never are."""
        return self.firm and self.unit == "x" and self.share < FAR_OFF

    def cells(self) -> tuple[str, ...]:
        """As the report shows it."""
        spread = f"{_short(min(self.values))} - {_short(max(self.values))}" if len(self.values) > 1 else "-"
        sign = ">=" if self.at_least else "<="
        target = "-" if self.target is None else f"{sign} {self.target:g} {self.unit}"
        met = "-" if self.target is None else "yes" if self.share >= 1 else "no"
        return (self.part, self.what, f"{_short(self.median)} {self.unit}", spread, target, met, self.note)


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def turns(rounds: int, sides: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of every side in every round; the sides take turns, so that a busy machine meets them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            begun = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def ratios(slow: Sequence[float], fast: Sequence[float]) -> list[float]:
    """How many times as long `slow` took, round by round."""
    return [a / b for a, b in zip(slow, fast, strict=True)]
