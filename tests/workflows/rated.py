"""Tables of ratings for the tests of workflows, and a progress that keeps its messages."""

import csv
from collections.abc import Sequence
from pathlib import Path

from aigc_cli.images.sample import Sample
from aigc_cli.progress import SilentProgress

HEADER = ("name", "prompt", "mos_quality", "mos_align")


class RecordingProgress(SilentProgress):
    """Keeps all messages in `lines`."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def write_table(path: Path, samples: Sequence[Sample], *more: Sequence[object], groups: Sequence[str] = ()) -> Path:
    """A table of ratings; its names are paths below the samples' folder.

    Args:
        more: further rows.
        groups: further columns, from each sample's groups.
    """
    rows = [(s.name, s.prompt, s.mos_quality, s.mos_align, *(s.groups[name] for name in groups)) for s in samples]
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([(*HEADER, *groups), *rows, *more])
    return path
