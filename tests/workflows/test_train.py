"""Training: the run folder, determinism, and errors in images, tables and settings."""

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from rated import RecordingProgress, write_table
from torch import Tensor

from aigc_cli import Scorer
from aigc_cli.errors import AigcError, Divergence
from aigc_cli.images.sample import Sample
from aigc_cli.metrics.by_name import METRICS
from aigc_cli.model.loading import load_backbone
from aigc_cli.progress import Progress, SilentProgress
from aigc_cli.recipe import Recipe, ResolvedRecipe, read_recipe, resolve_recipe
from aigc_cli.runtime.graphs import GRAPH_FILES
from aigc_cli.runtime.saved import read_model
from aigc_cli.storage.atomic_files import Output
from aigc_cli.storage.checkpoints import load_checkpoint
from aigc_cli.storage.results import read_parquet_rows
from aigc_cli.storage.schemas import SCHEMA_VERSION, SCHEMAS
from aigc_cli.training import losses as epoch_stats
from aigc_cli.training.rates import complete_recipe, describe_hints
from aigc_cli.workflows.experiment import rated as ratings
from aigc_cli.workflows.experiment.rated import hash_prompt
from aigc_cli.workflows.experiment.run_folder import name_run_folder
from aigc_cli.workflows.experiment.source import Compute, Source
from aigc_cli.workflows.train.calibrate import HeldOutSource
from aigc_cli.workflows.train.train import TrainResult, train_model

pytestmark = pytest.mark.usefixtures("few_resamples")


@pytest.fixture(scope="session")
def settings(tiny_folder: Path) -> dict[str, str]:
    """Settings of a run of seconds."""
    quick = {"epochs": "3", "batch_size": "16", "views": "2", "lr": "1e-3"}
    return {"backbone": f"local-dir:{tiny_folder}", "freeze": "all", **quick}


@pytest.fixture
def source(demo: list[Sample], tmp_path: Path) -> Source:
    """The small rated set as a user's table."""
    return Source(write_table(tmp_path / "ratings.csv", demo), demo[0].path.parent)


Train = Callable[..., TrainResult]


