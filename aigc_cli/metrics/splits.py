"""Splits that keep groups together, so that a prompt seen in training never reappears in what is reported."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from aigc_cli.errors import AigcError


def grouped_folds(groups: Sequence[str], folds: int, seed: int) -> list[list[int]]:
    """Rows of `folds` parts of about equal size, no group in two of them.

    Groups are shuffled, then each goes to the part that has the fewest rows so far.

    Args:
        groups: the group of each row, for example its prompt.
        folds: how many parts, at least 2.
        seed: the same seed gives the same parts for the same groups in any order of rows.

    Raises:
        AigcError: there are fewer groups than parts.
    """
    if (found := len(set(groups))) < folds:
        raise AigcError(
            f"Expected at least {folds} groups (prompts) to split into {folds} parts, found {found}.",
            "Rate images of more prompts, or split by --group-by name.",
        )
    part_of, filled = {}, [0] * folds
    for group, size in _shuffled(groups, seed):
        part = int(np.argmin(filled))
        part_of[group] = part
        filled[part] += size
    return [[row for row, group in enumerate(groups) if part_of[group] == part] for part in range(folds)]


def grouped_holdout(groups: Sequence[str], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """(rows kept, rows held out): about `fraction` of the rows are held out, no group on both sides.

    Raises:
        AigcError: `fraction` above 0 would leave one of the sides empty.
    """
    if fraction <= 0:
        return list(range(len(groups))), []
    shuffled = _shuffled(groups, seed)
    if len(shuffled) < 2:
        raise AigcError(
            f"Expected at least 2 groups (prompts) to hold out a part, found {len(shuffled)}.",
            "Rate images of more prompts, split by --group-by name, or set --val-fraction 0.",
        )
    held: set[str] = set()
    rows = 0
    for group, size in shuffled[:-1]:
        if held and rows + size / 2 > fraction * len(groups):
            break
        held.add(group)
        rows += size
    return (
        [row for row, group in enumerate(groups) if group not in held],
        [row for row, group in enumerate(groups) if group in held],
    )


def _shuffled(groups: Sequence[str], seed: int) -> list[tuple[str, int]]:
    """(group, its number of rows), in an order that depends on the seed and not on the order of rows."""
    sizes = sorted(Counter(groups).items())
    return [sizes[index] for index in np.random.default_rng(seed).permutation(len(sizes))]
