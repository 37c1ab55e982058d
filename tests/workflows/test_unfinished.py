"""What a training goes on from: its plan, what may not change, and how it ends when memory runs out."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aigc_cli.errors import AigcError, EnvironmentProblem, Interrupted
from aigc_cli.images.sample import Sample
from aigc_cli.model.backbone import Backbone
from aigc_cli.progress import Silent
from aigc_cli.recipe import Resolved, resolve
from aigc_cli.training import loop as training
from aigc_cli.workflows.experiment.source import Source
from aigc_cli.workflows.train import train as module
from aigc_cli.workflows.train.resume import is_finished, is_unfinished, states_folder, unfinished
from aigc_cli.workflows.train.train import TrainResult, train

pytestmark = pytest.mark.usefixtures("few_resamples")


@pytest.fixture
def source(demo: list[Sample], tmp_path: Path) -> Source:
    lines = [f"{s.name},{s.prompt},{s.mos_quality},{s.mos_align},{'ab'[i % 2]}" for i, s in enumerate(demo)]
    (tmp_path / "ratings.csv").write_text("\n".join(["name,prompt,mos_quality,mos_align,part", *lines]) + "\n")
    return Source(tmp_path / "ratings.csv", demo[0].path.parent)


@pytest.fixture
def resolved(tiny_folder: Path) -> Resolved:
    quick = {"epochs": "2", "batch_size": "16", "views": "1", "val_fraction": "0.25", "group_by": "name"}
    return resolve({"backbone": f"local-dir:{tiny_folder}", "freeze": "all", **quick})


def go(resolved: Resolved, source: Source, run: Path, **more: Any) -> TrainResult:
    return train(resolved, source, run, progress=Silent(), device="cpu", **more)


@pytest.fixture
def breaks(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException, int], None]:
    """From step number `step` on, a training ends with `error`."""

    def make(error: BaseException, step: int) -> None:
        plain, steps = training.embed, [0]

        def embed(*arguments: Any) -> Any:
            steps[0] += torch.is_grad_enabled()
            if steps[0] > step:
                raise error
            return plain(*arguments)

        monkeypatch.setattr(training, "embed", embed)

    return make


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
    resolved: Resolved,
    source: Source,
    tmp_path: Path,
    breaks: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    breaks(error, 4)  # three steps an epoch
    with pytest.raises(EnvironmentProblem) as caught:
        go(resolved, source, run)
    assert caught.value.exit_code == 4
    assert caught.value.message.startswith("The memory did not suffice: ")
    anew = "Train anew with half the batch size, --batch-size 8"
    assert caught.value.hint == f"{anew}, or free memory and go on with `aigc train --resume {run}`."
    assert [path.name for path in states_folder(run).glob("epoch-*")] == ["epoch-2-step-0"]
    monkeypatch.undo()
    again, there = unfinished(run, {}, None, Source())
    assert (again, there) == (resolved, source)
    assert go(again, there, run, resume=True).kept_epoch == 2
    assert is_finished(run)
    assert not is_unfinished(run)


def test_another_runtime_error_stays_what_it_is(
    resolved: Resolved, source: Source, tmp_path: Path, breaks: Callable[..., None]
) -> None:
    breaks(RuntimeError("CUDA error: an illegal memory access was encountered"), 0)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        go(resolved, source, tmp_path / "run")


@pytest.fixture
def begun(resolved: Resolved, source: Source, tmp_path: Path, breaks: Callable[..., None]) -> Path:
    """A run folder whose training ended in its second epoch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "embed", training.embed)
        breaks(KeyboardInterrupt(), 4)
        with pytest.raises(Interrupted) as caught:
            go(resolved, source, tmp_path / "run")
        assert caught.value.exit_code == 130
    return tmp_path / "run"


def test_an_unfinished_training_is_not_begun_anew(
    begun: Path, resolved: Resolved, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    with pytest.raises(AigcError) as caught:
        go(resolved, source, begun)
    assert caught.value.message == f"The training in {begun} is not finished."
    assert caught.value.hint == f"Go on with `aigc train --resume {begun}`, or add --overwrite."
    assert go(resolved, source, begun, overwrite=True).kept_epoch == 2
    assert sorted(path.suffix for path in begun.iterdir() if path.is_file()) == [".json", *[".parquet"] * 4, ".yaml"]


def test_what_was_there_stays_until_the_new_results_are_whole(
    resolved: Resolved, source: Source, tmp_path: Path, breaks: Callable[..., None]
) -> None:
    run = tmp_path / "run"
    go(resolved, source, run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    breaks(KeyboardInterrupt(), 4)
    with pytest.raises(Interrupted):
        go(resolved, source, run, overwrite=True)
    assert {path: path.read_bytes() for path in before} == before
    assert is_unfinished(run)
    assert not is_finished(run)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda table: table.replace(",a\n", ",c\n", 1), ""),  # the groups of the table decide nothing here
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
    again, there = unfinished(begun, {}, None, Source())
    if not found:
        assert go(again, there, begun, resume=True).kept_epoch == 2
        return
    with pytest.raises(AigcError) as caught:
        go(again, there, begun, resume=True)
    assert caught.value.exit_code == 2
    assert caught.value.message == (
        f"Expected nothing changed since the training in {begun} was begun, found changes in {found}."
    )
    assert is_unfinished(begun)


def test_other_weights_of_the_backbone(begun: Path, resolved: Resolved, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    plain = module.load_backbone

    def load(*arguments: Any) -> Backbone:
        backbone = plain(*arguments)
        backbone.weights_hash = "other"
        return backbone

    monkeypatch.setattr(module, "load_backbone", load)
    again, there = unfinished(begun, {}, None, Source())
    with pytest.raises(AigcError, match=f"found changes in the weights of {resolved.recipe.backbone}"):
        go(again, there, begun, resume=True)


def test_another_split(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    plain = module.grouped_holdout
    monkeypatch.setattr(module, "grouped_holdout", lambda groups, share, seed: plain(groups, share, seed + 1))
    again, there = unfinished(begun, {}, None, Source())
    with pytest.raises(AigcError, match="found changes in the parts for training and validation"):
        go(again, there, begun, resume=True)


def test_data_that_moved(begun: Path, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert source.images is not None
    shutil.copytree(source.images, tmp_path / "moved")
    again, there = unfinished(begun, {"lr": None, "epochs": "2"}, None, Source(images=tmp_path / "moved"))
    assert there == Source(source.data, tmp_path / "moved")
    assert go(again, there, begun, resume=True).kept_epoch == 2


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"resolved": {"recipe": {"lr": "fast"}}}', "[" * 100_000])
def test_a_plan_that_is_none(text: str, tmp_path: Path) -> None:
    states_folder(tmp_path).mkdir()
    (states_folder(tmp_path) / "plan.json").write_text(text)
    with pytest.raises(AigcError) as caught:
        unfinished(tmp_path, {}, None, Source())
    assert caught.value.exit_code == 2
    with pytest.raises(AigcError, match="Expected an unfinished training"):
        unfinished(tmp_path / "nothing", {}, None, Source())


def test_the_plan_holds_no_more_than_is_needed(begun: Path) -> None:
    said = json.loads((states_folder(begun) / "plan.json").read_text())
    assert set(said) == {"resolved", "source", "folder", "data", "weights", "calibrating"}
