"""Error bars from a training to a table: where they come from, what has none, and that scores stay as they are."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rated import write_table

from aigc_cli import Scorer
from aigc_cli.errors import AigcError, Interrupted
from aigc_cli.images.demo import demo_samples
from aigc_cli.images.sample import Sample
from aigc_cli.model.trained import load_model
from aigc_cli.progress import Silent
from aigc_cli.recipe import Resolved, resolve
from aigc_cli.storage.checkpoints import CALIBRATION, DESCRIPTION, WEIGHTS, load_checkpoint, save_checkpoint
from aigc_cli.storage.results import iter_rows, read_rows
from aigc_cli.storage.schemas import ERROR_BARS
from aigc_cli.workflows.ablate.ablate import ablate
from aigc_cli.workflows.crossval import Plan, cross_validate
from aigc_cli.workflows.evaluate import evaluate
from aigc_cli.workflows.experiment.source import Source
from aigc_cli.workflows.score.score import score_folder
from aigc_cli.workflows.train import held_out as module
from aigc_cli.workflows.train.held_out import Calibrating, calibrate_checkpoint
from aigc_cli.workflows.train.resume import read_plan, states_folder
from aigc_cli.workflows.train.train import TrainResult, train
from aigc_cli.workflows.verify import verify

pytestmark = pytest.mark.usefixtures("few_resamples")

N = 180


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """More images than the other tests need, of 27 prompts."""
    return demo_samples(tmp_path_factory.mktemp("many"), n=N, size=48)


@pytest.fixture(scope="module")
def source(samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Source:
    table = write_table(tmp_path_factory.mktemp("ratings") / "ratings.csv", samples)
    return Source(table, samples[0].path.parent)


@pytest.fixture(scope="module")
def resolved(tiny_folder: Path) -> Resolved:
    quick = {"epochs": "1", "batch_size": "16", "views": "1", "lr": "1e-3", "val_fraction": "0", "freeze": "all"}
    return resolve({"backbone": f"local-dir:{tiny_folder}", **quick})


def changed(resolved: Resolved, **settings: Any) -> Resolved:
    return replace(resolved, recipe=replace(resolved.recipe, **settings))


def go(resolved: Resolved, source: Source, run: Path, **more: Any) -> TrainResult:
    return train(resolved, source, run, progress=Silent(), device="cpu", **more)


@pytest.fixture(scope="module")
def folds(resolved: Resolved, source: Source, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A run that was trained on everything and calibrated by three folds."""
    run = tmp_path_factory.mktemp("folds") / "run"
    return go(resolved, source, run, calibrating=Calibrating(folds=3))


def scores_of(run: Path, samples: list[Sample]) -> Any:
    chosen = samples[:20]
    prompts = [sample.prompt for sample in chosen]
    return Scorer.load(run, "cpu").score(images=[sample.path for sample in chosen], prompts=prompts)


def test_the_validation_part_gives_bars_where_it_is_large_enough(
    resolved: Resolved, source: Source, samples: list[Sample], tmp_path: Path
) -> None:
    found = go(changed(resolved, val_fraction=0.5), source, tmp_path / "run")
    said = found.calibration
    assert said["held_out"] == "the validation part"
    assert said["targets"]["quality"]["images"] == found.n_val
    assert said["notes"] == []
    assert json.loads((tmp_path / "run" / "checkpoint" / DESCRIPTION).read_text())["calibration"] == said
    table = scores_of(tmp_path / "run", samples)
    for target in ("quality", "consistency"):
        assert (table[f"{target}_low"] <= table[target]).all()
        assert (table[target] <= table[f"{target}_high"]).all()
        assert table[f"{target}_low"].min() >= 0
        assert table[f"{target}_high"].max() <= 5
        assert table[f"{target}_percentile"].between(0, 100).all()
    assert table["out_of_domain"].between(0, 1).all()


def test_a_part_that_chose_the_checkpoint_is_said_to_have(resolved: Resolved, source: Source, tmp_path: Path) -> None:
    chosen = changed(resolved, val_fraction=0.5, checkpoint="best")
    assert "chose the checkpoint" in go(chosen, source, tmp_path / "run").calibration["held_out"]


def test_without_held_out_images_only_the_distance_is_known(
    resolved: Resolved, source: Source, samples: list[Sample], tmp_path: Path
) -> None:
    found = go(resolved, source, tmp_path / "run")
    assert [note.split(":")[0] for note in found.calibration["notes"]] == [
        "no quality intervals",
        "no consistency intervals",
    ]
    table = scores_of(tmp_path / "run", samples)
    assert table["out_of_domain"].notna().all()
    assert table[[name for name in ERROR_BARS if name != "out_of_domain"]].isna().all(axis=None)


