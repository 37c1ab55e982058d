"""Choices between two images from the table to the metrics: in training, evaluation and cross-validation."""

import csv
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rated import write_table

from aigc_cli.errors import AigcError
from aigc_cli.images.sample import Sample
from aigc_cli.metrics.choices import make_choice_rows
from aigc_cli.mos_scale import MosScale
from aigc_cli.progress import SilentProgress
from aigc_cli.recipe import resolve_recipe
from aigc_cli.storage.atomic_files import Output
from aigc_cli.storage.checkpoints import load_checkpoint
from aigc_cli.storage.pair_tables import Preference
from aigc_cli.workflows.crossval import CrossvalPlan, cross_validate
from aigc_cli.workflows.evaluate import EvaluationPlan, evaluate_model
from aigc_cli.workflows.experiment.rated import read_rated
from aigc_cli.workflows.experiment.source import Compute, Source
from aigc_cli.workflows.train.calibrate import HeldOutSource
from aigc_cli.workflows.train.train import train_model

pytestmark = pytest.mark.usefixtures("few_resamples")


def write_pairs(path: Path, samples: list[Sample], question: str = "quality") -> Path:
    """Choices by the scores of the samples, between images of one prompt."""
    rows = []
    for a, b in itertools.combinations(samples, 2):
        if a.prompt == b.prompt:
            gap = (a.get_mos(question) or 0) - (b.get_mos(question) or 0)
            preferred = "tie" if abs(gap) < 0.2 else "a" if gap > 0 else "b"
            rows.append([a.prompt, a.name, b.name, preferred, question, "me"])
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["prompt", "image_a", "image_b", "preferred", "question", "rater"], *rows])
    return path


@pytest.fixture
def samples(demo: list[Sample]) -> list[Sample]:
    """The demonstration set, with four images for each prompt."""
    return [Sample(s.name, s.path, f"prompt {row // 4}", s.mos_quality, s.mos_align) for row, s in enumerate(demo)]


@pytest.fixture
def train(tiny_folder: Path, tmp_path: Path) -> Callable[..., Any]:
    def run(source: Source, name: str = "run", **settings: Any) -> Any:
        chosen = {"hidden_q": 8, "hidden_c": 8, "backbone": f"local-dir:{tiny_folder}", "freeze": "all", "views": 1}
        chosen |= {"lr": 3e-3, "epochs": 6, **settings}
        resolved = resolve_recipe({key: str(value) for key, value in chosen.items()})
        return train_model(resolved, source, Output(tmp_path / name), HeldOutSource(), Compute("cpu"), SilentProgress())

    return run


def test_choices_alone_train_and_evaluate(samples: list[Sample], train: Callable[..., Any], tmp_path: Path) -> None:
    source = Source(None, samples[0].path.parent, pairs=write_pairs(tmp_path / "pairs.csv", samples))
    result = train(source)
    of = {row["metric"]: row for row in result.metrics if row["target"] == "quality"}
    assert {"choices", "choices_close", "choices_clear", "choices_raters", "ties"} == set(of)
    assert of["choices"]["n"] > 5
    assert of["choices_raters"]["reason"] == "no two raters chose between the same images"
    assert load_checkpoint(result.run).description["targets"] == ["quality"]
    found = evaluate_model(source, EvaluationPlan(result.run), Compute("cpu"), SilentProgress())
    rows = {(row["split"], row["metric"]): row["value"] for row in found.metrics}
    assert rows["val", "choices"] == of["choices"]["value"]
    assert rows["train", "choices"] > 0.5
    assert "coverage90" not in {row["metric"] for row in found.metrics}


def test_choices_and_ratings_together(samples: list[Sample], train: Callable[..., Any], tmp_path: Path) -> None:
    """An image of both tables is one image; its ratings and its choices count."""
    half = samples[::2]
    data, pairs = write_table(tmp_path / "ratings.csv", half), write_pairs(tmp_path / "pairs.csv", samples)
    source = Source(data, samples[0].path.parent, pairs=pairs)
    rated = read_rated(source, MosScale(0, 5), SilentProgress())
    assert len(rated.samples) == len({s.name for s in samples})
    assert sum(sample.mos_quality is not None for sample in rated.samples) == len(half)
    result = train(source)
    metrics = {row["metric"] for row in result.metrics if row["target"] == "quality"}
    assert {"srocc", "choices"} <= metrics


