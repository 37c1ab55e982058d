"""Where rated images come from; named without torch, so that what only looks at a run stays quick."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Source:
    """Where rated images come from.

    Attributes:
        data: the table; None for the demonstration set.
        images: the folder that its names are in; None for the table's own folder.
        columns: {their column: ours}.
        sep: the table's delimiter.
        splits: a splits table whose parts are used; None draws them.
    """

    data: Path | None = None
    images: Path | None = None
    columns: Mapping[str, str] | None = None
    sep: str = ","
    splits: Path | None = None

    def describe(self) -> str:
        """For a person and for a run's description."""
        return "the built-in demonstration set" if self.data is None else self.data.name

    def to_json(self) -> dict[str, Any]:
        """What was asked for, as a run remembers it; paths as they were given."""
        named = (("data", self.data), ("images", self.images), ("splits", self.splits))
        paths = {name: str(path) if path else None for name, path in named}
        return {**paths, "columns": dict(self.columns or {}), "sep": self.sep}

    @classmethod
    def from_json(cls, said: Mapping[str, Any], folder: Path = Path()) -> "Source":
        """What `to_json` wrote, its paths seen from `folder`; LookupError or TypeError for anything else."""
        data, images, splits = (said[name] and folder / said[name] for name in ("data", "images", "splits"))
        columns, sep = said["columns"], said["sep"]
        if not all(isinstance(word, str) for word in (*columns.keys(), *columns.values(), sep)):
            raise TypeError(f"columns {columns!r} and the delimiter {sep!r}")
        return cls(data, images, columns or None, sep, splits)
