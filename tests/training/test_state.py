"""The training loop's state: written down between two steps, it goes on to the same bits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aigc_cli.errors import AigcError
from aigc_cli.model.model import Judge
from aigc_cli.progress import Silent
from aigc_cli.recipe import Recipe
from aigc_cli.storage.checkpoints import load_state, save_state
from aigc_cli.training.loop import Data, fit
from aigc_cli.training.state import Fit, Loop, Snapshot

TRAIN, VAL, STEPS = range(36), range(36, 48), 5  # of 36 rows by 8: four of 8, one of 4
RECIPE = Recipe(
    backbone="tiny", freeze="all", lr=3e-3, epochs=3, batch_size=8, views=2, hidden_q=16, hidden_c=16, dropout=0.3
)
PARTIAL = replace(RECIPE, freeze="partial", freeze_depth=0.5, checkpoint="best", scheduler="linear")
PATIENT = replace(RECIPE, patience=1, min_delta=2.0, quality_input="multilevel", scheduler="step")  # 2 epochs
AVERAGED = replace(PARTIAL, ema=0.9)
NONE = replace(RECIPE, freeze="none", epochs=2, loss="l1+rank", max_grad_norm=0.0)

Make = Callable[..., tuple[Judge, Data]]


def trained(ready: Make, recipe: Recipe, start: Snapshot | None = None) -> tuple[Fit, list[Snapshot]]:
    """A training, and what could be written down at each moment of it."""
    judge, data = ready(recipe)
    seen: list[Snapshot] = []

    def after(loop: Loop) -> None:
        now = loop.snapshot()
        seen.append(Snapshot({name: tensor.clone() for name, tensor in now.tensors.items()}, now.facts))

    return fit(judge, data, TRAIN, VAL, recipe, Silent(), start=start, after=after), seen


def written(state: Snapshot, folder: Path) -> Snapshot:
    """The state as another process reads it."""
    save_state(folder, state.facts["epoch"], state.facts["step"], state.tensors, state.facts)
    return Snapshot(*(load_state(folder) or pytest.fail("nothing was saved")))


def timeless(facts: dict[str, Any]) -> dict[str, Any]:
    epochs = [{key: value for key, value in row.items() if key != "seconds"} for row in facts["epochs"]]
    losses = [tuple(loss) for loss in facts["losses"]]
    return {**facts, "epochs": epochs, "losses": losses, "seconds": 0}


@pytest.mark.parametrize(
    "recipe", [RECIPE, PARTIAL, PATIENT, AVERAGED, NONE], ids=["all", "partial", "patient", "averaged", "none"]
)
def test_weights_optimiser_and_curves_are_equal_bit_for_bit(recipe: Recipe, ready: Make, tmp_path: Path) -> None:
    """Resumed after the first step, the last of an epoch, an epoch's end, and within the second epoch."""
    whole, expected = trained(ready, recipe)
    assert any(name.startswith("optimiser.") and name.endswith(".exp_avg_sq") for name in expected[-1].tensors)
    for stop in (0, STEPS - 1, STEPS, STEPS + 3):
        torch.manual_seed(99)  # a new process
        result, rest = trained(ready, recipe, written(expected[stop], tmp_path / str(stop)))
        assert len(rest) == len(expected) - stop - 1 > 0
        for found, wanted in zip(rest, expected[stop + 1 :], strict=True):
            assert timeless(found.facts) == timeless(wanted.facts)
            assert found.tensors.keys() == wanted.tensors.keys()
            assert all(torch.equal(found.tensors[name], tensor) for name, tensor in wanted.tensors.items())
        assert (result.kept_epoch, result.stopped_early) == (whole.kept_epoch, whole.stopped_early)
        assert all(torch.equal(result.kept_state[name], tensor) for name, tensor in whole.kept_state.items())


def test_a_finished_training_takes_no_step(ready: Make) -> None:
    whole, seen = trained(ready, PATIENT)
    again, more = trained(ready, PATIENT, seen[-1])
    assert (len(whole.epochs), whole.stopped_early, more) == (4, True, [])
    assert again.epochs == whole.epochs


def test_rows_that_were_not_rated_are_no_trouble(ready: Make, tmp_path: Path) -> None:
    """Their NaN is in no file: tensors that are not finite are refused."""

    def half_rated(recipe: Recipe) -> tuple[Judge, Data]:
        judge, data = ready(recipe)
        targets = data.targets.clone()
        targets[::2, 0] = torch.nan
        return judge, replace(data, targets=targets)

    whole, seen = trained(half_rated, RECIPE)
    result, _ = trained(half_rated, RECIPE, written(seen[2], tmp_path))
    assert timeless({"epochs": result.epochs, "losses": []}) == timeless({"epochs": whole.epochs, "losses": []})


@pytest.mark.parametrize("recipe", [PARTIAL, replace(RECIPE, hidden_q=8)], ids=["freezing", "width"])
def test_the_state_of_another_model_is_refused(recipe: Recipe, ready: Make) -> None:
    _, seen = trained(ready, RECIPE)
    with pytest.raises(AigcError, match="Expected the state of this training"):
        trained(ready, recipe, seen[0])
