"""Reads CSV tables of names, prompts and scores.

The reader is strict: an ambiguous table is an error that names the file and the line. A shifted column, or a prompt
`None` that becomes a missing value, would silently corrupt all scores after it.
"""

import csv
import difflib
import errno
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from aigc_cli.errors import AigcError
from aigc_cli.images.folders import check_folder, place_in_folder
from aigc_cli.images.sample import MOS_COLUMNS, Sample
from aigc_cli.mos_scale import DEFAULT_SCALE, MosScale
from aigc_cli.regular_file import FileTooLarge, NotRegularFile, read_regular
from aigc_cli.text import to_printable

MAX_FIELD = 1 << 20  # characters in one field
MAX_TABLE_BYTES = 1 << 29
_SEPARATORS = (",", ";", "\t", "|")
_SHOWN_COLUMNS = 20
_UTF8_HINT = "Save the table as CSV in UTF-8 (in a spreadsheet: 'CSV UTF-8')."
_MOS_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MOS = tuple(MOS_COLUMNS.values())
_OURS = ("name", "prompt", *_MOS)


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
        raise AigcError(f"expected one character as separator, found {_quote(sep)}", "Use --sep ',' ';' or '\\t'.")
    rows = _parse_rows(_read_text(path, shown), sep, shown)
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


def rename_columns(table: Table, renames: Mapping[str, str], source: str = "the table") -> Table:
    """Return `table` with columns renamed by {name in the table: new name}; error messages call it `source`.

    Raises:
        AigcError: a column to rename is missing (the hint names the most similar one), or two columns get one name.
    """
    found = list(table.columns)
    for theirs in renames:
        if theirs not in found:
            near = _find_nearest_column(theirs, found)
            hint = "Name a column that the header holds." if near is None else f"Did you mean {_quote(near)}?"
            raise AigcError(f"{source}: expected a column {_quote(theirs)}, found {_list_names(found)}", hint)
    renamed = [renames.get(column, column) for column in found]
    if (twice := _find_duplicate(renamed)) is not None:
        both = [theirs for theirs, ours in zip(found, renamed, strict=True) if ours == twice]
        hint = "Rename one of them to something else with --columns THEIRS=OURS."
        raise AigcError(f"{source}: expected one column for {_quote(twice)}, found {_list_names(both)}", hint)
    return replace(table, columns=renamed)


def read_ratings(
    csv: Path,
    images: Path,
    *,
    scale: MosScale = DEFAULT_SCALE,
    columns: Mapping[str, str] | None = None,
    sep: str = ",",
    without_images: bool = False,
) -> list[Sample]:
    """Read a table of rated images: columns `name`, `prompt` and `mos_quality`, `mos_align` or both, in MOS units.

    A blank score means not rated, a blank prompt means no prompt. Other columns are kept as text in `Sample.groups`.
    The samples keep the order of the rows. Some images may be missing: the image reader reports them later.

    Args:
        images: the folder where the paths in `name` start.
        columns: {name in the table: name, prompt, mos_quality or mos_align}.
        sep: the separator, see `read_table`.
        without_images: whether all images may be missing.

    Raises:
        AigcError: as `read_table`; also for missing columns, names that are blank, duplicate or outside `images`,
            scores that are not finite numbers on the scale, rows without any score, and if all images are missing.
    """
    shown, table = to_printable(str(csv)), read_rated_table(csv, images, columns=columns, sep=sep)
    samples = [_make_sample(row, images, f"{shown}, line {line}", scale) for line, row in _iterate_named(table, shown)]
    if not without_images and not any(os.path.lexists(sample.path) for sample in samples):
        found = f"none of the {len(samples)} named; the first would be {to_printable(str(samples[0].path))}"
        hint = "Name the folder that the names in the table start from."
        raise AigcError(f"{shown}: expected images in {to_printable(str(images))}, found {found}", hint)
    return samples


def read_rated_table(csv: Path, images: Path, *, columns: Mapping[str, str] | None = None, sep: str = ",") -> Table:
    """Read the table of `read_ratings` without a look at its cells; `images` must be a folder."""
    shown = to_printable(str(csv))
    table = rename_columns(read_table(csv, sep=sep), columns or {}, shown)
    _require_columns(table, shown, one_of=_MOS)
    check_folder(images)
    return table


def read_prompts(csv: Path, *, columns: Mapping[str, str] | None = None, sep: str = ",") -> dict[str, str]:
    """Read {name: prompt} from a table with the columns `name` and `prompt`; other columns are ignored.

    Rows with a blank prompt are skipped.

    Raises:
        AigcError: as `read_ratings` for the table, the columns and the names.
    """
    shown = to_printable(str(csv))
    table = rename_columns(read_table(csv, sep=sep), columns or {}, shown)
    _require_columns(table, shown)
    return {row["name"]: row["prompt"] for _, row in _iterate_named(table, shown) if row["prompt"].strip()}


