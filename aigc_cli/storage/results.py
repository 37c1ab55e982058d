"""Result tables in Parquet, CSV or JSON lines; their columns stand in `schemas.py`."""

import contextlib
import csv
import functools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from aigc_cli.errors import AigcError
from aigc_cli.storage.csv_tables import MAX_FIELD, read_table
from aigc_cli.storage.files import read_json, whole_file, write_json
from aigc_cli.storage.schemas import LATER, SCHEMA_VERSION, SCHEMAS, Kind
from aigc_cli.text import printable

_NEVER_NULL = frozenset({"name", "status"})
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # not the white space that a quoted cell may hold

Row = Mapping[str, Any]


def clean(value: Any) -> Any:
    """A value as a table holds it: NaN and infinity become None, and what is not UTF-8 in a text becomes escapes."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "backslashreplace").decode()
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
        said = {key: clean(text) for key, text in metadata.items()}
        self.metadata = {"schema": kind, "schema_version": str(SCHEMA_VERSION), **said}
        self.schema = pa.schema([*SCHEMAS[kind], *[(name, pa.string()) for name in extra]])
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        binary = self.path.suffix == ".parquet"
        stream = self._stack.enter_context(whole_file(self.path, "wb" if binary else "w"))
        if binary:
            schema = self.schema.with_metadata(self.metadata)
            self._parquet = self._stack.enter_context(pq.ParquetWriter(stream, schema, compression="zstd"))
        elif self.path.suffix == ".csv":
            self._csv = csv.writer(stream, lineterminator="\r\n")
            self._csv.writerow([_cell(name) for name in self.schema.names])
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


def read_parquet(path: Path) -> pa.Table:
    """A whole Parquet table.

    On this thread alone: those that pyarrow starts for `pq.read_table` may still live when a short command ends, and
    then abort it with all its work done (exit code 134 instead of 0).

    Raises:
        OSError, ValueError, pa.ArrowException: there is none, or it is damaged.
    """
    with path.open("rb") as stream, pq.ParquetFile(stream) as table:  # a path that is not UTF-8 is none to pyarrow
        return table.read(use_threads=False)


def read_rows(path: Path) -> list[dict[Any, Any]]:
    """The rows of a Parquet table that this project wrote."""
    with _readable(path):
        return read_parquet(path).to_pylist()  # type: ignore[no-any-return]


def iter_rows(path: Path, kind: Kind = "scores") -> Iterator[dict[str, Any]]:
    """The rows of a table of any format that this project wrote, one batch in memory at a time.

    Every value has the type that its column says; further columns come as they are.

    Raises:
        AigcError: it is missing or damaged, has other columns or one twice, a row of more or fewer cells, or a value
            that its column can't hold; the message names the row.
    """
    schema = SCHEMAS[kind]
    with _readable(path):
        if not path.is_file():  # a pipe would wait for ever
            raise ValueError("no such file")
        for number, row in enumerate(_READERS[path.suffix](path, schema), 1):
            for name, form in _columns(schema):
                row[name] = _typed(row.get(name), name, form, number)
            yield row


def _parquet_rows(path: Path, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    with path.open("rb") as stream, pq.ParquetFile(stream) as table:
        _check_columns(table.schema_arrow.names, schema)
        for batch in table.iter_batches(use_threads=False):
            yield from batch.to_pylist()


def _csv_rows(path: Path, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(MAX_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as stream:
        lines = csv.reader(stream, strict=True)
        names = [_plain(name) for name in next(lines, ())]
        _check_columns(names, schema)
        forms = [schema.field(name).type if name in schema.names else pa.string() for name in names]
        for cells in filter(None, lines):
            if len(cells) != len(names):
                raise ValueError(f"{len(cells)} cells instead of {len(names)} in line {lines.line_num}")
            try:
                row = {name: _from_cell(cell, form) for name, cell, form in zip(names, cells, forms, strict=True)}
            except (ValueError, KeyError) as error:
                raise ValueError(f"a cell of another kind in line {lines.line_num}: {error}") from error
            yield row


def _jsonl_rows(path: Path, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    for found in _json_lines(path):
        _check_columns(found, schema)
        yield found


_READERS = {".parquet": _parquet_rows, ".csv": _csv_rows, ".jsonl": _jsonl_rows}


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
            with path.open("rb") as stream:
                said = pq.read_schema(stream).metadata or {}
            return {key.decode(): text.decode() for key, text in said.items()}
        said = read_json(path.with_name(f"{path.name}.meta.json"))
        return {str(key): str(text) for key, text in said.items()}


def scale_of(metadata: Mapping[str, str]) -> tuple[float, float]:
    """The range of a table's scores, MOS; 0 to 5 where the table does not say.

    Raises:
        AigcError: what it says is no range.
    """
    said = metadata.get("mos_min", "0"), metadata.get("mos_max", "5")
    try:
        low, high = map(float, said)
    except ValueError:
        low = high = math.nan
    if not -math.inf < low < high < math.inf:
        shown = printable(" to ".join(said), 80)
        raise AigcError(f"Expected a table of scores with the range of its scale, found {shown}.", "Score it again.")
    return low, high


def _check_columns(found: Iterable[str], schema: pa.Schema) -> None:
    names = list(found)
    if missing := [name for name in schema.names if name not in names and name not in LATER]:
        one = f"; its one column is '{printable(names[0], 40)}': is it separated by commas?" if len(names) == 1 else ""
        raise ValueError(f"no column {', '.join(missing)}{one}")
    if len(set(names)) < len(names):
        raise ValueError(f"the column {max(names, key=names.count)} twice")


@functools.cache
def _columns(schema: pa.Schema) -> list[tuple[str, str]]:
    """(name, a key of `_FITS`) of each column."""
    return [(field.name, str(field.type)) for field in schema]


_FITS: dict[str, tuple[tuple[type, ...], str]] = {
    "string": ((str,), "a text"),
    "double": ((float, int), "a finite number"),
    "int64": ((int,), "a whole number"),
    "bool": ((bool,), "true or false"),
}


def _typed(value: Any, name: str, form: str, number: int) -> Any:
    """A value that others may have written, as its column says; ValueError when it is none of those."""
    kinds, wanted = _FITS[form]
    if value is None and name not in _NEVER_NULL:
        return None
    if not isinstance(value, kinds) or (isinstance(value, bool) and form != "bool"):
        raise ValueError(f"'{printable(str(value), 40)}' in the column {name} of row {number} instead of {wanted}")
    if form != "double":
        return value
    assert isinstance(value, float | int)
    if not math.isfinite(value):
        raise ValueError(f"{value} in the column {name} of row {number} instead of {wanted}")
    return float(value)


def _from_cell(cell: str | None, kind: pa.DataType) -> Any:
    """What `_cell` made a cell of."""
    if not cell:
        return None
    if kind == pa.bool_():
        return {"true": True, "false": False}[cell]
    if kind == pa.string():
        return _plain(cell)
    return int(cell) if kind == pa.int64() else float(cell)


_UNREADABLE = (
    OSError,
    pa.ArrowException,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
    csv.Error,
)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        kind = {".csv": "CSV", ".jsonl": "JSON lines"}.get(path.suffix, "Parquet")
        what = printable(str(error) or type(error).__name__, 300)
        raise AigcError(
            f"Expected a {kind} table at {printable(str(path), 200)}, found {what}.",
            "Is it whole, and as it was written?",
        ) from error


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
    except (TypeError, ValueError, OverflowError) as error:
        raise AigcError(
            f"Expected whole numbers in the column {column} of {path}, found '{value}'.", "Number them from 0."
        ) from error
