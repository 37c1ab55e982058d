"""Splits that keep groups together: no prompt is both in the training part and in the reported part."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from aigc_cli.errors import AigcError


class Split(NamedTuple):
    """The rows to train on and the rows to validate on."""

    train: Sequence[int]
    val: Sequence[int]


def make_folds(groups: Sequence[str], folds: int, seed: int) -> list[list[int]]:
    """The rows of each of `folds` parts of about equal size; no group is in two parts.

    Groups (for example prompts) are shuffled, then each goes to the part that has the fewest rows so far. The parts
    depend on the seed and on the groups, not on the order of rows.

    Raises:
        AigcError: there are fewer groups than parts.

    Example:
        >>> make_folds(["a", "a", "b", "c"], folds=2, seed=0)
        [[2, 3], [0, 1]]
    """
    if (found := len(set(groups))) < folds:
        raise AigcError(
            f"Expected at least {folds} groups (prompts) to split into {folds} parts, found {found}.",
            "Rate images of more prompts, or split by --group-by name.",
        )
    part_of, filled = {}, [0] * folds
    for group, size in _shuffle_groups(groups, seed):
        part = int(np.argmin(filled))
        part_of[group] = part
        filled[part] += size
    return [[row for row, group in enumerate(groups) if part_of[group] == part] for part in range(folds)]


def hold_out(groups: Sequence[str], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """(rows kept, rows held out): about `fraction` of the rows are held out; no group is on both sides.

    With a fraction of 0 nothing is held out.

    Raises:
        AigcError: `fraction` is above 0 and there are fewer than two groups.
    """
    if fraction <= 0:
        return list(range(len(groups))), []
    shuffled = _shuffle_groups(groups, seed)
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
    sides: tuple[list[int], list[int]] = [], []
    for row, group in enumerate(groups):
        sides[group in held].append(row)
    return sides


def _shuffle_groups(groups: Sequence[str], seed: int) -> list[tuple[str, int]]:
    """(group, its number of rows) of all groups; the order depends on the seed, not on the order of rows."""
    sizes = sorted(Counter(groups).items())
    return [sizes[index] for index in np.random.default_rng(seed).permutation(len(sizes))]
