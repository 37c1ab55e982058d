"""The row that everything else works on: one image, its prompt, and what people said of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    """One image with its prompt and, where there are any, its human scores.

    Attributes:
        name: the image's name as the table or the folder gives it, unique in a data set.
        path: where the image lies; it may not exist (the reader then says `missing_file`).
        prompt: the text the image was made from; None when no source gave one.
        mos_quality: mean opinion score of quality in MOS units, None when it was not rated.
        mos_align: mean opinion score of consistency with the prompt in MOS units, or None.
        groups: the table's other columns, kept as text for grouped reports.
    """

    name: str
    path: Path
    prompt: str | None = None
    mos_quality: float | None = None
    mos_align: float | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
