"""Ablation: every variant on the same folds, differences in pairs, and no verdict that the numbers don't carry."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from rated import write_table

from aigc_cli.errors import AigcError, Interrupted
from aigc_cli.images.sample import Sample
from aigc_cli.metrics import by_name as metrics
from aigc_cli.model.model import Judge
from aigc_cli.progress import Silent
from aigc_cli.recipe import Recipe, resolve
from aigc_cli.storage.results import read_rows
from aigc_cli.storage.schemas import SCHEMAS
from aigc_cli.training.loop import Data
from aigc_cli.workflows.ablate import ablate as ablation
from aigc_cli.workflows.ablate import summary
from aigc_cli.workflows.ablate.ablate import ablate
from aigc_cli.workflows.ablate.summary import Summary, shown
from aigc_cli.workflows.experiment import folds as module
from aigc_cli.workflows.experiment.rated import TARGETS
from aigc_cli.workflows.experiment.source import Source

TWO: dict[str, dict[str, Any]] = {"traditional": {"residual": False}, "residual": {"residual": True}}
WRITTEN = ["ablation.json", "ablation.md", "ablation.parquet", "ablation.png", "ablation.svg", "cells"]


@pytest.fixture(scope="module", autouse=True)
def _few_resamples() -> Iterator[None]:
    """The intervals have tests of their own, and are most of a small ablation's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary, "fold_mean", partial(metrics.fold_mean, resamples=200))
        yield


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> Recipe:
    quick = {"epochs": "1", "batch_size": "16", "views": "1", "lr": "1e-3"}
    return resolve({"backbone": f"local-dir:{tiny_folder}", "freeze": "all", **quick}).recipe


