"""Each rule, on curves that show its fault and on curves just short of it."""

from typing import Any

import pytest

from aigc_cli.core.diagnosis import RULES, diagnose, paragraph

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
    """Rows of an epochs table: what differs from `GOOD` in each epoch; validation is `GOOD` unless given."""
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


@pytest.mark.parametrize(("name", "epochs"), SHOWN)
def test_a_fault_is_seen(name: str, epochs: list[dict[str, Any]]) -> None:
    assert name in [rule.name for rule in diagnose(epochs)]


@pytest.mark.parametrize(("name", "epochs"), NOT_SHOWN)
def test_no_fault_is_invented(name: str, epochs: list[dict[str, Any]]) -> None:
    assert name not in [rule.name for rule in diagnose(epochs)]


def test_every_rule_has_both_kinds_of_curves() -> None:
    assert [rule.name for rule in RULES] == ORDER
    assert {name for name, _ in SHOWN} == {name for name, _ in NOT_SHOWN} == set(ORDER)


def test_good_curves_are_called_so() -> None:
    epochs = _epochs(_losses(0.05, 0.03, 0.02), [{}, {}, {}])
    assert diagnose(epochs) == []
    assert paragraph(epochs) == "Diagnosis: nothing unusual in the curves."


def test_faults_come_in_the_order_in_which_to_act() -> None:
    worst = {"srocc_q": 0.1, "srocc_c": 0.45, "saturated_q": 0.5, "unused_q": 0.95, "unused_c": 0.95}
    epochs = _epochs([{**worst, "loss": loss} for loss in (0.05, 0.02, 0.09)], [{"srocc_q": -0.5, "srocc_c": 0.1}] * 3)
    assert [rule.name for rule in diagnose(epochs)] == ORDER
    said = paragraph(epochs)
    assert said.startswith("Diagnosis: unstable (the training loss jumps or rises); underfit (")
    assert said.endswith("Next, one change at a time: lower lr to a third.")
    assert [said.index(name) for name in ORDER] == sorted(said.index(name) for name in ORDER)


def test_a_model_without_residual_has_no_faults_of_it() -> None:
    epochs = _epochs([{"saturated_q": 1.0, "unused_q": 1.0, "unused_c": 1.0}])
    assert [rule.name for rule in diagnose(epochs)] == ["saturated residual", "unused residual"]
    assert diagnose(epochs, residual=False) == []


def test_a_run_without_epochs_shows_nothing() -> None:
    assert diagnose([]) == []