def test_cross_validation_counts_choices_of_held_out_prompts(
    samples: list[Sample], tiny_folder: Path, tmp_path: Path
) -> None:
    source = Source(
        write_table(tmp_path / "ratings.csv", samples),
        samples[0].path.parent,
        pairs=write_pairs(tmp_path / "pairs.csv", samples, "consistency"),
    )
    chosen = {"backbone": f"local-dir:{tiny_folder}", "freeze": "all", "views": "1", "epochs": "1"}
    plan = CrossvalPlan("x", folds=3)
    result = cross_validate(
        resolve_recipe(chosen), source, plan, Output(tmp_path / "cv"), Compute("cpu"), SilentProgress()
    )
    rows = [row for row in result.metrics if row["metric"] == "choices"]
    assert [(row["target"], row["group"]) for row in rows] == [("consistency", "all")]
    choices = read_rated(source, MosScale(0, 5), SilentProgress()).choices
    assert rows[0]["n"] == sum(choice.preferred != 0.5 for choice in choices)


def test_two_prompts_of_one_image_are_refused(samples: list[Sample], tmp_path: Path) -> None:
    data = write_table(tmp_path / "ratings.csv", samples)
    pairs = write_pairs(tmp_path / "pairs.csv", samples)
    pairs.write_text(pairs.read_text().replace(samples[0].prompt or "", "something else"))
    with pytest.raises(AigcError, match="Expected one prompt for"):
        read_rated(Source(data, samples[0].path.parent, pairs=pairs), MosScale(0, 5), SilentProgress())


def test_columns_are_renamed_in_the_table_that_has_them(samples: list[Sample], tmp_path: Path) -> None:
    data, pairs = write_table(tmp_path / "ratings.csv", samples), write_pairs(tmp_path / "pairs.csv", samples)
    data.write_text(data.read_text().replace("mos_quality", "beauty", 1))
    pairs.write_text(pairs.read_text().replace("preferred", "winner", 1))
    columns = {"beauty": "mos_quality", "winner": "preferred"}
    source = Source(data, samples[0].path.parent, columns, pairs=pairs)
    source.check()
    assert read_rated(source, MosScale(0, 5), SilentProgress()).choices
    with pytest.raises(AigcError, match="expected a column 'nothing'"):
        Source(data, samples[0].path.parent, columns | {"nothing": "prompt"}, pairs=pairs).check()


def test_an_unrated_image_without_a_partner_is_no_row(samples: list[Sample], tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "pairs.csv", samples)
    rated = read_rated(Source(None, samples[0].path.parent, pairs=path), MosScale(0, 5), SilentProgress())
    names = {choice.a for choice in rated.choices} | {choice.b for choice in rated.choices}
    assert {sample.name for sample in rated.samples} == names
    assert rated.list_targets(range(len(rated.samples))) == ["quality"]


# --- the figures


def make_choices(*votes: tuple[str, str, str, float]) -> list[Preference]:
    return [Preference(a, b, f"p{i}", preferred, rater=rater) for i, (rater, a, b, preferred) in enumerate(votes)]


def measure(choices: list[Preference], scores: dict[str, float]) -> dict[str, Any]:
    return {row["metric"]: row for row in make_choice_rows(choices, {"quality": scores}, {"group": "all"})}


def test_ties_and_unknown_images_do_not_count_as_decided() -> None:
    choices = make_choices(
        ("me", "a", "b", 1.0),
        ("me", "a", "c", 0.0),
        ("me", "b", "c", 0.5),
        ("me", "a", "x", 1.0),
        ("me", "d", "a", 1.0),
    )
    found = measure(choices, {"a": 3.0, "b": 2.0, "c": 1.0, "d": 3.0})
    assert (found["choices"]["value"], found["choices"]["n"]) == (pytest.approx(1.5 / 3), 3), "equal scores count half"
    assert (found["ties"]["value"], found["ties"]["n"]) == (0.25, 4)


def test_the_clearer_half_has_the_larger_differences() -> None:
    scores = {f"i{n}": float(n**2) for n in range(12)}
    choices = [Preference(f"i{n}", f"i{n + 1}", f"p{n}", float(n < 5)) for n in range(11)]
    found = measure(choices, scores)
    assert found["choices_clear"]["value"] == 1
    assert found["choices_close"]["value"] == pytest.approx(1 / 6)
    assert found["choices_close"]["n"] + found["choices_clear"]["n"] == 11
    assert found["choices"]["ci_low"] < found["choices"]["value"] < found["choices"]["ci_high"]


def test_raters_are_compared_on_the_same_images_in_any_order() -> None:
    choices = make_choices(
        ("ann", "a", "b", 1.0),
        ("ben", "b", "a", 0.0),
        ("cyd", "a", "b", 0.0),
        ("ann", "a", "b", 1.0),
        ("ann", "a", "c", 1.0),
    )
    found = measure(choices, {"a": 1.0, "b": 0.0, "c": 0.0})
    # ann-ben and ben-ann agree, ann-cyd twice and ben-cyd do not; ann is not compared with herself
    assert (found["choices_raters"]["value"], found["choices_raters"]["n"]) == (pytest.approx(2 / 5), 5)
    assert np.isfinite(found["choices"]["value"])
