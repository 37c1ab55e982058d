"""Ablation: every variant on the same folds, differences in pairs, and no verdict that the numbers don't carry."""

import csv
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from aigc_cli.core import metrics
from aigc_cli.core.metrics import Estimate
from aigc_cli.core.training import Data, Judge
from aigc_cli.errors import AigcError
from aigc_cli.io.results import SCHEMAS, read_rows
from aigc_cli.io.samples import Sample
from aigc_cli.progress import Silent
from aigc_cli.recipe import Recipe, read_recipe, resolve
from aigc_cli.workflows import ablate as module
from aigc_cli.workflows.ablate import TARGETS, VARIANTS, Summary, ablate, recipe_variants, shown, summarise
from aigc_cli.workflows.ratings import Source

TWO: dict[str, dict[str, Any]] = {"traditional": {"residual": False}, "residual": {"residual": True}}
UNTOLD = "can't tell at this n"


@pytest.fixture(scope="module", autouse=True)
def _few_resamples() -> Iterator[None]:
    """The intervals have tests of their own, and are most of a small ablation's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "fold_mean", partial(metrics.fold_mean, resamples=200))
        yield


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> Recipe:
    quick = {"epochs": "1", "batch_size": "16", "views": "1", "lr": "1e-3"}
    return resolve({"backbone": f"local-dir:{tiny_folder}", "freeze": "all", **quick}).recipe


def write_table(path: Path, samples: Sequence[Sample]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        rows = [(s.name, s.prompt, s.mos_quality, s.mos_align) for s in samples]
        csv.writer(stream).writerows([("name", "prompt", "mos_quality", "mos_align"), *rows])
    return path


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
    assert sorted(path.name for path in folder.iterdir()) == ["ablation.md", "ablation.parquet"]
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
    def run(source: Source = source, folds: int = 2) -> None:
        ablate(base, TWO, source, tmp_path / "out", progress=Silent(), folds=folds, device="cpu")

    with pytest.raises(AigcError, match="Expected at least 2 folds, found 1"):
        run(folds=1)
    with pytest.raises(AigcError, match="to split into 9 parts, found 8"):
        run(folds=9)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    with pytest.raises(AigcError, match="out exists"):
        run()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_variants_are_differences_between_recipes(tmp_path: Path) -> None:
    assert list(VARIANTS) == ["traditional", "residual", "residual + partial freeze", "residual + all frozen"]
    for changes in VARIANTS.values():
        Recipe(**changes)
    (tmp_path / "mine.yaml").write_text("extends: quick\nlr: 2e-4\n")
    found = recipe_variants(["small", str(tmp_path / "mine.yaml")])
    assert list(found) == ["small", "mine"]
    assert found["mine"] == read_recipe(tmp_path / "mine.yaml")
    with pytest.raises(AigcError, match="found 'smal'"):
        recipe_variants(["smal"])


# --- verdicts on made-up folds


def fold(number: int, noise: float, n: int, truth: str = "same") -> Any:
    """A fold of n images, two for each prompt, whose predictions are the human scores with `noise`."""
    random = np.random.default_rng(number if truth == "same" else number + 99)
    human = np.random.default_rng(number).uniform(0, 5, n)
    predicted = {target: human + noise * random.standard_normal(n) for target in TARGETS}
    groups = [f"{number}.{i // 2}" for i in range(n)]
    empty = {name: 0 for name in module._Fold.__dataclass_fields__}
    both = {"human": dict.fromkeys(TARGETS, human), "predicted": predicted, "groups": groups, "cosine": human}
    return module._Fold(**empty | {"number": number, "seconds": 1.0, "trainable": 5} | both)


@pytest.mark.parametrize(
    ("noises", "n", "verdict"),
    [((3.0, 0.3), 60, "better"), ((0.3, 3.0), 60, "worse"), ((1.5, 1.4), 8, UNTOLD)],
)
def test_verdicts(noises: tuple[float, float], n: int, verdict: str) -> None:
    results = {str(i): [fold(k, noise, n, str(i)) for k in range(3)] for i, noise in enumerate(noises)}
    first, second = summarise(results)[:2]
    assert (first.difference, first.verdict) == ({}, {})
    for target in TARGETS:
        low, high = second.difference[target].low, second.difference[target].high
        assert low is not None
        assert high is not None
        assert {"better": low > 0, "worse": high < 0, UNTOLD: low <= 0 <= high}[verdict]
        assert second.verdict[target] == verdict


def test_a_variant_against_itself_is_no_difference() -> None:
    same = [fold(k, 1.0, 20) for k in range(2)]
    _, second = summarise({"a": same, "b": same})[:2]
    estimate = second.difference["quality"]
    assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0)
    assert second.verdict["quality"] == UNTOLD


def test_constant_predictions_have_no_verdict() -> None:
    flat = [fold(k, 1.0, 20) for k in range(2)]
    for one in flat:
        one.predicted["quality"][:] = 2.5
    _, second = summarise({"a": [fold(k, 1.0, 20) for k in range(2)], "flat": flat})[:2]
    assert second.srocc["quality"].value is None
    assert "quality" not in second.difference
    assert "consistency" in second.difference


def test_numbers_as_they_are_shown() -> None:
    assert shown(None) == shown(Estimate(None, None, None, 0)) == "-"
    assert shown(Estimate(0.5, 0.25, 0.75, 9)) == "0.500 [0.250, 0.750]"
    assert shown(Estimate(0.5, -0.25, 0.75, 9), signed=True) == "+0.500 [-0.250, +0.750]"
    assert shown(Estimate(0.5, None, None, 9)) == "0.500"
