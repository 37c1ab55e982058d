"""Splits: a group is on one side only, sizes are about as asked, and the order of rows does not matter."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigc_cli.errors import AigcError
from aigc_cli.metrics.splits import hold_out, make_folds

names = st.sampled_from([f"prompt {letter}" for letter in "abcdefghijklmnop"])
tables = st.lists(names, min_size=1, max_size=80)


@given(tables, st.integers(2, 5), st.integers(0, 3))
def test_folds_hold_every_row_once_and_no_group_twice(groups: list[str], folds: int, seed: int) -> None:
    if len(set(groups)) < folds:
        with pytest.raises(AigcError):
            make_folds(groups, folds, seed)
        return
    parts = make_folds(groups, folds, seed)
    assert len(parts) == folds
    assert sorted(row for part in parts for row in part) == list(range(len(groups)))
    of_group = Counter(name for part in parts for name in {groups[row] for row in part})
    assert set(of_group.values()) == {1}
    largest = max(Counter(groups).values())
    sizes = [len(part) for part in parts]
    assert min(sizes) > 0
    assert max(sizes) - min(sizes) <= largest  # the smallest part gets the next group


@given(tables, st.floats(0.01, 0.99), st.integers(0, 3))
def test_a_holdout_keeps_groups_together_and_is_about_the_fraction(
    groups: list[str], fraction: float, seed: int
) -> None:
    if len(set(groups)) < 2:
        with pytest.raises(AigcError):
            hold_out(groups, fraction, seed)
        return
    kept, held = hold_out(groups, fraction, seed)
    assert sorted(kept + held) == list(range(len(groups)))
    assert kept
    assert held
    assert not {groups[row] for row in kept} & {groups[row] for row in held}
    assert abs(len(held) - fraction * len(groups)) <= max(Counter(groups).values())


@given(st.permutations(list(range(40))), st.integers(0, 3))
def test_the_order_of_rows_does_not_matter(order: list[int], seed: int) -> None:
    groups = [f"prompt {index % 11}" for index in range(40)]
    shuffled = [groups[index] for index in order]

    def sides(rows_of: list[list[int]], names: list[str]) -> list[set[str]]:
        return [{names[row] for row in rows} for rows in rows_of]

    assert sides(make_folds(groups, 4, seed), groups) == sides(make_folds(shuffled, 4, seed), shuffled)
    one, other = hold_out(groups, 0.3, seed), hold_out(shuffled, 0.3, seed)
    assert sides([*one], groups) == sides([*other], shuffled)


def test_equal_groups_give_equal_parts() -> None:
    groups = [f"prompt {index // 5}" for index in range(100)]
    assert [len(part) for part in make_folds(groups, 5, 0)] == [20] * 5
    kept, held = hold_out(groups, 0.2, 0)
    assert (len(kept), len(held)) == (80, 20)


def test_another_seed_is_another_split() -> None:
    groups = [f"prompt {index}" for index in range(50)]
    assert make_folds(groups, 5, 0) == make_folds(groups, 5, 0)
    assert make_folds(groups, 5, 0) != make_folds(groups, 5, 1)
    assert hold_out(groups, 0.2, 0) != hold_out(groups, 0.2, 1)


def test_no_fraction_holds_nothing_out() -> None:
    assert hold_out(["a", "a", "b"], 0, 0) == ([0, 1, 2], [])
    assert hold_out(["a"], 0, 0) == ([0], [])


def test_rows_stay_in_their_order() -> None:
    groups = [f"prompt {index % 7}" for index in range(30)]
    kept, held = hold_out(groups, 0.4, 1)
    assert (kept, held) == (sorted(kept), sorted(held))
    assert all(part == sorted(part) for part in make_folds(groups, 3, 1))


def test_too_few_groups_for_the_parts() -> None:
    with pytest.raises(AigcError) as caught:
        make_folds(["a", "a", "b"], 5, 0)
    assert str(caught.value) == (
        "Expected at least 5 groups (prompts) to split into 5 parts, found 2.\n"
        "Rate images of more prompts, or split by --group-by name."
    )


def test_one_group_cannot_be_held_out() -> None:
    with pytest.raises(AigcError) as caught:
        hold_out(["a", "a"], 0.2, 0)
    assert str(caught.value) == (
        "Expected at least 2 groups (prompts) to hold out a part, found 1.\n"
        "Rate images of more prompts, split by --group-by name, or set --val-fraction 0."
    )
