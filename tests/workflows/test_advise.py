"""Recommendations from the curves of a run: every fault, damaged run folders, and real trainings that go wrong."""

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from aigc_cli.errors import AigcError, Divergence
from aigc_cli.images.sample import Sample
from aigc_cli.progress import SilentProgress
from aigc_cli.recipe import Recipe, ResolvedRecipe, format_recipe, read_recipe, resolve_recipe
from aigc_cli.storage.atomic_files import Output
from aigc_cli.storage.results import write_table
from aigc_cli.workflows.experiment.source import Compute, Source
from aigc_cli.workflows.recommend.by_run import recommend_by_run
from aigc_cli.workflows.train.calibrate import HeldOutSource
from aigc_cli.workflows.train.train import train_model

pytestmark = pytest.mark.usefixtures("few_resamples")

GOOD = {"loss": 0.02, "srocc_q": 0.8, "srocc_c": 0.7, "saturated_q": 0.0, "saturated_c": 0.0}
GOOD |= {"unused_q": 0.2, "unused_c": 0.2}
DEMO = {"data": None, "images": None, "columns": {}, "sep": ",", "splits": None}
MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Return a function that writes a run folder whose last epoch differs from `GOOD` as told, by part."""

    def write(settings: dict[str, Any] | None = None, status: str = "done", **parts: dict[str, Any]) -> Path:
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir()
        parts = parts or {"train": {}, "val": {}}
        rows = [{"run": "run", "epoch": 1, "split": split, **GOOD, **changes} for split, changes in parts.items()]
        write_table(run / "epochs.parquet", "epochs", rows, {})
        resolved = resolve_recipe(settings or {})
        (run / "recipe.yaml").write_text(format_recipe(ResolvedRecipe(resolved.recipe, resolved.sources, ())))
        said = {"run": "run", "status": status, "images": {"train": 80, "val": 20}, "source": DEMO}
        (run / "run.json").write_text(json.dumps(said))
        return run

    return write


def faults(run: Path) -> list[str]:
    return [row["fault"] for row in recommend_by_run(run).seen["run"]["faults"]]


def test_the_next_command_starts_from_the_runs_recipe(make_run: MakeRun) -> None:
    run = make_run({"lr": "1e-4", "seed": "3"}, train={}, val={"srocc_q": 0.5, "srocc_c": 0.4})
    found = recommend_by_run(run)
    seen = found.seen["run"]
    assert (found.n, seen["epochs"], seen["images"]) == (100, 1, {"train": 80, "val": 20})
    (fault,) = seen["faults"]
    assert fault.pop("meaning")
    assert fault == {"fault": "overfit", "figures": "SROCC 0.75 in training, 0.45 in validation"}
    assert seen["change"] == {"freeze_depth": 0.8333}
    assert found.reasons == {"freeze_depth": "overfit: SROCC 0.75 in training, 0.45 in validation"}
    assert found.command == f"aigc train --recipe {run / 'recipe.yaml'} --freeze-depth 0.8333"
    before = Recipe(**read_recipe(run / "recipe.yaml"))
    assert asdict(found.recipe) == {**asdict(before), "freeze_depth": 0.8333}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("underfit", {"train": {"srocc_q": 0.1, "srocc_c": 0.1}, "val": {}}),
        ("overfit", {"train": {}, "val": {"srocc_q": 0.6, "srocc_c": 0.5}}),
        ("saturated residual", {"train": {"saturated_q": 0.6}, "val": {}}),
        ("unused residual", {"train": {"unused_q": 0.95, "unused_c": 0.95}, "val": {}}),
        ("one target lagging", {"train": {}, "val": {"srocc_q": 0.95, "srocc_c": 0.6}}),
    ],
)
def test_each_fault_is_read_from_the_file(name: str, parts: dict[str, Any], make_run: MakeRun) -> None:
    assert faults(make_run(**parts)) == [name]


def test_a_model_without_a_residual_has_no_fault_of_it(make_run: MakeRun) -> None:
    assert faults(make_run({"residual": "false"}, train={"saturated_q": 0.6}, val={})) == []


def test_good_curves_need_no_other_run(make_run: MakeRun) -> None:
    found = recommend_by_run(make_run())
    assert (found.command, found.reasons, found.seen["run"]["change"]) == (None, {}, {})
    assert found.seen["run"]["notes"] == ["Nothing unusual in the curves: no change is advised."]


def test_a_fault_without_a_change_left(make_run: MakeRun) -> None:
    found = recommend_by_run(make_run({"residual_scale_q": "0.5"}, train={"saturated_q": 0.6}, val={}))
    assert (found.command, [row["fault"] for row in found.seen["run"]["faults"]]) == (None, ["saturated residual"])
    assert found.seen["run"]["notes"] == ["No setting is left to change within its sensible range: rate more images."]


def test_without_a_validation_part_it_says_what_cannot_be_seen(make_run: MakeRun) -> None:
    notes = recommend_by_run(make_run(train={})).seen["run"]["notes"]
    assert "No validation part: overfitting can't be seen. Train with --val-fraction 0.2 to see it." in notes


# --- folders that are no finished run


def complaint(run: Path) -> tuple[str, str]:
    with pytest.raises(AigcError) as caught:
        recommend_by_run(run)
    assert caught.value.exit_code == 2
    return caught.value.message, caught.value.hint


def test_no_run_folder(tmp_path: Path, make_run: MakeRun) -> None:
    for place in (tmp_path / "nowhere", tmp_path):
        message, hint = complaint(place)
        assert message == f"Expected a run folder of `aigc train` at {place}, found none of its files."
        assert hint == "Name a folder such as runs/NAME."
    run = make_run()
    (run / "checkpoint").mkdir()
    assert complaint(run / "checkpoint")[1] == f"Did you mean {run}?"


@pytest.mark.parametrize("name", ["run.json", "recipe.yaml", "epochs.parquet"])
def test_an_unfinished_run(name: str, make_run: MakeRun) -> None:
    run = make_run()
    (run / name).unlink()
    message, hint = complaint(run)
    assert message == f"Expected a finished run in {run}, found no {name}."
    assert hint == "Is it still training? If it was interrupted, train again."


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("run.json", "{", "Expected JSON in"),
        ("run.json", "[]", "Expected a run's description in"),
        ("run.json", "{}", "found KeyError: 'status'"),
        ("run.json", '{"status": 5, "images": {}, "source": {}}', "found KeyError"),
        ("recipe.yaml", "epoch: 5", "found 'epoch'"),
        ("epochs.parquet", "x", "Expected a Parquet table at"),
    ],
)
def test_a_damaged_run(name: str, text: str, found: str, make_run: MakeRun) -> None:
    run = make_run()
    (run / name).write_text(text)
    assert found in complaint(run)[0]


def test_a_table_of_another_kind(make_run: MakeRun) -> None:
    run = make_run()
    write_table(run / "epochs.parquet", "metrics", [{"run": "run", "split": "train"}], {})
    assert "found KeyError" in complaint(run)[0]


# --- runs that go wrong on purpose


@pytest.fixture
def trained(tiny_folder: Path, demo: list[Sample], tmp_path: Path) -> MakeRun:
    """Return a function that trains the tiny backbone on the small demonstration set."""
    rows = [f"{s.name},{s.prompt},{s.mos_quality},{s.mos_align}" for s in demo]
    table = tmp_path / "ratings.csv"
    table.write_text("\n".join(["name,prompt,mos_quality,mos_align", *rows]) + "\n")
    source = Source(table, demo[0].path.parent)

    def run(**settings: Any) -> Path:
        given = {"backbone": f"local-dir:{tiny_folder}", "views": "1", "batch_size": "16", "freeze": "all"}
        resolved = resolve_recipe(given | {key: str(value) for key, value in settings.items()})
        output = Output(tmp_path / "run")
        train_model(resolved, source, output, HeldOutSource(), Compute("cpu"), SilentProgress())
        return tmp_path / "run"

    return run


def test_a_run_that_learns_nothing(trained: MakeRun) -> None:
    run = trained(lr=1e-6, epochs=1)
    found = recommend_by_run(run)
    assert faults(run)[0] == "underfit"
    assert found.seen["run"]["change"] == {"lr": 1e-3}
    words = shlex.split(found.command or "")
    assert words[:6] == ["aigc", "train", "--recipe", str(run / "recipe.yaml"), "--lr", "0.001"]
    assert words[6:] == ["--data", str(run.parent / "ratings.csv"), "--images", words[-1]]


@pytest.mark.slow
def test_a_run_that_learns_by_heart(trained: MakeRun) -> None:
    run = trained(lr=3e-3, epochs=40, dropout=0, weight_decay=0, val_fraction=0.5, scheduler="constant")
    assert faults(run)[0] == "overfit"
    assert recommend_by_run(run).seen["run"]["change"] == {"dropout": 0.2}


@pytest.mark.slow
def test_a_run_that_jumps(trained: MakeRun) -> None:
    run = trained(lr=1, epochs=6, max_grad_norm=0, scheduler="constant", warmup_ratio=0)
    assert faults(run)[0] == "unstable"
    assert recommend_by_run(run).seen["run"]["change"] == {"lr": 1e-3}


def test_a_run_that_diverges(trained: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(Divergence):
        trained(freeze="none", lr=1, weight_decay=1e30, warmup_ratio=0, epochs=3)
    found = recommend_by_run(tmp_path / "run")
    assert found.seen["run"]["faults"][0]["fault"] == "diverged"
    assert found.seen["run"]["faults"][0]["figures"].startswith("the ")
    assert found.seen["run"]["change"] == {"lr": 1e-3}
