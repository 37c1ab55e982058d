"""Warm starts go as far from their start model as held-out groups show to help."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from aigc_cli.metrics.splits import Split
from aigc_cli.model.model import Model
from aigc_cli.progress import SilentProgress
from aigc_cli.recipe import Recipe
from aigc_cli.training import adaptation
from aigc_cli.training.adaptation import SHARES, choose_share, limit_change, mix_weights
from aigc_cli.training.batches import TrainingData
from aigc_cli.training.loop import fit_model

RECIPE = Recipe(backbone="tiny", freeze="all", lr=3e-3, epochs=8, batch_size=8, views=1, plain_view=True, dropout=0)
ROWS = list(range(48))
Ready = Callable[..., tuple[Model, TrainingData]]


@pytest.fixture
def started(ready: Ready) -> tuple[Model, TrainingData]:
    """A model that was trained on all images."""
    model, data = ready(RECIPE)
    fit_model(model, data, Split(ROWS, []), RECIPE, SilentProgress())
    return model, data


def test_weights_on_the_way() -> None:
    start = {"w": torch.tensor([0.0, 2.0]), "n": torch.tensor(3)}
    adapted = {"w": torch.tensor([1.0, 4.0]), "n": torch.tensor(5)}
    assert torch.equal(mix_weights(start, adapted, 0)["w"], start["w"])
    assert torch.equal(mix_weights(start, adapted, 1)["w"], adapted["w"])
    assert mix_weights(start, adapted, 0.25)["w"].tolist() == [0.25, 2.5]
    assert int(mix_weights(start, adapted, 0.25)["n"]) == 3


def test_another_taste_is_followed(started: tuple[Model, TrainingData]) -> None:
    model, data = started
    start = model.copy_trained()
    groups = [str(row % 12) for row in ROWS]
    other = replace(data, targets=1 - data.targets)
    assert choose_share(model, start, other, ROWS, groups, RECIPE, SilentProgress()) > 0


def test_where_held_out_groups_lose_the_start_model_stays(
    started: tuple[Model, TrainingData], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each share has a larger error than the one before, on every image."""
    model, data = started
    errors = itertools.cycle(range(len(SHARES)))
    monkeypatch.setattr(adaptation, "_measure_errors", lambda model, data, rows: np.full(len(rows), next(errors)))
    groups = [str(row % 12) for row in ROWS]
    assert choose_share(model, model.copy_trained(), data, ROWS, groups, RECIPE, SilentProgress()) == 0


def test_a_single_group_shows_nothing(started: tuple[Model, TrainingData]) -> None:
    model, data = started
    assert choose_share(model, model.copy_trained(), data, ROWS, ["a"] * 48, RECIPE, SilentProgress()) == 0


@pytest.mark.parametrize("share", SHARES)
def test_a_change_is_limited_to_its_share(
    share: float, started: tuple[Model, TrainingData], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = started
    adapted = model.copy_trained()
    start = {name: torch.zeros_like(tensor) for name, tensor in adapted.items()}
    monkeypatch.setattr(adaptation, "choose_share", lambda *given: share)
    assert limit_change(model, start, data, ROWS, ["a"] * 48, RECIPE, SilentProgress()) == share
    for name, tensor in model.copy_trained().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, share * adapted[name])
