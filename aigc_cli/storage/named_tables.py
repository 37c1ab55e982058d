"""Reads the tables that people give, in several formats, and the names of images in them."""

import contextlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from aigc_cli.errors import AigcError
from aigc_cli.images.folders import has_image_suffix, place_in_folder
from aigc_cli.images.matching import match_names
from aigc_cli.memory_limit import MAX_UNPACKED, limit_memory
from aigc_cli.regular_file import check_regular
from aigc_cli.storage.csv_tables import (
    Table,
    find_nearest_column,
    list_names,
    quote,
    read_table,
    read_text,
    rename_columns,
    unquote_formula,
)
from aigc_cli.text import show_path, to_printable

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_USUAL = {
    "name": ("file_name", "filename", "file", "image", "image_name", "image_path", "path"),
    "prompt": ("text", "caption", "description", "positive_prompt"),
    "rater": ("user", "user_id", "annotator", "annotator_id", "worker", "worker_id", "subject"),
    "images": ("image_path", "file_path", "generations"),
    "image_a": ("image_0", "image_0_uid", "image1", "image_1"),
    "image_b": ("image_1", "image_1_uid", "image2", "image_2"),
    "preferred": ("label_0", "human_preference", "preference", "choice", "winner"),
    "ranking": ("rank", "ranks"),
}


def read_given_table(path: Path, *, sep: str = ",") -> Table:
    """Read a table that a person gives: CSV, Parquet, JSON lines or a JSON array, told apart by the first bytes.

    Values of Parquet and JSON become text; null becomes an empty text. `Table.lines` then counts rows from 2, as if
    there were a header.

    Raises:
        AigcError: as `read_table` for CSV; the file is damaged, or JSON of another form than objects.
    """
    try:
        check_regular(path)
        with path.open("rb") as stream:
            start = stream.read(256).removeprefix(b"\xef\xbb\xbf").lstrip()
    except (OSError, ValueError):  # `read_table` explains it
        start = b""
    if start.startswith(b"PAR1"):
        rows = _read_parquet(path)
    elif start[:1] in (b"{", b"["):
        rows = _read_json(path)
    else:
        return read_table(path, sep=sep)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if not rows:
        raise AigcError(f"{show_path(path)}: expected rows, found none", "Give a table with at least one row.")
    values = [[_to_cell(row.get(name)) for name in columns] for row in rows]
    return Table(columns, values, range(2, len(rows) + 2))


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    from aigc_cli.storage.results import read_parquet_rows  # here: PyArrow takes long to import

    try:
        with limit_memory(MAX_UNPACKED):
            return [{str(name): value for name, value in row.items()} for row in read_parquet_rows(path)]
    except AigcError as error:  # as the messages about CSV, this one begins with the table
        raise AigcError(f"{to_printable(str(path))}: {error.message}", error.hint) from error


def _read_json(path: Path) -> list[dict[str, Any]]:
    shown = to_printable(str(path))
    hint = "A table is CSV with a header, Parquet, JSON lines (one object on each line) or a JSON array of objects."
    text = read_text(path, shown)
    whole = text.lstrip().startswith("[")
    rows = []
    for number, line in [(1, text)] if whole else enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        parts = row if whole and isinstance(row, list) else [row]
        if not all(isinstance(part, dict) for part in parts):
            problem = f"{shown}, line {number}: expected CSV, Parquet or JSON objects, found JSON of another form"
            raise AigcError(problem, hint)
        rows += parts
    return rows