def test_a_training_on_few_images_leaves_no_calibration(
    resolved: Resolved, samples: list[Sample], tmp_path: Path
) -> None:
    few = Source(write_table(tmp_path / "few.csv", samples[:40]), samples[0].path.parent)
    found = go(changed(resolved, val_fraction=0.5), few, tmp_path / "run")
    assert found.calibration["notes"][0].startswith("no error bars: trained on ")
    assert not (tmp_path / "run" / "checkpoint" / CALIBRATION).exists()
    table = scores_of(tmp_path / "run", samples)
    assert table[list(ERROR_BARS)].isna().all(axis=None)
    assert table["quality"].notna().all()


def test_folds_calibrate_a_model_of_everything(folds: TrainResult, samples: list[Sample]) -> None:
    assert (folds.n_train, folds.n_val) == (N, 0)
    assert {found["images"] for found in folds.calibration["targets"].values()} == {N}
    rows = read_rows(folds.run / "predictions.parquet")
    assert sorted(row["name"] for row in rows) == sorted(sample.name for sample in samples)
    assert all(0 <= row["out_of_domain"] <= 1 for row in rows)
    assert not states_folder(folds.run).exists()
    kept = folds.run / "checkpoint" / CALIBRATION
    assert kept.stat().st_size < 300_000


def test_scores_are_the_same_bits_with_and_without_bars(
    folds: TrainResult, resolved: Resolved, source: Source, samples: list[Sample], tmp_path: Path
) -> None:
    plain = go(resolved, source, tmp_path / "run").run
    assert_same_weights(plain, folds.run)
    bare = tmp_path / "bare"
    shutil.copytree(folds.run / "checkpoint", bare)
    (bare / CALIBRATION).unlink()
    one, other = scores_of(folds.run, samples), scores_of(bare, samples)
    others = [name for name in one.columns if name not in ERROR_BARS]
    assert one[others].equals(other[others])
    assert other[list(ERROR_BARS)].isna().all(axis=None)
    assert load_checkpoint(bare).digest == load_checkpoint(folds.run).digest


def assert_same_weights(plain: Path, other: Path) -> None:
    one, two = load_checkpoint(plain).tensors, load_checkpoint(other).tensors
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_earlier_predictions_give_the_same_bars(
    folds: TrainResult, resolved: Resolved, source: Source, tmp_path: Path
) -> None:
    """From a run's folder, from the table that `eval` saves, and from an ablation, whose cells know no distances."""
    cross_validate(
        resolved, source, Plan("prompt", 3), predictions=tmp_path / "p.parquet", progress=Silent(), device="cpu"
    )
    ablate(resolved.recipe, {"it": {}, "slow": {"lr": 1e-5}}, source, tmp_path / "abl", progress=Silent(), folds=3)
    wanted = load_checkpoint(folds.run).calibration
    for place in (folds.run, tmp_path / "p.parquet", tmp_path / "abl"):
        run = tmp_path / f"from-{place.name}"
        found = go(resolved, source, run, calibrating=Calibrating(predictions=place))
        tensors = load_checkpoint(run).calibration
        assert tensors.keys() == wanted.keys()
        near = 1e-5 if place.name != "abl" else 0.02
        for name, tensor in tensors.items():
            np.testing.assert_allclose(tensor.numpy(), wanted[name].numpy(), atol=near, rtol=near * 10, err_msg=name)
        assert place.name in found.calibration["held_out"]


