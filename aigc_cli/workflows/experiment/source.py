"""Where rated images come from, and where a workflow computes. Imports no PyTorch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aigc_cli.errors import AigcError
from aigc_cli.runtime.devices import check_device
from aigc_cli.storage.named_tables import read_rated_table


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

    def check(self) -> None:
        """Refuses a table or a folder that can't be what is asked for; values in the table are not looked at.

        Raises:
            AigcError: the table can't be read or lacks a column, or there is no folder of images.
        """
        if self.data is not None:
            read_rated_table(self.data, self.images or self.data.parent, columns=self.columns, sep=self.sep)
        elif self.images is not None:
            raise AigcError("Expected --data beside --images, found none.", "Name the table with the scores.")

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
    """Where a workflow computes and what it stores; AigcError for a device that is not in `DEVICES`."""

    device: str = "auto"  # or cpu, cuda or mps
    cache: bool | float = True  # whether frozen features are kept in the feature store, or the GB that it may take

    def __post_init__(self) -> None:
        check_device(self.device)

    def require_device(self) -> None:
        """Raises EnvironmentProblem where this machine lacks the device; imports PyTorch only to ask about a GPU."""
        if self.device not in ("auto", "cpu"):
            from aigc_cli.model.devices import pick_device

            pick_device(self.device)
