"""Splits that were saved, matched by name with the images at hand."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aigc_cli.errors import AigcError
from aigc_cli.storage.results import read_splits
from aigc_cli.text import printable
from aigc_cli.workflows.experiment.rated import Rated

Folds = list[list[int]]  # the rows of each fold, held out in turn


def saved_holdout(path: Path, rated: Rated) -> tuple[list[int], list[int]]:
    """(rows to train on, rows to validate on) as a run's splits.parquet has them, in the order of `rated`.

    Raises:
        AigcError: the file's images are not those of `rated`, or a row is neither train nor val.
    """
    shown = printable(str(path))
    row_of = _matched(read_splits(path), rated, shown)
    parts = [row_of[sample.name]["split"] for sample in rated.samples]
    if other := sorted({repr(part) for part in parts if part not in ("train", "val")}):
        raise AigcError(
            f"{shown}: expected train or val in the column split, found {', '.join(other[:3])}.",
            "Folds are for `aigc eval --protocol`; give the splits.parquet of a run folder.",
        )
    if "train" not in parts:
        raise AigcError(f"{shown}: expected images to train on, found none.", "Mark some rows train.")
    train, val = ([row for row, part in enumerate(parts) if part == wanted] for wanted in ("train", "val"))
    return train, val


def saved_folds(path: Path, rated: Rated, protocol: str) -> list[Folds]:
    """The folds of each repeat: rows of the file whose `split` is the protocol, or blank.

    Raises:
        AigcError: no rows of this protocol, a fold is missing, or the file's images are not those of `rated`.
    """
    shown, rows = printable(str(path)), read_splits(path)
    chosen = [row for row in rows if row["split"] in (protocol, None)]
    if not chosen:
        found = ", ".join(sorted({str(row["split"]) for row in rows})) or "no rows"
        raise AigcError(f"{shown}: expected folds of the protocol {protocol}, found {found}.", "Change --protocol.")
    repeats = []
    for repeat in sorted({row["repeat"] or 0 for row in chosen}):
        row_of = _matched([row for row in chosen if (row["repeat"] or 0) == repeat], rated, f"{shown}, repeat {repeat}")
        fold_of = [row_of[sample.name]["fold"] for sample in rated.samples]
        numbers = sorted({fold for fold in fold_of if fold is not None})
        if None in fold_of or len(numbers) < 2:
            found = "a row without one" if None in fold_of else "1"
            raise AigcError(
                f"{shown}: expected at least 2 folds in the column fold, found {found}.", "Number the folds."
            )
        repeats.append([[row for row, fold in enumerate(fold_of) if fold == number] for number in numbers])
    if len({len(folds) for folds in repeats}) > 1:
        counts = ", ".join(str(len(folds)) for folds in repeats)
        raise AigcError(
            f"{shown}: expected as many folds in every repeat, found {counts}.", "Split them into two files."
        )
    return repeats


def _matched(rows: Sequence[Mapping[str, Any]], rated: Rated, shown: str) -> dict[str, Mapping[str, Any]]:
    """{name: its row}; every readable image has one, and nothing but images of the table has."""
    times = Counter(str(row["name"]) for row in rows)
    readable = [sample.name for sample in rated.samples]
    twice = [name for name, count in times.items() if count > 1]
    strange = sorted(times.keys() - set(readable) - {name for name, _ in rated.skipped})
    absent = [name for name in readable if name not in times]
    for names, expected, hint in (
        (twice, "every image once, found several rows for", "Remove all but one of them."),
        (strange, "images of the table only, found", "Is it a split of the same --data?"),
        (absent, "a row for every image, found none for", "Is it a split of the same --data?"),
    ):
        if names:
            raise AigcError(f"{shown}: expected {expected} {_examples(names)}.", hint)
    return {str(row["name"]): row for row in rows}


def _examples(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(printable(name) for name in names[:3]) + more


def straddling(groups: Sequence[str], parts: Sequence[Sequence[int]]) -> int:
    """How many groups (prompts) have rows in more than one part."""
    times = Counter(group for part in parts for group in {groups[row] for row in part})
    return sum(count > 1 for count in times.values())
