"""Reads and writes result tables in Parquet, CSV and JSON lines, with the columns of `schemas.py`."""

import contextlib
import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from aigc_cli.errors import AigcError
from aigc_cli.memory_limit import MAX_UNPACKED, limit_memory
from aigc_cli.mos_scale import MosScale
from aigc_cli.regular_file import check_regular
from aigc_cli.storage.atomic_files import open_atomic, read_json, write_json
from aigc_cli.storage.csv_tables import FORMULA_STARTS, MAX_FIELD, read_table, unquote_formula
from aigc_cli.storage.schemas import LATER_COLUMNS, SCHEMA_VERSION, SCHEMAS, Kind
from aigc_cli.text import show_path, to_printable

_NEVER_NULL = frozenset({"name", "status"})
# all but tab, line feed and carriage return, which a quoted cell may contain
_CELL_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

Row = Mapping[str, Any]


def clean_value(value: Any) -> Any:
    """Return a value for a table: NaN and infinity become None, surrogates become escapes such as `\\udcff`."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "backslashreplace").decode()
    return None if isinstance(value, float) and not math.isfinite(value) else value


class TableWriter:
    """A context manager that writes one result table, batch by batch; the file appears when the block succeeds.

    Args:
        path: the file; its suffix .parquet, .csv or .jsonl gives the format.
        metadata: origin of the table: model, weights hash, version and more. Parquet stores it in the file, the other
            formats in a file `<path>.meta.json` beside it.
        extra: names of further text columns after those of the schema.
    """

    def __init__(self, path: Path, kind: Kind, metadata: Mapping[str, str], extra: Sequence[str] = ()) -> None:
        self.path, self.kind = path, kind
        said = {key: clean_value(text) for key, text in metadata.items()}
        self.metadata = {"schema": kind, "schema_version": str(SCHEMA_VERSION), **said}
        self.schema = pa.schema([*SCHEMAS[kind], *[(name, pa.string()) for name in extra]])
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        binary = self.path.suffix == ".parquet"
        stream = self._stack.enter_context(open_atomic(self.path, "wb" if binary else "w"))
        if binary:
            schema = self.schema.with_metadata(self.metadata)
            self._parquet = self._stack.enter_context(pq.ParquetWriter(stream, schema, compression="zstd"))
        elif self.path.suffix == ".csv":
            self._csv = csv.writer(stream, lineterminator="\r\n")
            self._csv.writerow([_format_cell(name) for name in self.schema.names])
        else:
            self._stream = stream
        return self

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows; missing columns become null, unknown ones are dropped."""
        names = self.schema.names
        values = [{name: clean_value(row.get(name)) for name in names} for row in rows]
        if self.path.suffix == ".parquet":
            self._parquet.write_table(pa.Table.from_pylist(values, schema=self._parquet.schema))
        elif self.path.suffix == ".csv":
            self._csv.writerows([[_format_cell(row[name]) for name in names] for row in values])
        else:
            for row in values:
                line = json.dumps(row, ensure_ascii=False, allow_nan=False)
                self._stream.write(_CELL_CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", line) + "\n")

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)
        if error[0] is None and self.path.suffix != ".parquet":
            write_json(_place_metadata(self.path), self.metadata)


def _format_cell(value: Any) -> Any:
    """Format a CSV cell: formulas get a quote in front, control characters become escapes, null is empty."""
    if isinstance(value, bool):
        return "true" if value else "false"  # as JSON writes them
    if isinstance(value, str):
        value = _CELL_CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", value)
        return f"'{value}" if value.startswith(FORMULA_STARTS) else value
    return "" if value is None else value


def write_table(
    path: Path, kind: Kind, rows: Sequence[Row], metadata: Mapping[str, str], extra: Sequence[str] = ()
) -> None:
    """Write a table in one batch, see `TableWriter`."""
    with TableWriter(path, kind, metadata, extra) as table:
        table.write(rows)


def read_parquet(path: Path) -> pa.Table:
    """Read a Parquet file on one thread.

    The threads of `pq.read_table` can outlive a short command and abort it at its end (exit code 134 instead of 0).

    Raises:
        OSError, ValueError, pa.ArrowException: the file is missing or damaged.
    """
    with path.open("rb") as stream, pq.ParquetFile(stream) as table:  # pyarrow cannot open a path that is not UTF-8
        return table.read(use_threads=False)


def read_parquet_rows(path: Path) -> list[dict[Any, Any]]:
    """Read the rows of a Parquet file; AigcError if it is missing or damaged."""
    with _translate_errors(path):
        return read_parquet(path).to_pylist()  # type: ignore[no-any-return]


