"""Reads CSV tables.

The reader is strict: an ambiguous table is an error that names the file and the line. A shifted column, or a prompt
`None` that becomes a missing value, would silently corrupt all scores after it.
"""

import csv
import difflib
import errno
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aigc_cli.errors import AigcError
from aigc_cli.regular_file import FileTooLarge, NotRegularFile, read_regular
from aigc_cli.text import to_printable

MAX_FIELD = 1 << 20  # characters in one field
MAX_TABLE_BYTES = 1 << 29
_SEPARATORS = (",", ";", "\t", "|")
_SHOWN_COLUMNS = 20
_UTF8_HINT = "Save the table as CSV in UTF-8 (in a spreadsheet: 'CSV UTF-8')."
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_IMAGE_NAME = re.compile(r".+\.(?:jpe?g|png|webp|gif|tiff?|bmp|avif)", re.IGNORECASE)


@dataclass(frozen=True)
class Table:
    """A CSV table; every value is a `str`, exactly as written (`None`, `0012` and `` included).

    Attributes:
        columns: the names in the header.
        rows: a value for each column.
        lines: the 1-based line of the file where each row starts.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    lines: Sequence[int]

    def to_dicts(self) -> list[dict[str, str]]:
        """Each row as {column: value}."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def read_table(path: Path, *, sep: str = ",") -> Table:
    """Read a CSV file with a header.

    The text is UTF-8, with or without a byte order mark. Blank lines are skipped. The separator is one character, or
    the two characters `\\t` for a tab.

    Raises:
        AigcError: the file is unreadable or over 512 MiB, not UTF-8, contains NUL bytes or an open quote, has no
            header, no rows, duplicate columns, or a row with more or fewer fields than the header.
    """
    shown = to_printable(str(path))
    sep = "\t" if sep == "\\t" else sep
    if len(sep) != 1 or sep in '"\r\n\0 ' or 0xD800 <= ord(sep) <= 0xDFFF:
        raise AigcError(f"expected one character as separator, found {quote(sep)}", "Use --sep ',' ';' or '\\t'.")
    rows = _parse_rows(read_text(path, shown), sep, shown)
    start, header = next(rows, (0, []))
    if not header:
        raise AigcError(f"{shown}: expected a header line, found an empty file", "Give a table with a header and rows.")
    _check_header(header, f"{shown}, line {start}", sep)
    lines, values = [], []
    for line, row in rows:
        if len(row) != len(header):
            raise _explain_ragged(f"{shown}, line {line}", header, row, sep)
        lines.append(line)
        values.append(row)
    if not values:
        raise AigcError(f"{shown}: expected rows below the header, found none", "Give a table with at least one row.")
    return Table(header, values, lines)


def unquote_formula(text: str) -> str:
    """Remove the quote that result tables have in front of a text that a spreadsheet would take for a formula."""
    return text[1:] if text.startswith("'") and text[1:].startswith(FORMULA_STARTS) else text


def rename_columns(table: Table, renames: Mapping[str, str], source: str = "the table") -> Table:
    """Return `table` with columns renamed by {name in the table: new name}; error messages call it `source`.

    Raises:
        AigcError: a column to rename is missing (the hint names the most similar one), or two columns get one name.
    """
    found = list(table.columns)
    for theirs in renames:
        if theirs not in found:
            near = find_nearest_column(theirs, found)
            hint = "Name a column that the header holds." if near is None else f"Did you mean {quote(near)}?"
            raise AigcError(f"{source}: expected a column {quote(theirs)}, found {list_names(found)}", hint)
    renamed = [renames.get(column, column) for column in found]
    if (twice := _find_duplicate(renamed)) is not None:
        both = [theirs for theirs, ours in zip(found, renamed, strict=True) if ours == twice]
        hint = "Rename one of them to something else with --columns THEIRS=OURS."
        raise AigcError(f"{source}: expected one column for {quote(twice)}, found {list_names(both)}", hint)
    return replace(table, columns=renamed)


