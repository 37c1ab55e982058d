"""Reads CSV tables: the only place where a table of names, prompts and scores comes in.

The reader is strict. A table that could be read in two ways is an error that names the file and the line, because a
column that silently shifts, or a prompt `None` that becomes a missing value, spoils every number after it.
"""

import csv
import difflib
import io
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import pandas as pd

from aigc_cli.errors import AigcError
from aigc_cli.images.folders import check_folder
from aigc_cli.images.reader import ImageFault, read_bytes
from aigc_cli.images.sample import Sample
from aigc_cli.text import printable

MAX_FIELD = 1 << 20  # characters in one field
_SEPARATORS = (",", ";", "\t", "|")
_SHOWN = 80  # characters of a value that a message shows
_SHOWN_COLUMNS = 20

_NOT_READ = {
    "missing_file": "found nothing there",
    "not_regular": "found a folder, pipe, device or link loop",
    "unreadable": "found a file that may not be read",
    "too_many_pixels": "found a file that is far too large",
}
_UTF8_HINT = "Save the table as CSV in UTF-8 (in a spreadsheet: 'CSV UTF-8')."
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_DRIVE = re.compile(r"[A-Za-z]:[/\\]")
_MOS = ("mos_quality", "mos_align")
_OURS = ("name", "prompt", *_MOS)


def read_table(path: Path, *, sep: str = ",") -> pd.DataFrame:
    """Read a CSV file with a header; every value is a `str`, exactly as written (`None`, `0012` and `` included).

    The text is UTF-8, with or without a byte order mark. The index, called `line`, is the 1-based line of the file on
    which each row starts. Blank lines are skipped. `sep` is one character (`\\t`, written out, means a tab).
    Raises AigcError for a file that is no such table: another encoding, NUL bytes, an open quote, rows with more or
    fewer fields than the header, duplicate column names, no header, no rows.
    """
    shown = printable(str(path))
    sep = _checked_separator(sep)
    rows = _rows(_read_text(path, shown), sep, shown)
    first = next(rows, None)
    if first is None:
        raise AigcError(f"{shown}: expected a header line, found an empty file", "Give a table with a header and rows.")
    header = first[1]
    _check_header(header, f"{shown}, line {first[0]}", sep)
    lines, values = [], []
    for line, row in rows:
        if len(row) != len(header):
            raise _ragged(f"{shown}, line {line}", header, row, sep)
        lines.append(line)
        values.append(row)
    if not values:
        raise AigcError(f"{shown}: expected rows below the header, found none", "Give a table with at least one row.")
    # object, because the `str` type of pandas holds missing values that a strict table does not have
    index, names = pd.Index(lines, name="line"), pd.Index(header, dtype=object)
    return pd.DataFrame(values, index=index, columns=names, dtype=object)


def rename_columns(table: pd.DataFrame, renames: Mapping[str, str], source: str = "the table") -> pd.DataFrame:
    """Return `table` with columns renamed by {their name: our name}; `source` names the table in messages.

    Raises AigcError for a column that is not there (with the nearest one) and for two columns of one name.
    """
    found = [str(column) for column in table.columns]
    for theirs in renames:
        if theirs not in found:
            raise AigcError(
                f"{source}: expected a column {_quoted(theirs)}, found {_listed(found)}",
                _did_you_mean(theirs, found) or "Name a column that the header holds.",
            )
    renamed = [renames.get(column, column) for column in found]
    twice = _first_duplicate(renamed)
    if twice is not None:
        both = [theirs for theirs, ours in zip(found, renamed, strict=True) if ours == twice]
        raise AigcError(
            f"{source}: expected one column for {_quoted(twice)}, found {_listed(both)}",
            "Rename one of them to something else with --columns THEIRS=OURS.",
        )
    return table.set_axis(pd.Index(renamed, dtype=object), axis="columns")


def read_ratings(
    csv: Path,
    images: Path,
    *,
    mos_min: float = 0.0,
    mos_max: float = 5.0,
    columns: Mapping[str, str] | None = None,
    sep: str = ",",
    without_images: bool = False,
) -> list[Sample]:
    """Read a table of rated images: columns `name`, `prompt` and `mos_quality`, `mos_align` or both, in MOS units.

    `columns` maps the table's own column names to these. `name` is a path inside the folder `images`. A blank score
    means not rated; a blank prompt means none. Other columns are kept as text in `Sample.groups`. Rows stay in order.
    A single missing image is left to the image reader, which gives it a failed row; `without_images` all
    may be missing.
    Raises AigcError: what `read_table` raises; missing columns; names that are blank, twice there or lead outside
    `images`; scores that are no finite number in [mos_min, mos_max] or blank for both targets; no image at all.
    """
    if not (math.isfinite(mos_min) and math.isfinite(mos_max) and mos_min < mos_max):
        raise AigcError(
            f"expected finite scores with mos_min < mos_max, found {mos_min:g} and {mos_max:g}",
            "Give the ends of the rating scale with --mos-min and --mos-max.",
        )
    shown = printable(str(csv))
    table = rename_columns(read_table(csv, sep=sep), columns or {}, shown)
    _require_columns(table, shown, ("name", "prompt"), one_of=_MOS)
    check_folder(images)
    samples = [
        _sample(row, images, f"{shown}, line {line}", (mos_min, mos_max)) for line, row in _named_rows(table, shown)
    ]
    if not without_images and not any(os.path.lexists(sample.path) for sample in samples):
        raise AigcError(
            f"{shown}: expected images in {printable(str(images))}, found none of the {len(samples)} named; "
            f"the first would be {printable(str(samples[0].path))}",
            "Name the folder that the names in the table start from.",
        )
    return samples


