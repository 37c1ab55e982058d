"""Calibration: where the held-out scores come from, which scores get intervals, and that scores stay the same."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from rated import write_table

from aigc_cli import Scorer
from aigc_cli.errors import AigcError, Interruption
from aigc_cli.images.demo import render_demo
from aigc_cli.images.sample import Sample
from aigc_cli.model.export import make_graphs
from aigc_cli.model.trained import load_model
from aigc_cli.progress import SilentProgress
from aigc_cli.recipe import ResolvedRecipe, resolve_recipe
from aigc_cli.storage.atomic_files import Output
from aigc_cli.storage.checkpoints import CALIBRATION, WEIGHTS, add_graphs, load_checkpoint, save_checkpoint
from aigc_cli.storage.results import iterate_rows, read_parquet_rows, read_table_metadata
from aigc_cli.storage.results import write_table as write_results
from aigc_cli.storage.schemas import ERROR_BARS
from aigc_cli.workflows.ablate.ablate import AblationPlan, run_ablation
from aigc_cli.workflows.crossval import CrossvalPlan, CrossvalResult, cross_validate
from aigc_cli.workflows.evaluate import EvaluationPlan, evaluate_model
from aigc_cli.workflows.experiment import folds as fold_driver
from aigc_cli.workflows.experiment.run_folder import find_states_folder
from aigc_cli.workflows.experiment.source import Compute, Source
from aigc_cli.workflows.score.plan import ScoringPlan
from aigc_cli.workflows.score.score import score_folder
from aigc_cli.workflows.train.calibrate import HeldOutSource, calibrate_checkpoint
from aigc_cli.workflows.train.resume import read_plan
from aigc_cli.workflows.train.train import TrainResult, train_model
from aigc_cli.workflows.verify import Verification, verify_table

pytestmark = pytest.mark.usefixtures("few_resamples")

N = 180


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """More images than the other tests need, of 27 prompts."""
    return render_demo(tmp_path_factory.mktemp("many"), n=N, size=48)


@pytest.fixture(scope="module")
def source(samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Source:
    table = write_table(tmp_path_factory.mktemp("ratings") / "ratings.csv", samples)
    return Source(table, samples[0].path.parent)


@pytest.fixture(scope="module")
def resolved(tiny_folder: Path) -> ResolvedRecipe:
    quick = {"epochs": "1", "batch_size": "16", "views": "1", "lr": "1e-3", "val_fraction": "0", "freeze": "all"}
    return resolve_recipe({"backbone": f"local-dir:{tiny_folder}", **quick})


def change(resolved: ResolvedRecipe, **settings: Any) -> ResolvedRecipe:
    return replace(resolved, recipe=replace(resolved.recipe, **settings))


CPU, SILENT = Compute("cpu"), SilentProgress()


def go(
    resolved: ResolvedRecipe, source: Source, run: Path, held_out: HeldOutSource | None = None, resume: bool = False
) -> TrainResult:
    return train_model(resolved, source, Output(run, resume=resume), held_out or HeldOutSource(), CPU, SILENT)


@pytest.fixture(scope="module")
def folds(resolved: ResolvedRecipe, source: Source, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A run that is trained on all images and calibrated by three folds."""
    return go(resolved, source, tmp_path_factory.mktemp("folds") / "run", HeldOutSource(folds=3))