def iterate_rows(path: Path, kind: Kind = "scores") -> Iterator[dict[str, Any]]:
    """Yield the rows of a result table of any format, with one batch in memory at a time.

    Values have the type of their column in the schema; further columns are not checked. Columns that are newer than the
    table are null.

    Raises:
        AigcError: the table is missing or damaged, a column is missing or duplicate, a row has more or fewer cells than
            the header, or a value has the wrong type; the message names the row.
    """
    schema = SCHEMAS[kind]
    columns = [(field.name, str(field.type)) for field in schema]
    with _translate_errors(path):
        check_regular(path)
        guarded = path.suffix == ".csv" or not _has_metadata(path)
        for number, row in enumerate(_READERS[path.suffix](path, schema), 1):
            if guarded:
                row = {name: unquote_formula(value) if isinstance(value, str) else value for name, value in row.items()}
            for name, form in columns:
                row[name] = _check_value(row.get(name), name, form, number)
            yield row


def _has_metadata(path: Path) -> bool:
    """Whether a table has the metadata that `TableWriter` writes.

    One without may come from a CSV by way of pandas: its texts may have quotes against formulas in any format.
    """
    if path.suffix != ".parquet":
        return _place_metadata(path).exists()
    with path.open("rb") as stream:
        return b"schema_version" in (pq.read_schema(stream).metadata or {})


