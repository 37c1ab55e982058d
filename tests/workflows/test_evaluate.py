"""Evaluation: prompts seen in training are reported apart from unseen ones, and the figures agree with SciPy."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from rated import write_table
from scipy import stats

from aigc_cli.errors import AigcError
from aigc_cli.images.reader import decode_image
from aigc_cli.images.sample import Sample
from aigc_cli.metrics.by_name import METRICS
from aigc_cli.model.loading import load_backbone
from aigc_cli.mos_scale import MosScale
from aigc_cli.progress import SilentProgress
from aigc_cli.recipe import resolve_recipe
from aigc_cli.storage.atomic_files import Output
from aigc_cli.storage.results import read_parquet_rows
from aigc_cli.storage.schemas import SCHEMAS
from aigc_cli.workflows.evaluate import EvaluationPlan, EvaluationResult, evaluate_model
from aigc_cli.workflows.experiment.source import Compute, Source
from aigc_cli.workflows.score.scorer import Scorer
from aigc_cli.workflows.train.calibrate import HeldOutSource
from aigc_cli.workflows.train.train import train_model

Evaluate = Callable[..., EvaluationResult]

pytestmark = pytest.mark.usefixtures("few_resamples")


@pytest.fixture(scope="module")
def seen(demo: list[Sample]) -> list[Sample]:
    """What the model is trained on: the images of all prompts but the last two."""
    hidden = list(dict.fromkeys(sample.prompt for sample in demo))[-2:]
    return [sample for sample in demo if sample.prompt not in hidden]


@pytest.fixture(scope="module")
def run(seen: list[Sample], tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run whose backbone differs from the pretrained one."""
    folder = tmp_path_factory.mktemp("evaluated")
    source = Source(write_table(folder / "seen.csv", seen, groups=["distortion"]), seen[0].path.parent)
    quick = {"epochs": "2", "batch_size": "16", "views": "1", "lr": "1e-3", "val_fraction": "0.3"}
    resolved = resolve_recipe({"backbone": f"local-dir:{tiny_folder}", "freeze": "partial", **quick})
    output = Output(folder / "run")
    return train_model(resolved, source, output, HeldOutSource(), Compute("cpu"), SilentProgress()).run


@pytest.fixture
def score(run: Path, demo: list[Sample], tmp_path: Path) -> Evaluate:
    """Return a function that evaluates a model, by default the run, on `samples`, by default the whole small set."""

    def call(samples: Sequence[Sample] = demo, model: Path = run, **options: Any) -> EvaluationResult:
        source = Source(write_table(tmp_path / "all.csv", samples, groups=["distortion"]), demo[0].path.parent)
        return evaluate_model(source, EvaluationPlan(model, **options), Compute("cpu"), SilentProgress())

    return call


def values(rows: Sequence[dict[str, Any]], **wanted: str) -> dict[str, Any]:
    """{metric: value} of the rows that are labelled as `wanted`."""
    return {r["metric"]: r["value"] for r in rows if all(r[key] == value for key, value in wanted.items())}


def test_prompts_are_told_apart(score: Evaluate, run: Path, demo: list[Sample], seen: list[Sample]) -> None:
    found = score()
    part_of = {row["prompt"]: row["split"] for row in read_parquet_rows(run / "splits.parquet")}
    count = {"unseen": len(demo) - len(seen)}
    for split in ("train", "val"):
        count[split] = sum(part_of.get(sample.prompt or "") == split for sample in demo)
    assert {(row["split"], row["n"]) for row in found.metrics if row["metric"] == "srocc"} == set(count.items())
    assert [split for split in dict.fromkeys(row["split"] for row in found.metrics)] == ["unseen", "val", "train"]
    assert sum(count.values()) == len(demo)


def test_a_prompt_is_known_whatever_its_case_of_spaces(score: Evaluate, seen: list[Sample]) -> None:
    renamed = [replace(sample, prompt=f" {sample.prompt} ") for sample in seen]
    assert {row["split"] for row in score(renamed).metrics} == {"train", "val"}


def test_the_figures_are_those_of_scipy(score: Evaluate, run: Path, demo: list[Sample], seen: list[Sample]) -> None:
    """The same predictions by another way: the scorer's table, and SciPy on it."""
    unseen = [sample for sample in demo if sample not in seen]
    found = score().metrics
    table = Scorer.load(run, "cpu").score(images=[s.path for s in unseen], prompts=[s.prompt for s in unseen])
    for target, human in (
        ("quality", [s.mos_quality for s in unseen]),
        ("consistency", [s.mos_align for s in unseen]),
    ):
        predicted, truth = table[target].to_numpy(), np.array(human, dtype=float)
        expected = {
            "srocc": stats.spearmanr(predicted, truth).statistic,
            "plcc": stats.pearsonr(predicted, truth).statistic,
            "krocc": stats.kendalltau(predicted, truth).statistic,
            "rmse": np.sqrt(np.mean((predicted - truth) ** 2)),
        }
        shown = values(found, split="unseen", target=target)
        assert {name: shown[name] for name in expected} == pytest.approx(expected, abs=2e-3)


