"""Reads tables of choices between images of one prompt: one row for each pair, or a list of images in each row."""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aigc_cli.errors import AigcError
from aigc_cli.images.folders import check_folder
from aigc_cli.images.sample import TARGETS
from aigc_cli.storage.csv_tables import Table, quote, rename_columns
from aigc_cli.storage.named_tables import find_named, match_missing, read_given_table, require_columns, require_images
from aigc_cli.text import to_printable

PAIR_COLUMNS = ("prompt", "image_a", "image_b", "preferred", "question", "rater")
SIDES = {"a": 1.0, "tie": 0.5, "b": 0.0}  # what `preferred` says, and the share of a
_PREFERRED = SIDES | {"1": 1.0, "0": 0.0, "0.5": 0.5, "1.0": 1.0, "0.0": 0.0}


@dataclass(frozen=True)
class Preference:
    """What one rater chose between two images of a prompt.

    Attributes:
        a, b: the names of the images in the table.
        preferred: 1 for a, 0 for b, 0.5 for a tie.
        question: what was asked: quality or consistency.
        rater: empty where the table does not say.
    """

    a: str
    b: str
    prompt: str
    preferred: float
    question: str = "quality"
    rater: str = ""


def read_pairs(
    path: Path, images: Path, *, columns: Mapping[str, str] | None = None, sep: str = ","
) -> tuple[list[Preference], dict[str, Path]]:
    """Read choices, and the path of each image by its name.

    A row is a pair: `prompt`, `image_a`, `image_b` and `preferred`: a, b or tie; or 1, 0 or 0.5, the share of a. Or it
    is a list of `images` of a prompt with their `ranking` (1 is the best), or with `preferred`, where the larger number
    wins: every two of them are a pair. `question` (quality, the default, or consistency) and `rater` may be missing.

    Args:
        images: the folder where the names start.
        columns: {their column: ours}.

    Raises:
        AigcError: as `read_given_table`; columns are missing, a cell has another form, a pair is one image twice, or
            all images are missing.
    """
    shown, table = to_printable(str(path)), read_pair_table(path, images, columns=columns, sep=sep)
    found, places = [], dict[str, Path]()
    for line, row in zip(table.lines, table.to_dicts(), strict=True):
        where = f"{shown}, line {line}"
        for choice in _read_row(row, where):
            if choice.a == choice.b:
                raise AigcError(f"{where}: expected two images, found {quote(choice.a)} twice", "Remove the row.")
            for name in (choice.a, choice.b):
                if name not in places:
                    places[name] = find_named(name, where, [images])
            found.append(choice)
    if not found:
        raise AigcError(f"{shown}: expected choices, found none", "Give at least one pair.")
    places = match_missing(places, images)
    require_images(places, images, shown)
    return found, places


def read_pair_table(path: Path, images: Path, *, columns: Mapping[str, str] | None = None, sep: str = ",") -> Table:
    """Read the table of `read_pairs` without a look at its cells; `images` must be a folder."""
    shown = to_printable(str(path))
    table = rename_columns(read_given_table(path, sep=sep), columns or {}, shown)
    if "images" in table.columns:
        require_columns(table, shown, ("prompt",), ("images",), ("ranking", "preferred"))
    else:
        require_columns(table, shown, ("prompt",), ("image_a",), ("image_b",), ("preferred",))
    check_folder(images)
    return table


def _read_row(row: Mapping[str, str], where: str) -> Iterator[Preference]:
    prompt, question = row["prompt"], row.get("question", "").strip().lower() or "quality"
    if not prompt.strip():
        raise AigcError(f"{where}: expected a prompt, found it blank", "Give both images their prompt.")
    if question not in TARGETS:
        raise AigcError(
            f"{where}: expected the question quality or consistency, found {quote(question)}",
            "Write quality or consistency.",
        )
    rater = row.get("rater", "")
    if "images" not in row:
        preferred = _PREFERRED.get(row["preferred"].strip().lower())
        if preferred is None:
            expected = f"{where}: expected preferred a, b or tie (or 1, 0, 0.5), found {quote(row['preferred'])}"
            raise AigcError(expected, "Write a for image_a, b for image_b.")
        yield Preference(row["image_a"], row["image_b"], prompt, preferred, question, rater)
        return
    column = "ranking" if "ranking" in row else "preferred"
    names, values = _read_list(row, "images", where, str), _read_list(row, column, where, int | float)
    if len(names) != len(values):
        found = f"{len(names)} images and {len(values)} in {column}"
        raise AigcError(f"{where}: expected lists of equal length, found {found}", "Correct the row.")
    sign = -1 if column == "ranking" else 1
    for (a, x), (b, y) in itertools.combinations(zip(names, values, strict=True), 2):
        lead = sign * (x - y)
        yield Preference(a, b, prompt, 0.5 if lead == 0 else float(lead > 0), question, rater)


def _read_list(row: Mapping[str, str], column: str, where: str, kind: Any) -> list[Any]:
    try:
        found = json.loads(row[column])
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(value, kind) for value in found):
        raise AigcError(f"{where}: expected a list in {column}, found {quote(row[column])}", "Use JSON or Parquet.")
    return found
