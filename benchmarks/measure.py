"""Timing, and the rows of the report."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

FAR_OFF = 0.5  # a short run fails if it reaches less than this share of a target


@dataclass(frozen=True)
class Row:
    """One line of the report.

    Attributes:
        part, what: section of the report, and what was measured.
        values: one for each round.
        target: target of the median; None for a figure without one.
        at_least: whether more is better.
        unit: `x` for a ratio, `s`, `img/s` or `GFLOP/s`.
        note: conditions of the measurement.
        why: what limits it, shown if the target is missed.
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
        """Median of the rounds."""
        return statistics.median(self.values)

    @property
    def share(self) -> float:
        """Share of the target that is reached; 1 or more meets it."""
        if self.target is None:
            return 1.0
        return self.median / self.target if self.at_least else self.target / self.median

    @property
    def far_off(self) -> bool:
        """Whether a ratio misses its target by more than noise explains; always False for seconds."""
        return self.firm and self.unit == "x" and self.share < FAR_OFF

    def cells(self) -> tuple[str, ...]:
        """Cells of the row in the report."""
        spread = f"{_format(min(self.values))} - {_format(max(self.values))}" if len(self.values) > 1 else "-"
        sign = ">=" if self.at_least else "<="
        target = "-" if self.target is None else f"{sign} {self.target:g} {self.unit}"
        met = "-" if self.target is None else "yes" if self.share >= 1 else "no"
        return (self.part, self.what, f"{_format(self.median)} {self.unit}", spread, target, met, self.note)


def _format(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def time_in_turns(rounds: int, sides: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """{side: seconds of each round}; the sides take turns, so that other load on the machine affects all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            begun = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def divide_rounds(slow: Sequence[float], fast: Sequence[float]) -> list[float]:
    """Ratio slow / fast of each round."""
    return [a / b for a, b in zip(slow, fast, strict=True)]
