"""Result tables: fixed, versioned schemas in Parquet, CSV or JSON lines."""

import contextlib
import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq

from aigc_cli.errors import AigcError
from aigc_cli.io.files import whole_file, write_json
from aigc_cli.io.tables import read_table
from aigc_cli.io.text import printable

SCHEMA_VERSION = 1
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # not the white space that a quoted cell may hold

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
        + [("lr", _real), ("seconds", _real)]
        + [(name, _real) for name in ("saturated_q", "saturated_c", "unused_q", "unused_c")]
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
            ("reason", _text),
        ]
    ),
    "stress": pa.schema(
        [("model", _text), ("perturbation", _text), ("target", _text), ("n", _whole)]
        + [(name, _real) for name in ("change", "ci_low", "ci_high", "lower", "srocc")]
    ),
    "comparison": pa.schema(
        [("table", _text), ("baseline", _text), ("target", _text), ("group", _text), ("pairs", _whole)]
        + [("prompts", _whole)]
        + [(name, _real) for name in ("mean", "baseline_mean", "difference", "ci_low", "ci_high")]
        + [(name, _real) for name in ("win_rate", "win_low", "win_high")]
        + [("verdict", _text), ("reason", _text)]
    ),
    "predictions": pa.schema(
        [("name", _text), ("group", _text)]
        + [(name, _real) for name in ("quality", "consistency", "human_quality", "human_consistency", "clip_cosine")]
    ),
    "splits": pa.schema([("name", _text), ("prompt", _text), ("split", _text), ("fold", _whole), ("repeat", _whole)]),
}

Kind = Literal["scores", "metrics", "epochs", "ablation", "comparison", "predictions", "splits", "stress"]
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
            lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in values)
            self._stream.writelines(
                _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", line) + "\n" for line in lines
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        if kind is None and self.path.suffix != ".parquet":
            write_json(self.path.with_name(f"{self.path.name}.meta.json"), self.metadata)


def _cell(value: Any) -> Any:
    """A CSV cell that no spreadsheet takes for a formula and no terminal for a command; null is empty."""
    if isinstance(value, bool):
        return "true" if value else "false"  # as JSON writes them
    if isinstance(value, str):
        value = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", value)
        return f"'{value}" if value.startswith(_FORMULA) else value
    return "" if value is None else value


def write_table(
    path: Path, kind: Kind, rows: Sequence[Row], metadata: Mapping[str, str], extra: Sequence[str] = ()
) -> None:
    """Writes a whole table at once, see `TableWriter`."""
    with TableWriter(path, kind, metadata, extra) as table:
        table.write(rows)


def read_rows(path: Path) -> list[dict[Any, Any]]:
    """The rows of a Parquet table that this project wrote."""
    with _readable(path):
        return pq.read_table(path).to_pylist()  # type: ignore[no-any-return]


def iter_rows(path: Path, kind: Kind = "scores") -> Iterator[dict[str, Any]]:
    """The rows of a table of any format that this project wrote, one batch in memory at a time.

    Raises:
        AigcError: it is missing, damaged, or has other columns.
    """
    schema = SCHEMAS[kind]
    with _readable(path):
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as table:
                _check_columns(table.schema_arrow.names, schema)
                for batch in table.iter_batches():
                    yield from batch.to_pylist()
        elif path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as stream:
                rows = csv.DictReader(stream, strict=True)
                names = rows.fieldnames or ()
                _check_columns(names, schema)
                kinds = {name: schema.field(name).type if name in schema.names else _text for name in names}
                for row in rows:
                    yield {name: _from_cell(row[name], kind) for name, kind in kinds.items()}
        else:
            for found in _json_lines(path):
                _check_columns(found, schema)
                yield found


def kind_of(path: Path, among: Sequence[Kind]) -> Kind:
    """The first kind of `among` whose columns a table has.

    Raises:
        AigcError: it is missing, damaged, or of none of these kinds.
    """
    if not path.is_file():
        raise AigcError(f"Expected a table of results at {printable(str(path), 200)}, found none.", "Check the path.")
    for kind in among:
        try:
            next(iter_rows(path, kind), None)
        except AigcError as error:
            if "no column" not in error.message:
                raise
        else:
            return kind
    raise AigcError(
        f"Expected a table of {', '.join(among)} at {printable(str(path), 200)}, found other columns.",
        "Name a table that aigc wrote.",
    )


def read_metadata(path: Path) -> dict[str, str]:
    """What a table that this project wrote says of its making: in the file itself, or in `<path>.meta.json`.

    Raises:
        AigcError: there is no such table, or nothing that says how it was made.
    """
    with _readable(path):
        if path.suffix == ".parquet":
            return {key.decode(): text.decode() for key, text in (pq.read_schema(path).metadata or {}).items()}
        beside = path.with_name(f"{path.name}.meta.json")
        return {str(key): str(text) for key, text in json.loads(beside.read_text(encoding="utf-8")).items()}


def _check_columns(found: Iterable[str], schema: pa.Schema) -> None:
    missing = [name for name in schema.names if name not in found]
    if missing:
        raise ValueError(f"no column {', '.join(missing)}")


def _from_cell(cell: str | None, kind: pa.DataType) -> Any:
    """What `_cell` made a cell of."""
    if not cell:
        return None
    if kind == _flag:
        return {"true": True, "false": False}[cell]
    if kind == _text:
        return _plain(cell)
    return int(cell) if kind == _whole else float(cell)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowInvalid, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        kind = {".csv": "CSV", ".jsonl": "JSON lines"}.get(path.suffix, "Parquet")
        raise AigcError(f"Expected a {kind} table at {path}: {error}.", "Is the run complete?") from error


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
        with _readable(path):
            rows = list(_json_lines(path))
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


def _json_lines(path: Path) -> Iterator[dict[Any, Any]]:
    with path.open(encoding="utf-8") as stream:
        yield from (dict(json.loads(line)) for line in stream)


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