def _iterate_parquet(path: Path, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    with path.open("rb") as stream, pq.ParquetFile(stream) as table:
        _check_columns(table.schema_arrow.names, schema)
        batches = table.iter_batches(use_threads=False)
        while True:
            with limit_memory(MAX_UNPACKED):
                batch = next(batches, None)
                rows = batch.to_pylist() if batch else []
            if not rows:
                return
            yield from rows


def _iterate_csv(path: Path, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(MAX_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as stream:
        header = stream.readline(MAX_FIELD)
        stream.seek(0)
        lines = csv.reader(stream, strict=True, delimiter=max(",;\t", key=header.count))
        names = [unquote_formula(name) for name in next(lines, ())]
        _check_columns(names, schema)
        forms = [schema.field(name).type if name in schema.names else pa.string() for name in names]
        for cells in filter(None, lines):
            if len(cells) != len(names):
                raise ValueError(f"{len(cells)} cells instead of {len(names)} in line {lines.line_num}")
            try:
                row = dict(zip(names, map(_parse_cell, cells, forms), strict=True))
            except (ValueError, KeyError) as error:
                raise ValueError(f"a cell of the wrong type in line {lines.line_num}: {error}") from error
            yield row


def _iterate_json_lines(path: Path, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    for found in _parse_json_lines(path):
        _check_columns(found, schema)
        yield found


_READERS = {".parquet": _iterate_parquet, ".csv": _iterate_csv, ".jsonl": _iterate_json_lines}


def detect_kind(path: Path, among: Sequence[Kind]) -> Kind:
    """Return the first kind of `among` whose columns the table has.

    Raises:
        AigcError: the table is missing, damaged, or of another kind.
    """
    if not path.is_file():
        raise AigcError(f"Expected a table of results at {show_path(path)}, found none.", "Check the path.")
    for kind in among:
        try:
            next(iterate_rows(path, kind), None)
            return kind
        except AigcError as error:
            if "no column" not in error.message:
                raise
    wanted = f"a table of {', '.join(among)} at {show_path(path)}"
    raise AigcError(f"Expected {wanted}, found other columns.", "Give a table that aigc wrote.")


def read_table_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a result table, see `TableWriter`; AigcError if they are missing or damaged."""
    with _translate_errors(path):
        check_regular(path)
        if not _has_metadata(path):
            place = "the file" if path.suffix == ".parquet" else f"{_place_metadata(path).name} beside it"
            raise AigcError(
                f"Expected the metadata of the table {show_path(path)} in {to_printable(place)}, found none.",
                "Other programs leave it out when they save a table: use the file that aigc wrote, or score again.",
            )
        if path.suffix == ".parquet":
            with path.open("rb") as stream:
                said = pq.read_schema(stream).metadata or {}
            return {key.decode(): text.decode() for key, text in said.items()}
        said = read_json(_place_metadata(path))
        return {str(key): str(text) for key, text in said.items()}


def _place_metadata(path: Path) -> Path:
    return path.with_name(f"{path.name}.meta.json")


def read_scale(metadata: Mapping[str, str]) -> MosScale:
    """Return the MOS scale in the metadata of a table; without one, 0 to 5. AigcError: the scale is invalid."""
    ends = metadata.get("mos_min", "0"), metadata.get("mos_max", "5")
    try:
        return MosScale(*map(float, ends))
    except (ValueError, AigcError) as error:
        found = f"in the table's metadata, found {to_printable(' to '.join(ends), 80)}"
        raise AigcError(f"Expected a valid MOS scale {found}.", "Score the images again.") from error


def _check_columns(found: Iterable[str], schema: pa.Schema) -> None:
    names = list(found)
    if missing := [name for name in schema.names if name not in names and name not in LATER_COLUMNS]:
        one = (
            f"; its one column is '{to_printable(names[0], 40)}': is it separated by commas?" if len(names) == 1 else ""
        )
        raise ValueError(f"no column {', '.join(missing)}{one}")
    if len(set(names)) < len(names):
        raise ValueError(f"the column {max(names, key=names.count)} twice")


_COLUMN_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "string": ((str,), "a text"),
    "double": ((float, int), "a finite number"),
    "int64": ((int,), "a whole number"),
    "bool": ((bool,), "true or false"),
}


def _check_value(value: Any, name: str, form: str, number: int) -> Any:
    """Return a value from an untrusted table in the type of its column; ValueError for another type."""
    kinds, wanted = _COLUMN_TYPES[form]
    if value is None and name not in _NEVER_NULL:
        return None
    if form == "int64" and isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas makes a column with gaps a column of floats
    if form == "string" and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # and a column of digits, such as seeds, one of whole numbers
    if not isinstance(value, kinds) or (isinstance(value, bool) and form != "bool"):
        raise ValueError(f"'{to_printable(str(value), 40)}' in the column {name} of row {number} instead of {wanted}")
    if form != "double":
        return value
    assert isinstance(value, float | int)
    if not math.isfinite(value):
        raise ValueError(f"{value} in the column {name} of row {number} instead of {wanted}")
    return float(value)


def _parse_cell(cell: str | None, kind: pa.DataType) -> Any:
    """Return the value of a CSV cell, the reverse of `_format_cell`, also after a spreadsheet or pandas saved it."""
    if not cell:
        return None
    if kind == pa.bool_():
        return {"true": True, "false": False}[cell.lower()]
    if kind == pa.string():
        return cell
    number = float(cell.replace(",", "."))  # a spreadsheet may have written a decimal comma
    return int(cell) if kind == pa.int64() and cell.lstrip("-").isdigit() else number


_DAMAGED = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
    MemoryError,
    csv.Error,
    pa.ArrowException,
)


@contextlib.contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise AigcError(f"Expected a table at {show_path(path)}, found nothing there.", "Check the path.") from error
    except (OSError, *_DAMAGED) as error:
        kind = {".csv": "CSV", ".jsonl": "JSON lines"}.get(path.suffix, "Parquet")
        what = to_printable(str(error) or type(error).__name__, 300)
        hint = "Check that the file is complete and was not edited."
        raise AigcError(f"Expected a {kind} table at {show_path(path)}, found {what}.", hint) from error


def read_splits(path: Path) -> list[dict[str, Any]]:
    """Read a splits table of any format, from this project or written by hand; the column `prompt` is not needed.

    Return one dict per row: name (str), split (str), fold and repeat (int); None for a blank cell.

    Raises:
        AigcError: the table is missing or damaged, has no column `name`, or a fold or repeat that is not an integer.
    """
    if path.suffix == ".csv":
        rows: list[dict[Any, Any]] = [*read_table(path).to_dicts()]
    elif path.suffix == ".jsonl":
        with _translate_errors(path):
            rows = list(_parse_json_lines(path))
    else:
        rows = read_parquet_rows(path)
    if any(row.get("name") is None for row in rows):
        expected = f"Expected a name in every row of {path}, found a row without one."
        raise AigcError(expected, "Columns: name, split, fold, repeat.")
    return [
        {
            "name": unquote_formula(str(row["name"])) if path.suffix == ".csv" else str(row["name"]),
            "split": str(row["split"]) if row.get("split") else None,
            **{column: _parse_whole(row.get(column), column, path) for column in ("fold", "repeat")},
        }
        for row in rows
    ]


def _parse_json_lines(path: Path) -> Iterator[dict[Any, Any]]:
    with path.open(encoding="utf-8") as stream:
        yield from (dict(json.loads(line)) for line in stream if line.strip())


def _parse_whole(value: Any, column: str, path: Path) -> int | None:
    if value in (None, ""):
        return None
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError) as error:
        where = f"the column {column} of {path}"
        raise AigcError(f"Expected whole numbers in {where}, found '{value}'.", "Number them from 0.") from error
