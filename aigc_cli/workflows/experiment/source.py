"""Where rated images come from, and where a workflow computes. Imports no PyTorch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Source:
    """Where rated images come from.

    Attributes:
        data: the table; None for the demonstration set.
        images: the folder of the images; None for the table's folder.
        columns, sep: {their column: ours}, and the table's delimiter.
        splits: a splits table with the parts for training and validation; None draws them.
    """

    data: Path | None = None
    images: Path | None = None
    columns: Mapping[str, str] | None = None
    sep: str = ","
    splits: Path | None = None

    def describe(self) -> str:
        """The name of the data, for messages and a run's description."""
        return "the built-in demonstration set" if self.data is None else self.data.name

    def to_json(self) -> dict[str, Any]:
        """Plain values for a run's description; paths as they were given."""
        named = (("data", self.data), ("images", self.images), ("splits", self.splits))
        paths = {name: str(path) if path else None for name, path in named}
        return {**paths, "columns": dict(self.columns or {}), "sep": self.sep}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], folder: Path = Path()) -> "Source":
        """The source of `to_json`'s values, paths relative to `folder`; LookupError or TypeError for other values."""
        data, images, splits = (values[name] and folder / values[name] for name in ("data", "images", "splits"))
        columns, sep = values["columns"], values["sep"]
        if not all(isinstance(word, str) for word in (*columns.keys(), *columns.values(), sep)):
            raise TypeError(f"columns {columns!r} and the delimiter {sep!r}")
        return cls(data, images, columns or None, sep, splits)


@dataclass(frozen=True)
class Compute:
    """Where a workflow computes and what it stores."""

    device: str = "auto"  # or cpu, cuda or mps
    cache: bool | float = True  # whether frozen features are kept in the feature store, or the GB that it may take