def read_text(path: Path, shown: str) -> str:
    """The text of a table; AigcError if it is not a file of at most 512 MiB in UTF-8."""
    try:
        data = read_regular(path, MAX_TABLE_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        problem = f"{shown}: expected a CSV file, {_explain_unread(error)}"
        raise AigcError(problem, "Give the path of a CSV file.") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise AigcError(f"{shown}, line 1: expected UTF-8 text, found UTF-16", _UTF8_HINT)
    if b"\0" in data:
        line = _find_line(data, data.index(b"\0"))
        raise AigcError(f"{shown}, line {line}: expected UTF-8 text, found a NUL byte", _UTF8_HINT)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # error.start counts from the end of the byte order mark, so it indexes error.object, not data
        line, found = _find_line(error.object, error.start), f"the byte 0x{error.object[error.start]:02x}"
        raise AigcError(f"{shown}, line {line}: expected UTF-8 text, found {found}", _UTF8_HINT) from error


def _explain_unread(error: Exception) -> str:
    if isinstance(error, FileTooLarge):
        return f"found {error.size:,} bytes, more than {MAX_TABLE_BYTES:,}"
    if isinstance(error, NotRegularFile) or getattr(error, "errno", None) == errno.ELOOP:
        return "found a folder, pipe, device or link loop"
    if isinstance(error, FileNotFoundError | NotADirectoryError | ValueError):
        return "found nothing there"
    return f"found a file that can't be read ({getattr(error, 'strerror', None) or error})"


def _find_line(data: bytes, offset: int) -> int:
    return data.count(b"\n", 0, offset) + data.count(b"\r", 0, offset) - data.count(b"\r\n", 0, offset) + 1


def _parse_rows(text: str, sep: str, shown: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line where the row starts, fields); skip blank lines."""
    csv.field_size_limit(MAX_FIELD)  # a setting of the whole process; the default is 131,072
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=sep, strict=True)
    start = 1
    try:
        for row in reader:
            if row:
                yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        raise _explain_malformed(f"{shown}, line {start}", str(error)) from error


def _explain_malformed(where: str, message: str) -> AigcError:
    if "field larger" in message:
        problem = f"expected fields of at most {MAX_FIELD} characters, found a longer one"
        hint = "Look for a double quote that is never closed."
    elif "end of data" in message:
        problem = 'expected a closing ", found the end of the file'
        hint = "Close the quote that is opened in this row."
    else:
        problem = f"expected a separator after a closing quote, found something else ({message})"
        hint = 'Write a double quote inside a quoted field twice: "a ""red"" car".'
    return AigcError(f"{where}: {problem}", hint)


def _check_header(header: list[str], where: str, sep: str) -> None:
    other = next((char for char in _SEPARATORS if char != sep and char in header[0]), None)
    if len(header) == 1 and other is not None:
        found = f"expected columns separated by '{_show_separator(sep)}', found one column {quote(header[0])}"
        shown = _show_separator(other)
        raise AigcError(f"{where}: {found}", f"The table seems to be separated by '{shown}': try --sep '{shown}'.")
    if (data := next(filter(_IMAGE_NAME.fullmatch, header), None)) is not None:
        found = f"{where}: expected a header such as name,prompt, found {quote(data)}, which looks like data"
        raise AigcError(found, "Put a line with the names of the columns above the first row.")
    if (twice := _find_duplicate(header)) is not None:
        found = f"{quote(twice)} {header.count(twice)} times"
        hint = "Rename or remove one of these columns."
        raise AigcError(f"{where}: expected every column name once, found {found}", hint)


def _explain_ragged(where: str, header: list[str], row: list[str], sep: str) -> AigcError:
    message = f"{where}: expected {len(header)} fields ({list_names(header)}), found {len(row)}"
    if len(row) > len(header):
        return AigcError(message, f"Put double quotes around a text that holds a '{_show_separator(sep)}'.")
    return AigcError(message, f"Write a '{_show_separator(sep)}' for every field, blank ones too.")


def quote(value: str) -> str:
    """A text from a table in single quotes, at most 80 characters of it."""
    return f"'{to_printable(value, 80)}'"


def _show_separator(sep: str) -> str:
    return "\\t" if sep == "\t" else to_printable(sep)


def list_names(columns: list[str]) -> str:
    """Names of columns for a message, at most 20 of them."""
    more = f" and {len(columns) - _SHOWN_COLUMNS} more" if len(columns) > _SHOWN_COLUMNS else ""
    return ", ".join(quote(column) for column in columns[:_SHOWN_COLUMNS]) + more


def find_nearest_column(word: str, known: Iterable[str]) -> str | None:
    """The name that is most like `word`; None if none is."""
    by_lower = {name.strip().lower(): name for name in known}
    near = difflib.get_close_matches(word.strip().lower(), by_lower, n=1)
    return by_lower[near[0]] if near else None


def _find_duplicate(names: list[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)
