"""The rating scale of human scores, and its mapping to [0, 1]."""

from dataclasses import dataclass
from typing import Any

from aigc_cli.errors import AigcError

LARGEST_SCORE = 1e6  # float32 keeps no sensible score of a scale that is larger


@dataclass(frozen=True)
class MosScale:
    """A rating scale: the lowest and the highest mean opinion score (MOS) that a person could give.

    Raises:
        AigcError: an end is NaN or above a million in size, or `low` is not below `high`.

    Example:
        >>> scale = MosScale(1, 5)
        >>> print(scale)
        1 to 5
        >>> scale.to_unit(3.0), scale.to_mos(0.75)
        (0.5, 4.0)
        >>> scale.to_mos(scale.to_unit(2.0))
        2.0
    """

    low: float = 0.0
    high: float = 5.0

    def __post_init__(self) -> None:
        if not -LARGEST_SCORE <= self.low < self.high <= LARGEST_SCORE:
            raise AigcError(
                f"Expected scores of at most a million with mos_min < mos_max, found {self.low:g} and {self.high:g}.",
                "Give the ends of the rating scale as --mos-min and --mos-max.",
            )

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"

    @property
    def span(self) -> float:
        """The length of the scale, high - low, in MOS."""
        return self.high - self.low

    def to_unit(self, mos: Any) -> Any:
        """Map MOS (number, array or tensor) to [0, 1]: (mos - low) / (high - low); not clipped."""
        return (mos - self.low) / self.span

    def to_mos(self, unit: Any) -> Any:
        """Map scores on [0, 1] (number, array or tensor) to MOS: low + (high - low) * unit; not clipped."""
        return self.low + self.span * unit


UNIT = MosScale(0.0, 1.0)
DEFAULT_SCALE = MosScale()