@pytest.fixture(scope="module")
def source(demo: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Source:
    return Source(write_table(tmp_path_factory.mktemp("ablated") / "ratings.csv", demo), demo[0].path.parent)


Done = tuple[Path, list[Summary], list[tuple[int, ...]]]


@pytest.fixture(scope="module")
def done(base: Recipe, source: Source, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """One small ablation: its folder, its summaries, and the rows that were held out, call by call."""
    held_out: list[tuple[int, ...]] = []
    plain = module.predict

    def predict(judge: Judge, data: Data, rows: Sequence[int]) -> Any:
        held_out.append(tuple(rows))
        return plain(judge, data, rows)

    folder = tmp_path_factory.mktemp("runs") / "ablation"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "predict", predict)
        summaries = ablate(base, TWO, source, folder, progress=Silent(), folds=2, seeds=(0, 1), device="cpu")
    return folder, summaries, held_out


# --- a real, small one


def test_the_tables_of_an_ablation(done: Done) -> None:
    folder, _, _ = done
    assert sorted(path.name for path in folder.iterdir()) == WRITTEN
    assert len(list((folder / "cells").iterdir())) == 8
    assert pq.read_schema(folder / "ablation.parquet").remove_metadata() == SCHEMAS["ablation"]
    rows = read_rows(folder / "ablation.parquet")
    for variant in TWO:
        keys = [(r["fold"], r["seed"], r["target"], r["metric"]) for r in rows if r["variant"] == variant]
        assert len(set(keys)) == len(keys)
        kinds = {(target, metric) for target in TARGETS for metric in ("srocc", "plcc")}
        assert set(keys) >= {(fold, seed, *kind) for fold in (0, 1) for seed in (0, 1) for kind in kinds}
    assert all(r["value"] is None or -1 <= r["value"] <= 1 for r in rows)
    trained = {r["variant"]: r["trainable_parameters"] for r in rows if r["variant"] in TWO}
    assert trained["residual"] > trained["traditional"] > 0


def test_every_variant_has_the_same_prompt_disjoint_folds(done: Done, demo: list[Sample]) -> None:
    _, _, held_out = done
    parts = set(held_out)
    assert len(parts) == 2
    one, two = parts
    assert sorted(one + two) == list(range(len(demo)))
    assert not {demo[row].prompt for row in one} & {demo[row].prompt for row in two}
    assert held_out.count(one) == held_out.count(two) >= 4


def test_the_means_are_over_folds_and_seeds(done: Done) -> None:
    folder, summaries, _ = done
    rows = read_rows(folder / "ablation.parquet")
    by_name = {summary.variant: summary for summary in summaries}
    assert list(by_name)[:2] == list(TWO)
    mean = {}
    for variant in TWO:
        for target in TARGETS:
            wanted = {"variant": variant, "target": target, "metric": "srocc"}
            found = [r["value"] for r in rows if wanted.items() <= r.items()]
            assert len(found) == 4
            mean[variant, target] = float(np.mean(found))
            assert by_name[variant].srocc[target].value == pytest.approx(mean[variant, target])
    for target in TARGETS:
        difference = by_name["residual"].difference[target]
        assert difference.value == pytest.approx(mean["residual", target] - mean["traditional", target])
        assert difference.low is not None
        assert difference.high is not None
        assert difference.low <= difference.high
    assert by_name["traditional"].difference == {}


def test_the_page_shows_every_variant(done: Done, demo: list[Sample]) -> None:
    folder, summaries, _ = done
    page = (folder / "ablation.md").read_text(encoding="utf-8")
    assert f"{len(demo)} images of ratings.csv, 2 prompt-disjoint folds, seeds 0, 1." in page
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert [line.split("|")[1].strip() for line in table[2:]] == [summary.variant for summary in summaries]
    assert shown(summaries[1].srocc["quality"]) in page
    assert shown(summaries[1].difference["quality"], signed=True) in page


def test_images_that_cannot_be_read_are_not_counted(base: Recipe, demo: list[Sample], tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for sample in demo[:24]:
        (folder / sample.name).write_bytes(sample.path.read_bytes())
    (folder / demo[3].name).write_text("no image")
    source = Source(write_table(tmp_path / "t.csv", demo[:24]), folder)
    ablate(base, {"one": {}}, source, tmp_path / "out", progress=Silent(), folds=2, device="cpu")
    assert "23 images of t.csv" in (tmp_path / "out" / "ablation.md").read_text()


def test_wrong_input_writes_nothing(base: Recipe, source: Source, demo: list[Sample], tmp_path: Path) -> None:
    with pytest.raises(AigcError, match="Expected at least 2 folds, found 1"):
        run(base, source, tmp_path / "out", folds=1)
    with pytest.raises(AigcError, match="to split into 9 parts, found 8"):
        run(base, source, tmp_path / "out", folds=9)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    with pytest.raises(AigcError, match="out exists"):
        run(base, source, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


# --- what goes wrong, and going on


def rows_without_seconds(folder: Path) -> list[dict[str, Any]]:
    return [{**row, "seconds": None} for row in read_rows(folder / "ablation.parquet")]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(fold, seed) of every training that really happens."""
    calls: list[tuple[int, int]] = []
    plain = ablation.train_cell

    def train_cell(*given: Any) -> Any:
        calls.append((given[3], given[4].seed))
        return plain(*given)

    monkeypatch.setattr(ablation, "train_cell", train_cell)
    return calls


def run(base: Recipe, source: Source, out: Path, variants: Any = TWO, **options: Any) -> list[Summary]:
    return ablate(base, variants, source, out, progress=Silent(), **{"folds": 2, "device": "cpu", **options})


def test_resuming_trains_only_what_is_missing(
    base: Recipe, source: Source, done: Done, tmp_path: Path, trained: list[tuple[int, int]]
) -> None:
    out = tmp_path / "out"
    run(base, source, out, seeds=(0, 1))
    assert rows_without_seconds(out) == rows_without_seconds(done[0])
    trained.clear()
    for cell in sorted((out / "cells").iterdir())[:3]:
        cell.unlink()
    (out / "ablation.parquet").unlink()
    summaries = run(base, source, out, seeds=(0, 1), resume=True)
    assert len(trained) == 3
    assert rows_without_seconds(out) == rows_without_seconds(done[0])
    assert [s.srocc for s in summaries] == [s.srocc for s in done[1]]
    trained.clear()
    run(base, source, out, {**TWO, "wide": {"hidden_q": 64}}, seeds=(0, 1, 2), resume=True)
    assert len(trained) == 2 * 2 + 3 * 2  # the new seed of the two old variants, and all of the new variant


def test_an_interrupted_ablation_keeps_what_is_finished(
    base: Recipe, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = ablation.train_cell, []

    def train_cell(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(*given)

    monkeypatch.setattr(ablation, "train_cell", train_cell)
    with pytest.raises(Interrupted, match="2 of 4 trainings are finished") as caught:
        run(base, source, tmp_path / "out")
    assert caught.value.exit_code == 130
    assert f"--resume -o {tmp_path / 'out'}" in caught.value.hint
    run(base, source, tmp_path / "out", resume=True)
    assert len(calls) == 5


def test_what_changed_is_not_resumed(base: Recipe, source: Source, demo: list[Sample], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(base, source, out, {"one": {}})
    before = sorted((path.name, path.read_bytes()) for path in out.iterdir() if path.is_file())
    with pytest.raises(AigcError, match=r"hidden_q of 'one' \(128 then, 64 now\)"):
        run(base, source, out, {"one": {"hidden_q": 64}}, resume=True)
    with pytest.raises(AigcError, match=r"folds \(2 then, 3 now\)"):
        run(base, source, out, {"one": {}}, folds=3, resume=True)
    fewer = Source(write_table(tmp_path / "fewer.csv", demo[:-1]), source.images)
    with pytest.raises(AigcError, match="the images, prompts or scores"):
        run(base, fewer, out, {"one": {}}, resume=True)
    with pytest.raises(AigcError, match="found none"):
        run(base, source, tmp_path / "elsewhere", {"one": {}}, resume=True)
    assert sorted((path.name, path.read_bytes()) for path in out.iterdir() if path.is_file()) == before


def test_a_variant_that_fails_is_a_row(base: Recipe, source: Source, tmp_path: Path) -> None:
    variants = {"fine": {}, "explodes": {"lr": 1.0}, "nowhere": {"backbone": f"local-dir:{tmp_path / 'none'}"}}
    with pytest.MonkeyPatch.context() as patch:
        fit = module.fit

        def diverging(judge: Judge, data: Data, train: Any, val: Any, recipe: Recipe, progress: Any) -> Any:
            result = fit(judge, data, train, val, recipe, progress)
            if recipe.lr == 1.0:
                result.diverged = "the loss became nan in epoch 1"
            return result

        patch.setattr(module, "fit", diverging)
        summaries = {s.variant: s for s in run(base, source, tmp_path / "out", variants)}
    assert summaries["fine"].srocc["quality"].value is not None
    for name, reason in (("explodes", "2 of 2 failed: Training diverged"), ("nowhere", "2 of 2 failed: ")):
        assert summaries[name].srocc["quality"].value is None
        assert summaries[name].srocc["quality"].reason.startswith(reason)
        assert summaries[name].difference == {}
        rows = [row for row in read_rows(tmp_path / "out" / "ablation.parquet") if row["variant"] == name]
        assert len(rows) == 2 * 2 * 2
        assert all(row["value"] is None and row["reason"] for row in rows)
        assert f"- {name}: {reason}" in (tmp_path / "out" / "ablation.md").read_text()


def test_when_every_variant_fails_the_reason_is_said(base: Recipe, source: Source, tmp_path: Path) -> None:
    with pytest.raises(AigcError, match="Every variant failed: "):
        run(base, source, tmp_path / "out", {"nowhere": {"backbone": f"local-dir:{tmp_path / 'none'}"}})
    assert all(row["reason"] for row in read_rows(tmp_path / "out" / "ablation.parquet"))


def test_a_contradiction_in_a_variant_names_it(base: Recipe, source: Source, tmp_path: Path) -> None:
    with pytest.raises(AigcError, match="Variant 'none of both'"):
        run(base, source, tmp_path / "out", {"none of both": {"w_q": 0.0, "w_c": 0.0}})
    assert not (tmp_path / "out").exists()