def test_predictions_of_something_else_are_refused_before_training(
    folds: TrainResult, resolved: Resolved, source: Source, samples: list[Sample], tmp_path: Path
) -> None:
    half = Source(write_table(tmp_path / "half.csv", samples[: N // 2]), source.images)
    moved = [replace(sample, mos_quality=2.5) for sample in samples]
    other = Source(write_table(tmp_path / "moved.csv", moved), source.images)
    more = Source(write_table(tmp_path / "half2.csv", samples[: N // 2]), source.images)
    go(resolved, more, tmp_path / "small", calibrating=Calibrating(folds=2))
    cases = [
        (changed(resolved, lr=1e-4), source, Calibrating(predictions=folds.run), "found lr 0.001 for 0.0001"),
        (resolved, other, Calibrating(predictions=folds.run), "found other scores of "),
        (resolved, source, Calibrating(predictions=tmp_path / "small"), f"found {N // 2} of {N} images"),
        (resolved, source, Calibrating(predictions=tmp_path), "Expected a Parquet table"),
        (resolved, source, Calibrating(predictions=folds.run / "splits.parquet"), "found another table"),
        (resolved, source, Calibrating(folds=1), "Expected --calibrate-folds of 2 or more, or 0, found 1"),
        (resolved, source, Calibrating(folds=40), "Expected at least 40 groups"),
        (resolved, source, Calibrating(2, folds.run), "found both"),
    ]
    for recipe, data, calibrating, message in cases:
        with pytest.raises(AigcError, match=message):
            go(recipe, data, tmp_path / "refused", calibrating=calibrating)
    assert not (tmp_path / "refused" / "run.json").exists()
    found = go(resolved, half, tmp_path / "part", calibrating=Calibrating(predictions=folds.run))
    assert found.calibration["targets"]["quality"]["images"] == N // 2


def test_an_ablation_without_this_recipe_names_its_variants(resolved: Resolved, source: Source, tmp_path: Path) -> None:
    ablate(resolved.recipe, {"slow": {"lr": 1e-5}}, source, tmp_path / "abl", progress=Silent(), folds=2)
    with pytest.raises(AigcError, match=r"found 'slow' with lr 1e-05 for 0\.001"):
        go(resolved, source, tmp_path / "run", calibrating=Calibrating(predictions=tmp_path / "abl"))
    next((tmp_path / "abl" / "cells").glob("*.parquet")).unlink()
    slow = changed(resolved, lr=1e-5)
    with pytest.raises(AigcError, match=r"Expected 2 folds of 'slow' in .*, found 1"):
        go(slow, source, tmp_path / "run", calibrating=Calibrating(predictions=tmp_path / "abl"))


def test_folds_that_were_interrupted_are_not_trained_again(
    folds: TrainResult, resolved: Resolved, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, trained = module.train_cell, list[int]()

    def stops(*given: Any, **more: Any) -> Any:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(given[3])
        return plain(*given, **more)

    monkeypatch.setattr(module, "train_cell", stops)
    with pytest.raises(Interrupted, match="the training so far is kept"):
        go(resolved, source, tmp_path / "run", calibrating=Calibrating(folds=3))
    assert read_plan(tmp_path / "run").calibrating == Calibrating(folds=3)
    trained.clear()
    go(resolved, source, tmp_path / "run", resume=True)
    assert trained == [2]
    for name in (WEIGHTS, CALIBRATION):
        assert (tmp_path / "run" / "checkpoint" / name).read_bytes() == (folds.run / "checkpoint" / name).read_bytes()


def test_bars_can_be_added_to_a_checkpoint(
    folds: TrainResult, resolved: Resolved, source: Source, samples: list[Sample], tmp_path: Path
) -> None:
    plain = go(resolved, source, tmp_path / "run").run
    before = shutil.copytree(plain, tmp_path / "before")
    said = calibrate_checkpoint(plain, source, folds.run, progress=Silent(), device="cpu")
    assert_same_weights(before, plain)
    one, other = load_checkpoint(plain).calibration, load_checkpoint(folds.run).calibration
    assert all(np.allclose(one[name].numpy(), other[name].numpy(), atol=1e-4) for name in other)
    assert load_checkpoint(plain).description["calibration"] == said
    assert scores_of(plain, samples)["quality_low"].notna().all()


def test_what_has_no_score_has_no_bars(folds: TrainResult, samples: list[Sample], tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    paths = [samples[0].path, samples[1].path, tmp_path / "bad.jpg"]
    table = Scorer.load(folds.run, "cpu").score(images=paths, prompts=[samples[0].prompt, None, "a fox"])
    whole, unasked, failed = (row for _, row in table.iterrows())
    assert whole[list(ERROR_BARS)].notna().all()
    assert unasked[["quality_low", "quality_high", "quality_percentile", "out_of_domain"]].notna().all()
    assert unasked[["consistency_low", "consistency_high", "consistency_percentile"]].isna().all()
    assert failed[list(ERROR_BARS)].isna().all()


def test_a_target_that_was_not_rated_has_no_bars(resolved: Resolved, samples: list[Sample], tmp_path: Path) -> None:
    half = [replace(sample, mos_align=None) for sample in samples]
    source = Source(write_table(tmp_path / "half.csv", half), samples[0].path.parent)
    found = go(changed(resolved, val_fraction=0.5), source, tmp_path / "run")
    assert found.calibration["targets"].keys() == {"quality"}
    table = scores_of(tmp_path / "run", samples)
    assert table["quality_low"].notna().all()
    assert table["consistency_low"].isna().all()


def test_evaluation_reports_coverage_and_width(
    folds: TrainResult, resolved: Resolved, source: Source, samples: list[Sample]
) -> None:
    of_model = evaluate(folds.run, source, progress=Silent(), device="cpu").metrics
    of_recipe = cross_validate(resolved, source, Plan("prompt", 3), progress=Silent(), device="cpu").metrics
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


def test_a_recipe_on_few_images_has_no_coverage(resolved: Resolved, samples: list[Sample], tmp_path: Path) -> None:
    few = Source(write_table(tmp_path / "few.csv", samples[:40]), samples[0].path.parent)
    found = cross_validate(resolved, few, Plan("prompt", 2), progress=Silent(), device="cpu").metrics
    assert not {"coverage90", "width90"} & {row["metric"] for row in found}


@pytest.fixture
def table(folds: TrainResult, samples: list[Sample], tmp_path: Path) -> Path:
    """Scores of ten images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for sample in samples[:10]:
        shutil.copy(sample.path, folder)
    score_folder(folder, tmp_path / "scores.parquet", model=folds.run, device="cpu", prompt="a red circle")
    return tmp_path / "scores.parquet"


def test_verify_looks_at_the_bars_too(folds: TrainResult, table: Path, tmp_path: Path) -> None:
    from aigc_cli.storage.results import read_metadata, write_table

    check: Callable[[Path], Any] = lambda path: verify(path, model=folds.run, device="cpu")  # noqa: E731
    assert check(table).problems == []
    rows, said = list(iter_rows(table)), read_metadata(table)
    said = {key: text for key, text in said.items() if key not in ("schema", "schema_version", "ARROW:schema")}
    write_table(tmp_path / "wider.parquet", "scores", [{**row, "quality_high": 4.999} for row in rows], said)
    assert "its quality_high is 4.999 in the table" in check(tmp_path / "wider.parquet").problems[0]
    write_table(tmp_path / "other.parquet", "scores", rows, {**said, "calibration": "none"})
    assert check(tmp_path / "other.parquet").problems[0].startswith("calibration: none in the table, ")
    del said["calibration"]
    bare = [{**row, **dict.fromkeys(ERROR_BARS)} for row in rows]
    write_table(tmp_path / "earlier.parquet", "scores", bare, said)
    assert check(tmp_path / "earlier.parquet").problems == []


def test_a_table_of_an_earlier_version_is_still_read(table: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    earlier = pq.read_table(table).drop_columns(list(ERROR_BARS))
    pq.write_table(earlier, tmp_path / "earlier.parquet")
    assert len(list(iter_rows(tmp_path / "earlier.parquet"))) == 10


def test_a_calibration_of_another_model_is_an_error(folds: TrainResult, tmp_path: Path) -> None:
    found = load_checkpoint(folds.run)
    short = {name: tensor[:-1] if name == "domain.mean" else tensor for name, tensor in found.calibration.items()}
    broken = (short, {"domain.mean": found.calibration["domain.mean"]})
    for i, tensors in enumerate(broken):
        save_checkpoint(tmp_path / str(i), found.tensors, found.description, calibration=tensors)
        with pytest.raises(AigcError, match="Expected a calibration that fits the model"):
            Scorer.load(tmp_path / str(i), "cpu")


def test_consistency_is_read_as_the_folds_show(folds: TrainResult, source: Source, tmp_path: Path) -> None:
    """The line through what models of folds lacked, by hand; the same however often it is asked for."""
    rows = [r for r in read_rows(folds.run / "predictions.parquet") if r["human_consistency"] is not None]
    c, q, human = (
        np.array([row[name] for row in rows]) / 5 for name in ("consistency", "quality", "human_consistency")
    )
    share, offset = np.polyfit(q, human - c, 1)
    share, offset = (share, offset) if share > 0 else (0.0, np.mean(human - c))
    run = shutil.copytree(folds.run, tmp_path / "run")
    for _ in range(2):
        config = load_model(run, "cpu").judge.heads.config
        assert (config.offset_c, config.share_q) == pytest.approx((offset, share), abs=1e-6)
        said = load_checkpoint(run).description["calibration"]["added"]
        assert (said["offset"], said["share"]) == pytest.approx((5 * offset, share), abs=1e-5)
        assert abs(config.offset_c) > 1e-4
        calibrate_checkpoint(run, source, run, progress=Silent(), device="cpu")


def test_consistency_is_read_as_trained_without_folds(resolved: Resolved, source: Source, tmp_path: Path) -> None:
    run = go(replace(resolved, recipe=replace(resolved.recipe, val_fraction=0.3)), source, tmp_path / "run").run
    config = load_model(run, "cpu").judge.heads.config
    assert (config.offset_c, config.share_q) == (0, 0)
