"""`aigc pick`: selects the best images of each prompt, of each folder, or of each value of a column."""

import math
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from aigc_cli.errors import AigcError, Interruption
from aigc_cli.images.folders import FileFinder, is_folder, leads_outside, place_in_folder
from aigc_cli.images.sample import TARGETS
from aigc_cli.progress import Progress, SilentProgress
from aigc_cli.storage.atomic_files import TABLE_SUFFIXES
from aigc_cli.storage.placed_files import Action, Placement, place_files, plan_placement
from aigc_cli.storage.results import TableWriter, iterate_rows, read_table_metadata
from aigc_cli.storage.schemas import SCHEMAS
from aigc_cli.storage.signals import hold_signals
from aigc_cli.text import show_path, to_printable

BY = ("quality", "consistency", "both")
TIE = 1e-3  # MOS; engines and batch sizes change a score by less, so a smaller gap is a tie
NO_PROMPT = "(no prompt)"


@dataclass(frozen=True)
class Choice:
    """How images are chosen.

    Attributes:
        by: quality, consistency, or both: their mean weighted by `weights`.
        weights: of quality and of consistency, 0 or more, not both 0; only their ratio matters.
        group: prompt, folder, none (all images are one group), or a column.
        keep, share: number of images to keep of each group; or the share, in (0, 1], but at least one image.
        min_quality, min_consistency: in MOS; an image below it, or without that score, is never picked.
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
            raise AigcError(f"Expected --by {', '.join(BY)}, found {to_printable(self.by, 80)}.", "Example: --by both")
        if not all(math.isfinite(w) and w >= 0 for w in self.weights) or not sum(self.weights):
            raise AigcError(
                f"Expected two weights of 0 or more, not both 0, found {self.weights}.", "Example: --weights 0.7,0.3"
            )
        if self.keep < 1:
            raise AigcError(f"Expected to keep 1 or more, found {self.keep}.", "Example: --keep 2")
        if self.share is not None and not 0 < self.share <= 1:
            raise AigcError(f"Expected a share above 0 up to 1, found {self.share:g}.", "Example: --top-share 0.1")

    @property
    def shares(self) -> dict[str, float]:
        """{target: its weight, if not 0}; the weights sum to 1."""
        weights = {"quality": (1.0, 0.0), "consistency": (0.0, 1.0), "both": self.weights}[self.by]
        return {target: weight / sum(weights) for target, weight in zip(TARGETS, weights, strict=True) if weight}

    def score(self, row: Mapping[str, Any]) -> float | None:
        """The score that ranks a row, in MOS; None if the row lacks a score that it needs."""
        shares = self.shares
        return None if None in map(row.get, shares) else sum(share * row[target] for target, share in shares.items())

    def estimate_noise(self, row: Mapping[str, Any]) -> float:
        """Half the width of the 95% interval of `score`, in MOS; 0 without intervals. Errors count as independent."""
        halves = []
        for target, share in self.shares.items():
            low, high = row.get(f"{target}_low"), row.get(f"{target}_high")
            if low not in (None, "") and high not in (None, ""):
                halves.append(share * ((float(high) - float(low)) / 2))
        return math.hypot(*halves)


@dataclass(frozen=True)
class Picks:
    """The images that were picked.

    Attributes:
        rows: the table's rows with `pick_group`, `pick_rank` (from 1), `pick_score` (MOS) and `pick_note`, which names
            the best image left out if it is as good within the noise; groups in the order of the table.
        groups, images: number of groups, and of rows in the table.
        left_out: {reason: number of rows that could not be picked}.
    """

    rows: list[dict[str, Any]]
    groups: int
    images: int
    left_out: dict[str, int]


def pick_images(table: Path, choice: Choice) -> Picks:
    """Picks the best images of a table of scores, see `Choice`; failed rows are never picked.

    Images without a prompt form one group `(no prompt)`. They have no consistency, so only `by` quality picks them.
    AigcError if the table or the column to group by does not exist.
    """
    shown = to_printable(str(table), 200)
    if is_folder(table):
        raise AigcError(
            f"Expected a table of scores, found the folder {shown}.",
            f"Score it first: aigc score {shown} -o scores.parquet",
        )
    if table.suffix not in TABLE_SUFFIXES:
        raise AigcError(
            f"Expected a table {', '.join(TABLE_SUFFIXES)}, found {shown}.", "Name what `aigc score` wrote."
        )
    return choose_images(iterate_rows(table), choice)


def choose_images(rows: Iterable[Mapping[str, Any]], choice: Choice) -> Picks:
    """Picks the best images like `pick_images`, from rows in memory."""
    groups: dict[str, list[tuple[float, Mapping[str, Any]]]] = {}
    left_out = Counter[str]()
    for row in rows:
        if choice.group not in ("prompt", "folder", "none") and choice.group not in row:
            raise AigcError(
                f"Expected a column {to_printable(choice.group, 80)} to group by, found {', '.join(row)}.",
                "Or group by prompt, folder or none.",
            )
        score = choice.score(row)
        if reason := _explain_rejection(row, score, choice):
            left_out[reason] += 1
        elif score is not None:
            groups.setdefault(_find_group(row, choice.group), []).append((score, row))
    picked = [row for name, members in groups.items() for row in _select_best(name, members, choice)]
    images = left_out.total() + sum(map(len, groups.values()))
    return Picks(picked, len(groups), images, dict(left_out))


def _explain_rejection(row: Mapping[str, Any], score: float | None, choice: Choice) -> str:
    if row["status"] != "ok":
        return "failed"
    if score is None:
        return f"no score for {choice.by}" + ("" if row["prompt"] else " (no prompt)")
    for target, least in (("quality", choice.min_quality), ("consistency", choice.min_consistency)):
        if least is not None and (row[target] is None or row[target] < least):
            return f"{target} below {least:g}" if row[target] is not None else f"no {target} to compare with {least:g}"
    return ""


def _find_group(row: Mapping[str, Any], by: str) -> str:
    if by == "none":
        return "all"
    if by == "folder":
        return str(PurePosixPath(row["path"] or row["name"]).parent)
    value = row[by]
    return str(value) if value not in (None, "") else NO_PROMPT if by == "prompt" else f"(no {by})"


def _select_best(name: str, members: list[tuple[float, Mapping[str, Any]]], choice: Choice) -> list[dict[str, Any]]:
    ordered = sorted(members, key=lambda pair: (-pair[0], pair[1]["name"]))
    count = choice.keep if choice.share is None else max(1, math.ceil(choice.share * len(ordered) - 1e-9))
    rows = [
        {**row, "pick_group": name, "pick_rank": rank, "pick_score": score, "pick_note": None}
        for rank, (score, row) in enumerate(ordered[:count], 1)
    ]
    if count < len(ordered):  # the last image picked may not be clearly better than the first one left out
        (score, last), (other, after) = ordered[count - 1], ordered[count]
        if score - other <= TIE:
            rows[-1]["pick_note"] = f"tie with {after['name']}"
        elif score - other < math.hypot(choice.estimate_noise(last), choice.estimate_noise(after)):
            rows[-1]["pick_note"] = f"not clearly better than {after['name']}"
    return rows


def find_files(rows: Iterable[Mapping[str, Any]], base: Path, images: Path | None = None) -> list[Path]:
    """Finds the image file of each row, by the table's paths or by name in the folder `images`.

    A name with escapes is looked up.

    Args:
        base: the table's folder; the paths count only below it, since the table may come from a stranger.

    Raises:
        AigcError: a file lies outside `images` or `base`, also by a link, or a row has no path.
    """
    find, files = FileFinder(), []
    for row in rows:
        shown = place_in_folder(images, row["name"], escaped=True) if images else _read_path(row)
        file = find(str(shown)) or shown
        if leads_outside(file, images or base):
            raise _refuse_outside(row, file, images or base)
        files.append(file)
    return files


def _refuse_outside(row: Mapping[str, Any], file: Path, folder: Path) -> AigcError:
    scored = Path(*file.parts[: -len(PurePosixPath(row["name"]).parts)])  # the folder that was scored
    where = f"below {show_path(folder.absolute())}, found {show_path(file)}"
    return AigcError(
        f"Expected the images of the table {where}, which leads out of it.",
        f"If that is right, name their folder: --images {shlex.quote(to_printable(str(scored)))}",
    )


def _read_path(row: Mapping[str, Any]) -> Path:
    shown = to_printable(row["name"], 80)
    if not row["path"]:
        raise AigcError(f"Expected a path for {shown}, found none.", "Name the images' folder by --images.")
    path, name = Path(row["path"]), PurePosixPath(row["name"])
    if path.parts[-len(name.parts) :] != name.parts:
        raise AigcError(
            f"Expected a path that ends in the name {shown}, found {to_printable(row['path'], 200)}.",
            "Was the table changed? Name the images' folder by --images.",
        )
    return path


def write_picks(picks: Picks, table: Path, output: Path) -> None:
    """Writes the picked rows as a table of scores, with all columns and metadata of `table`."""
    extra = dict.fromkeys(name for row in picks.rows for name in row if name not in SCHEMAS["scores"].names)
    with TableWriter(output, "scores", read_metadata_or_nothing(table), extra=list(extra)) as writer:
        writer.write([{**row, **{name: _format_cell(row.get(name)) for name in extra}} for row in picks.rows])


def _format_cell(value: Any) -> str | None:
    return None if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def read_metadata_or_nothing(table: Path) -> dict[str, str]:
    """A table's metadata on the model; empty for a table without metadata, such as one from a pipe."""
    try:
        found = read_table_metadata(table)
    except AigcError:
        return {}
    return {key: value for key, value in found.items() if not key.startswith(("ARROW:", "schema", "inputs"))}


def place_picks(
    action: Action, files: Sequence[Path], folder: Path, *, dry_run: bool, progress: Progress | None = None
) -> Placement:
    """Copies, links or moves the files into a folder; `dry_run` only checks and returns the plan.

    Errors as in `plan_placement` and `place_files`. Interruption: a signal stopped it; the list to undo it is complete.
    """
    progress = progress or SilentProgress()
    planned = plan_placement(action, files, folder)
    if dry_run or not planned.pairs:
        return planned
    records: list[Path] = []
    progress.start({"copy": "copying", "move": "moving"}.get(action, "linking"), len(planned.pairs))
    with hold_signals() as ending:

        def done() -> None:
            progress.advance()
            if asked := ending():
                undo = f"Undo them with `aigc pick --undo {to_printable(str(records[0]))}`."
                raise Interruption("some files are in place.", undo, asked)

        place_files(planned, records.append, done)
    progress.say(f"To undo: aigc pick --undo {to_printable(str(records[0]))}")
    return planned
