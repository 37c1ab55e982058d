"""Ablation: every variant is trained on the same folds, differences are paired, and a resumed run trains the rest."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from rated import write_table

from aigc_cli.errors import AigcError, Interruption
from aigc_cli.images.sample import TARGETS, Sample
from aigc_cli.metrics.splits import Split
from aigc_cli.progress import SilentProgress
from aigc_cli.recipe import Recipe, resolve_recipe
from aigc_cli.storage.atomic_files import Output
from aigc_cli.storage.results import read_parquet_rows
from aigc_cli.storage.schemas import SCHEMAS
from aigc_cli.training import loop
from aigc_cli.workflows.ablate.ablate import AblationPlan, run_ablation
from aigc_cli.workflows.ablate.summary import VariantSummary, format_estimate
from aigc_cli.workflows.experiment import folds as fold_driver
from aigc_cli.workflows.experiment.source import Compute, Source

pytestmark = pytest.mark.usefixtures("few_resamples")

TWO: dict[str, dict[str, Any]] = {"traditional": {"residual": False}, "residual": {"residual": True}}
WRITTEN = ["ablation.json", "ablation.md", "ablation.parquet", "ablation.png", "ablation.svg", "cells"]


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> Recipe:
    quick = {"epochs": "1", "batch_size": "16", "views": "1", "lr": "1e-3"}
    return resolve_recipe({"backbone": f"local-dir:{tiny_folder}", "freeze": "all", **quick}).recipe


@pytest.fixture(scope="module")
def source(demo: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Source:
    return Source(write_table(tmp_path_factory.mktemp("ablated") / "ratings.csv", demo), demo[0].path.parent)


def run(
    base: Recipe,
    source: Source,
    out: Path,
    variants: Mapping[str, Mapping[str, Any]] = TWO,
    folds: int = 2,
    seeds: Sequence[int] = (0,),
    resume: bool = False,
) -> list[VariantSummary]:
    plan = AblationPlan(base, variants, folds, seeds)
    return run_ablation(plan, source, Output(out, resume=resume), Compute("cpu"), SilentProgress())


Calls = list[tuple[int, int, tuple[int, ...]]]  # (fold, seed, held-out rows) of every training


@pytest.fixture(scope="module")
def calls() -> Calls:
    return []


@pytest.fixture(scope="module", autouse=True)
def _record_calls(calls: Calls) -> Any:
    plain = fold_driver.train_fold

    def train_fold(ready: Any, groups: Any, held_out: Sequence[int], fold: int, recipe: Recipe, progress: Any) -> Any:
        calls.append((fold, recipe.seed, tuple(held_out)))
        return plain(ready, groups, held_out, fold, recipe, progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold_driver, "train_fold", train_fold)
        yield


Ablated = tuple[Path, list[VariantSummary], Calls]


@pytest.fixture(scope="module")
def ablated(base: Recipe, source: Source, calls: Calls, tmp_path_factory: pytest.TempPathFactory) -> Ablated:
    """One small ablation: its folder, its summaries and its trainings."""
    folder, before = tmp_path_factory.mktemp("runs") / "ablation", len(calls)
    summaries = run(base, source, folder, seeds=(0, 1))
    return folder, summaries, calls[before:]


# --- the results


def test_the_tables_of_an_ablation(ablated: Ablated) -> None:
    folder, _, _ = ablated
    assert sorted(path.name for path in folder.iterdir()) == WRITTEN
    assert len(list((folder / "cells").iterdir())) == 8
    assert pq.read_schema(folder / "ablation.parquet").remove_metadata() == SCHEMAS["ablation"]
    rows = read_parquet_rows(folder / "ablation.parquet")
    kinds = [(target, metric) for target in TARGETS for metric in ("srocc", "plcc")]
    for variant in TWO:
        keys = [(r["fold"], r["seed"], r["target"], r["metric"]) for r in rows if r["variant"] == variant]
        assert sorted(keys) == sorted((fold, seed, *kind) for fold in (0, 1) for seed in (0, 1) for kind in kinds)
    assert all(-1 <= r["value"] <= 1 for r in rows if r["value"] is not None)
    trained = {r["variant"]: r["trainable_parameters"] for r in rows if r["variant"] in TWO}
    assert trained["residual"] > trained["traditional"] > 0


def test_every_variant_has_the_same_prompt_disjoint_folds(ablated: Ablated, demo: list[Sample]) -> None:
    _, _, trainings = ablated
    assert len(trainings) == 8
    rows = {fold: {held_out for number, _, held_out in trainings if number == fold} for fold in (0, 1)}
    (one,), (two,) = rows.values()
    assert sorted(one + two) == list(range(len(demo)))
    assert not {demo[row].prompt for row in one} & {demo[row].prompt for row in two}


def test_the_means_are_over_folds_and_seeds(ablated: Ablated) -> None:
    folder, summaries, _ = ablated
    rows = read_parquet_rows(folder / "ablation.parquet")
    by_name = {summary.variant: summary for summary in summaries}
    assert list(by_name)[:2] == list(TWO)
    for target in TARGETS:
        mean = {}
        for variant in TWO:
            wanted = {"variant": variant, "target": target, "metric": "srocc"}
            found = [r["value"] for r in rows if wanted.items() <= r.items()]
            assert len(found) == 4
            mean[variant] = float(np.mean(found))
            assert by_name[variant].srocc[target].value == pytest.approx(mean[variant])
        difference = by_name["residual"].difference[target]
        assert difference.value == pytest.approx(mean["residual"] - mean["traditional"])
        assert difference.low is not None
        assert difference.high is not None
        assert difference.low <= difference.high
    assert by_name["traditional"].difference == {}


def test_the_page_shows_every_variant(ablated: Ablated, demo: list[Sample]) -> None:
    folder, summaries, _ = ablated
    page = (folder / "ablation.md").read_text(encoding="utf-8")
    assert f"{len(demo)} images of ratings.csv, 2 prompt-disjoint folds, seeds 0, 1." in page
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert [line.split("|")[1].strip() for line in table[2:]] == [summary.variant for summary in summaries]
    assert format_estimate(summaries[1].srocc["quality"]) in page
    assert format_estimate(summaries[1].difference["quality"], "+.3f") in page


@pytest.mark.slow
def test_undecodable_images_are_not_counted(base: Recipe, demo: list[Sample], tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for sample in demo[:24]:
        (folder / sample.name).write_bytes(sample.path.read_bytes())
    (folder / demo[3].name).write_text("no image")
    run(base, Source(write_table(tmp_path / "t.csv", demo[:24]), folder), tmp_path / "out", {"one": {}})
    assert "23 images of t.csv" in (tmp_path / "out" / "ablation.md").read_text()


def test_wrong_input_writes_nothing(base: Recipe, source: Source, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(AigcError, match="Expected at least 2 folds, found 1"):
        run(base, source, out, folds=1)
    with pytest.raises(AigcError, match="at least 9 different values of prompt for 9 folds, found 8"):
        run(base, source, out, folds=9)
    with pytest.raises(AigcError, match="Variant 'no target'"):
        run(base, source, out, {"no target": {"w_q": 0.0, "w_c": 0.0}})
    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("precious")
    with pytest.raises(AigcError, match="out exists"):
        run(base, source, out)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


# --- resuming


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The table without training times."""
    return [{**row, "seconds": None} for row in read_parquet_rows(folder / "ablation.parquet")]


