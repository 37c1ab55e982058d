"""Result tables: fixed, versioned schemas in Parquet, CSV or JSON lines."""

import contextlib
import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq

from aigc_cli.errors import AigcError
from aigc_cli.io.files import whole_file, write_json
from aigc_cli.io.tables import read_table

SCHEMA_VERSION = 1
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

_text, _real, _whole, _flag = pa.string(), pa.float64(), pa.int64(), pa.bool_()

SCHEMAS: dict[str, pa.Schema] = {
    "scores": pa.schema(
        [
            ("name", _text),
            ("path", _text),
            ("prompt", _text),
            ("prompt_source", _text),
            ("quality", _real),
            ("consistency", _real),
            ("quality_base", _real),
            ("quality_delta", _real),
            ("consistency_base", _real),
            ("consistency_delta", _real),
            ("clip_cosine", _real),
            ("prompt_truncated", _flag),
            ("width", _whole),
            ("height", _whole),
            ("status", _text),
            ("reason", _text),
        ]
    ),
    "metrics": pa.schema(
        [
            ("run", _text),
            ("split", _text),
            ("group", _text),
            ("target", _text),
            ("metric", _text),
            ("value", _real),
            ("ci_low", _real),
            ("ci_high", _real),
            ("n", _whole),
            ("reason", _text),
        ]
    ),
    "epochs": pa.schema(
        [("run", _text), ("epoch", _whole), ("split", _text)]
        + [(name, _real) for name in ("loss", "loss_q", "loss_c", "srocc_q", "srocc_c", "plcc_q", "plcc_c")]
        + [("lr", _real), ("seconds", _real), ("saturated_q", _real), ("saturated_c", _real)]
    ),
    "ablation": pa.schema(
        [
            ("variant", _text),
            ("fold", _whole),
            ("seed", _whole),
            ("target", _text),
            ("metric", _text),
            ("value", _real),
            ("seconds", _real),
            ("trainable_parameters", _whole),
        ]
    ),
    "splits": pa.schema([("name", _text), ("prompt", _text), ("split", _text), ("fold", _whole), ("repeat", _whole)]),
}

Kind = Literal["scores", "metrics", "epochs", "ablation", "splits"]
Row = Mapping[str, Any]


def clean(value: Any) -> Any:
    """A value as a table holds it: NaN and infinity become None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


class TableWriter:
    """Writes one result table, batch by batch, in the format of the path's suffix; memory holds one batch.

    Used as a context manager; the file appears when the block ends without an error.

    Args:
        path: ends in .parquet, .csv or .jsonl.
        kind: which schema.
        metadata: what made the table (model, weights hash, version ...); Parquet keeps it in the file's schema, the
            other formats in a file `<path>.meta.json` beside it.
        extra: further text columns behind the fixed ones.
    """

    def __init__(self, path: Path, kind: Kind, metadata: Mapping[str, str], extra: Sequence[str] = ()) -> None:
        self.path, self.kind = path, kind
        self.metadata = {"schema": kind, "schema_version": str(SCHEMA_VERSION), **metadata}
        self.schema = pa.schema([*SCHEMAS[kind], *[(name, _text) for name in extra]])
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        binary = self.path.suffix == ".parquet"
        stream = self._stack.enter_context(whole_file(self.path, "wb" if binary else "w"))
        if binary:
            schema = self.schema.with_metadata(self.metadata)
            self._parquet = self._stack.enter_context(pq.ParquetWriter(stream, schema, compression="zstd"))
        elif self.path.suffix == ".csv":
            self._csv = csv.writer(stream, lineterminator="\r\n")
            self._csv.writerow(self.schema.names)
        else:
            self._stream = stream
        return self

    def write(self, rows: Sequence[Row]) -> None:
        """Appends rows; a column that a row lacks is null."""
        names = self.schema.names
        values = [{name: clean(row.get(name)) for name in names} for row in rows]
        if self.path.suffix == ".parquet":
            self._parquet.write_table(pa.Table.from_pylist(values, schema=self._parquet.schema))
        elif self.path.suffix == ".csv":
            self._csv.writerows([[_cell(row[name]) for name in names] for row in values])
        else:
            self._stream.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in values)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        if kind is None and self.path.suffix != ".parquet":
            write_json(self.path.with_name(f"{self.path.name}.meta.json"), self.metadata)


def _cell(value: Any) -> Any:
    """A CSV cell that no spreadsheet takes for a formula; null is empty, booleans as JSON writes them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else value


def write_table(path: Path, kind: Kind, rows: Sequence[Row], metadata: Mapping[str, str]) -> None:
    """Writes a whole table at once, see `TableWriter`."""
    with TableWriter(path, kind, metadata) as table:
        table.write(rows)


def read_rows(path: Path) -> list[dict[Any, Any]]:
    """The rows of a Parquet table that this project wrote."""
    try:
        return pq.read_table(path).to_pylist()  # type: ignore[no-any-return]
    except (OSError, pa.ArrowInvalid) as error:
        raise AigcError(f"Expected a Parquet table at {path}: {error}.", "Is the run complete?") from error


def read_splits(path: Path) -> list[dict[str, Any]]:
    """The rows of a splits table in any format, this project's or a person's; `prompt` is not needed.

    Returns:
        name, split (None: blank), fold and repeat (None: blank) of each row.

    Raises:
        AigcError: no such table, no column `name`, or a fold or repeat that is no whole number.
    """
    if path.suffix == ".csv":
        rows: list[dict[Any, Any]] = read_table(path).to_dict("records")
    elif path.suffix == ".jsonl":
        rows = _json_lines(path)
    else:
        rows = read_rows(path)
    if any(row.get("name") is None for row in rows):
        raise AigcError(f"Expected a column name in {path}, found rows without.", "Columns: name, split, fold, repeat.")
    return [
        {
            "name": _plain(str(row["name"])) if path.suffix == ".csv" else str(row["name"]),
            "split": str(row["split"]) if row.get("split") else None,
            "fold": _number(row.get("fold"), "fold", path),
            "repeat": _number(row.get("repeat"), "repeat", path),
        }
        for row in rows
    ]


def _json_lines(path: Path) -> list[dict[Any, Any]]:
    try:
        return [dict(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, TypeError) as error:
        raise AigcError(f"Expected a table of JSON lines at {path}: {error}.", "Check the path.") from error


def _plain(text: str) -> str:
    """The text of a CSV cell without what `_cell` puts before a formula."""
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text


def _number(value: Any, column: str, path: Path) -> int | None:
    if value in (None, ""):
        return None
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise AigcError(
            f"Expected whole numbers in the column {column} of {path}, found '{value}'.", "Number them from 0."
        ) from error
