"""Where rated images come from, and where a workflow computes. Imports no PyTorch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aigc_cli.errors import AigcError
from aigc_cli.runtime.devices import check_device
from aigc_cli.storage.named_tables import read_given_table
from aigc_cli.storage.pair_tables import Preference, read_pair_table, read_pairs
from aigc_cli.storage.rating_tables import read_rated_table


@dataclass(frozen=True)
class Source:
    """Where rated images come from.

    Attributes:
        data: the table; None for the demonstration set, or for none where there are `pairs`.
        images: the folder of the images; None for the table's folder.
        columns, sep: {their column: ours}, and the table's delimiter.
        splits: a splits table with the parts for training and validation; None draws them.
        pairs: a table of choices between two images of a prompt.
    """

    data: Path | None = None
    images: Path | None = None
    columns: Mapping[str, str] | None = None
    sep: str = ","
    splits: Path | None = None
    pairs: Path | None = None

    @property
    def folder(self) -> Path:
        """The folder where names of images start."""
        given = self.images or (table.parent if (table := self.data or self.pairs) else None)
        return given or Path()

    def check(self) -> None:
        """Refuses a table or a folder that can't be what is asked for; values in the table are not looked at.

        Raises:
            AigcError: the table can't be read or lacks a column, or there is no folder of images.
        """
        if self.data is not None:
            read_rated_table(self.data, self.folder, columns=self.select_columns(self.data), sep=self.sep)
        if self.pairs is not None:
            read_pair_table(self.pairs, self.folder, columns=self.select_columns(self.pairs), sep=self.sep)
        if self.data is None and self.pairs is None and self.images is not None:
            raise AigcError("Expected --data beside --images, found none.", "Name the table with the scores.")

    def read_choices(self) -> tuple[list[Preference], dict[str, Path]]:
        """The choices of `pairs`, and the path of each of their images by name; nothing without `pairs`."""
        if self.pairs is None:
            return [], {}
        return read_pairs(self.pairs, self.folder, columns=self.select_columns(self.pairs), sep=self.sep)

    def select_columns(self, table: Path) -> Mapping[str, str] | None:
        """What `columns` says of one of the two tables; a column that neither has stays, and is an error there."""
        if not self.columns or self.data is None or self.pairs is None:
            return self.columns
        here, there = (set(read_given_table(path, sep=self.sep).columns) for path in (table, self._get_other(table)))
        return {theirs: ours for theirs, ours in self.columns.items() if theirs in here or theirs not in there}

    def _get_other(self, table: Path) -> Path:
        other = self.pairs if table == self.data else self.data
        assert other is not None
        return other

    def describe(self) -> str:
        """The name of the data, for messages and a run's description."""
        tables = [table.name for table in (self.data, self.pairs) if table is not None]
        return " and ".join(tables) or "the built-in demonstration set"

    def to_json(self) -> dict[str, Any]:
        """Plain values for a run's description; paths as they were given."""
        named = (("data", self.data), ("images", self.images), ("splits", self.splits), ("pairs", self.pairs))
        paths = {name: str(path) if path else None for name, path in named}
        return {**paths, "columns": dict(self.columns or {}), "sep": self.sep}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], folder: Path = Path()) -> "Source":
        """The source of `to_json`'s values, paths relative to `folder`; LookupError or TypeError for other values."""
        names = ("data", "images", "splits", "pairs")
        data, images, splits, pairs = (values.get(name) and folder / values[name] for name in names)
        columns, sep = values["columns"], values["sep"]
        if not all(isinstance(word, str) for word in (*columns.keys(), *columns.values(), sep)):
            raise TypeError(f"columns {columns!r} and the delimiter {sep!r}")
        return cls(data, images, columns or None, sep, splits, pairs)


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