@pytest.fixture(scope="module")
def plain(resolved: ResolvedRecipe, source: Source, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """The same training without held-out images."""
    return go(resolved, source, tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture(scope="module")
def halves(resolved: ResolvedRecipe, source: Source, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A training on half of the images, calibrated on the other half."""
    return go(change(resolved, val_fraction=0.5), source, tmp_path_factory.mktemp("halves") / "run")


Validated = tuple[CrossvalResult, Path]


@pytest.fixture(scope="module")
def validated(resolved: ResolvedRecipe, source: Source, tmp_path_factory: pytest.TempPathFactory) -> Validated:
    """A cross-validation with the folds of `folds`, and its folder."""
    folder = tmp_path_factory.mktemp("validated") / "run"
    return cross_validate(resolved, source, CrossvalPlan(folds=3), Output(folder), CPU, SILENT), folder


@pytest.fixture(scope="module")
def ablated(resolved: ResolvedRecipe, source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an ablation with the variants `it`, which is the recipe, and `slow`."""
    folder = tmp_path_factory.mktemp("ablated") / "run"
    plan = AblationPlan(resolved.recipe, {"it": {}, "slow": {"lr": 1e-5}}, folds=3)
    run_ablation(plan, source, Output(folder), CPU, SILENT)
    return folder


def scores_of(run: Path, samples: list[Sample]) -> Any:
    chosen = samples[:20]
    prompts = [sample.prompt for sample in chosen]
    return Scorer.load(run, "cpu").score(images=[sample.path for sample in chosen], prompts=prompts)


def test_the_validation_part_calibrates(halves: TrainResult, samples: list[Sample]) -> None:
    description = halves.calibration
    assert description["held_out"] == "the validation part"
    assert description["targets"]["quality"]["images"] == halves.n_val
    assert description["notes"] == []
    assert load_checkpoint(halves.run).description["calibration"] == description
    table = scores_of(halves.run, samples)
    for target in ("quality", "consistency"):
        assert (table[f"{target}_low"] <= table[target]).all()
        assert (table[target] <= table[f"{target}_high"]).all()
        assert table[f"{target}_low"].min() >= 0
        assert table[f"{target}_high"].max() <= 5
        assert table[f"{target}_percentile"].between(0, 100).all()
    assert table["out_of_domain"].between(0, 1).all()


def test_the_description_says_when_the_part_also_chose_the_checkpoint(
    resolved: ResolvedRecipe, source: Source, tmp_path: Path
) -> None:
    chosen = change(resolved, val_fraction=0.5, checkpoint="best")
    assert "chose the checkpoint" in go(chosen, source, tmp_path / "run").calibration["held_out"]


def test_without_held_out_images_only_the_distance_is_known(plain: TrainResult, samples: list[Sample]) -> None:
    notes = [note.split(":")[0] for note in plain.calibration["notes"]]
    assert notes == ["no quality intervals", "no consistency intervals"]
    table = scores_of(plain.run, samples)
    assert table["out_of_domain"].notna().all()
    assert table[[name for name in ERROR_BARS if name != "out_of_domain"]].isna().all(axis=None)


def test_a_training_on_few_images_leaves_no_calibration(
    resolved: ResolvedRecipe, samples: list[Sample], tmp_path: Path
) -> None:
    few = Source(write_table(tmp_path / "few.csv", samples[:40]), samples[0].path.parent)
    found = go(change(resolved, val_fraction=0.5), few, tmp_path / "run")
    assert found.calibration["notes"][0].startswith("no intervals: trained on ")
    assert not (tmp_path / "run" / "checkpoint" / CALIBRATION).exists()
    table = scores_of(tmp_path / "run", samples)
    assert table[list(ERROR_BARS)].isna().all(axis=None)
    assert table["quality"].notna().all()


def test_folds_calibrate_a_model_of_everything(folds: TrainResult, samples: list[Sample]) -> None:
    assert (folds.n_train, folds.n_val) == (N, 0)
    assert {found["images"] for found in folds.calibration["targets"].values()} == {N}
    rows = read_parquet_rows(folds.run / "predictions.parquet")
    assert sorted(row["name"] for row in rows) == sorted(sample.name for sample in samples)
    assert all(0 <= row["out_of_domain"] <= 1 for row in rows)
    assert not find_states_folder(folds.run).exists()
    kept = folds.run / "checkpoint" / CALIBRATION
    assert kept.stat().st_size < 300_000


def test_scores_are_the_same_bits_with_and_without_a_calibration(
    folds: TrainResult, plain: TrainResult, samples: list[Sample], tmp_path: Path
) -> None:
    assert_same_weights(plain.run, folds.run)
    bare = tmp_path / "bare"
    shutil.copytree(folds.run / "checkpoint", bare)
    (bare / CALIBRATION).unlink()
    one, other = scores_of(folds.run, samples), scores_of(bare, samples)
    others = [name for name in one.columns if name not in ERROR_BARS]
    assert one[others].equals(other[others])
    assert other[list(ERROR_BARS)].isna().all(axis=None)
    assert load_checkpoint(bare).digest == load_checkpoint(folds.run).digest


def assert_same_weights(one: Path, other: Path) -> None:
    tensors, others = load_checkpoint(one).tensors, load_checkpoint(other).tensors
    assert tensors.keys() == others.keys()
    assert all(np.array_equal(tensors[name], others[name]) for name in tensors)


@pytest.mark.slow
def test_earlier_predictions_give_the_same_calibration(
    folds: TrainResult, validated: Validated, ablated: Path, resolved: ResolvedRecipe, source: Source, tmp_path: Path
) -> None:
    """From the folder of a training, of a cross-validation and of an ablation, and from a table."""
    wanted = load_checkpoint(folds.run).calibration
    places = (folds.run, validated[1], validated[1] / "predictions.parquet", ablated)
    for number, place in enumerate(places):
        run = tmp_path / str(number)
        found = go(resolved, source, run, HeldOutSource(predictions=place))
        tensors = load_checkpoint(run).calibration
        assert tensors.keys() == wanted.keys()
        for name, tensor in tensors.items():
            np.testing.assert_allclose(tensor, wanted[name], atol=1e-5, rtol=1e-4, err_msg=name)
        assert place.name in found.calibration["held_out"]


@pytest.mark.slow
def test_other_predictions_are_refused_before_training(
    folds: TrainResult, resolved: ResolvedRecipe, source: Source, samples: list[Sample], tmp_path: Path
) -> None:
    half = Source(write_table(tmp_path / "half.csv", samples[: N // 2]), source.images)
    moved = [replace(sample, mos_quality=2.5) for sample in samples]
    other = Source(write_table(tmp_path / "moved.csv", moved), source.images)
    go(resolved, half, tmp_path / "small", HeldOutSource(folds=2))
    cases = [
        (change(resolved, lr=1e-4), source, HeldOutSource(predictions=folds.run), "found lr 0.001 for 0.0001"),
        (resolved, other, HeldOutSource(predictions=folds.run), "found other scores of "),
        (resolved, source, HeldOutSource(predictions=tmp_path / "small"), f"found {N // 2} of {N} images"),
        (resolved, source, HeldOutSource(predictions=tmp_path), "Expected a table at "),
        (resolved, source, HeldOutSource(predictions=folds.run / "splits.parquet"), "found another table"),
        (resolved, source, HeldOutSource(folds=1), "Expected --calibrate-folds of 2 or more, or 0, found 1"),
        (resolved, source, HeldOutSource(folds=40), "at least 40 different values of prompt for 40 folds"),
        (resolved, source, HeldOutSource(2, folds.run), "found both"),
    ]
    for recipe, data, held_out, message in cases:
        with pytest.raises(AigcError, match=message):
            go(recipe, data, tmp_path / "refused", held_out)
    assert not (tmp_path / "refused").exists()
    found = go(resolved, half, tmp_path / "part", HeldOutSource(predictions=folds.run))
    assert found.calibration["targets"]["quality"]["images"] == N // 2


@pytest.mark.slow
def test_an_ablation_without_this_recipe_names_its_variants(
    ablated: Path, resolved: ResolvedRecipe, source: Source, tmp_path: Path
) -> None:
    folder = shutil.copytree(ablated, tmp_path / "abl")
    with pytest.raises(AigcError, match=r"found 'it' with lr 0\.001 for 0\.1; 'slow' with lr 1e-05 for 0\.1"):
        go(change(resolved, lr=0.1), source, tmp_path / "run", HeldOutSource(predictions=folder))
    for fold in (folder / "cells").glob("*.parquet"):
        if read_table_metadata(fold)["variant"] == "slow":
            fold.unlink()
            break
    with pytest.raises(AigcError, match=r"Expected 3 folds of 'slow' in .*, found 2"):
        go(change(resolved, lr=1e-5), source, tmp_path / "run", HeldOutSource(predictions=folder))


def test_finished_folds_are_kept_when_a_training_is_resumed(
    folds: TrainResult, resolved: ResolvedRecipe, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, trained, run = fold_driver.train_fold, list[int](), tmp_path / "run"

    def train_fold(ready: Any, groups: Any, held_out: Any, fold: int, *more: Any) -> Any:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(fold)
        return plain(ready, groups, held_out, fold, *more)

    monkeypatch.setattr(fold_driver, "train_fold", train_fold)
    with pytest.raises(Interruption, match="the training so far is kept"):
        go(resolved, source, run, HeldOutSource(folds=3))
    assert len(list((find_states_folder(run) / "cells").iterdir())) == 2
    assert read_plan(run).held_out == HeldOutSource(folds=3)
    trained.clear()
    go(resolved, source, run, resume=True)
    assert trained == [2]
    for name in (WEIGHTS, CALIBRATION):
        assert (run / "checkpoint" / name).read_bytes() == (folds.run / "checkpoint" / name).read_bytes()


def test_a_calibration_can_be_added_to_a_checkpoint(
    folds: TrainResult, plain: TrainResult, source: Source, samples: list[Sample], tmp_path: Path
) -> None:
    run = shutil.copytree(plain.run, tmp_path / "run")
    description = calibrate_checkpoint(run, source, folds.run, CPU, SILENT)
    assert_same_weights(plain.run, run)
    one, other = load_checkpoint(run).calibration, load_checkpoint(folds.run).calibration
    assert all(np.allclose(one[name], other[name], atol=1e-4) for name in other)
    assert load_checkpoint(run).description["calibration"] == description
    assert scores_of(run, samples)["quality_low"].notna().all()


@pytest.mark.slow
@pytest.mark.usefixtures("kept_graphs")
def test_a_new_calibration_keeps_the_graphs(
    folds: TrainResult, plain: TrainResult, source: Source, samples: list[Sample], tmp_path: Path
) -> None:
    run = shutil.copytree(plain.run, tmp_path / "run")
    add_graphs(run / "checkpoint", make_graphs(load_model(run, "cpu").model))
    before, graphs = scores_of(run, samples), load_checkpoint(run).description["graphs"]
    calibrate_checkpoint(run, source, folds.run, CPU, SILENT)
    assert load_checkpoint(run).description["graphs"] == graphs
    after, scorer = scores_of(run, samples), Scorer.load(run, "cpu")
    assert scorer.network.engine == "onnx"
    for target in ("quality", "consistency"):
        assert np.array_equal(after[target], before[target])


def test_a_missing_score_has_no_interval(folds: TrainResult, samples: list[Sample], tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    paths = [samples[0].path, samples[1].path, tmp_path / "bad.jpg"]
    table = Scorer.load(folds.run, "cpu").score(images=paths, prompts=[samples[0].prompt, None, "a fox"])
    whole, unasked, failed = (row for _, row in table.iterrows())
    assert whole[list(ERROR_BARS)].notna().all()
    assert unasked[["quality_low", "quality_high", "quality_percentile", "out_of_domain"]].notna().all()
    assert unasked[["consistency_low", "consistency_high", "consistency_percentile"]].isna().all()
    assert failed[list(ERROR_BARS)].isna().all()


def test_a_target_that_was_not_rated_has_no_interval(
    resolved: ResolvedRecipe, samples: list[Sample], tmp_path: Path
) -> None:
    half = [replace(sample, mos_align=None) for sample in samples]
    source = Source(write_table(tmp_path / "half.csv", half), samples[0].path.parent)
    found = go(change(resolved, val_fraction=0.5), source, tmp_path / "run")
    assert found.calibration["targets"].keys() == {"quality"}
    table = scores_of(tmp_path / "run", samples)
    assert table["quality_low"].notna().all()
    assert table["consistency_low"].isna().all()


def test_evaluation_reports_coverage_and_width(
    folds: TrainResult, validated: Validated, source: Source, samples: list[Sample]
) -> None:
    of_model = evaluate_model(source, EvaluationPlan(folds.run), CPU, SILENT).metrics
    of_recipe = validated[0].metrics
    for metrics in (of_model, of_recipe):
        found = {(row["target"], row["metric"]): row for row in metrics if row["metric"] in ("coverage90", "width90")}
        assert found.keys() == {(t, m) for t in ("quality", "consistency") for m in ("coverage90", "width90")}
        for (_, metric), row in found.items():
            assert row["n"] == N
            assert row["ci_low"] <= row["value"] <= row["ci_high"]
            assert 0.8 <= row["value"] <= 1 if metric == "coverage90" else 0 < row["value"] < 5
    table = scores_of(folds.run, samples)
    held = [
        low <= (sample.mos_quality or 0) <= high
        for low, high, sample in zip(table["quality_low"], table["quality_high"], samples, strict=False)
    ]
    assert np.mean(held) > 0.7


def test_a_recipe_on_few_images_has_no_coverage(
    resolved: ResolvedRecipe, samples: list[Sample], tmp_path: Path
) -> None:
    few = Source(write_table(tmp_path / "few.csv", samples[:40]), samples[0].path.parent)
    found = cross_validate(resolved, few, CrossvalPlan(folds=2), Output(tmp_path / "run"), CPU, SILENT).metrics
    assert not {"coverage90", "width90"} & {row["metric"] for row in found}


@pytest.fixture
def table(folds: TrainResult, samples: list[Sample], tmp_path: Path) -> Path:
    """Scores of ten images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for sample in samples[:10]:
        shutil.copy(sample.path, folder)
    plan = ScoringPlan(prompt="a red circle", model=folds.run, device="cpu")
    score_folder(folder, Output(tmp_path / "scores.parquet"), plan)
    return tmp_path / "scores.parquet"


@pytest.mark.slow
def test_verify_compares_intervals(folds: TrainResult, table: Path, tmp_path: Path) -> None:
    def check(path: Path) -> Verification:
        return verify_table(path, model=folds.run, device="cpu")

    assert check(table).problems == []
    rows, metadata = list(iterate_rows(table)), read_table_metadata(table)
    metadata = {key: text for key, text in metadata.items() if key not in ("schema", "schema_version", "ARROW:schema")}
    write_results(tmp_path / "wider.parquet", "scores", [{**row, "quality_high": 4.999} for row in rows], metadata)
    assert "its quality_high is 4.999 in the table" in check(tmp_path / "wider.parquet").problems[0]
    write_results(tmp_path / "other.parquet", "scores", rows, {**metadata, "calibration": "none"})
    assert check(tmp_path / "other.parquet").problems[0].startswith("calibration: none in the table, ")
    del metadata["calibration"]
    bare = [{**row, **dict.fromkeys(ERROR_BARS)} for row in rows]
    write_results(tmp_path / "earlier.parquet", "scores", bare, metadata)
    assert check(tmp_path / "earlier.parquet").problems == []


def test_a_table_without_intervals_is_still_read(table: Path, tmp_path: Path) -> None:
    earlier = pq.read_table(table).drop_columns(list(ERROR_BARS))
    pq.write_table(earlier, tmp_path / "earlier.parquet")
    assert len(list(iterate_rows(tmp_path / "earlier.parquet"))) == 10


def test_a_calibration_of_another_model_is_an_error(folds: TrainResult, tmp_path: Path) -> None:
    found = load_checkpoint(folds.run)
    short = {name: tensor[:-1] if name == "domain.mean" else tensor for name, tensor in found.calibration.items()}
    broken = (short, {"domain.mean": found.calibration["domain.mean"]})
    for i, tensors in enumerate(broken):
        save_checkpoint(tmp_path / str(i), found.tensors, found.description, calibration=tensors)
        with pytest.raises(AigcError, match="Expected a calibration that fits the model"):
            Scorer.load(tmp_path / str(i), "cpu")
