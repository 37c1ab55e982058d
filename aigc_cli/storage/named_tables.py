"""Reads the tables that people give: names of images with prompts, and with ratings."""

import contextlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from aigc_cli.errors import AigcError
from aigc_cli.images.folders import check_folder, has_image_suffix, place_in_folder
from aigc_cli.images.matching import match_names
from aigc_cli.images.sample import MOS_COLUMNS, Sample
from aigc_cli.memory_limit import MAX_UNPACKED, limit_memory
from aigc_cli.mos_scale import DEFAULT_SCALE, MosScale
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

_MOS_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MOS = tuple(MOS_COLUMNS.values())
_OURS = ("name", "prompt", *_MOS)
_USUAL = {
    "name": ("file_name", "filename", "file", "image", "image_name", "image_path", "path"),
    "prompt": ("text", "caption", "description", "positive_prompt"),
}
_USUAL_ENDS = (1, 5, 7, 9, 10, 100)  # of rating scales


def read_given_table(path: Path, *, sep: str = ",") -> Table:
    """Read a table that a person gives: CSV, Parquet or JSON lines, told apart by the first bytes.

    Values of Parquet and JSON become text; null becomes an empty text. `Table.lines` then counts rows from 2, as if
    there were a header.

    Raises:
        AigcError: as `read_table` for CSV; the file is damaged, or JSON that is not lines of objects.
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
        rows = _read_json_lines(path)
    else:
        return read_table(path, sep=sep)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if not rows:
        raise AigcError(f"{show_path(path)}: expected rows, found none", "Give a table with at least one row.")
    values = [[_to_cell(row.get(name)) for name in columns] for row in rows]
    return Table(columns, values, range(2, len(rows) + 2))


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    from aigc_cli.storage.results import read_parquet_rows  # here: PyArrow takes long to import

    with limit_memory(MAX_UNPACKED):
        return [{str(name): value for name, value in row.items()} for row in read_parquet_rows(path)]


def _read_json_lines(path: Path) -> list[dict[str, Any]]:
    shown = to_printable(str(path))
    hint = "A table is CSV with a header, Parquet, or JSON lines: one object on each line."
    rows = []
    for number, line in enumerate(read_text(path, shown).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            found = "a JSON array" if line.lstrip().startswith("[") else "JSON of another form"
            raise AigcError(f"{shown}, line {number}: expected CSV, Parquet or JSON lines, found {found}", hint)
        rows.append(row)
    return rows


def _to_cell(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return value if isinstance(value, str) else json.dumps(value, default=str)


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
    samples = _find_other_names(
        [
            _make_sample(row, place, f"{shown}, line {line}", scale, table)
            for line, row, place in _iterate_named(table, shown, [images])
        ],
        images,
    )
    if not without_images and not any(os.path.lexists(sample.path) for sample in samples):
        found = f"none of the {len(samples)} named; the first would be {to_printable(str(samples[0].path))}"
        hint = "Name the folder that the names in the table start from."
        raise AigcError(f"{shown}: expected images in {to_printable(str(images))}, found {found}", hint)
    return samples


def read_rated_table(csv: Path, images: Path, *, columns: Mapping[str, str] | None = None, sep: str = ",") -> Table:
    """Read the table of `read_ratings` without a look at its cells; `images` must be a folder."""
    shown = to_printable(str(csv))
    table = rename_columns(read_given_table(csv, sep=sep), columns or {}, shown)
    _require_columns(table, shown, one_of=_MOS)
    check_folder(images)
    return table


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
    _require_columns(table, shown)
    rows = _iterate_named(table, shown, folders or [Path()])
    return {row["name"]: row["prompt"] for _, row, _ in rows if row["prompt"].strip()}


def _require_columns(table: Table, shown: str, one_of: tuple[str, ...] = ()) -> None:
    found = list(table.columns)
    missing = [column for column in ("name", "prompt") if column not in found]
    wanted = [quote(column) for column in missing]
    if one_of and not set(one_of) & set(found):
        missing += one_of
        wanted.append(" or ".join(quote(column) for column in one_of))
    if not missing:
        return
    free = [column for column in found if column not in _OURS]
    guesses = {column: _guess_column(column, free) for column in missing}
    renames = " ".join(f"--columns {quote(near)}={column}" for column, near in guesses.items() if near is not None)
    columns = f"column{'s' if len(wanted) > 1 else ''} {', '.join(wanted)}"
    raise AigcError(
        f"{shown}: expected a table (CSV, Parquet or JSON lines) with the {columns}, found {list_names(found)}",
        f"Say which columns they are with --columns THEIRS=OURS, for example {renames}."
        if renames
        else "Add what is missing, or say which columns they are with --columns THEIRS=OURS.",
    )


def _guess_column(ours: str, free: Sequence[str]) -> str | None:
    """The column that probably is `ours`: by a usual name, else by a similar one."""
    usual = next((column for column in free if column.strip().lower() in _USUAL.get(ours, ())), None)
    return usual or find_nearest_column(ours, free)


def _iterate_named(table: Table, shown: str, folders: Sequence[Path]) -> Iterator[tuple[int, dict[str, str], Path]]:
    """Yield (line, {column: value}, the image's path in one of the folders) of every row; check the names.

    The quotes that a result table has in front of formulas are removed.
    """
    seen: dict[Path, int] = {}
    escaped = {"status", "prompt_source"} <= set(table.columns)  # a table of scores: its names are printable
    for line, row in zip(table.lines, table.to_dicts(), strict=True):
        row |= {key: unquote_formula(row[key]) for key in ("name", "prompt")}
        place = _check_name(row["name"], f"{shown}, line {line}", folders, escaped)
        if place in seen:
            found = f"{quote(row['name'])} on lines {seen[place]} and {line}"
            hint = "Remove or rename one of the two rows."
            raise AigcError(f"{shown}, line {line}: expected every name once, found {found}", hint)
        seen[place] = line
        yield line, row, place


def _check_name(name: str, where: str, folders: Sequence[Path], escaped: bool) -> Path:
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


def _find_other_names(samples: Sequence[Sample], images: Path) -> list[Sample]:
    """The samples, with the file that each name means where no file has this name, see `match_names`.

    Only the folders that the names lead to are searched.
    """
    missing = [sample for sample in samples if not os.path.lexists(sample.path)]
    if not missing:
        return list(samples)
    files: list[str] = []
    for folder in {Path(), *(sample.path.parent.relative_to(images) for sample in missing)}:
        with contextlib.suppress(OSError):
            files += [str(folder / entry.name) for entry in (images / folder).iterdir() if has_image_suffix(entry.name)]
    taken = {sample.name for sample in samples}
    found = match_names([sample.name for sample in missing], [file for file in files if file not in taken])
    return [replace(sample, path=images / found[sample.name]) if sample.name in found else sample for sample in samples]


def _make_sample(row: dict[str, str], place: Path, where: str, scale: MosScale, table: Table) -> Sample:
    quality, align = (_parse_mos(row[name], name, where, scale, table) if name in row else None for name in _MOS)
    if quality is None and align is None:
        blank = " and ".join(target for target in _MOS if target in row)
        raise AigcError(f"{where}: expected a score, found {blank} blank", "Give the row a score or remove it.")
    groups = {column: value for column, value in row.items() if column not in _OURS}
    prompt = row["prompt"] if row["prompt"].strip() else None
    return Sample(row["name"], place, prompt, quality, align, groups)


def _parse_mos(text: str, column: str, where: str, scale: MosScale, table: Table) -> float | None:
    """Parse one score in MOS units; None for a blank cell."""
    if not (value := text.strip()):
        return None
    expected = f"{where}, column {column}: expected a number from {scale}, found {quote(text)}"
    if "," in value:
        raise AigcError(expected, "Write a decimal point, as in 3.5.")
    if not _MOS_NUMBER.fullmatch(value):  # float() also accepts 'inf', 'nan' and '1_0'
        raise AigcError(expected, "Write a plain number such as 3.5, or leave the cell blank where nobody rated.")
    number = float(value)
    if not scale.low <= number <= scale.high:
        raise AigcError(expected, _suggest_scale(scale, table))
    return number


def _suggest_scale(scale: MosScale, table: Table) -> str:
    """The options for the scale that the scores of a table seem to use."""
    texts = (row[name].strip() for row in table.to_dicts() for name in _MOS if name in row)
    numbers = [float(text) for text in texts if _MOS_NUMBER.fullmatch(text)]
    low, high = min(numbers), max(numbers)
    if math.isinf(low) or math.isinf(high):
        return "Correct the score: it is too large for a number."
    options = [f"--mos-min {math.floor(low)}"] if low < scale.low else []
    if high > scale.high:
        options.append(f"--mos-max {next((end for end in _USUAL_ENDS if end >= high), math.ceil(high))}")
    reach = f"The scores reach from {low:g} to {high:g}."
    return f"{reach} If they use another scale, give its ends: {' '.join(options)}"
