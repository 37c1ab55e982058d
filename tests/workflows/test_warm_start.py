"""Warm starts: a training goes on from a trained model, keeps its architecture and what it had learnt."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rated import RecordingProgress, write_table

from aigc_cli import Scorer
from aigc_cli.errors import AigcError
from aigc_cli.images.sample import Sample
from aigc_cli.progress import SilentProgress
from aigc_cli.recipe import Recipe, resolve_recipe
from aigc_cli.storage.atomic_files import Output
from aigc_cli.storage.checkpoints import load_checkpoint
from aigc_cli.training.rates import complete_recipe, complete_resolved
from aigc_cli.workflows.experiment.source import Compute, Source
from aigc_cli.workflows.train.calibrate import HeldOutSource
from aigc_cli.workflows.train.train import train_model

pytestmark = pytest.mark.usefixtures("few_resamples")
Train = Callable[..., Path]


@pytest.fixture
def train(tiny_folder: Path, demo: list[Sample], tmp_path: Path) -> Train:
    """Trains on the demonstration set and returns the run folder."""

    def run(name: str, progress: Any = None, **settings: Any) -> Path:
        chosen = {"epochs": 1, "views": 1, "lr": 0.003, **settings}
        if "start_from" not in chosen:
            chosen = {"hidden_q": 8, "hidden_c": 8, "backbone": f"local-dir:{tiny_folder}", **chosen}
        resolved = resolve_recipe({key: str(value) for key, value in chosen.items()})
        source = Source(write_table(tmp_path / "ratings.csv", demo), demo[0].path.parent)
        output = Output(tmp_path / name)
        train_model(resolved, source, output, HeldOutSource(), Compute("cpu"), progress or SilentProgress())
        return tmp_path / name

    return run


def _score(model: Path, demo: list[Sample]) -> np.ndarray[Any, Any]:
    samples = demo[:6]
    table = Scorer.load(model, "cpu", "eager").score(
        images=[sample.path for sample in samples], prompts=[sample.prompt for sample in samples]
    )
    return np.asarray(table[["quality", "consistency"]])


@pytest.mark.parametrize("frozen", ["all", "none"])
def test_without_a_step_the_scores_are_those_of_the_start_model(frozen: str, train: Train, demo: list[Sample]) -> None:
    """Also where the start model was trained further down than the present training: what it learnt is saved too."""
    start = train("start", freeze=frozen)
    after = train("after", start_from=start, freeze="partial", freeze_depth=1, lr=0)
    assert _score(after, demo) == pytest.approx(_score(start, demo), abs=1e-5)
    assert load_checkpoint(after).tensors.keys() >= load_checkpoint(start).tensors.keys()


def test_with_everything_frozen_only_a_taste_is_fitted(train: Train, demo: list[Sample]) -> None:
    """Graphs and PyTorch agree on it, and what the start model had learnt is in the new model as it was."""
    start, progress = train("start"), RecordingProgress()
    after = train("after", progress, start_from=start, freeze="all")
    before, found = load_checkpoint(start).tensors, load_checkpoint(after).tensors
    assert {name for name in found if name not in before} == {
        *("heads.taste_q.weight", "heads.taste_q.bias", "heads.taste_c.weight", "heads.taste_c.bias")
    }
    assert all(np.array_equal(before[name], found[name]) for name in before)
    assert any("a linear shift is fitted to your ratings" in line for line in progress.lines)
    description = load_checkpoint(after).description
    assert set(description["start"]["penalties"]) == {"quality", "consistency"}
    assert "views" not in " ".join(progress.lines), "no augmented view is computed"


def test_a_step_changes_the_heads_and_nothing_that_is_frozen(train: Train, demo: list[Sample]) -> None:
    start = train("start", freeze="none")
    before, after = load_checkpoint(start).tensors, load_checkpoint(train("after", start_from=start)).tensors
    moved = {name for name, tensor in before.items() if not np.array_equal(tensor, after[name])}
    assert any(name.startswith("heads.") for name in moved)
    assert not any("resblocks.0." in name for name in moved)


def test_the_architecture_is_that_of_the_start_model(train: Train, tiny_folder: Path) -> None:
    start = train("start", hidden_q=9, residual_scale_q=0.3)
    found = complete_resolved(resolve_recipe({"start_from": str(start), "dropout": "0.25"}, "small"))
    recipe = found.recipe
    assert (recipe.backbone, recipe.hidden_q, recipe.residual_scale_q) == (f"local-dir:{tiny_folder}", 9, 0.3)
    assert (recipe.dropout, recipe.lr, recipe.epochs) == (0.25, 1e-3, 30)
    assert found.sources["backbone"] == str(start)


@pytest.mark.parametrize(("name", "value"), [("backbone", "mini"), ("image_size", "64"), ("hidden_q", "99")])
def test_another_architecture_is_refused_by_name(train: Train, name: str, value: str) -> None:
    start = train("start")
    with pytest.raises(AigcError, match=rf"Expected {name} .* as in the start model start, found {value}"):
        complete_resolved(resolve_recipe({"start_from": str(start), name: value}))
    with pytest.raises(AigcError, match="Expected hidden_q"):
        complete_recipe(Recipe(start_from=str(start), hidden_q=99))


def test_another_scale_is_mapped_and_said(train: Train, demo: list[Sample]) -> None:
    start, progress = train("start"), RecordingProgress()
    train("after", progress, start_from=start, mos_max=10)
    assert any("Its scores of 0 to 5 become 0 to 10." in line for line in progress.lines)


def test_a_start_model_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(AigcError, match="Expected a run or a model folder"):
        complete_recipe(Recipe(start_from=str(tmp_path / "none")))


def test_with_few_images_the_intervals_are_those_of_the_start_model(train: Train, demo: list[Sample]) -> None:
    """The demonstration set is too small for any; the shipped scorer has some."""
    after = train("after", start_from="fast", epochs=1, views=1, plain_view="true")
    sample = demo[0]
    table = Scorer.load(after, "cpu", "eager").score(images=[sample.path], prompts=[sample.prompt])
    assert table["quality_low"][0] < table["quality"][0] < table["quality_high"][0]
    notes = load_checkpoint(after).description["calibration"]["notes"]
    assert notes == ["too few held-out images for intervals: these, percentiles and out_of_domain are those of fast"]
