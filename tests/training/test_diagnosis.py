"""The rules on curves that show their fault and on curves just below it, and the change after each fault."""

from dataclasses import asdict
from typing import Any

import pytest

from aigc_cli.recipe import FIELDS, Recipe
from aigc_cli.training.diagnosis import (
    NOTHING_LEFT,
    RULES,
    Curves,
    describe_change,
    describe_diagnosis,
    diagnose,
    find_change,
)

GOOD = {
    "loss": 0.02,
    "srocc_q": 0.8,
    "srocc_c": 0.7,
    "saturated_q": 0.0,
    "saturated_c": 0.0,
    "unused_q": 0.2,
    "unused_c": 0.2,
}
ORDER = ["unstable", "underfit", "overfit", "saturated residual", "unused residual", "one target lagging"]


def _epochs(train: list[dict[str, Any]], val: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """Rows of an epochs table: the changes of each epoch from `GOOD`, and the validation rows when there are any."""
    rows = []
    for epoch, changes in enumerate(train):
        rows.append({**GOOD, "epoch": epoch + 1, "split": "train", **changes})
        if val is not None:
            rows.append({**GOOD, "epoch": epoch + 1, "split": "val", **val[epoch]})
    return rows


def _losses(*losses: float) -> list[dict[str, Any]]:
    return [{"loss": loss} for loss in losses]


SHOWN = [
    ("unstable", _epochs(_losses(0.05, 0.04, 0.061, 0.03))),
    ("unstable", _epochs(_losses(0.05, 0.051, 0.053))),
    ("underfit", _epochs([{"srocc_q": 0.29, "srocc_c": 0.29}])),
    ("underfit", _epochs([{"srocc_q": None, "srocc_c": None}])),
    ("overfit", _epochs([{}], [{"srocc_q": 0.74, "srocc_c": 0.65}])),
    ("overfit", _epochs([{"srocc_c": None}], [{"srocc_q": 0.74, "srocc_c": None}])),
    ("saturated residual", _epochs([{"saturated_c": 0.31}])),
    ("saturated residual", _epochs([{"saturated_q": 0.31}])),
    ("unused residual", _epochs([{"unused_q": 0.91, "unused_c": 0.95}])),
    ("one target lagging", _epochs([{}], [{"srocc_q": 0.96, "srocc_c": 0.7}])),
    ("one target lagging", _epochs([{"srocc_q": 0.4, "srocc_c": 0.7}])),
]
NOT_SHOWN = [
    ("unstable", _epochs(_losses(0.09, 0.05, 0.04, 0.059, 0.03))),
    ("unstable", _epochs(_losses(0.02, 0.05, 0.02))),  # the first step may jump: the warm-up ends there
    ("unstable", _epochs(_losses(0.05, 0.051, 0.052))),
    ("underfit", _epochs([{"srocc_q": 0.31, "srocc_c": 0.3}])),
    ("overfit", _epochs([{}], [{"srocc_q": 0.76, "srocc_c": 0.66}])),
    ("overfit", _epochs([{}])),  # nothing to compare with
    ("overfit", _epochs([{"srocc_q": 0.99}, {}], [{"srocc_q": 0.1}, {}])),  # the last epoch counts
    ("saturated residual", _epochs([{"saturated_q": 0.3, "saturated_c": 0.3}])),
    ("unused residual", _epochs([{"unused_q": 0.95, "unused_c": 0.89}])),  # one of them is used
    ("one target lagging", _epochs([{"srocc_q": 0.1}], [{"srocc_q": 0.9, "srocc_c": 0.7}])),
    ("one target lagging", _epochs([{"srocc_q": None}])),
]


def names(epochs: list[dict[str, Any]], **more: Any) -> list[str]:
    return [fault.rule.name for fault in diagnose(Curves.from_rows(epochs), **more)]


@pytest.mark.parametrize(("name", "epochs"), SHOWN)
def test_the_fault_is_found_first(name: str, epochs: list[dict[str, Any]]) -> None:
    assert names(epochs)[0] == name


@pytest.mark.parametrize(("name", "epochs"), NOT_SHOWN)
def test_the_fault_is_not_found_just_below_its_limit(name: str, epochs: list[dict[str, Any]]) -> None:
    assert name not in names(epochs)


def test_every_rule_has_both_kinds_of_curves() -> None:
    assert [rule.name for rule in RULES] == ["diverged", *ORDER]
    assert {name for name, _ in SHOWN} == {name for name, _ in NOT_SHOWN} == set(ORDER)


FIGURES = [
    ("training loss 0.04 -> 0.061 in epoch 3", _epochs(_losses(0.05, 0.04, 0.061, 0.03))),
    ("training loss 0.05 in the first epoch, 0.053 in the last", _epochs(_losses(0.05, 0.051, 0.053))),
    ("training SROCC 0.25, under 0.3", _epochs([{"srocc_q": 0.2, "srocc_c": 0.3}])),
    ("SROCC 0.75 in training, 0.65 in validation", _epochs([{}], [{"srocc_q": 0.7, "srocc_c": 0.6}])),
    ("correction at its limit for 0% (quality), 31% (consistency) of the images", _epochs([{"saturated_c": 0.31}])),
    (
        "correction under 0.05 for 91% (quality), 95% (consistency) of the images",
        _epochs([{"unused_q": 0.91, "unused_c": 0.95}]),
    ),
    ("SROCC 0.96 of quality, 0.70 of consistency", _epochs([{}], [{"srocc_q": 0.96, "srocc_c": 0.7}])),
]


@pytest.mark.parametrize(("figures", "epochs"), FIGURES)
def test_the_diagnosis_names_the_figures(figures: str, epochs: list[dict[str, Any]]) -> None:
    assert diagnose(Curves.from_rows(epochs))[0].figures == figures


def test_good_curves_have_no_fault() -> None:
    epochs = _epochs(_losses(0.05, 0.03, 0.02), [{}, {}, {}])
    assert names(epochs) == []
    assert describe_diagnosis(Curves.from_rows(epochs), Recipe()) == "Diagnosis: nothing unusual in the curves."


def test_faults_come_in_the_order_in_which_to_act() -> None:
    worst = {"srocc_q": 0.1, "srocc_c": 0.45, "saturated_q": 0.5, "unused_q": 0.95, "unused_c": 0.95}
    epochs = _epochs([{**worst, "loss": loss} for loss in (0.05, 0.02, 0.09)], [{"srocc_q": -0.5, "srocc_c": 0.1}] * 3)
    assert names(epochs) == ORDER
    said = describe_diagnosis(Curves.from_rows(epochs), Recipe())
    assert said.startswith(
        "Diagnosis: unstable: training loss 0.02 -> 0.09 in epoch 3 (the training loss jumps or rises); "
    )
    assert said.endswith("Next, one change: lr 1e-05.")
    assert [said.index(name) for name in ORDER] == sorted(said.index(name) for name in ORDER)


def test_a_run_that_diverged_may_have_no_epochs() -> None:
    curves = Curves.from_rows([], "the loss became nan in epoch 1")
    assert [(fault.rule.name, fault.figures) for fault in diagnose(curves)] == [
        ("diverged", "the loss became nan in epoch 1")
    ]
    assert describe_diagnosis(curves, Recipe()).endswith("Next, one change: lr 1e-05.")


def test_an_empty_loss_is_left_out() -> None:
    assert names(_epochs([*_losses(0.05, 0.04), {"loss": None}])) == []


def test_a_model_without_residual_has_no_faults_of_it() -> None:
    epochs = _epochs([{"saturated_q": 1.0, "unused_q": 1.0, "unused_c": 1.0}])
    assert names(epochs) == ["saturated residual", "unused residual"]
    assert names(epochs, residual=False) == []


def test_a_run_without_epochs_shows_nothing() -> None:
    assert names([]) == []


# --- what to change

CURVES = {name: Curves.from_rows(epochs) for name, epochs in reversed(SHOWN)} | {
    "diverged": Curves.from_rows([], "nan")
}
ALL = {"freeze": "all", "lr": 1e-3}
CHANGES = [
    ("diverged", {"lr": 1.0}, {"lr": 1e-3}),
    ("unstable", {}, {"lr": 1e-5}),
    ("unstable", {"lr_backbone": 6e-6}, {"lr": 1e-5, "lr_backbone": 2e-6}),
    ("unstable", {"lr": 2e-6}, {"lr": 1e-6}),
    ("unstable", {"lr": 1e-6}, {"max_grad_norm": 0.5}),
    ("unstable", {"lr": 1e-6, "max_grad_norm": 0.0}, {"max_grad_norm": 0.5}),
    ("unstable", {"lr": 1e-6, "max_grad_norm": 0.5}, {}),
    ("underfit", {}, {"lr": 9e-5}),
    ("underfit", {"lr": 1e-6}, {"lr": 3e-5}),
    ("underfit", {"freeze": "all"}, {"lr": 1e-3}),
    ("underfit", {"freeze": "none", "lr": 1e-6}, {"lr": 1e-5}),
    ("underfit", {"lr": 0.3}, {"lr": 1e-3}),
    ("underfit", {"lr": 1e-3}, {"epochs": 40}),
    ("underfit", {"lr": 1e-3, "epochs": 1}, {"epochs": 10}),
    ("underfit", {**ALL, "epochs": 50}, {"freeze": "partial", "lr": 3e-5}),
    ("underfit", {"lr": 1e-3, "epochs": 60}, {}),
    ("overfit", {"freeze": "none"}, {"freeze": "partial"}),
    ("overfit", {}, {"freeze_depth": 0.8333}),
    ("overfit", {"freeze_depth": 0.8333}, {"freeze_depth": 0.9167}),
    ("overfit", {"freeze_depth": 0.9167}, ALL),
    ("overfit", ALL, {"dropout": 0.2}),
    ("overfit", {**ALL, "dropout": 0.2}, {"dropout": 0.3}),
    ("overfit", {**ALL, "dropout": 0.3}, {"weight_decay": 5e-4}),
    ("overfit", {**ALL, "dropout": 0.3, "weight_decay": 5e-4}, {"weight_decay": 1e-3}),
    ("overfit", {**ALL, "dropout": 0.3, "weight_decay": 1e-3}, {}),
    ("saturated residual", {}, {"residual_scale_c": 0.3}),
    ("saturated residual", {"residual_scale_c": 0.4}, {"residual_scale_c": 0.5}),
    ("saturated residual", {"residual_scale_c": 0.5}, {}),
    ("unused residual", {}, {"residual_scale_q": 0.13, "residual_scale_c": 0.13}),
    ("unused residual", {"residual_scale_q": 0.1, "residual_scale_c": 0.1}, {"lr": 9e-5}),
    ("one target lagging", {}, {"w_q": 0.3, "w_c": 0.7}),
    ("one target lagging", {"w_q": 0.7, "w_c": 0.3}, {"w_q": 0.5, "w_c": 0.5}),
    ("one target lagging", {"w_q": 0.3, "w_c": 0.7}, {}),
]


@pytest.mark.parametrize(("name", "given", "change"), CHANGES)
def test_the_change_follows_from_the_recipe(name: str, given: dict[str, Any], change: dict[str, Any]) -> None:
    curves, recipe = CURVES[name], Recipe(**given)
    faults = [fault for fault in diagnose(curves) if fault.rule.name == name]
    answer = find_change(faults, recipe, curves)
    assert (answer[1] if answer else {}) == change
    for key, value in change.items():
        span = FIELDS[key].metadata["sensible"]
        assert asdict(recipe)[key] != value
        assert span is None or span[0] <= value <= span[1]
    assert describe_diagnosis(curves, recipe).endswith(f"{describe_change(change)}." if change else f"{NOTHING_LEFT}.")


def test_each_rule_has_a_change() -> None:
    assert {name for name, _, change in CHANGES if change} == {rule.name for rule in RULES}


def test_the_first_fault_with_a_change_left_is_chosen() -> None:
    """At the widest scale, a saturated residual has no change left, but the lagging target has one."""
    epochs = _epochs([{"saturated_q": 0.9, "saturated_c": 0.9, "srocc_q": 0.9, "srocc_c": 0.5}])
    curves, recipe = Curves.from_rows(epochs), Recipe(residual_scale_q=0.5, residual_scale_c=0.5)
    answer = find_change(diagnose(curves), recipe, curves)
    assert answer is not None
    assert (answer[0].rule.name, answer[1]) == ("one target lagging", {"w_q": 0.3, "w_c": 0.7})


def test_a_run_that_overfits_gets_no_wider_correction() -> None:
    epochs = _epochs([{"saturated_q": 0.9, "saturated_c": 0.9}], [{"srocc_q": 0.5, "srocc_c": 0.5}])
    curves, recipe = Curves.from_rows(epochs), Recipe(freeze="all", dropout=0.3, weight_decay=1e-3)
    assert names(epochs) == ["overfit", "saturated residual"]
    assert find_change(diagnose(curves), recipe, curves) is None