def _to_cell(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def read_prompts(
    csv: Path, folders: Sequence[Path] = (), *, columns: Mapping[str, str] | None = None, sep: str = ","
) -> dict[str, str]:
    """Read {name: prompt} from a table with the columns `name` and `prompt`; other columns are ignored.

    Rows with a blank prompt are skipped. A table of scores is read too, in any of its formats.

    Args:
        folders: an absolute name must lie in one of them.

    Raises:
        AigcError: as `read_ratings` for the table, the columns and the names.
    """
    shown = to_printable(str(csv))
    table = rename_columns(read_given_table(csv, sep=sep), columns or {}, shown)
    require_columns(table, shown, ("name",), ("prompt",))
    rows = iterate_named(table, shown, folders or [Path()])
    return {row["name"]: row["prompt"] for _, row, _ in rows if row["prompt"].strip()}


def require_columns(table: Table, shown: str, *wanted: tuple[str, ...], optional: Sequence[str] = ()) -> None:
    """Refuses a table that lacks columns.

    Args:
        wanted: names of columns; one column of each is enough.
        optional: columns that may be missing; a column that seems to be one of them under another name is refused.

    Raises:
        AigcError: columns are missing; the hint names those that they may be.
    """
    found = list(table.columns)
    lacking = [names for names in wanted if not set(names) & set(found)]
    free = [column for column in found if column not in {*optional, *(name for names in wanted for name in names)}]
    guesses = {name: _guess_column(name, free) for names in lacking for name in names}
    guesses |= {name: _find_usual(name, free) for name in optional if name not in found}
    if not lacking and not any(guesses.values()):
        return
    missing = [" or ".join(map(quote, names)) for names in lacking]
    missing += [quote(name) for name in optional if guesses.get(name)]
    renames = " ".join(f"--columns {quote(near)}={name}" for name, near in guesses.items() if near is not None)
    columns = f"column{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
    raise AigcError(
        f"{shown}: expected a table (CSV, Parquet or JSON) with the {columns}, found {list_names(found)}",
        f"Say which columns they are with --columns THEIRS=OURS, for example {renames}."
        if renames
        else "Add what is missing, or say which columns they are with --columns THEIRS=OURS.",
    )


def _find_usual(ours: str, free: Sequence[str]) -> str | None:
    """The column that has a usual name of `ours`."""
    return next((column for column in free if column.strip().lower() in (ours, *_USUAL.get(ours, ()))), None)


def _guess_column(ours: str, free: Sequence[str]) -> str | None:
    """The column that probably is `ours`: by a usual name, else by a similar one."""
    return _find_usual(ours, free) or find_nearest_column(ours, free)


def iterate_named(
    table: Table, shown: str, folders: Sequence[Path], repeats: bool = False
) -> Iterator[tuple[int, dict[str, str], Path]]:
    """Yield (line, {column: value}, the image's path in one of the folders) of every row; check the names.

    The quotes that a result table has in front of formulas are removed.

    Args:
        repeats: whether several rows may have one name.
    """
    seen: dict[Path, int] = {}
    escaped = has_escaped_names(table)
    for line, row in zip(table.lines, table.to_dicts(), strict=True):
        row |= {key: unquote_formula(row[key]) for key in ("name", "prompt") if key in row}
        place = find_named(row["name"], f"{shown}, line {line}", folders, escaped)
        if place in seen and not repeats:
            found = f"{quote(row['name'])} on lines {seen[place]} and {line}"
            hint = "Remove or rename one of them; if each row is of one rater, --columns THEIRS=rater names raters."
            raise AigcError(f"{shown}, line {line}: expected every name once, found {found}", hint)
        seen[place] = line
        yield line, row, place


def has_escaped_names(table: Table) -> bool:
    """Whether this is a table of scores, whose names are printable."""
    return {"status", "prompt_source"} <= set(table.columns)


def find_named(name: str, where: str, folders: Sequence[Path], escaped: bool = False) -> Path:
    """The path that a name in a table means in one of the folders; AigcError, which begins with `where`, for none."""
    if not name.strip() or not PurePosixPath(name).parts:
        raise AigcError(f"{where}: expected an image name, found {quote(name)}", "Give every row a name.")
    for number, folder in enumerate(folders, 1):
        try:
            place = place_in_folder(folder, name, where, escaped=escaped)
            break
        except AigcError:
            if number == len(folders):
                raise
    if _CONTROL.search(name):
        expected = f"{where}: expected a name without control characters"
        raise AigcError(f"{expected}, found {quote(name)}", "Rename the image.")
    return place


def match_missing(places: Mapping[str, Path], images: Path) -> dict[str, Path]:
    """`places` {name: path}, with the file that each name means where no file has this name, see `match_names`.

    Only the folders that the names lead to are searched.
    """
    missing = {name: place for name, place in places.items() if not os.path.lexists(place)}
    if not missing:
        return dict(places)
    files: list[str] = []
    for folder in {Path(), *(place.parent.relative_to(images) for place in missing.values())}:
        with contextlib.suppress(OSError):
            files += [str(folder / entry.name) for entry in (images / folder).iterdir() if has_image_suffix(entry.name)]
    found = match_names(list(missing), [file for file in files if file not in places])
    return dict(places) | {name: images / file for name, file in found.items()}


def require_images(places: Mapping[str, Path], images: Path, shown: str) -> None:
    """Refuses a table of which no image is there."""
    if not any(map(os.path.lexists, places.values())):
        found = f"none of the {len(places)} named; the first would be {to_printable(str(next(iter(places.values()))))}"
        hint = "Name the folder that the names in the table start from."
        raise AigcError(f"{shown}: expected images in {to_printable(str(images))}, found {found}", hint)
