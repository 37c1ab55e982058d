"""The state of a training: resumed from a saved state, a training ends with the same bits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aigc_cli.errors import AigcError
from aigc_cli.metrics.splits import Split
from aigc_cli.model.model import Model
from aigc_cli.progress import SilentProgress
from aigc_cli.recipe import Recipe
from aigc_cli.storage.checkpoints import load_state, save_state
from aigc_cli.training.batches import TrainingData
from aigc_cli.training.loop import fit_model
from aigc_cli.training.state import FitResult, LoopState, Snapshot

SPLIT, STEPS = Split(range(36), range(36, 48)), 5  # of 36 rows by 8: four of 8, one of 4
RECIPE = Recipe(
    backbone="tiny", freeze="all", lr=3e-3, epochs=3, batch_size=8, views=2, hidden_q=16, hidden_c=16, dropout=0.3
)
PARTIAL = replace(RECIPE, freeze="partial", freeze_depth=0.5, epochs=2, checkpoint="best", scheduler="linear")
PATIENT = replace(RECIPE, patience=1, min_delta=2.0, quality_input="multilevel", scheduler="step")  # 2 epochs
NONE = replace(RECIPE, freeze="none", epochs=2, loss="l1+rank", max_grad_norm=0.0)

Make = Callable[..., tuple[Model, TrainingData]]


def train(ready: Make, recipe: Recipe, start: Snapshot | None = None) -> tuple[FitResult, list[Snapshot]]:
    """The result of a training, and its state after each step and each epoch."""
    model, data = ready(recipe)
    seen: list[Snapshot] = []

    def remember(loop: LoopState) -> None:
        now = loop.take_snapshot()
        seen.append(Snapshot({name: tensor.clone() for name, tensor in now.tensors.items()}, now.facts))

    return fit_model(model, data, SPLIT, recipe, SilentProgress(), resumed=start, callback=remember), seen


def reload(state: Snapshot, folder: Path) -> Snapshot:
    """The state as another process reads it."""
    save_state(folder, state.facts["epoch"], state.facts["step"], state.tensors, state.facts)
    arrays, facts = load_state(folder) or pytest.fail("nothing was saved")
    return Snapshot({name: torch.from_numpy(array) for name, array in arrays.items()}, facts)


def drop_seconds(facts: dict[str, Any]) -> dict[str, Any]:
    epochs = [{key: value for key, value in row.items() if key != "seconds"} for row in facts["epochs"]]
    losses = [tuple(loss) for loss in facts["losses"]]
    return {**facts, "epochs": epochs, "losses": losses, "seconds": 0}


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(RECIPE, id="all", marks=pytest.mark.slow),
        pytest.param(PARTIAL, id="partial", marks=pytest.mark.slow),
        pytest.param(PATIENT, id="patient"),
        pytest.param(NONE, id="none", marks=pytest.mark.slow),
    ],
)
def test_weights_optimiser_and_curves_are_equal_bit_for_bit(recipe: Recipe, ready: Make, tmp_path: Path) -> None:
    """Resumed after the first step, the last of an epoch, an epoch's end, and within the second epoch."""
    whole, expected = train(ready, recipe)
    assert any(name.startswith("optimiser.") and name.endswith(".exp_avg_sq") for name in expected[-1].tensors)
    for stop in (0, STEPS - 1, STEPS, STEPS + 3):
        torch.manual_seed(99)  # a new process
        result, rest = train(ready, recipe, reload(expected[stop], tmp_path / str(stop)))
        assert len(rest) == len(expected) - stop - 1 > 0
        for found, wanted in zip(rest, expected[stop + 1 :], strict=True):
            assert drop_seconds(found.facts) == drop_seconds(wanted.facts)
            assert found.tensors.keys() == wanted.tensors.keys()
            assert all(torch.equal(found.tensors[name], tensor) for name, tensor in wanted.tensors.items())
        assert (result.kept_epoch, result.stopped_early) == (whole.kept_epoch, whole.stopped_early)
        assert all(torch.equal(result.kept_weights[name], tensor) for name, tensor in whole.kept_weights.items())


def test_a_finished_training_takes_no_further_step(ready: Make) -> None:
    whole, seen = train(ready, PATIENT)
    again, more = train(ready, PATIENT, seen[-1])
    assert (len(whole.epochs), whole.stopped_early, more) == (4, True, [])
    assert again.epochs == whole.epochs


def test_a_state_with_unrated_rows_can_be_saved(ready: Make, tmp_path: Path) -> None:
    """Their NaN does not get into the state, whose tensors must be finite."""

    def half_rated(recipe: Recipe) -> tuple[Model, TrainingData]:
        model, data = ready(recipe)
        targets = data.targets.clone()
        targets[::2, 0] = torch.nan
        return model, replace(data, targets=targets)

    whole, seen = train(half_rated, RECIPE)
    result, _ = train(half_rated, RECIPE, reload(seen[2], tmp_path))
    assert drop_seconds({"epochs": result.epochs, "losses": []}) == drop_seconds({"epochs": whole.epochs, "losses": []})


@pytest.mark.parametrize("recipe", [PARTIAL, replace(RECIPE, hidden_q=8)], ids=["freezing", "width"])
def test_the_state_of_another_model_is_refused(recipe: Recipe, ready: Make) -> None:
    _, seen = train(ready, RECIPE)
    with pytest.raises(AigcError, match="Expected the state of this training"):
        train(ready, recipe, seen[0])