def read_prompts(csv: Path, *, columns: Mapping[str, str] | None = None, sep: str = ",") -> dict[str, str]:
    """Read {name: prompt} from a table with the columns `name` and `prompt`; other columns are ignored.

    A row with a blank prompt is left out: its image has none. Raises AigcError as `read_ratings` does for the table,
    the columns and the names.
    """
    shown = printable(str(csv))
    table = rename_columns(read_table(csv, sep=sep), columns or {}, shown)
    _require_columns(table, shown, ("name", "prompt"))
    return {row["name"]: row["prompt"] for _, row in _named_rows(table, shown) if row["prompt"].strip()}


# --- from bytes to rows


def _read_text(path: Path, shown: str) -> str:
    try:
        data = read_bytes(path)
    except ImageFault as fault:
        raise AigcError(
            f"{shown}: expected a CSV file, {_NOT_READ[fault.reason]}", "Give the path of a CSV file."
        ) from fault
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise AigcError(f"{shown}, line 1: expected UTF-8 text, found UTF-16", _UTF8_HINT)
    if b"\0" in data:
        line = _line_at(data, data.index(b"\0"))
        raise AigcError(f"{shown}, line {line}: expected UTF-8 text, found a NUL byte", _UTF8_HINT)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # Positions count from behind the byte order mark, so the bytes are taken from the error's own copy.
        line, byte = _line_at(error.object, error.start), error.object[error.start]
        raise AigcError(
            f"{shown}, line {line}: expected UTF-8 text, found the byte 0x{byte:02x}", _UTF8_HINT
        ) from error


def _line_at(data: bytes, offset: int) -> int:
    before = data[:offset].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return before.count(b"\n") + 1


def _rows(text: str, sep: str, shown: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line on which the row starts, fields), without blank lines."""
    csv.field_size_limit(MAX_FIELD)  # one setting for the whole process; the default is an eighth of it
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=sep, strict=True)
    start = 1
    try:
        for row in reader:
            if row:
                yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        raise _malformed(f"{shown}, line {start}", str(error)) from error


def _malformed(where: str, message: str) -> AigcError:
    if "field larger" in message:
        return AigcError(
            f"{where}: expected fields of at most {MAX_FIELD} characters, found a longer one",
            "Look for a double quote that is never closed.",
        )
    if "end of data" in message:
        return AigcError(
            f'{where}: expected a closing ", found the end of the file', "Close the quote that is opened in this row."
        )
    return AigcError(
        f"{where}: expected a separator after a closing quote, found something else ({message})",
        'Write a double quote inside a quoted field twice: "a ""red"" car".',
    )


def _checked_separator(sep: str) -> str:
    sep = "\t" if sep == "\\t" else sep
    if len(sep) != 1 or sep in '"\r\n\0 ' or 0xD800 <= ord(sep) <= 0xDFFF:
        raise AigcError(f"expected one character as separator, found {_quoted(sep)}", "Use --sep ',' ';' or '\\t'.")
    return sep


def _check_header(header: list[str], where: str, sep: str) -> None:
    other = next((char for char in _SEPARATORS if char != sep and char in header[0]), None)
    if len(header) == 1 and other is not None:
        raise AigcError(
            f"{where}: expected columns separated by '{_written(sep)}', found one column {_quoted(header[0])}",
            f"The table seems to be separated by '{_written(other)}': try --sep '{_written(other)}'.",
        )
    twice = _first_duplicate(header)
    if twice is not None:
        raise AigcError(
            f"{where}: expected every column name once, found {_quoted(twice)} {header.count(twice)} times",
            "Rename or remove one of these columns.",
        )


def _ragged(where: str, header: list[str], row: list[str], sep: str) -> AigcError:
    message = f"{where}: expected {len(header)} fields ({_listed(header)}), found {len(row)}"
    if len(row) > len(header):
        return AigcError(message, f"Put double quotes around a text that holds a '{_written(sep)}'.")
    return AigcError(message, f"Write a '{_written(sep)}' for every field, blank ones too.")


# --- from rows to samples


def _require_columns(table: pd.DataFrame, shown: str, needed: Iterable[str], one_of: Iterable[str] = ()) -> None:
    found = [str(column) for column in table.columns]
    missing = [column for column in needed if column not in found]
    wanted = [_quoted(column) for column in missing]
    if one_of and not set(one_of) & set(found):
        missing += one_of
        wanted.append(" or ".join(_quoted(column) for column in one_of))
    if not missing:
        return
    free = [column for column in found if column not in _OURS]
    guesses = {column: _nearest(column, free) for column in missing}
    renames = " ".join(f"--columns {_quoted(near)}={column}" for column, near in guesses.items() if near is not None)
    raise AigcError(
        f"{shown}: expected the column{'s' if len(wanted) > 1 else ''} {', '.join(wanted)}, found {_listed(found)}",
        f"Say which columns they are with --columns THEIRS=OURS{', for example ' + renames if renames else ''}.",
    )


def _named_rows(table: pd.DataFrame, shown: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line, {column: value}) of every row, its name checked."""
    seen: dict[PurePosixPath, int] = {}
    for line, record in zip(table.index.tolist(), table.to_dict("records"), strict=True):
        row = {str(column): str(value) for column, value in record.items()}
        path = _checked_name(row["name"], f"{shown}, line {line}")
        if path in seen:
            raise AigcError(
                f"{shown}, line {line}: expected every name once, found {_quoted(row['name'])} "
                f"on lines {seen[path]} and {line}",
                "Remove or rename one of the two rows.",
            )
        seen[path] = line
        yield line, row


