"""`aigc pick`: the best images of each prompt, folder or column's value."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from aigc_cli.errors import AigcError, Interrupted
from aigc_cli.images.folders import Finder, is_folder
from aigc_cli.progress import Progress, Silent
from aigc_cli.storage.files import TABLE_SUFFIXES
from aigc_cli.storage.placed_files import Action, Placing, place, plan_placing
from aigc_cli.storage.results import TableWriter, iter_rows, read_metadata
from aigc_cli.storage.schemas import SCHEMAS
from aigc_cli.storage.signals import graceful
from aigc_cli.text import printable

BY = ("quality", "consistency", "both")
TIE = 1e-3  # MOS: engines and batches move a score by less, so a smaller gap says nothing
NO_PROMPT = "(no prompt)"


@dataclass(frozen=True)
class Choice:
    """How to choose.

    Attributes:
        by: quality, consistency, or both: their mean with `weights`.
        weights: of quality and of consistency, 0 or more, not both 0; only their ratio counts.
        group: prompt, folder, none (one group of all) or a column.
        keep: the best so many of each group.
        share: instead, the best share of each group in (0, 1], at least one image.
        min_quality, min_consistency: MOS; an image below, or without that score, is never picked.
    """

    by: str = "quality"
    weights: tuple[float, float] = (0.5, 0.5)
    group: str = "prompt"
    keep: int = 1
    share: float | None = None
    min_quality: float | None = None
    min_consistency: float | None = None

    def __post_init__(self) -> None:
        if self.by not in BY:
            raise AigcError(f"Expected --by {', '.join(BY)}, found {printable(self.by, 80)}.", "Example: --by both")
        if not all(math.isfinite(w) and w >= 0 for w in self.weights) or not sum(self.weights):
            raise AigcError(
                f"Expected two weights of 0 or more, not both 0, found {self.weights}.", "Example: --weights 0.7,0.3"
            )
        if self.keep < 1:
            raise AigcError(f"Expected to keep 1 or more, found {self.keep}.", "Example: --keep 2")
        if self.share is not None and not 0 < self.share <= 1:
            raise AigcError(f"Expected a share above 0 up to 1, found {self.share:g}.", "Example: --top-share 0.1")

    def score(self, row: Mapping[str, Any]) -> float | None:
        """What images are ranked by, in MOS; None where the row lacks a score for it."""
        return self._combined([row[target] for target in ("quality", "consistency")], lambda parts: sum(parts))

    def noise(self, row: Mapping[str, Any]) -> float:
        """Half of the 95% interval of `score`, 0 where the table has none; the scores' errors count as independent."""
        halves = []
        for target in ("quality", "consistency"):
            low, high = row.get(f"{target}_low"), row.get(f"{target}_high")
            halves.append(0.0 if low in (None, "") or high in (None, "") else (float(high) - float(low)) / 2)
        return self._combined(halves, lambda parts: math.hypot(*parts)) or 0.0

    def _combined(self, values: Sequence[float | None], together: Callable[[Sequence[float]], float]) -> float | None:
        both = {"quality": (1.0, 0.0), "consistency": (0.0, 1.0), "both": self.weights}[self.by]
        parts = [(weight / sum(both), value) for weight, value in zip(both, values, strict=True) if weight]
        known = [weight * value for weight, value in parts if value is not None]
        return together(known) if len(known) == len(parts) else None


@dataclass(frozen=True)
class Picks:
    """What was chosen.

    Attributes:
        rows: the table's rows with `pick_group`, `pick_rank` (from 1), `pick_score` (MOS) and `pick_note`, which names
            the next image where the last one picked is not told apart from it; groups in the order of the table.
        groups: how many groups there are.
        images: how many rows the table has.
        left_out: {why: rows that could not be picked}.
    """

    rows: list[dict[str, Any]]
    groups: int
    images: int
    left_out: dict[str, int]


def pick(table: Path, choice: Choice) -> Picks:
    """The best images of a table of scores (see `Choice`); a failed row is never one of them.

    Images without a prompt are one group `(no prompt)`; ranked by consistency, or both, they can't be picked.

    Raises:
        AigcError: no such table, or no such column to group by.
    """
    _check_table(table)
    return choose(iter_rows(table), choice)


def _check_table(table: Path) -> None:
    """Refuses what is no table of scores; a folder of images is to be scored first, with options of its own."""
    shown = printable(str(table), 200)
    if is_folder(table):
        raise AigcError(
            f"Expected a table of scores, found the folder {shown}.",
            f"Score it first: aigc score {shown} -o scores.parquet",
        )
    if table.suffix not in TABLE_SUFFIXES:
        raise AigcError(
            f"Expected a table {', '.join(TABLE_SUFFIXES)}, found {shown}.", "Name what `aigc score` wrote."
        )


def choose(rows: Iterable[Mapping[str, Any]], choice: Choice) -> Picks:
    """`pick` of rows that are at hand already."""
    groups: dict[str, list[tuple[float, Mapping[str, Any]]]] = {}
    left_out: dict[str, int] = {}
    images = 0
    for row in rows:
        images += 1
        if choice.group not in ("prompt", "folder", "none") and choice.group not in row:
            raise AigcError(
                f"Expected a column {printable(choice.group, 80)} to group by, found {', '.join(row)}.",
                "Or group by prompt, folder or none.",
            )
        score = choice.score(row)
        if reason := _unfit(row, score, choice):
            left_out[reason] = left_out.get(reason, 0) + 1
            continue
        assert score is not None
        groups.setdefault(_group(row, choice.group), []).append((score, row))
    picked = [row for name, members in groups.items() for row in _best(name, members, choice)]
    return Picks(picked, len(groups), images, left_out)


