"""Unfinished trainings: resuming, what may not change meanwhile, and the end when memory runs out."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aigc_cli.errors import AigcError, EnvironmentProblem, Interruption
from aigc_cli.images.sample import Sample
from aigc_cli.model import loading
from aigc_cli.model.backbone import Backbone
from aigc_cli.progress import SilentProgress
from aigc_cli.recipe import ResolvedRecipe, resolve_recipe
from aigc_cli.storage.atomic_files import Output
from aigc_cli.training import loop as training
from aigc_cli.training.rates import complete_resolved
from aigc_cli.workflows.experiment.run_folder import find_states_folder, is_unfinished
from aigc_cli.workflows.experiment.source import Compute, Source
from aigc_cli.workflows.train import train as module
from aigc_cli.workflows.train.calibrate import HeldOutSource
from aigc_cli.workflows.train.resume import is_finished, read_unfinished
from aigc_cli.workflows.train.train import TrainResult, train_model

pytestmark = pytest.mark.usefixtures("few_resamples")


@pytest.fixture
def source(demo: list[Sample], tmp_path: Path) -> Source:
    lines = [f"{s.name},{s.prompt},{s.mos_quality},{s.mos_align},{'ab'[i % 2]}" for i, s in enumerate(demo)]
    (tmp_path / "ratings.csv").write_text("\n".join(["name,prompt,mos_quality,mos_align,part", *lines]) + "\n")
    return Source(tmp_path / "ratings.csv", demo[0].path.parent)


@pytest.fixture
def resolved(tiny_folder: Path) -> ResolvedRecipe:
    quick = {"epochs": "2", "batch_size": "16", "views": "1", "val_fraction": "0.25", "group_by": "name"}
    return resolve_recipe({"backbone": f"local-dir:{tiny_folder}", "freeze": "all", **quick})


def go(
    resolved: ResolvedRecipe, source: Source, run: Path, resume: bool = False, overwrite: bool = False
) -> TrainResult:
    output = Output(run, overwrite=overwrite, resume=resume)
    return train_model(resolved, source, output, HeldOutSource(), Compute("cpu"), SilentProgress())


@pytest.fixture
def break_training(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException, int], None]:
    """From step number `step` on, a training ends with `error`."""

    def make(error: BaseException, step: int) -> None:
        plain, steps = training.embed_rows, [0]

        def embed(*arguments: Any) -> Any:
            steps[0] += torch.is_grad_enabled()
            if steps[0] > step:
                raise error
            return plain(*arguments)

        monkeypatch.setattr(training, "embed_rows", embed)

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_memory_that_runs_out_keeps_the_state(
    error: Exception,
    resolved: ResolvedRecipe,
    source: Source,
    tmp_path: Path,
    break_training: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    break_training(error, 4)  # three steps an epoch
    with pytest.raises(EnvironmentProblem) as caught:
        go(resolved, source, run)
    assert caught.value.exit_code == 4
    assert caught.value.message.startswith("Not enough memory: ")
    again = "Train again with half the batch size, --batch-size 8"
    assert caught.value.hint == f"{again}, or free memory and go on with `aigc train --resume {run}`."
    assert [path.name for path in find_states_folder(run).glob("epoch-*")] == ["epoch-2-step-0"]
    monkeypatch.undo()
    read = read_unfinished(run, {}, None, Source())
    assert read == (complete_resolved(resolved), source)
    assert go(*read, run, resume=True).kept_epoch == 2
    assert is_finished(run)
    assert not is_unfinished(run)


def test_another_runtime_error_is_not_changed(
    resolved: ResolvedRecipe, source: Source, tmp_path: Path, break_training: Callable[..., None]
) -> None:
    break_training(RuntimeError("CUDA error: an illegal memory access was encountered"), 0)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        go(resolved, source, tmp_path / "run")


@pytest.fixture
def begun(resolved: ResolvedRecipe, source: Source, tmp_path: Path, break_training: Callable[..., None]) -> Path:
    """A run folder whose training ended in its second epoch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "embed_rows", training.embed_rows)
        break_training(KeyboardInterrupt(), 4)
        with pytest.raises(Interruption) as caught:
            go(resolved, source, tmp_path / "run")
        assert caught.value.exit_code == 130
    return tmp_path / "run"


