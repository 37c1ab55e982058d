"""Cross-validation: nothing that is reported was trained on, folds come back from a file, figures are the folds'."""

import csv
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from aigc_cli.errors import AigcError, Diverged
from aigc_cli.images.sample import Sample
from aigc_cli.metrics.by_name import METRICS
from aigc_cli.model.loading import load_backbone
from aigc_cli.progress import Silent
from aigc_cli.recipe import Resolved, resolve
from aigc_cli.storage.results import read_rows, write_table
from aigc_cli.storage.schemas import SCHEMAS
from aigc_cli.training.feature_store import digest_of
from aigc_cli.workflows.crossval import Plan, ProtocolResult, cross_validate
from aigc_cli.workflows.experiment import folds as crossval
from aigc_cli.workflows.experiment.folds import Prepared, other_prompts, prepare, train_cell
from aigc_cli.workflows.experiment.rated import Rated
from aigc_cli.workflows.experiment.source import Source

pytestmark = pytest.mark.usefixtures("few_resamples")

Validate = Callable[..., ProtocolResult]


@pytest.fixture(scope="module")
def resolved(tiny_folder: Path) -> Resolved:
    quick = {"epochs": "1", "batch_size": "16", "views": "1", "lr": "1e-3", "freeze": "all"}
    return resolve({"backbone": f"local-dir:{tiny_folder}", **quick})