def _unfit(row: Mapping[str, Any], score: float | None, choice: Choice) -> str:
    """Why a row can't be picked, or an empty string."""
    if row["status"] != "ok":
        return "failed"
    if score is None:
        return f"no score for {choice.by}" + ("" if row["prompt"] else " (no prompt)")
    for target, least in (("quality", choice.min_quality), ("consistency", choice.min_consistency)):
        if least is not None and (row[target] is None or row[target] < least):
            return f"{target} below {least:g}" if row[target] is not None else f"no {target} to compare with {least:g}"
    return ""


def _group(row: Mapping[str, Any], by: str) -> str:
    if by == "none":
        return "all"
    if by == "folder":
        return str(PurePosixPath(row["path"] or row["name"]).parent)
    value = row[by]
    return str(value) if value not in (None, "") else NO_PROMPT if by == "prompt" else f"(no {by})"


def _best(name: str, members: list[tuple[float, Mapping[str, Any]]], choice: Choice) -> list[dict[str, Any]]:
    ordered = sorted(members, key=lambda pair: (-pair[0], pair[1]["name"]))
    share = 1 if choice.share is None else math.ceil(choice.share * len(ordered) - 1e-9)
    count = choice.keep if choice.share is None else max(1, share)
    rows = []
    for rank, (score, row) in enumerate(ordered[:count], 1):
        note = _note(ordered[rank - 1], ordered[rank], choice) if rank == count and rank < len(ordered) else None
        rows.append({**row, "pick_group": name, "pick_rank": rank, "pick_score": score, "pick_note": note})
    return rows


def _note(last: tuple[float, Mapping[str, Any]], after: tuple[float, Mapping[str, Any]], choice: Choice) -> str | None:
    """Whether the last image that is picked is told apart from the first one that is not."""
    gap, noise = last[0] - after[0], math.hypot(choice.noise(last[1]), choice.noise(after[1]))
    if gap <= TIE:
        return f"tie with {after[1]['name']}"
    return f"not told apart from {after[1]['name']}" if gap < noise else None


def files_of(rows: Iterable[Mapping[str, Any]], images: Path | None = None) -> list[Path]:
    """The image file of each row, by the table's paths or by name in `images`.

    A table holds names as they can be shown; a file or folder whose name holds other bytes is looked up.

    Raises:
        AigcError: a name leads outside `images`, or a row has no path.
    """
    find = Finder()
    places = [_file_of(row, images) for row in rows]
    return [find(str(place)) or place for place in places]


def _file_of(row: Mapping[str, Any], images: Path | None) -> Path:
    shown = printable(row["name"], 80)
    if images is None:
        if not row["path"]:
            raise AigcError(f"Expected a path for {shown}, found none.", "Name the images' folder by --images.")
        path, name = Path(row["path"]), PurePosixPath(row["name"])
        if path.parts[-len(name.parts) :] != name.parts:
            raise AigcError(
                f"Expected a path that ends in the name {shown}, found {printable(row['path'], 200)}.",
                "Was the table changed? Name the images' folder by --images.",
            )
        return path
    name = PurePosixPath(row["name"])
    if name.is_absolute() or ".." in name.parts:
        raise AigcError(f"Expected names inside the image folder, found '{shown}'.", "Mend it.")
    return images / name


def write_picks(picks: Picks, table: Path, output: Path) -> None:
    """The picked rows as a table of scores, with everything that the first table holds."""
    extra = dict.fromkeys(name for row in picks.rows for name in row if name not in SCHEMAS["scores"].names)
    with TableWriter(output, "scores", metadata_of(table), extra=list(extra)) as writer:
        writer.write([{**row, **{name: _text(row.get(name)) for name in extra}} for row in picks.rows])


def _text(value: Any) -> str | None:
    return None if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def metadata_of(table: Path) -> dict[str, str]:
    """What a table says of its making; empty where it came without that, as through a pipe."""
    try:
        found = read_metadata(table)
    except AigcError:
        return {}
    return {key: value for key, value in found.items() if not key.startswith(("ARROW:", "schema", "inputs"))}


def carry_out(
    action: Action, files: Sequence[Path], folder: Path, *, dry_run: bool, progress: Progress | None = None
) -> Placing:
    """Copies, links or moves the files into a folder; with `dry_run` only looks whether it could, and where to.

    Raises:
        AigcError, EnvironmentProblem, RunHeld: see `plan_placing` and `place`.
        Interrupted: a signal ended it; the list to undo it is there.
    """
    progress = progress or Silent()
    planned = plan_placing(action, files, folder)
    if dry_run or not planned.pairs:
        return planned
    records: list[Path] = []
    progress.start({"copy": "copying", "move": "moving"}.get(action, "linking"), len(planned.pairs))
    with graceful() as ending:

        def done() -> None:
            progress.advance()
            if asked := ending():
                raise Interrupted(
                    "some files are in place.",
                    f"`aigc pick --undo {printable(str(records[0]))}` takes them back.",
                    asked,
                )

        place(planned, records.append, done)
    progress.say(f"To take it back: aigc pick --undo {printable(str(records[0]))}")
    return planned