@pytest.fixture
def train(settings: dict[str, str], source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Returns a function that trains into tmp_path/NAME; settings by name."""
    monkeypatch.chdir(tmp_path)

    def run(
        name: str = "run",
        source: Source = source,
        recipe: str | None = None,
        overwrite: bool = False,
        cache: bool = True,
        progress: Progress | None = None,
        splits: Path | None = None,
        **more: Any,
    ) -> TrainResult:
        resolved = resolve_recipe(settings | {key: str(value) for key, value in more.items()}, recipe)
        return train_model(
            resolved,
            replace(source, splits=splits),
            Output(tmp_path / name, overwrite=overwrite),
            HeldOutSource(),
            Compute("cpu", cache),
            progress or SilentProgress(),
        )

    return run


# --- the run folder


@pytest.fixture(scope="module")
def result(settings: dict[str, str], demo: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """One finished training in the folder `run`."""
    folder = tmp_path_factory.mktemp("trained")
    source = Source(write_table(folder / "ratings.csv", demo), demo[0].path.parent)
    output = Output(folder / "run")
    return train_model(resolve_recipe(settings), source, output, HeldOutSource(), Compute("cpu"), SilentProgress())


def test_a_run_folder_is_complete(result: TrainResult, demo: list[Sample], settings: dict[str, str]) -> None:
    run = result.run
    tables = ["epochs.parquet", "metrics.parquet", "predictions.parquet", "splits.parquet"]
    assert sorted(p.name for p in run.iterdir()) == sorted(["checkpoint", "recipe.yaml", "run.json", *tables])
    for name in tables:
        found = pq.read_schema(run / name)
        assert found.remove_metadata() == SCHEMAS[name.removesuffix(".parquet")]  # type: ignore[index]
        assert found.metadata[b"schema_version"] == str(SCHEMA_VERSION).encode()
        assert found.metadata[b"run"] == b"run"
    assert Recipe(**read_recipe(run / "recipe.yaml")) == complete_recipe(resolve_recipe(settings).recipe)
    said = json.loads((run / "run.json").read_text())
    assert (said["status"], said["kept_epoch"], said["skipped"]) == ("done", 3, [])
    assert (said["trained_on"], said["group_by"]) == ("ratings.csv", "prompt")
    assert said["images"] == {"train": result.n_train, "val": result.n_val}
    assert result.n_train + result.n_val == len(demo)
    assert said["diagnosis"] == result.diagnosis != ""


def test_no_prompt_is_in_both_parts(result: TrainResult, demo: list[Sample]) -> None:
    rows = read_parquet_rows(result.run / "splits.parquet")
    assert sorted(row["name"] for row in rows) == sorted(sample.name for sample in demo)
    prompts = {split: {row["prompt"] for row in rows if row["split"] == split} for split in ("train", "val")}
    assert prompts["train"]
    assert prompts["val"]
    assert not prompts["train"] & prompts["val"]
    prompt_of = {sample.name: sample.prompt for sample in demo}
    assert all(prompt_of[row["name"]] == row["prompt"] for row in rows)
    memory = load_checkpoint(result.run).description["prompts"]
    assert memory == {split: sorted(map(hash_prompt, texts)) for split, texts in prompts.items()}


def test_the_curves_and_the_metrics(result: TrainResult) -> None:
    epochs = read_parquet_rows(result.run / "epochs.parquet")
    assert [(row["epoch"], row["split"]) for row in epochs] == [(e, s) for e in (1, 2, 3) for s in ("train", "val")]
    assert all(math.isfinite(row["loss"]) and row["run"] == "run" for row in epochs)
    assert epochs[-2]["loss"] < epochs[0]["loss"]
    rows = read_parquet_rows(result.run / "metrics.parquet")
    kinds = {(row["target"], row["metric"]) for row in rows}
    both = [(target, metric) for target in ("quality", "consistency") for metric in METRICS]
    assert kinds >= {*both, ("zero_shot_cosine", "srocc"), ("zero_shot_cosine", "plcc")}
    assert {(row["split"], row["group"]) for row in rows} == {("val", "all")}
    assert {row["n"] for row in rows if not METRICS[row["metric"]].needs_groups} == {result.n_val}
    assert all(row["ci_low"] <= row["value"] <= row["ci_high"] for row in rows if row["ci_low"] is not None)
    assert [*map(json.dumps, rows)] == [*map(json.dumps, result.metrics)]


def test_without_a_validation_part(train: Train, tmp_path: Path, demo: list[Sample]) -> None:
    result = train(val_fraction=0, checkpoint="last")
    assert (result.n_train, result.n_val, result.metrics, result.chosen_on_val) == (len(demo), 0, [], False)
    assert {row["split"] for row in read_parquet_rows(tmp_path / "run" / "splits.parquet")} == {"train"}


# --- a split that was saved


def test_a_saved_split_is_used(train: Train, tmp_path: Path) -> None:
    """Another seed draws other parts; with the splits table of the first run it has the parts of that run."""
    train("first", seed=3, epochs=1)
    used = tmp_path / "first" / "splits.parquet"
    other = train("other", seed=0, epochs=1)
    again = train("again", seed=0, epochs=1, splits=used)
    sides = [
        {row["name"]: row["split"] for row in read_parquet_rows(tmp_path / name / "splits.parquet")}
        for name in ("first", "other", "again")
    ]
    assert sides[0] == sides[2] != sides[1]
    assert (again.n_train + again.n_val) == (other.n_train + other.n_val)
    said = json.loads((tmp_path / "again" / "run.json").read_text())
    assert (said["group_by"], said["source"]["splits"]) == (None, str(used))


def test_a_saved_split_with_shared_prompts_is_reported(train: Train, demo: list[Sample], tmp_path: Path) -> None:
    lines = [f"{sample.name},{'val' if row % 3 == 0 else 'train'}" for row, sample in enumerate(demo)]
    (tmp_path / "s.csv").write_text("\n".join(["name,split", *lines]))
    progress = RecordingProgress()
    result = train(epochs=1, splits=tmp_path / "s.csv", progress=progress)
    assert (result.n_train, result.n_val) == (32, 16)
    assert any("prompts are in both parts of the saved split" in line for line in progress.lines)


@pytest.mark.parametrize(
    ("parts", "more", "message"),
    [
        (["train", "fold"], {}, "expected train or val in the column split, found 'fold'."),
        (["train", ""], {}, "expected train or val in the column split, found None."),
        (["val"], {}, "expected images to train on, found none."),
        (["train"], {"checkpoint": "best"}, "to choose a checkpoint on, found none."),
    ],
)
def test_a_split_that_cannot_be_trained_on(
    parts: list[str], more: dict[str, str], message: str, train: Train, demo: list[Sample], tmp_path: Path
) -> None:
    lines = [f"{sample.name},{parts[row % len(parts)]}" for row, sample in enumerate(demo)]
    (tmp_path / "s.csv").write_text("\n".join(["name,split", *lines]))
    with pytest.raises(AigcError) as caught:
        train(splits=tmp_path / "s.csv", **more)
    assert message in caught.value.message
    assert not (tmp_path / "run").exists()


# --- the same again


@pytest.mark.slow
def test_the_seed_decides_the_run_with_and_without_a_cache(train: Train, tmp_path: Path) -> None:
    results = [train("a"), train("b", cache=False), train("c", seed=1)]
    columns = ("epoch", "split", "loss", "srocc_q", "plcc_c")
    curves = [[{key: row[key] for key in columns} for row in result.epochs] for result in results]
    digests = [load_checkpoint(result.run).digest for result in results]
    assert curves[0] == curves[1] != curves[2]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.slow
def test_the_seed_decides_a_partly_frozen_run(train: Train, tmp_path: Path) -> None:
    digests = [load_checkpoint(train(name, freeze="partial", epochs=1).run).digest for name in ("a", "b")]
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_shuffled_scores_are_not_predicted(train: Train, demo: list[Sample], tmp_path: Path) -> None:
    """Held-out agreement with shuffled scores is noise, unless training rows leak into the validation part."""
    order = np.random.default_rng(3).permutation(len(demo))
    shuffled = [
        dataclasses.replace(sample, mos_quality=demo[i].mos_quality, mos_align=demo[i].mos_align)
        for sample, i in zip(demo, order.tolist(), strict=True)
    ]
    noise = Source(write_table(tmp_path / "noise.csv", shuffled), demo[0].path.parent)
    found = []
    for seed in range(4):
        small = {"recipe": "small", "epochs": 10, "seed": seed, "val_fraction": 0.4}
        rows = train(f"noise{seed}", source=noise, **small).metrics
        found += [row["value"] for row in rows if row["metric"] == "srocc" and row["target"] != "zero_shot_cosine"]
    assert abs(float(np.mean(found))) < 0.35


# --- what is wrong with the images or the table


def test_bad_images_are_skipped_and_recorded(train: Train, demo: list[Sample], tmp_path: Path) -> None:
    folder = demo[0].path.parent
    bad = [("empty.jpg", "x", 1, 1), ("missing.jpg", "y", 1, 1), ("blank.jpg", " ", "", 2), ("cut.jpg", "z", 1, 1)]
    whole = demo[0].path.read_bytes()
    for name, data in (("empty.jpg", b""), ("blank.jpg", whole), ("cut.jpg", whole[: len(whole) // 2])):
        (folder / name).write_bytes(data)
    table = write_table(tmp_path / "bad.csv", demo, *bad)
    progress = RecordingProgress()
    result = train(source=Source(table, folder), progress=progress)
    skipped = {row["name"]: row["reason"] for row in json.loads((result.run / "run.json").read_text())["skipped"]}
    assert skipped == {
        "empty.jpg": "not_an_image",
        "missing.jpg": "missing_file",
        "blank.jpg": "no_prompt",
        "cut.jpg": "truncated",
    }
    assert result.n_train + result.n_val == len(demo)
    assert [line for line in progress.lines if line.startswith("Left out 4 rows: ")]
    clean = train("clean")
    assert load_checkpoint(clean.run).digest == load_checkpoint(result.run).digest


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("image,prompt,mos_quality\na.jpg,x,1\n", "'name'"),
        ("name,prompt\na.jpg,x\n", "'mos_quality'"),
        ("name,prompt,mos_quality\na.jpg,x,6\n", "found '6'"),
        ("name,prompt,mos_quality\nno.jpg,x,1\n", "found none of the 1 named"),
        ("", "found an empty file"),
    ],
)
def test_a_wrong_table_writes_nothing(content: str, part: str, train: Train, tmp_path: Path) -> None:
    table = tmp_path / "wrong.csv"
    table.write_text(content)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(AigcError) as caught:
        train(source=Source(table))
    assert caught.value.exit_code == 2
    assert part in caught.value.message
    assert str(table) in caught.value.message
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"group_by": "artist"}, "found 'artist'"),
        ({"loss": "mse+huber"}, "found 'huber'"),
        ({"backbone": "nothing"}, "found 'nothing'"),
        ({"freeze": "partial", "freeze_layers": 5}, "the blocks of local-dir:.*'s image tower, found 5"),
        ({"freeze": "partial", "freeze_layers": -1}, "found -1"),
        ({"freeze_layers": 2}, "freeze_layers, found all"),
    ],
)
def test_a_wrong_setting_writes_nothing(setting: dict[str, Any], message: str, train: Train, tmp_path: Path) -> None:
    with pytest.raises(AigcError, match=message) as caught:
        train(**setting)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_no_image_left_is_an_error(train: Train, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_text("no image")
    (tmp_path / "t.csv").write_text("name,prompt,mos_quality\na.jpg,x,1\nb.jpg,y,1\n")
    with pytest.raises(AigcError, match=r"none usable \(not_an_image\)"):
        train(source=Source(tmp_path / "t.csv"))


def test_a_training_that_is_refused_leaves_nothing_to_resume(
    train: Train, demo: list[Sample], tmp_path: Path, source: Source
) -> None:
    """Whether the table names too few prompts, or the images that can be decoded leave too few of them."""
    one = [replace(sample, prompt="a fox") for sample in demo[:8]]
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n" + b"?" * 64)
    for samples in (one, [*one, replace(demo[8], name=bad.name, path=bad)]):
        folder = tmp_path / f"images{len(samples)}"
        folder.mkdir()
        for sample in samples:
            (folder / sample.name).write_bytes(sample.path.read_bytes())
        table = write_table(tmp_path / "few.csv", samples)
        with pytest.raises(AigcError, match="at least 2 groups"):
            train("few", Source(table, folder))
        assert not (tmp_path / "few").exists()
    train("few")


def test_images_without_a_table(train: Train, tmp_path: Path) -> None:
    with pytest.raises(AigcError, match="Expected --data beside --images, found none"):
        train(source=Source(None, tmp_path))


# --- outputs, divergence, freezing


def test_an_output_is_kept_unless_told_otherwise(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_checkpoint(train().run).digest
    (tmp_path / "run" / "notes.txt").write_text("mine")
    monkeypatch.setattr(
        ratings, "hash_image_file", lambda path: pytest.fail("the images are read before the output is checked")
    )
    with pytest.raises(AigcError) as caught:
        train(seed=1)
    assert caught.value.message == f"The output {tmp_path / 'run'} exists."
    assert load_checkpoint(tmp_path / "run").digest == first
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert load_checkpoint(train(seed=1, overwrite=True).run).digest != first


def test_divergence_keeps_the_last_good_epoch(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = train("good", epochs=1, scheduler="constant", warmup_ratio=0)
    plain, batches = epoch_stats.make_loss, [0]

    def breaks(name: str) -> Callable[[Tensor, Tensor], Tensor]:
        loss = plain(name)

        def total(predicted: Tensor, target: Tensor) -> Tensor:
            batches[0] += 1
            return loss(predicted, target) * (float("nan") if batches[0] > per_epoch else 1)

        return total

    per_epoch = 2 * (math.ceil(good.n_train / 16) + 1)  # both targets, the training batches and one of validation
    monkeypatch.setattr(epoch_stats, "make_loss", breaks)
    with pytest.raises(Divergence) as caught:
        train(scheduler="constant", warmup_ratio=0)
    assert caught.value.exit_code == 6
    assert caught.value.message == "Training diverged: the loss became nan in epoch 2."
    place = tmp_path / "run" / "checkpoint"
    assert (
        caught.value.hint
        == f"The weights of epoch 1 are in {place}. What to try next: aigc recommend --run {place.parent}"
    )
    assert load_checkpoint(place).digest == load_checkpoint(good.run).digest
    said = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (said["status"], said["kept_epoch"]) == ("diverged: the loss became nan in epoch 2", 1)


def test_frozen_layers_are_counted_in_the_image_tower(train: Train, tmp_path: Path) -> None:
    result = train(freeze="partial", freeze_layers=3, epochs=1)
    recipe = Recipe(**read_recipe(tmp_path / "run" / "recipe.yaml"))
    assert (recipe.freeze, recipe.freeze_layers) == ("partial", 3)
    names = {name for name in load_checkpoint(result.run).tensors if name.startswith("backbone.")}
    assert any("resblocks.3." in name for name in names)
    assert not any(f"resblocks.{block}." in name for name in names for block in (0, 1, 2))


@pytest.mark.usefixtures("kept_graphs")
def test_a_run_keeps_the_graphs_that_score_with_it(train: Train, demo: list[Sample], tmp_path: Path) -> None:
    """Both towers are trained, in bfloat16; the graphs hold what came of it and compute in float32."""
    train(freeze="none", epochs=1, precision="bf16")
    saved = read_model(tmp_path / "run")
    graphs = saved.checkpoint.description["graphs"]
    folder = saved.checkpoint.folder
    assert graphs == {name: sha256((folder / name).read_bytes()).hexdigest() for name in GRAPH_FILES}
    scorers = [Scorer.load(tmp_path / "run", "cpu", engine) for engine in ("auto", "eager")]
    assert [scorer.network.engine for scorer in scorers] == ["onnx", "eager"]
    images, prompts = [sample.path for sample in demo[:8]], [sample.prompt for sample in demo[:8]]
    one, other = (scorer.score(images=images, prompts=prompts) for scorer in scorers)
    pd.testing.assert_frame_equal(one, other, rtol=0, atol=1e-4)


def test_a_checkpoint_holds_what_was_trained(train: Train, settings: dict[str, str]) -> None:
    frozen = load_checkpoint(train("frozen", epochs=1).run).tensors
    assert all(name.startswith("heads.") for name in frozen)
    learnt = load_checkpoint(train("learnt", freeze="none", epochs=1).run).tensors
    before = load_backbone(settings["backbone"]).modules().state_dict(prefix="backbone.")
    moved = [name for name in before if not np.array_equal(before[name].numpy(), learnt[name])]
    assert len(moved) > len(before) / 2


# --- small parts


def test_a_run_folder_has_a_new_name(tmp_path: Path) -> None:
    first = name_run_folder("recipes/my.yaml", tmp_path)
    assert first.name.endswith("-my")
    first.mkdir()
    assert name_run_folder("recipes/my.yaml", tmp_path) != first
    assert name_run_folder(None, tmp_path).name.endswith("-default")


def test_notes_say_what_the_backbone_makes_of_the_rates(settings: dict[str, str]) -> None:
    assert describe_hints(Recipe(freeze="all")).keys() == {"residual_scale_q", "residual_scale_c"}
    assert describe_hints(resolve_recipe(settings | {"freeze": "none"}).recipe) == {}
    assert describe_hints(Recipe(freeze="partial")).keys() == {"lr", "lr_backbone"}
    assert describe_hints(Recipe(freeze="partial", freeze_text="all")).keys() == {"lr", "lr_backbone"}
    assert describe_hints(Recipe(freeze="all", freeze_text="partial")).keys() == {"lr", "lr_backbone"}


def test_warnings_are_said(train: Train) -> None:
    progress = RecordingProgress()
    train(progress=progress, batch_size=4)
    assert "batch_size = 4 (flag) is outside its sensible range 8 to 128." in progress.lines


def test_a_resolved_recipe_is_enough(settings: dict[str, str], source: Source, tmp_path: Path) -> None:
    """The workflow works from Python without sources or warnings."""
    recipe = resolve_recipe(settings | {"epochs": "1"}).recipe
    plain = ResolvedRecipe(recipe, dict.fromkeys(dataclasses.asdict(recipe), "python"), ())
    output = Output(tmp_path / "deep" / "run")
    result = train_model(plain, source, output, HeldOutSource(), Compute("cpu"), SilentProgress())
    assert result.kept_epoch == 1


@pytest.mark.parametrize(("levels", "freeze"), [("all", "all"), ("inner", "partial")])
def test_a_saved_model_reads_the_levels_and_axes_of_its_recipe(
    train: Train, demo: list[Sample], levels: str, freeze: str
) -> None:
    inputs = {"quality_input": "multilevel", "consistency_input": "multilevel"}
    run = train(levels, levels=levels, feature_axes=6, freeze=freeze, **inputs).run
    assert load_checkpoint(run).tensors["heads.projection.axes"].shape[1] == 6
    by_name = {sample.name: sample for sample in demo}
    rows = read_parquet_rows(run / "predictions.parquet")
    images = [by_name[row["name"]].path for row in rows]
    prompts = [by_name[row["name"]].prompt for row in rows]
    for engine in ("auto", "eager"):
        found = Scorer.load(run, "cpu", engine).score(images=images, prompts=prompts)
        for score in ("quality", "consistency"):
            assert list(found[score]) == pytest.approx([row[score] for row in rows], abs=1e-3)
