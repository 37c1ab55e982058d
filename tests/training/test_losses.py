"""Losses against their formulas, with rows that were not rated, and on constant batches."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from aigc_cli.errors import AigcError
from aigc_cli.recipe import LOSS_NAMES
from aigc_cli.training.losses import (
    CONTRAST_TEMPERATURE,
    LOSSES,
    MISMATCH_MARGIN,
    RANK_MARGIN,
    compute_contrastive_loss,
    compute_mismatch_loss,
    make_loss,
)

NAMES = [*LOSSES, "mse+rank", "l1+plcc", "mse+l1+plcc+rank"]
PREDICTED = torch.tensor([0.30, 0.35, 0.90, 0.10])
TARGET = torch.tensor([0.20, 0.50, 0.80, 0.81])


def _pearson(x: list[float], y: list[float]) -> float:
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    product = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return product / math.sqrt(sum((a - mean_x) ** 2 for a in x) * sum((b - mean_y) ** 2 for b in y))


def _expected(name: str, predicted: list[float], target: list[float]) -> float:
    pairs = list(zip(predicted, target, strict=True))
    if name == "mse":
        return sum((p - t) ** 2 for p, t in pairs) / len(pairs)
    if name == "l1":
        return sum(abs(p - t) for p, t in pairs) / len(pairs)
    if name == "plcc":
        return (1 - _pearson(predicted, target)) / 2
    ordered = [a - b for a, s in pairs for b, t in pairs if s - t > RANK_MARGIN]
    return sum(max(0.0, RANK_MARGIN - lead) for lead in ordered) / len(ordered)


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_is_the_sum_of_its_formulas(name: str) -> None:
    expected = sum(_expected(part, PREDICTED.tolist(), TARGET.tolist()) for part in name.split("+"))
    assert float(make_loss(name)(PREDICTED, TARGET)) == pytest.approx(expected, abs=1e-6)
    assert expected > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_were_not_rated_count_for_nothing(name: str) -> None:
    predicted = torch.cat([PREDICTED, torch.tensor([0.77, 0.01])]).requires_grad_()
    loss = make_loss(name)(predicted, torch.cat([TARGET, torch.full((2,), math.nan)]))
    assert float(loss.detach()) == pytest.approx(float(make_loss(name)(PREDICTED, TARGET)), abs=1e-7)
    loss.backward()  # type: ignore[no-untyped-call]
    assert predicted.grad is not None
    assert predicted.grad[-2:].tolist() == [0.0, 0.0]
    assert predicted.grad[:-2].abs().sum() > 0


def _gradient(name: str, predicted: Tensor, target: Tensor) -> tuple[float, Tensor]:
    predicted = predicted.clone().requires_grad_()
    loss = make_loss(name)(predicted, target)
    loss.backward()  # type: ignore[no-untyped-call]
    assert predicted.grad is not None
    return float(loss.detach()), predicted.grad


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("predicted", "target"),
    [
        (torch.full((4,), 0.5), TARGET),
        (PREDICTED, torch.full((4,), 0.5)),
        (torch.full((4,), 0.5), torch.full((4,), 0.5)),
        (PREDICTED[:1], TARGET[:1]),
        (PREDICTED, torch.full((4,), math.nan)),
    ],
    ids=["constant predictions", "constant scores", "both constant", "one row", "nothing rated"],
)
def test_loss_and_gradient_are_finite_without_spread(name: str, predicted: Tensor, target: Tensor) -> None:
    loss, gradient = _gradient(name, predicted, target)
    assert math.isfinite(loss)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_that_nobody_rated_costs_nothing(name: str) -> None:
    loss, gradient = _gradient(name, PREDICTED, torch.full((4,), math.nan))
    assert loss == 0
    assert gradient.tolist() == [0.0] * 4


scores = st.lists(st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)), min_size=1, max_size=12)


@given(scores)
def test_plcc_stays_between_0_and_1_with_a_finite_gradient(rows: list[tuple[float, float]]) -> None:
    predicted, target = (torch.tensor(column) for column in zip(*rows, strict=True))
    loss, gradient = _gradient("plcc", predicted, target)
    assert -1e-6 <= loss <= 1 + 1e-6
    assert torch.isfinite(gradient).all()


def test_a_leading_prediction_costs_no_rank_loss_and_gets_no_push() -> None:
    loss, gradient = _gradient("rank", torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.2, 0.3, 0.4]))
    assert loss == 0
    assert gradient.tolist() == [0.0, 0.0, 0.0]


def test_rank_loss_pushes_a_wrong_pair_apart() -> None:
    _, gradient = _gradient("rank", torch.tensor([0.6, 0.4]), torch.tensor([0.2, 0.9]))
    assert gradient.tolist() == [1.0, -1.0]  # downhill lowers the first and raises the second


@pytest.mark.parametrize(("name", "named"), [("huber", "huber"), ("mse+", ""), ("l1 + spearman", "spearman"), ("", "")])
def test_an_unknown_loss_is_named(name: str, named: str) -> None:
    with pytest.raises(AigcError) as caught:
        make_loss(name)
    assert str(caught.value) == f"Expected losses out of mse, l1, plcc, rank, found '{named}'.\nJoin several with +."


def test_blanks_around_the_plus_do_not_matter() -> None:
    assert float(make_loss(" l1 + plcc ")(PREDICTED, TARGET)) == float(make_loss("l1+plcc")(PREDICTED, TARGET))


def test_the_recipes_know_every_loss() -> None:
    assert set(LOSS_NAMES) == set(LOSSES)


def test_contrast_is_infonce_weighted_by_what_is_shown() -> None:
    image, text = (torch.nn.functional.normalize(torch.randn(3, 4), dim=1) for _ in range(2))
    text[2] = text[1]  # rows 1 and 2 have the same prompt
    same = torch.tensor([[True, False, False], [False, True, True], [False, True, True]])
    shown = torch.tensor([0.5, math.nan, 1.0])
    s = [[math.exp(float(image[i] @ text[j]) / CONTRAST_TEMPERATURE) for j in range(3)] for i in range(3)]
    rows = [
        -math.log(s[0][0] / (s[0][0] + s[0][1] + s[0][2])) - math.log(s[0][0] / (s[0][0] + s[1][0] + s[2][0])),
        -math.log(s[2][2] / (s[2][2] + s[2][0])) - math.log(s[2][2] / (s[2][2] + s[0][2])),
    ]
    expected = (0.5 * rows[0] + 1.0 * rows[1]) / (2 * 1.5)
    assert float(compute_contrastive_loss(image, text, shown, same)) == pytest.approx(expected, rel=1e-5)


def test_contrast_without_a_rated_row_is_nothing() -> None:
    image = torch.eye(2, requires_grad=True)
    loss = compute_contrastive_loss(image, torch.eye(2), torch.full((2,), math.nan), torch.eye(2, dtype=torch.bool))
    loss.backward()
    assert float(loss.detach()) == 0
    assert image.grad is not None
    assert image.grad.abs().sum() == 0


def test_mismatch_wants_a_lead_of_the_margin() -> None:
    own, other = torch.tensor([0.9, 0.5, 0.5, 0.5]), torch.tensor([0.1, 0.5, 0.9, 0.9])
    shown, differs = torch.tensor([1.0, 0.5, 1.0, math.nan]), torch.tensor([True, True, False, True])
    expected = (0 + MISMATCH_MARGIN * 2 * 0.5 + 0 + 0) / 4
    assert float(compute_mismatch_loss(own, other, shown, differs)) == pytest.approx(expected)
