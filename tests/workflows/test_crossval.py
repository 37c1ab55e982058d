"""Cross-validation: predictions are held out, folds can be saved and resumed, and figures follow from the folds."""

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rated as tables
import torch

from aigc_cli.errors import AigcError, Divergence, Interruption
from aigc_cli.images.reader import hash_image_file
from aigc_cli.images.sample import Sample
from aigc_cli.metrics.by_name import METRICS
from aigc_cli.metrics.splits import Split
from aigc_cli.model.loading import load_backbone
from aigc_cli.progress import SilentProgress
from aigc_cli.recipe import Recipe, ResolvedRecipe, resolve_recipe
from aigc_cli.storage.atomic_files import Output
from aigc_cli.storage.results import read_parquet_rows, write_table
from aigc_cli.storage.schemas import SCHEMAS
from aigc_cli.training import loop
from aigc_cli.workflows.crossval import CrossvalPlan, CrossvalResult, cross_validate
from aigc_cli.workflows.experiment import folds as fold_driver
from aigc_cli.workflows.experiment.folds import PreparedData, prepare_data, swap_prompts, train_fold
from aigc_cli.workflows.experiment.rated import RatedImages
from aigc_cli.workflows.experiment.source import Compute, Source

pytestmark = pytest.mark.usefixtures("few_resamples")

Validate = Callable[..., CrossvalResult]


@pytest.fixture(scope="module")
def resolved(tiny_folder: Path) -> ResolvedRecipe:
    quick = {"epochs": "1", "batch_size": "16", "views": "1", "lr": "1e-3", "freeze": "all"}
    return resolve_recipe({"backbone": f"local-dir:{tiny_folder}", **quick})


