"""How rated images are split: drawn folds, and saved splits that are matched by name."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aigc_cli.errors import AigcError
from aigc_cli.metrics.splits import Split, make_folds
from aigc_cli.storage.results import read_splits
from aigc_cli.text import to_printable
from aigc_cli.workflows.experiment.rated import RatedImages

FoldRows = list[list[int]]  # the rows of each fold, held out in turn


@dataclass(frozen=True)
class Dealing:
    """One way to deal images into folds."""

    group_by: str = "prompt"  # or name, or a column of the table; no value of it is in two folds
    folds: int = 5  # at least 2
    seed: int = 0
    saved: Mapping[str, int] | None = None  # {image name: its fold}; None draws the folds

    def deal(self, rated: RatedImages) -> FoldRows:
        """The rows of each fold.

        Raises:
            AigcError: there is no such column, there are fewer than 2 folds, or fewer groups than folds.
        """
        if self.folds < 2:
            raise AigcError(f"Expected at least 2 folds, found {self.folds}.", "Use --folds 5.")
        groups = rated.list_groups(self.group_by)
        if self.saved is not None:
            places = [self.saved[sample.name] for sample in rated.samples]
            return [[row for row, fold in enumerate(places) if fold == number] for number in range(self.folds)]
        if (found := len(set(groups))) < self.folds:
            raise AigcError(
                f"Expected at least {self.folds} different values of {self.group_by} for {self.folds} folds, "
                f"found {found}.",
                f"Use --folds {found}, or rate images of more prompts." if found > 1 else "Group by something else.",
            )
        return make_folds(groups, self.folds, self.seed)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the name of a fold's file."""
        saved = None if self.saved is None else sorted(self.saved.items())
        return {"group_by": self.group_by, "folds": self.folds, "seed": self.seed, "saved": saved}


SAME_DATA = "Is it a split of the same --data?"


def load_split(path: Path, rated: RatedImages) -> Split:
    """The rows of the training and the validation part in a run's splits.parquet, in the order of `rated`.

    Raises:
        AigcError: the file's images are not those of `rated`, or a row is neither train nor val.
    """
    shown = to_printable(str(path))
    row_of = _match_names(read_splits(path), rated, shown)
    parts = [row_of[sample.name]["split"] for sample in rated.samples]
    if other := sorted({repr(part) for part in parts if part not in ("train", "val")}):
        raise AigcError(
            f"{shown}: expected train or val in the column split, found {', '.join(other[:3])}.",
            "Folds are for `aigc crossval`; give the splits.parquet of a run folder.",
        )
    if "train" not in parts:
        raise AigcError(f"{shown}: expected images to train on, found none.", "Mark some rows train.")
    train, val = ([row for row, part in enumerate(parts) if part == wanted] for wanted in ("train", "val"))
    return Split(train, val)


def load_dealings(path: Path, rated: RatedImages, protocol: str, group_by: str) -> list[Dealing]:
    """The folds of each repeat, from rows of the file whose `split` is the protocol or blank.

    Raises:
        AigcError: no rows of this protocol, a fold is missing, or the file's images are not those of `rated`.
    """
    shown, rows = to_printable(str(path)), read_splits(path)
    chosen = [row for row in rows if row["split"] in (protocol, None)]
    if not chosen:
        found = ", ".join(sorted({str(row["split"]) for row in rows})) or "no rows"
        raise AigcError(f"{shown}: expected folds of the protocol {protocol}, found {found}.", "Change --protocol.")
    dealings = []
    for repeat in sorted({row["repeat"] or 0 for row in chosen}):
        of_repeat = [row for row in chosen if (row["repeat"] or 0) == repeat]
        row_of = _match_names(of_repeat, rated, f"{shown}, repeat {repeat}")
        fold_of = {sample.name: row_of[sample.name]["fold"] for sample in rated.samples}
        numbers = sorted({fold for fold in fold_of.values() if fold is not None})
        if None in fold_of.values() or len(numbers) < 2:
            found = "a row without one" if None in fold_of.values() else "1"
            raise AigcError(
                f"{shown}: expected at least 2 folds in the column fold, found {found}.", "Number the folds."
            )
        saved = {name: numbers.index(fold) for name, fold in fold_of.items()}
        dealings.append(Dealing(group_by, len(numbers), repeat, saved))
    if len({one.folds for one in dealings}) > 1:
        counts = ", ".join(str(one.folds) for one in dealings)
        raise AigcError(
            f"{shown}: expected as many folds in every repeat, found {counts}.", "Split them into two files."
        )
    return dealings


def _match_names(rows: Sequence[Mapping[str, Any]], rated: RatedImages, shown: str) -> dict[str, Mapping[str, Any]]:
    """{name: its row}; every readable image has one row, and every row is of an image of the table."""
    times = Counter(str(row["name"]) for row in rows)
    readable = [sample.name for sample in rated.samples]
    twice = [name for name, count in times.items() if count > 1]
    strange = sorted(times.keys() - set(readable) - {name for name, _ in rated.skipped})
    absent = [name for name in readable if name not in times]
    for names, expected, hint in (
        (twice, "every image once, found several rows for", "Remove all but one of them."),
        (strange, "images of the table only, found", SAME_DATA),
        (absent, "a row for every image, found none for", SAME_DATA),
    ):
        if names:
            examples, more = ", ".join(map(to_printable, names[:3])), f" and {len(names) - 3} more" * (len(names) > 3)
            raise AigcError(f"{shown}: expected {expected} {examples}{more}.", hint)
    return {str(row["name"]): row for row in rows}


def count_shared_groups(groups: Sequence[str], parts: Sequence[Sequence[int]]) -> int:
    """How many groups (such as prompts) have rows in more than one part."""
    times = Counter(group for part in parts for group in {groups[row] for row in part})
    return sum(count > 1 for count in times.values())