def test_an_unfinished_training_is_not_started_again(
    begun: Path, resolved: ResolvedRecipe, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    with pytest.raises(AigcError) as caught:
        go(resolved, source, begun)
    assert caught.value.message == f"The training in {begun} is not finished."
    assert caught.value.hint == f"Go on with `aigc train --resume {begun}`, or add --overwrite."
    assert go(resolved, source, begun, overwrite=True).kept_epoch == 2
    assert sorted(path.suffix for path in begun.iterdir() if path.is_file()) == [".json", *[".parquet"] * 4, ".yaml"]


def test_old_results_stay_until_the_new_ones_are_complete(
    resolved: ResolvedRecipe, source: Source, tmp_path: Path, break_training: Callable[..., None]
) -> None:
    run = tmp_path / "run"
    go(resolved, source, run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    break_training(KeyboardInterrupt(), 4)
    with pytest.raises(Interruption):
        go(resolved, source, run, overwrite=True)
    assert {path: path.read_bytes() for path in before} == before
    assert is_unfinished(run)
    assert not is_finished(run)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda table: table.replace(",a\n", ",c\n", 1), ""),  # a column that the recipe does not use
        (lambda table: table.replace(".jpg,", ".jpg,the ", 1), "the images, prompts or scores"),
        (lambda table: table.rsplit("\n", 2)[0] + "\n", "the images, prompts or scores"),
    ],
    ids=["group", "prompt", "row"],
)
def test_a_table_that_changed(
    change: Callable[[str], str], found: str, begun: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    assert source.data is not None
    source.data.write_text(change(source.data.read_text()))
    read = read_unfinished(begun, {}, None, Source())
    if not found:
        assert go(*read, begun, resume=True).kept_epoch == 2
        return
    with pytest.raises(AigcError) as caught:
        go(*read, begun, resume=True)
    assert caught.value.exit_code == 2
    assert caught.value.message == (
        f"Expected no changes since the training in {begun} was started, found changes in {found}."
    )
    assert is_unfinished(begun)


def test_other_weights_of_the_backbone(begun: Path, resolved: ResolvedRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    plain = loading.load_backbone

    def load(*arguments: Any) -> Backbone:
        backbone = plain(*arguments)
        backbone.weights_hash = "other"
        return backbone

    monkeypatch.setattr(loading, "load_backbone", load)
    read = read_unfinished(begun, {}, None, Source())
    with pytest.raises(AigcError, match=f"found changes in the weights of {resolved.recipe.backbone}"):
        go(*read, begun, resume=True)


def test_another_split(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    plain = module.hold_out
    monkeypatch.setattr(module, "hold_out", lambda groups, share, seed: plain(groups, share, seed + 1))
    read = read_unfinished(begun, {}, None, Source())
    with pytest.raises(AigcError, match="found changes in the parts for training and validation"):
        go(*read, begun, resume=True)


def test_data_that_moved(begun: Path, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert source.images is not None
    shutil.copytree(source.images, tmp_path / "moved")
    read = read_unfinished(begun, {"lr": None, "epochs": "2"}, None, Source(images=tmp_path / "moved"))
    assert read[1] == Source(source.data, tmp_path / "moved")
    assert go(*read, begun, resume=True).kept_epoch == 2


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"resolved": {"recipe": {"lr": "fast"}}}', "[" * 100_000])
def test_a_damaged_plan(text: str, tmp_path: Path) -> None:
    find_states_folder(tmp_path).mkdir()
    (find_states_folder(tmp_path) / "plan.json").write_text(text)
    with pytest.raises(AigcError) as caught:
        read_unfinished(tmp_path, {}, None, Source())
    assert caught.value.exit_code == 2
    with pytest.raises(AigcError, match="Expected an unfinished training"):
        read_unfinished(tmp_path / "nothing", {}, None, Source())


def test_the_plan_holds_no_more_than_is_needed(begun: Path) -> None:
    plan = json.loads((find_states_folder(begun) / "plan.json").read_text())
    assert set(plan) == {"resolved", "source", "folder", "data", "weights", "held_out"}