def _checked_name(name: str, where: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if not name.strip() or not path.parts:
        raise AigcError(f"{where}: expected an image name, found {_quoted(name)}", "Give every row a name.")
    # Judged by the text alone and for every system, so that a table means the same wherever it is read.
    if path.is_absolute() or ".." in path.parts or "\\" in name or _DRIVE.match(name):
        raise AigcError(
            f"{where}: expected a name inside the image folder, found {_quoted(name)}, outside the image folder",
            "Write names relative to the image folder, with / between folders and without '..'.",
        )
    if _CONTROL.search(name):
        raise AigcError(
            f"{where}: expected a name without control characters, found {_quoted(name)}", "Rename the image."
        )
    return path


def _sample(row: dict[str, str], images: Path, where: str, scale: tuple[float, float]) -> Sample:
    quality, align = (_mos(row[target], target, where, scale) if target in row else None for target in _MOS)
    if quality is None and align is None:
        blank = " and ".join(target for target in _MOS if target in row)
        raise AigcError(f"{where}: expected a score, found {blank} blank", "Give the row a score or remove it.")
    groups = {column: value for column, value in row.items() if column not in _OURS}
    prompt = row["prompt"] if row["prompt"].strip() else None
    return Sample(row["name"], images / row["name"], prompt, quality, align, groups)


def _mos(text: str, column: str, where: str, scale: tuple[float, float]) -> float | None:
    """Parse one score in MOS units; None for a blank cell."""
    value = text.strip()
    if not value:
        return None
    expected = f"{where}, column {column}: expected a number from {scale[0]:g} to {scale[1]:g}, found {_quoted(text)}"
    if "," in value:
        raise AigcError(expected, "Write a decimal point, as in 3.5.")
    if not _NUMBER.fullmatch(value):  # float() alone would take 'inf', 'nan' and '1_0'
        raise AigcError(expected, "Write a plain number such as 3.5, or leave the cell blank where nobody rated.")
    number = float(value)
    if not scale[0] <= number <= scale[1]:
        raise AigcError(expected, "If the scores use another scale, give it with --mos-min and --mos-max.")
    return number


# --- words for messages


def _quoted(value: str) -> str:
    return f"'{printable(value, _SHOWN)}'"


def _written(sep: str) -> str:
    return "\\t" if sep == "\t" else printable(sep)


def _listed(columns: list[str]) -> str:
    more = f" and {len(columns) - _SHOWN_COLUMNS} more" if len(columns) > _SHOWN_COLUMNS else ""
    return ", ".join(_quoted(column) for column in columns[:_SHOWN_COLUMNS]) + more


def _nearest(word: str, known: Iterable[str]) -> str | None:
    by_lower = {name.strip().lower(): name for name in known}
    near = difflib.get_close_matches(word.strip().lower(), by_lower, n=1)
    return by_lower[near[0]] if near else None


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    near = _nearest(word, known)
    return f"Did you mean {_quoted(near)}?" if near is not None else ""


def _first_duplicate(names: list[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)