@pytest.fixture(scope="module")
def source(demo: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Source:
    path = tmp_path_factory.mktemp("table") / "ratings.csv"
    return Source(tables.write_table(path, demo, groups=["distortion"]), demo[0].path.parent)


@pytest.fixture(scope="module")
def validate(resolved: ResolvedRecipe, source: Source) -> Validate:
    """Cross-validates in a folder, by default on the small rated set; settings by name."""

    def run(
        folder: Path, plan: CrossvalPlan, source: Source = source, resume: bool = False, **settings: Any
    ) -> CrossvalResult:
        changed = replace(resolved, recipe=replace(resolved.recipe, **settings))
        output = Output(folder, resume=resume)
        return cross_validate(changed, source, plan, output, Compute("cpu"), SilentProgress())

    return run


Validated = tuple[CrossvalResult, Path]


@pytest.fixture(scope="module")
def prompts(validate: Validate, tmp_path_factory: pytest.TempPathFactory) -> Validated:
    """A cross-validation with three prompt-disjoint folds, and its folder."""
    folder = tmp_path_factory.mktemp("prompts") / "run"
    return validate(folder, CrossvalPlan("tiny", folds=3)), folder


def select(rows: Sequence[dict[str, Any]], **wanted: str) -> list[dict[str, Any]]:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


# --- one fold


@pytest.fixture
def ready(demo: list[Sample], resolved: ResolvedRecipe) -> Callable[..., PreparedData]:
    def make(**changes: Any) -> PreparedData:
        rated = RatedImages(demo, [hash_image_file(sample.path) for sample in demo], [])
        recipe = replace(resolved.recipe, **changes)
        return prepare_data(load_backbone(recipe.backbone), rated, recipe, Compute("cpu"), SilentProgress())

    return make


@pytest.mark.parametrize(
    "changes",
    [
        {"freeze": "all"},
        pytest.param({"freeze": "partial"}, marks=pytest.mark.slow),
        {"checkpoint": "best", "epochs": 2},
    ],
)
def test_held_out_scores_do_not_change_predictions(
    changes: dict[str, Any], ready: Callable[..., PreparedData], resolved: ResolvedRecipe
) -> None:
    """Other human scores of the held-out rows give the same predictions, also after the training of another fold."""
    one, recipe = ready(**changes), replace(resolved.recipe, **changes)
    groups, rows = one.rated.list_groups("prompt"), range(0, 12)
    held_out = [row for row, group in enumerate(groups) if group in {groups[r] for r in rows}]
    other = [row for row in range(len(groups)) if row not in held_out][:6]

    def predict(data: Any) -> np.ndarray[Any, Any]:
        found = train_fold(replace(one, data=data), groups, held_out, 0, recipe, SilentProgress())
        assert found.cosine.shape == found.predicted["quality"].shape == (len(held_out),)
        return np.concatenate([*found.predicted.values(), found.cosine])

    before = predict(one.data)
    train_fold(one, groups, other, 1, recipe, SilentProgress())
    targets = one.data.targets.clone()
    targets[held_out] = 1 - targets[held_out]
    np.testing.assert_array_equal(predict(replace(one.data, targets=targets)), before)
    targets[other] = 1 - targets[other]
    assert (predict(replace(one.data, targets=targets)) != before).any()


@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_a_checkpoint_is_chosen_inside_the_training_folds(
    checkpoint: str, ready: Callable[..., PreparedData], resolved: ResolvedRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, recipe = ready(), replace(resolved.recipe, checkpoint=checkpoint)
    groups = one.rated.list_groups("prompt")
    held_out = [row for row, group in enumerate(groups) if group in sorted(set(groups))[:2]]
    seen: list[Split] = []
    fit = loop.fit_model

    def record(model: Any, data: Any, split: Split, *rest: Any, **more: Any) -> Any:
        seen.append(split)
        return fit(model, data, split, *rest, **more)

    monkeypatch.setattr(loop, "fit_model", record)
    train_fold(one, groups, held_out, 0, recipe, SilentProgress())
    ((train, val),) = seen
    assert sorted([*train, *val, *held_out]) == list(range(len(groups)))
    assert bool(val) == (checkpoint == "best")
    parts = [{groups[row] for row in rows} for rows in (train, val, held_out)]
    assert sum(map(len, parts)) == len(set(groups))


def test_a_fold_that_diverges_says_so(ready: Callable[..., PreparedData], resolved: ResolvedRecipe) -> None:
    one = ready()
    groups = one.rated.list_groups("prompt")
    data = replace(one.data, targets=torch.full_like(one.data.targets, torch.inf))
    with pytest.raises(Divergence, match="epoch 1"):
        train_fold(replace(one, data=data), groups, [0, 1], 0, resolved.recipe, SilentProgress())


# --- the protocols


def test_prompt_disjoint_folds(prompts: Validated, demo: list[Sample]) -> None:
    found, folder = prompts
    assert {row["split"] for row in found.metrics} == {"prompt-disjoint 3-fold"}
    assert {row["group"] for row in found.folds} == {f"fold={fold},repeat=0" for fold in range(3)}
    assert found.warnings == []
    assert [row["over_repeats"] for row in found.spread] == [None] * 3
    for target in ("quality", "consistency", "zero_shot_cosine"):
        for name in ("srocc", "plcc", "krocc"):
            (mean,) = select(found.metrics, target=target, metric=name)
            single = select(found.folds, target=target, metric=name)
            assert mean["value"] == pytest.approx(np.mean([row["value"] for row in single]))
            assert mean["n"] == len(demo) == sum(row["n"] for row in single)
    assert select(found.metrics, target="zero_shot_cosine", metric="rmse") == []
    assert {row["metric"] for row in select(found.metrics, target="quality")} == set(METRICS)
    folds: dict[int, set[str]] = {}
    for row in read_parquet_rows(folder / "splits.parquet"):
        folds.setdefault(row["fold"], set()).add(row["prompt"])
    assert sum(map(len, folds.values())) == len({sample.prompt for sample in demo})


def test_the_tables_of_a_cross_validation(prompts: Validated, demo: list[Sample]) -> None:
    found, folder = prompts
    files = ["cells", "crossval.json", "metrics.parquet", "predictions.parquet", "splits.parquet"]
    assert sorted(path.name for path in folder.iterdir()) == files
    assert len(list((folder / "cells").iterdir())) == 3
    rows = read_parquet_rows(folder / "metrics.parquet")
    assert [*map(json.dumps, rows)] == [*map(json.dumps, [*found.metrics, *found.folds])]
    assert {row["run"] for row in rows} == {"tiny"}
    metadata = pq.read_schema(folder / "metrics.parquet").metadata
    assert metadata[b"protocol"] == b"prompt"
    assert b"epochs: 1" in metadata[b"recipe"]
    assert pq.read_schema(folder / "splits.parquet").remove_metadata() == SCHEMAS["splits"]
    predicted = {row["name"]: row for row in read_parquet_rows(folder / "predictions.parquet")}
    assert sorted(predicted) == sorted(sample.name for sample in demo)
    for sample in demo:
        assert predicted[sample.name]["human_quality"] == pytest.approx(sample.mos_quality)


@pytest.mark.slow
def test_an_image_split_is_followed_by_a_prompt_split_and_warns(validate: Validate, tmp_path: Path) -> None:
    found = validate(tmp_path / "run", CrossvalPlan("tiny", "image", 2))
    names = ["image-level 2-fold", "prompt-disjoint 2-fold"]
    assert list(dict.fromkeys(row["split"] for row in found.metrics)) == names
    (warning,) = found.warnings
    assert warning.startswith("image-level 2-fold: ")
    assert "Prompts seen in training reappear in the held-out images" in warning
    assert "The prompt-disjoint figures beside it" in warning
    image, prompt = ([r["value"] for r in select(found.metrics, split=name, target="quality")] for name in names)
    assert image != prompt
    splits = read_parquet_rows(tmp_path / "run" / "splits.parquet")
    assert Counter(row["split"] for row in splits) == {"image": 48, "prompt": 48}
    pairs = {(row["prompt"], row["fold"]) for row in splits if row["split"] == "prompt"}
    assert len(pairs) == len({row["prompt"] for row in splits})


def test_folds_by_a_column(validate: Validate, demo: list[Sample], tmp_path: Path) -> None:
    found = validate(tmp_path / "run", CrossvalPlan("tiny", "group:distortion", 2, by="distortion"))
    fold_of = {row["name"]: row["fold"] for row in read_parquet_rows(tmp_path / "run" / "splits.parquet")}
    counts = Counter(sample.groups["distortion"] for sample in demo)
    for value in counts:
        assert len({fold_of[sample.name] for sample in demo if sample.groups["distortion"] == value}) == 1
    assert {row["split"] for row in found.metrics} == {"distortion-disjoint 2-fold"}
    assert "have images in several folds" in found.warnings[0]
    assert {row["group"] for row in found.metrics} == {"all", *(f"distortion={value}" for value in counts)}
    for row in select(found.metrics, target="quality", metric="rmse"):
        assert row["n"] == (48 if row["group"] == "all" else counts[row["group"].removeprefix("distortion=")])


@pytest.mark.slow
def test_repeats_draw_other_folds_and_measure_the_noise(validate: Validate, tmp_path: Path) -> None:
    found = validate(tmp_path / "run", CrossvalPlan("tiny", folds=3, repeats=2))
    assert {row["split"] for row in found.metrics} == {"prompt-disjoint 3-fold x 2"}
    parts: dict[tuple[int, int], set[str]] = {}
    for row in read_parquet_rows(tmp_path / "run" / "splits.parquet"):
        parts.setdefault((row["repeat"], row["fold"]), set()).add(row["name"])
    assert [parts[0, fold] for fold in range(3)] != [parts[1, fold] for fold in range(3)]
    assert all(sum(len(parts[repeat, fold]) for fold in range(3)) == 48 for repeat in range(2))
    assert {row["n"] for row in select(found.metrics, metric="rmse")} == {48}
    single = np.array([row["value"] for row in select(found.folds, target="quality", metric="srocc")]).reshape(2, 3)
    spread = {row["target"]: row for row in found.spread}["quality"]
    assert spread["over_repeats"] == pytest.approx(np.std(single.mean(1), ddof=1))
    assert spread["over_folds"] == pytest.approx(np.sqrt(single.var(axis=1, ddof=1).mean()))


# --- resuming


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The folds that are trained from now on."""
    folds: list[int] = []
    plain = fold_driver.train_fold

    def train_fold(ready: Any, groups: Any, held_out: Any, fold: int, recipe: Recipe, progress: Any) -> Any:
        folds.append(fold)
        return plain(ready, groups, held_out, fold, recipe, progress)

    monkeypatch.setattr(fold_driver, "train_fold", train_fold)
    return folds


def read_tables(folder: Path) -> dict[str, list[str]]:
    """The rows of all tables, as text because of NaN."""
    return {path.name: [*map(repr, read_parquet_rows(path))] for path in folder.glob("*.parquet")}


def test_a_resumed_run_trains_only_the_missing_folds(
    validate: Validate, prompts: Validated, tmp_path: Path, trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, plan, plain = tmp_path / "run", CrossvalPlan("tiny", folds=3), fold_driver.train_fold

    def interrupt(*given: Any) -> Any:
        if trained:
            raise KeyboardInterrupt
        return plain(*given)

    monkeypatch.setattr(fold_driver, "train_fold", interrupt)
    with pytest.raises(Interruption, match="1 of 3 trainings are finished") as caught:
        validate(folder, plan)
    monkeypatch.setattr(fold_driver, "train_fold", plain)
    assert f"--resume -o {folder}" in caught.value.hint
    assert sorted(path.name for path in folder.iterdir()) == ["cells", "crossval.json"]
    trained.clear()
    validate(folder, plan, resume=True)
    assert trained == [1, 2]
    assert read_tables(folder) == read_tables(prompts[1])
    trained.clear()
    assert validate(folder, plan, resume=True).metrics == prompts[0].metrics
    assert trained == []


def test_a_damaged_fold_is_an_error(validate: Validate, prompts: Validated, tmp_path: Path) -> None:
    folder = shutil.copytree(prompts[1], tmp_path / "run")
    fold = next((folder / "cells").iterdir())
    fold.write_bytes(fold.read_bytes()[:100])
    with pytest.raises(AigcError) as caught:
        validate(folder, CrossvalPlan("tiny", folds=3), resume=True)
    assert fold.name in caught.value.message


def test_a_changed_plan_is_not_resumed(
    validate: Validate, prompts: Validated, demo: list[Sample], source: Source, tmp_path: Path, trained: list[int]
) -> None:
    folder, plan = prompts[1], CrossvalPlan("tiny", folds=3)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    fewer = Source(tables.write_table(tmp_path / "fewer.csv", demo[:-1]), source.images)
    cases: list[tuple[CrossvalPlan, dict[str, Any], str]] = [
        (plan, {"lr": 1e-4}, "found changes in lr (0.001 then, 0.0001 now)."),
        (plan, {"source": fewer}, "found changes in the images, prompts or scores."),
        (replace(plan, folds=2, repeats=2), {}, "folds (3 then, 2 now); repeats (1 then, 2 now)."),
        (replace(plan, protocol="image"), {}, "protocol (prompt then, image now)."),
    ]
    for changed, more, message in cases:
        with pytest.raises(AigcError) as caught:
            validate(folder, changed, resume=True, **more)
        assert caught.value.message.endswith(message)
        assert f"since the cross-validation in {folder} was" in caught.value.message
    with pytest.raises(AigcError, match="Expected a cross-validation to resume in"):
        validate(tmp_path / "empty", plan, resume=True)
    assert {path: path.read_bytes() for path in before} == before
    assert trained == []


def test_an_existing_folder_is_not_overwritten(validate: Validate, prompts: Validated) -> None:
    with pytest.raises(AigcError, match="run exists"):
        validate(prompts[1], CrossvalPlan("tiny", folds=3))


# --- folds from a file


@pytest.mark.parametrize(
    "suffix", [".parquet", *(pytest.param(suffix, marks=pytest.mark.slow) for suffix in (".csv", ".jsonl"))]
)
def test_saved_folds_give_the_same_folds(suffix: str, prompts: Validated, validate: Validate, tmp_path: Path) -> None:
    found, folder = prompts
    rows = read_parquet_rows(folder / "splits.parquet")
    write_table(tmp_path / f"s{suffix}", "splits", rows, {})
    again = validate(tmp_path / "run", CrossvalPlan("tiny", saved=tmp_path / f"s{suffix}"))
    assert again.metrics == found.metrics
    assert read_parquet_rows(tmp_path / "run" / "splits.parquet") == rows


def test_folds_that_a_person_wrote(validate: Validate, demo: list[Sample], tmp_path: Path) -> None:
    """A table with names and folds only. Its folds share prompts, so there is a warning."""
    path = tmp_path / "mine.csv"
    path.write_text("name,fold\n" + "".join(f"{s.name},{i % 2 + 1}\n" for i, s in enumerate(demo)))
    found = validate(tmp_path / "run", CrossvalPlan("tiny", saved=path))
    assert {row["split"] for row in found.metrics} == {"saved 2-fold"}
    assert found.warnings[0].startswith("saved 2-fold: ")
    assert "have images in several folds" in found.warnings[0]


def test_a_target_that_was_not_rated(validate: Validate, demo: list[Sample], tmp_path: Path) -> None:
    path = tmp_path / "half.csv"
    path.write_text("name,prompt,mos_quality\n" + "".join(f"{s.name},{s.prompt},{s.mos_quality}\n" for s in demo))
    found = validate(tmp_path / "run", CrossvalPlan(folds=2), Source(path, demo[0].path.parent))
    for row in select(found.metrics, target="consistency"):
        assert (row["value"], row["ci_low"], row["n"]) == (None, None, 0)
        assert row["reason"].endswith("n = 0, at least 2 are needed")
    assert [row["target"] for row in found.spread] == ["quality"]


def make_splits(demo: Sequence[Sample], **changes: Any) -> list[dict[str, Any]]:
    return [{"name": s.name, "split": "prompt", "fold": i % 2, "repeat": 0} | changes for i, s in enumerate(demo)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: rows[:-4],
            "a row for every image, found none for demo_0044.jpg, demo_0045.jpg, demo_0046.jpg and 1",
        ),
        (lambda rows: [*rows, rows[0] | {"name": "x.jpg"}], "expected images of the table only, found x.jpg."),
        (
            lambda rows: [*rows, rows[0] | {"fold": 1}],
            "expected every image once, found several rows for demo_0000.jpg.",
        ),
        (
            lambda rows: [row | {"split": "image"} for row in rows],
            "expected folds of the protocol prompt, found image.",
        ),
        (lambda rows: [row | {"fold": 0} for row in rows], "expected at least 2 folds in the column fold, found 1."),
        (
            lambda rows: [rows[0] | {"fold": None}, *rows[1:]],
            "expected at least 2 folds in the column fold, found a row",
        ),
        (
            lambda rows: [*rows, *(row | {"repeat": 1, "fold": i % 3} for i, row in enumerate(rows))],
            "expected as many folds in every repeat, found 2, 3.",
        ),
    ],
)
def test_saved_folds_that_do_not_fit(
    change: Callable[..., Any], message: str, validate: Validate, demo: list[Sample], tmp_path: Path
) -> None:
    write_table(tmp_path / "s.parquet", "splits", change(make_splits(demo)), {})
    with pytest.raises(AigcError) as caught:
        validate(tmp_path / "run", CrossvalPlan(saved=tmp_path / "s.parquet"))
    assert message in caught.value.message
    assert [path.name for path in tmp_path.iterdir()] == ["s.parquet"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,fold\na.jpg,one\n", "Expected whole numbers in the column fold of"),
        ("image,fold\na.jpg,1\n", "Expected a name in every row of"),
        (None, "expected a CSV file, found nothing there"),
    ],
)
def test_a_file_without_splits(text: str | None, message: str, validate: Validate, tmp_path: Path) -> None:
    if text:
        (tmp_path / "s.csv").write_text(text)
    with pytest.raises(AigcError) as caught:
        validate(tmp_path / "run", CrossvalPlan(saved=tmp_path / "s.csv"))
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (CrossvalPlan("", "prompts"), "Expected the protocol prompt, image or group:COLUMN, found 'prompts'."),
        (CrossvalPlan("", "group:"), "Expected the protocol prompt, image or group:COLUMN, found 'group:'."),
        (
            CrossvalPlan("", "group:artist"),
            "Expected a column to group by out of prompt, name, distortion, found 'artist'.",
        ),
        (CrossvalPlan("", "prompt", 1), "Expected at least 2 folds and 1 repeat, found 1 and 1."),
        (CrossvalPlan("", "prompt", 2, 0), "Expected at least 2 folds and 1 repeat, found 2 and 0."),
        (CrossvalPlan("", "image", 49), "Expected at least 49 different values of name for 49 folds, found 48."),
    ],
)
def test_a_plan_with_a_fault(plan: CrossvalPlan, message: str, validate: Validate, tmp_path: Path) -> None:
    with pytest.raises(AigcError) as caught:
        validate(tmp_path / "run", plan)
    assert caught.value.message == message
    assert not (tmp_path / "run").exists()


def test_unreadable_images_are_left_out_and_may_have_a_saved_fold(
    validate: Validate, demo: list[Sample], source: Source, tmp_path: Path
) -> None:
    assert source.data is not None
    table = tmp_path / "more.csv"
    table.write_text(source.data.read_text() + "gone.jpg,x,1,1,none\n")
    rows = [*make_splits(demo), {"name": "gone.jpg", "split": "prompt", "fold": 0, "repeat": 0}]
    write_table(tmp_path / "s.parquet", "splits", rows, {})
    found = validate(tmp_path / "run", CrossvalPlan(saved=tmp_path / "s.parquet"), Source(table, source.images))
    assert list(found.skipped) == [("gone.jpg", "missing_file")]
    assert {row["n"] for row in select(found.metrics, metric="rmse")} == {48}


def test_prompts_are_swapped_between_images_of_about_equal_quality() -> None:
    prompts, quality = ["a", "b", "a", "a", "c"], [1.0, 2.0, 1.1, 3.0, math.nan]
    assert swap_prompts(prompts, quality) == ["b", "a", "b", "c", "a"]
    assert swap_prompts(["a", "a"], [1.0, 2.0]) is None
