"""The comparison of a continued run with its first start."""

from pathlib import Path

import pytest

from aigc_cli.errors import AigcError
from aigc_cli.storage.unchanged import list_changes, refuse_changes


def test_equal_values_are_no_change() -> None:
    assert list_changes({}, {}) == []
    assert list_changes({"lr": 1e-3, "loss": "mse"}, {"loss": "mse", "lr": 0.001}) == []


def test_every_change_names_key_old_and_new_value_in_the_order_of_now() -> None:
    then = {"lr": 0.001, "weight_decay": 0.1, "loss": "mse"}
    now = {"loss": "l1", "weight_decay": 0.1, "lr": 0.1}
    assert list_changes(then, now) == ["loss (mse then, l1 now)", "lr (0.001 then, 0.1 now)"]


def test_underscores_become_spaces_and_the_owner_follows_the_key() -> None:
    changes = list_changes({"weight_decay": 0}, {"weight_decay": 1}, " of the recipe")
    assert changes == ["weight decay of the recipe (0 then, 1 now)"]


def test_a_key_that_only_one_side_has() -> None:
    assert list_changes({}, {"seed": 1}) == ["seed (None then, 1 now)"]
    assert list_changes({"seed": 1}, {}) == []  # a value that is not compared any more
    assert list_changes({}, {"seed": None}) == []


def test_foreign_values_are_shown_safely_and_short() -> None:
    (change,) = list_changes({"prompt": "\x1b[31m"}, {"prompt": "x" * 500})
    assert change == f"prompt (\\x1b[31m then, {'x' * 60}... now)"


def test_no_changes_are_not_refused() -> None:
    refuse_changes("the training", Path("run"), [], "hint")


def test_changes_are_refused_with_place_and_hint() -> None:
    with pytest.raises(AigcError) as caught:
        refuse_changes("the ablation", Path("a\nb"), ["lr (1 then, 2 now)", "the images"], "Use --overwrite.")
    assert caught.value.exit_code == 2
    assert caught.value.message == (
        "Expected no changes since the ablation in a\\nb was started, found changes in lr (1 then, 2 now); the images."
    )
    assert caught.value.hint == "Use --overwrite."