@pytest.fixture(scope="module")
def source(demo: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Source:
    path = tmp_path_factory.mktemp("table") / "ratings.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        rows = [(s.name, s.prompt, s.mos_quality, s.mos_align, s.groups["distortion"]) for s in demo]
        csv.writer(stream).writerows([("name", "prompt", "mos_quality", "mos_align", "distortion"), *rows])
    return Source(path, demo[0].path.parent)


@pytest.fixture(scope="module")
def validate(resolved: Resolved, source: Source) -> Validate:
    def call(plan: Plan, source: Source = source, **options: Any) -> ProtocolResult:
        changes = options.pop("changes", {})
        changed = replace(resolved, recipe=replace(resolved.recipe, **changes))
        return cross_validate(changed, source, plan, **{"progress": Silent(), "device": "cpu", "run": "tiny"} | options)

    return call


def rows_of(rows: Sequence[dict[str, Any]], **wanted: str) -> list[dict[str, Any]]:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


# --- one fold


@pytest.fixture
def ready(demo: list[Sample], resolved: Resolved) -> Callable[..., Prepared]:
    def make(**changes: Any) -> Prepared:
        rated = Rated(demo, [digest_of(sample.path) for sample in demo], [])
        recipe = replace(resolved.recipe, **changes)
        return prepare(load_backbone(recipe.backbone), rated, recipe, "cpu", True, Silent())

    return make


@pytest.mark.parametrize("changes", [{"freeze": "all"}, {"freeze": "partial"}, {"checkpoint": "best", "epochs": 3}])
def test_what_is_held_out_has_no_say(
    changes: dict[str, Any], ready: Callable[..., Prepared], resolved: Resolved
) -> None:
    """Other scores on the rows held out, after another fold was trained: the same predictions of them."""
    one, recipe = ready(**changes), replace(resolved.recipe, **changes)
    groups, rows = one.rated.groups("prompt"), range(0, 12)
    held_out = [row for row, group in enumerate(groups) if group in {groups[r] for r in rows}]
    other = [row for row in range(len(groups)) if row not in held_out][:6]

    def predict(data: Any) -> np.ndarray[Any, Any]:
        found = train_cell(replace(one, data=data), groups, held_out, 0, recipe, Silent())
        assert found.cosine.shape == found.predicted["quality"].shape == (len(held_out),)
        return np.concatenate([*found.predicted.values(), found.cosine])

    before = predict(one.data)
    train_cell(one, groups, other, 1, recipe, Silent())
    targets = one.data.targets.clone()
    targets[held_out] = 1 - targets[held_out]
    np.testing.assert_array_equal(predict(replace(one.data, targets=targets)), before)
    targets[other] = 1 - targets[other]
    assert (predict(replace(one.data, targets=targets)) != before).any()


@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_a_checkpoint_is_chosen_inside_the_training_folds(
    checkpoint: str, ready: Callable[..., Prepared], resolved: Resolved, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, recipe = ready(), replace(resolved.recipe, checkpoint=checkpoint)
    groups = one.rated.groups("prompt")
    held_out = [row for row, group in enumerate(groups) if group in sorted(set(groups))[:2]]
    seen: list[tuple[list[int], list[int]]] = []
    fit = crossval.fit

    def recorded(judge: Any, data: Any, train: list[int], val: list[int], *rest: Any) -> Any:
        seen.append((train, val))
        return fit(judge, data, train, val, *rest)

    monkeypatch.setattr(crossval, "fit", recorded)
    train_cell(one, groups, held_out, 0, recipe, Silent())
    ((train, val),) = seen
    assert sorted([*train, *val, *held_out]) == list(range(len(groups)))
    assert bool(val) == (checkpoint == "best")
    parts = [{groups[row] for row in rows} for rows in (train, val, held_out)]
    assert sum(map(len, parts)) == len(set(groups))


def test_a_fold_that_diverges_says_so(ready: Callable[..., Prepared], resolved: Resolved) -> None:
    one = ready()
    data = replace(one.data, targets=torch.full_like(one.data.targets, torch.inf))
    with pytest.raises(Diverged, match="epoch 1"):
        train_cell(replace(one, data=data), one.rated.groups("prompt"), [0, 1], 0, resolved.recipe, Silent())


# --- the protocols


def test_prompts_apart(validate: Validate, demo: list[Sample], tmp_path: Path) -> None:
    found = validate(Plan("prompt", 3, save=tmp_path / "s.parquet"), output=tmp_path / "m.parquet")
    assert {row["split"] for row in found.metrics} == {"prompt-disjoint 3-fold"}
    assert {row["group"] for row in found.folds} == {f"fold={fold},repeat=0" for fold in range(3)}
    assert found.warnings == []
    assert [row["over_repeats"] for row in found.spread] == [None] * 3
    for target in ("quality", "consistency", "zero_shot_cosine"):
        for name in ("srocc", "plcc", "krocc"):
            (mean,) = rows_of(found.metrics, target=target, metric=name)
            single = rows_of(found.folds, target=target, metric=name)
            assert mean["value"] == pytest.approx(np.mean([row["value"] for row in single]))
            assert mean["n"] == len(demo) == sum(row["n"] for row in single)
    assert rows_of(found.metrics, target="zero_shot_cosine", metric="rmse") == []
    assert {row["metric"] for row in rows_of(found.metrics, target="quality")} == set(METRICS)
    folds = {split["fold"]: set[str]() for split in read_rows(tmp_path / "s.parquet")}
    for row in read_rows(tmp_path / "s.parquet"):
        folds[row["fold"]].add(row["prompt"])
    assert sum(map(len, folds.values())) == len({sample.prompt for sample in demo})
    assert read_rows(tmp_path / "m.parquet") == [*found.metrics, *found.folds]
    meta = pq.read_schema(tmp_path / "m.parquet").metadata
    assert meta[b"protocol"] == b"prompt"
    assert b"epochs: 1" in meta[b"recipe"]
    assert pq.read_schema(tmp_path / "s.parquet").remove_metadata() == SCHEMAS["splits"]


def test_an_image_split_stands_beside_prompts_apart_and_warns(validate: Validate, tmp_path: Path) -> None:
    found = validate(Plan("image", 3, save=tmp_path / "s.parquet"))
    assert list(dict.fromkeys(row["split"] for row in found.metrics)) == [
        "image-level 3-fold",
        "prompt-disjoint 3-fold",
    ]
    (warning,) = found.warnings
    assert warning.startswith("image-level 3-fold: ")
    assert "prompts seen in training reappear in what is reported" in warning
    assert "The prompt-disjoint figures beside it" in warning
    image, prompt = (
        [r["value"] for r in rows_of(found.metrics, split=s, target="quality")]
        for s in ("image-level 3-fold", "prompt-disjoint 3-fold")
    )
    assert image != prompt
    assert prompt == [row["value"] for row in rows_of(validate(Plan("prompt", 3)).metrics, target="quality")]
    assert Counter(row["split"] for row in read_rows(tmp_path / "s.parquet")) == {"image": 48, "prompt": 48}


def test_a_column_apart(validate: Validate, demo: list[Sample], tmp_path: Path) -> None:
    found = validate(Plan("group:distortion", 2, save=tmp_path / "s.parquet"), by="distortion")
    fold_of = {row["name"]: row["fold"] for row in read_rows(tmp_path / "s.parquet")}
    values = {sample.groups["distortion"] for sample in demo}
    for value in values:
        assert len({fold_of[sample.name] for sample in demo if sample.groups["distortion"] == value}) == 1
    assert {row["split"] for row in found.metrics} == {"distortion-disjoint 2-fold"}
    assert "have images in several folds" in found.warnings[0]
    assert {row["group"] for row in found.metrics} == {"all", *(f"distortion={value}" for value in values)}
    counts = Counter(sample.groups["distortion"] for sample in demo)
    for row in rows_of(found.metrics, target="quality", metric="rmse"):
        assert row["n"] == (48 if row["group"] == "all" else counts[row["group"].removeprefix("distortion=")])


def test_repeats_draw_anew_and_show_the_noise(validate: Validate, tmp_path: Path) -> None:
    found = validate(Plan("prompt", 3, 2, save=tmp_path / "s.parquet"))
    assert {row["split"] for row in found.metrics} == {"prompt-disjoint 3-fold x 2"}
    rows = read_rows(tmp_path / "s.parquet")
    parts: dict[tuple[int, int], set[str]] = {}
    for row in rows:
        parts.setdefault((row["repeat"], row["fold"]), set()).add(row["name"])
    assert [parts[0, fold] for fold in range(3)] != [parts[1, fold] for fold in range(3)]
    assert all(sum(len(parts[repeat, fold]) for fold in range(3)) == 48 for repeat in range(2))
    assert {row["n"] for row in rows_of(found.metrics, metric="rmse")} == {48}
    single = np.array([row["value"] for row in rows_of(found.folds, target="quality", metric="srocc")]).reshape(2, 3)
    spread = {row["target"]: row for row in found.spread}["quality"]
    assert spread["over_repeats"] == pytest.approx(np.std(single.mean(1), ddof=1))
    assert spread["over_folds"] == pytest.approx(np.sqrt(single.var(axis=1, ddof=1).mean()))


# --- folds from a file


@pytest.fixture(scope="module")
def first(validate: Validate, tmp_path_factory: pytest.TempPathFactory) -> tuple[ProtocolResult, Path]:
    path = tmp_path_factory.mktemp("first") / "s.parquet"
    return validate(Plan("prompt", 2, save=path)), path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_saved_folds_give_the_same_figures(
    suffix: str, first: tuple[ProtocolResult, Path], validate: Validate, tmp_path: Path
) -> None:
    found, path = first
    write_table(tmp_path / f"s{suffix}", "splits", read_rows(path), {})
    again = validate(Plan("prompt", saved=tmp_path / f"s{suffix}", save=tmp_path / "t.parquet"))
    assert again.metrics == found.metrics
    assert read_rows(tmp_path / "t.parquet") == read_rows(path)


def test_folds_of_ones_own(validate: Validate, demo: list[Sample], tmp_path: Path) -> None:
    """A table that a person wrote, names and folds only; that prompts are on both sides is told and not hidden."""
    path = tmp_path / "mine.csv"
    path.write_text("name,fold\n" + "".join(f"{s.name},{i % 2 + 1}\n" for i, s in enumerate(demo)))
    found = validate(Plan("prompt", saved=path))
    assert {row["split"] for row in found.metrics} == {"saved 2-fold"}
    assert found.warnings[0].startswith("saved 2-fold: ")
    assert "have images in several folds" in found.warnings[0]


def test_a_target_that_nobody_rated(validate: Validate, demo: list[Sample], tmp_path: Path) -> None:
    path = tmp_path / "half.csv"
    path.write_text("name,prompt,mos_quality\n" + "".join(f"{s.name},{s.prompt},{s.mos_quality}\n" for s in demo))
    found = validate(Plan("prompt", 2), Source(path, demo[0].path.parent))
    for row in rows_of(found.metrics, target="consistency"):
        assert (row["value"], row["ci_low"], row["n"]) == (None, None, 0)
        assert row["reason"].endswith("n = 0, at least 2 are needed")
    assert [row["target"] for row in found.spread] == ["quality"]


def saved(demo: Sequence[Sample], **changes: Any) -> list[dict[str, Any]]:
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
def test_a_file_that_does_not_fit(
    change: Callable[..., Any], message: str, validate: Validate, demo: list[Sample], tmp_path: Path
) -> None:
    write_table(tmp_path / "s.parquet", "splits", change(saved(demo)), {})
    with pytest.raises(AigcError) as caught:
        validate(Plan("prompt", saved=tmp_path / "s.parquet"), output=tmp_path / "m.csv")
    assert message in caught.value.message
    assert [path.name for path in tmp_path.iterdir()] == ["s.parquet"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,fold\na.jpg,one\n", "Expected whole numbers in the column fold of"),
        ("image,fold\na.jpg,1\n", "Expected a column name in"),
        (None, "expected a CSV file, found nothing there"),
    ],
)
def test_a_file_that_is_no_table_of_splits(text: str | None, message: str, validate: Validate, tmp_path: Path) -> None:
    if text:
        (tmp_path / "s.csv").write_text(text)
    with pytest.raises(AigcError) as caught:
        validate(Plan("prompt", saved=tmp_path / "s.csv"))
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan("prompts"), "Expected the protocol prompt, image or group:COLUMN, found 'prompts'."),
        (Plan("group:"), "Expected the protocol prompt, image or group:COLUMN, found 'group:'."),
        (Plan("group:artist"), "Expected a column to group by out of prompt, name, distortion, found 'artist'."),
        (Plan("prompt", 1), "Expected at least 2 folds and 1 repeat, found 1 and 1."),
        (Plan("prompt", 2, 0), "Expected at least 2 folds and 1 repeat, found 2 and 0."),
        (Plan("image", 49), "Expected at least 49 different values of name for 49 folds, found 48."),
    ],
)
def test_a_plan_that_cannot_be(plan: Plan, message: str, validate: Validate) -> None:
    with pytest.raises(AigcError) as caught:
        validate(plan)
    assert caught.value.message == message


def test_images_that_cannot_be_read_are_left_out_and_may_stand_in_the_file(
    validate: Validate, demo: list[Sample], source: Source, tmp_path: Path
) -> None:
    assert source.data is not None
    table = tmp_path / "more.csv"
    table.write_text(source.data.read_text() + "gone.jpg,x,1,1,none\n")
    rows = [*saved(demo), {"name": "gone.jpg", "split": "prompt", "fold": 0, "repeat": 0}]
    write_table(tmp_path / "s.parquet", "splits", rows, {})
    found = validate(Plan("prompt", saved=tmp_path / "s.parquet"), Source(table, source.images))
    assert list(found.skipped) == [("gone.jpg", "missing_file")]
    assert {row["n"] for row in rows_of(found.metrics, metric="rmse")} == {48}


def test_prompts_change_hands_between_images_of_about_equal_quality() -> None:
    prompts, quality = ["a", "b", "a", "a", "c"], [1.0, 2.0, 1.1, 3.0, math.nan]
    assert other_prompts(prompts, quality) == ["b", "a", "b", "c", "a"]
    assert other_prompts(["a", "a"], [1.0, 2.0]) is None