def test_a_resumed_ablation_trains_only_the_missing_folds(
    base: Recipe, source: Source, ablated: Ablated, tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, begun, plain = shutil.copytree(ablated[0], tmp_path / "out"), len(calls), fold_driver.train_fold
    for fold in sorted((out / "cells").iterdir())[:3]:
        fold.unlink()
    (out / "ablation.parquet").unlink()

    def interrupt(*given: Any) -> Any:
        if len(calls) > begun:
            raise KeyboardInterrupt
        return plain(*given)

    monkeypatch.setattr(fold_driver, "train_fold", interrupt)
    with pytest.raises(Interruption, match="6 of 8 trainings are finished") as caught:
        run(base, source, out, seeds=(0, 1), resume=True)
    assert caught.value.exit_code == 130
    assert f"--resume -o {out}" in caught.value.hint
    assert not (out / "ablation.parquet").exists()
    monkeypatch.setattr(fold_driver, "train_fold", plain)
    summaries = run(base, source, out, seeds=(0, 1), resume=True)
    assert len(calls) == begun + 3
    assert read_rows(out) == read_rows(ablated[0])
    assert [s.srocc for s in summaries] == [s.srocc for s in ablated[1]]


@pytest.mark.slow
def test_a_resumed_ablation_may_have_more_variants_and_seeds(
    base: Recipe, source: Source, ablated: Ablated, tmp_path: Path, calls: Calls
) -> None:
    out, begun = shutil.copytree(ablated[0], tmp_path / "out"), len(calls)
    summaries = run(base, source, out, {**TWO, "wide": {"hidden_q": 64}}, seeds=(0, 1, 2), resume=True)
    assert [summary.variant for summary in summaries][:3] == [*TWO, "wide"]
    assert len(calls) == begun + 2 * 2 + 3 * 2  # the new seed of two variants, and the new variant


def test_a_changed_plan_is_not_resumed(
    base: Recipe, source: Source, ablated: Ablated, demo: list[Sample], tmp_path: Path, calls: Calls
) -> None:
    out, begun = ablated[0], len(calls)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    fewer = Source(write_table(tmp_path / "fewer.csv", demo[:-1]), source.images)
    wider = {**TWO, "residual": {"residual": True, "hidden_q": 64}}
    changes: list[tuple[Callable[[], Any], str]] = [
        (lambda: run(base, source, out, wider, resume=True), r"hidden q of 'residual' \(128 then, 64 now\)"),
        (lambda: run(base, source, out, folds=3, resume=True), r"folds \(2 then, 3 now\)"),
        (lambda: run(base, fewer, out, resume=True), "the images, prompts or scores"),
        (lambda: run(base, source, tmp_path / "elsewhere", resume=True), "Expected an ablation to resume in .*none"),
    ]
    for resume, message in changes:
        with pytest.raises(AigcError, match=message):
            resume()
    assert {path: path.read_bytes() for path in before} == before
    assert len(calls) == begun


# --- failures


@pytest.mark.slow
def test_a_failed_variant_has_rows_with_the_reason(base: Recipe, source: Source, tmp_path: Path) -> None:
    missing = {"backbone": f"local-dir:{tmp_path / 'none'}"}
    fit = loop.fit_model

    def diverge(model: Any, data: Any, split: Split, recipe: Recipe, progress: Any, **more: Any) -> Any:
        result = fit(model, data, split, recipe, progress, **more)
        if recipe.lr == 1.0:
            result.diverged = "the loss became nan in epoch 1"
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "fit_model", diverge)
        found = run(base, source, tmp_path / "out", {"fine": {}, "explodes": {"lr": 1.0}, "nowhere": missing})
    summaries = {summary.variant: summary for summary in found}
    assert summaries["fine"].srocc["quality"].value is not None
    for name, reason in (("explodes", "2 of 2 failed: Training diverged"), ("nowhere", "2 of 2 failed: ")):
        assert summaries[name].srocc["quality"].value is None
        assert summaries[name].srocc["quality"].reason.startswith(reason)
        assert summaries[name].difference == {}
        rows = [row for row in read_parquet_rows(tmp_path / "out" / "ablation.parquet") if row["variant"] == name]
        assert len(rows) == 2 * 2 * 2
        assert all(row["value"] is None and row["reason"] for row in rows)
        assert f"- {name}: {reason}" in (tmp_path / "out" / "ablation.md").read_text()


def test_an_ablation_without_any_result_is_an_error(base: Recipe, source: Source, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(AigcError, match="Every variant failed: "):
        run(base, source, tmp_path / "out", {"nowhere": {"backbone": f"local-dir:{tmp_path}"}})
    assert all(row["reason"] for row in read_parquet_rows(tmp_path / "out" / "ablation.parquet"))