def _read_text(path: Path, shown: str) -> str:
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
        found = f"expected columns separated by '{_show_separator(sep)}', found one column {_quote(header[0])}"
        shown = _show_separator(other)
        raise AigcError(f"{where}: {found}", f"The table seems to be separated by '{shown}': try --sep '{shown}'.")
    if (twice := _find_duplicate(header)) is not None:
        found = f"{_quote(twice)} {header.count(twice)} times"
        hint = "Rename or remove one of these columns."
        raise AigcError(f"{where}: expected every column name once, found {found}", hint)


def _explain_ragged(where: str, header: list[str], row: list[str], sep: str) -> AigcError:
    message = f"{where}: expected {len(header)} fields ({_list_names(header)}), found {len(row)}"
    if len(row) > len(header):
        return AigcError(message, f"Put double quotes around a text that holds a '{_show_separator(sep)}'.")
    return AigcError(message, f"Write a '{_show_separator(sep)}' for every field, blank ones too.")


def _require_columns(table: Table, shown: str, one_of: tuple[str, ...] = ()) -> None:
    found = list(table.columns)
    missing = [column for column in ("name", "prompt") if column not in found]
    wanted = [_quote(column) for column in missing]
    if one_of and not set(one_of) & set(found):
        missing += one_of
        wanted.append(" or ".join(_quote(column) for column in one_of))
    if not missing:
        return
    free = [column for column in found if column not in _OURS]
    guesses = {column: _find_nearest_column(column, free) for column in missing}
    renames = " ".join(f"--columns {_quote(near)}={column}" for column, near in guesses.items() if near is not None)
    raise AigcError(
        f"{shown}: expected the column{'s' if len(wanted) > 1 else ''} {', '.join(wanted)}, found {_list_names(found)}",
        f"Say which columns they are with --columns THEIRS=OURS{', for example ' + renames if renames else ''}.",
    )


def _iterate_named(table: Table, shown: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line, {column: value}) of every row; check the names."""
    seen: dict[PurePosixPath, int] = {}
    for line, row in zip(table.lines, table.to_dicts(), strict=True):
        path = _check_name(row["name"], f"{shown}, line {line}")
        if path in seen:
            found = f"{_quote(row['name'])} on lines {seen[path]} and {line}"
            hint = "Remove or rename one of the two rows."
            raise AigcError(f"{shown}, line {line}: expected every name once, found {found}", hint)
        seen[path] = line
        yield line, row


def _check_name(name: str, where: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if not name.strip() or not path.parts:
        raise AigcError(f"{where}: expected an image name, found {_quote(name)}", "Give every row a name.")
    place_in_folder(Path(), name, where)
    if _CONTROL.search(name):
        expected = f"{where}: expected a name without control characters"
        raise AigcError(f"{expected}, found {_quote(name)}", "Rename the image.")
    return path


def _make_sample(row: dict[str, str], images: Path, where: str, scale: MosScale) -> Sample:
    quality, align = (_parse_mos(row[target], target, where, scale) if target in row else None for target in _MOS)
    if quality is None and align is None:
        blank = " and ".join(target for target in _MOS if target in row)
        raise AigcError(f"{where}: expected a score, found {blank} blank", "Give the row a score or remove it.")
    groups = {column: value for column, value in row.items() if column not in _OURS}
    prompt = row["prompt"] if row["prompt"].strip() else None
    return Sample(row["name"], images / row["name"], prompt, quality, align, groups)


def _parse_mos(text: str, column: str, where: str, scale: MosScale) -> float | None:
    """Parse one score in MOS units; None for a blank cell."""
    if not (value := text.strip()):
        return None
    expected = f"{where}, column {column}: expected a number from {scale}, found {_quote(text)}"
    if "," in value:
        raise AigcError(expected, "Write a decimal point, as in 3.5.")
    if not _MOS_NUMBER.fullmatch(value):  # float() also accepts 'inf', 'nan' and '1_0'
        raise AigcError(expected, "Write a plain number such as 3.5, or leave the cell blank where nobody rated.")
    number = float(value)
    if not scale.low <= number <= scale.high:
        raise AigcError(expected, "If the scores use another scale, give it with --mos-min and --mos-max.")
    return number


def _quote(value: str) -> str:
    return f"'{to_printable(value, 80)}'"


def _show_separator(sep: str) -> str:
    return "\\t" if sep == "\t" else to_printable(sep)


def _list_names(columns: list[str]) -> str:
    more = f" and {len(columns) - _SHOWN_COLUMNS} more" if len(columns) > _SHOWN_COLUMNS else ""
    return ", ".join(_quote(column) for column in columns[:_SHOWN_COLUMNS]) + more


def _find_nearest_column(word: str, known: Iterable[str]) -> str | None:
    by_lower = {name.strip().lower(): name for name in known}
    near = difflib.get_close_matches(word.strip().lower(), by_lower, n=1)
    return by_lower[near[0]] if near else None


def _find_duplicate(names: list[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)
