"""A rated or unrated image with its prompt, the unit of every data set."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

TARGETS = ("quality", "consistency")
MOS_COLUMNS = {"quality": "mos_quality", "consistency": "mos_align"}  # column names in tables of ratings
STD_COLUMNS = {"quality": "std_quality", "consistency": "std_align"}  # of the raters' standard deviations


@dataclass(frozen=True)
class Sample:
    """One image with its prompt and, if it was rated, its human scores.

    Attributes:
        name: the image's name in the table or the folder, unique within a data set.
        path: the image file; it may be missing (reading it then fails with `missing_file`).
        prompt: the text the image was made from; None when no source has one.
        mos_quality: mean opinion score (MOS) of quality, in MOS units; None when not rated.
        mos_align: MOS of consistency with the prompt, in MOS units; None when not rated.
        groups: the table's other columns as texts, by name, for grouped reports.
    """

    name: str
    path: Path
    prompt: str | None = None
    mos_quality: float | None = None
    mos_align: float | None = None
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def topic(self) -> str:
        """What images of one prompt share: the prompt, or the image's own name where there is none."""
        return self.prompt or self.name

    def get_mos(self, target: str) -> float | None:
        """The MOS of `target`, quality or consistency; None when not rated."""
        return self.mos_quality if target == "quality" else self.mos_align