@pytest.mark.slow
def test_the_cosine_is_of_the_untrained_backbone(
    score: Evaluate, demo: list[Sample], seen: list[Sample], tiny_folder: Path, tiny_model: Path
) -> None:
    """Also when training changed the backbone (the run), and not only when it did not (the tiny model)."""
    unseen = [sample for sample in demo if sample not in seen]
    backbone = load_backbone(f"local-dir:{tiny_folder}")
    cosine = []
    for sample in unseen:
        image = decode_image(sample.path.read_bytes()).image
        v = backbone.encode_image(backbone.transform(image)[None]).embedding
        cosine.append(float((v * backbone.encode_text([sample.prompt or ""])).sum()))
    expected = stats.pearsonr(cosine, [s.mos_align for s in unseen]).statistic
    for metrics in (score().metrics, score(unseen, tiny_model).metrics):
        found = values(metrics, split="unseen", target="zero_shot_cosine")
        assert found.keys() == METRICS.keys() - {"rmse"}
        assert found["plcc"] == pytest.approx(expected, abs=2e-3)


def test_groups_have_rows_of_their_own(score: Evaluate, demo: list[Sample]) -> None:
    rows = score(by="distortion").metrics
    kinds = {sample.groups["distortion"] for sample in demo}
    assert {row["group"] for row in rows} == {"all", *(f"distortion={kind}" for kind in kinds)}
    for split in ("unseen", "val", "train"):
        of_split = [
            row for row in rows if row["split"] == split and row["metric"] == "rmse" and row["target"] == "quality"
        ]
        assert of_split[0]["group"] == "all"
        assert sum(row["n"] for row in of_split[1:]) == of_split[0]["n"]
    assert score(demo[-4:], by="prompt").metrics[-1]["group"].startswith("prompt=")


def test_an_unknown_group_names_the_columns(score: Evaluate) -> None:
    with pytest.raises(AigcError) as caught:
        score(by="artist")
    assert caught.value.message == "Expected a column to group by out of prompt, name, distortion, found 'artist'."


@pytest.mark.slow
def test_another_range_of_scores(score: Evaluate, demo: list[Sample]) -> None:
    """Scores 1 to 9 instead of 0 to 5: correlations stay, errors grow with the scale."""
    moved = [
        replace(s, mos_quality=1 + (s.mos_quality or 0) * 1.6, mos_align=1 + (s.mos_align or 0) * 1.6) for s in demo
    ]
    plain, wide = score().metrics, score(moved, scale=MosScale(1.0, 9.0)).metrics
    for target in ("quality", "consistency"):
        before, after = (values(rows, split="unseen", target=target) for rows in (plain, wide))
        scaled = before | {name: before[name] * 1.6 for name in ("rmse", "regret")}
        assert after == pytest.approx(scaled, abs=1e-5)
    with pytest.raises(AigcError, match="found '8"):
        score([replace(demo[0], mos_quality=8.5)])


def test_the_table_of_metrics(score: Evaluate, run: Path, tmp_path: Path) -> None:
    found = score(output=tmp_path / "metrics.parquet")
    assert read_parquet_rows(tmp_path / "metrics.parquet") == found.metrics
    schema = pq.read_schema(tmp_path / "metrics.parquet")
    assert schema.remove_metadata() == SCHEMAS["metrics"]
    assert schema.metadata.keys() >= {b"model", b"model_hash", b"backbone_hash", b"aigc_version", b"schema_version"}
    assert {row["run"] for row in found.metrics} == {found.model} == {run.name}
    with pytest.raises(AigcError, match=r"metrics\.parquet exists"):
        score(output=tmp_path / "metrics.parquet")


def test_what_cannot_be_rated_is_left_out(score: Evaluate, demo: list[Sample]) -> None:
    bad = [replace(demo[0], name="nothing.jpg"), replace(demo[0], name=demo[6].name, prompt=" ", mos_quality=None)]
    kept = [sample for sample in demo if sample.name != demo[6].name]
    found = score([*kept, *bad])
    assert list(found.skipped) == [("nothing.jpg", "missing_file"), (demo[6].name, "no_prompt")]
    assert found.metrics == score(kept).metrics


@pytest.mark.slow
def test_one_target_or_one_image(score: Evaluate, demo: list[Sample]) -> None:
    rows = score([replace(sample, mos_align=None) for sample in demo]).metrics
    assert {(row["value"], row["n"]) for row in rows if row["target"] == "consistency"} == {(None, 0)}
    alone = score(demo[-1:]).metrics
    assert {(row["split"], row["value"], row["ci_low"]) for row in alone} == {("unseen", None, None)}
    assert {row["reason"] for row in alone} == {"n = 1, at least 2 are needed"}


def test_no_usable_image_is_an_error(run: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no image")
    (tmp_path / "t.csv").write_text("name,prompt,mos_quality\na.jpg,x,1\n")
    with pytest.raises(AigcError, match="none usable"):
        evaluate_model(Source(tmp_path / "t.csv"), EvaluationPlan(run), Compute("cpu"), SilentProgress())
