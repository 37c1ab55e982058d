"""Stress: a score that ignores the prompt is found out, and so is one that reads it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from test_ablate import write_table

from aigc_cli.errors import AigcError
from aigc_cli.images.degrade import PERTURBATIONS
from aigc_cli.images.sample import Sample
from aigc_cli.progress import Silent
from aigc_cli.recipe import resolve
from aigc_cli.storage.results import read_rows
from aigc_cli.storage.schemas import SCHEMAS
from aigc_cli.workflows.experiment.source import Source
from aigc_cli.workflows.stress import EMPTIED, SHUFFLED, Stress, _judge, _others, stress
from aigc_cli.workflows.train.train import train

N = 120
GROUPS = [f"prompt {i // 4}" for i in range(N)]


@pytest.fixture(scope="module")
def run(tiny_folder: Path, demo: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny trained model."""
    folder = tmp_path_factory.mktemp("stressed")
    settings = {"backbone": f"local-dir:{tiny_folder}", "freeze": "all", "epochs": "2", "views": "1"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aigc_cli.metrics.by_name.metric_rows.__defaults__", (20,))
        source = Source(write_table(folder / "t.csv", demo), demo[0].path.parent)
        train(resolve(settings), source, folder / "run", progress=Silent(), device="cpu")
    return folder


def source_of(run: Path, demo: list[Sample]) -> Source:
    return Source(run / "t.csv", demo[0].path.parent)


def test_every_perturbation_is_measured(run: Path, demo: list[Sample], tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = stress(run / "run", source_of(run, demo), out, progress=Silent(), images=20, device="cpu")
    assert sorted(path.name for path in out.iterdir()) == ["stress.md", "stress.parquet"]
    assert pq.read_schema(out / "stress.parquet").remove_metadata() == SCHEMAS["stress"]
    rows = read_rows(out / "stress.parquet")
    expected = [(name, target) for name in PERTURBATIONS for target in ("quality", "consistency")]
    expected += [(SHUFFLED, "consistency"), (EMPTIED, "consistency")]
    assert [(row["perturbation"], row["target"]) for row in rows] == expected
    assert all(row["n"] == 20 and row["model"] == "run" for row in rows)
    by_name = {(row["perturbation"], row["target"]): row for row in rows}
    for target in ("quality", "consistency"):
        assert by_name["opaque alpha", target]["change"] == 0
        assert by_name["opaque alpha", target]["srocc"] == pytest.approx(1)
        assert by_name["noise, sd 32 of 255", target]["change"] != 0
    page = (out / "stress.md").read_text()
    assert found.verdict in page
    assert page.count("\n| ") == len(expected) + 1
    again = stress(run / "run", source_of(run, demo), tmp_path / "b", progress=Silent(), images=20, device="cpu")
    assert again == found


def test_an_image_that_cannot_be_read_is_left_out(run: Path, demo: list[Sample], tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for sample in demo[:16]:
        (folder / sample.name).write_bytes(sample.path.read_bytes())
    (folder / demo[3].name).write_bytes(demo[3].path.read_bytes()[:400])
    source = Source(write_table(tmp_path / "t.csv", demo[:16]), folder)
    found = stress(run / "run", source, tmp_path / "out", progress=Silent(), device="cpu")
    assert {shift.n for shift in found.shifts} == {15}


def test_one_prompt_can_not_be_shuffled(run: Path, demo: list[Sample], tmp_path: Path) -> None:
    same = [replace(sample, prompt="a red house") for sample in demo]
    source = Source(write_table(tmp_path / "t.csv", same), demo[0].path.parent)
    with pytest.raises(AigcError, match="at least 2 prompts to shuffle"):
        stress(run / "run", source, tmp_path / "out", progress=Silent(), device="cpu")
    assert not (tmp_path / "out").exists()


def test_shuffling_gives_every_image_another_prompt() -> None:
    swapped = _others(GROUPS, np.random.default_rng(0))
    assert set(swapped) <= set(GROUPS)
    assert all(a != b for a, b in zip(GROUPS, swapped, strict=True))
    assert swapped == _others(GROUPS, np.random.default_rng(0))


def judged(consistency_shuffled: Callable[[Any], Any]) -> Stress:
    """The verdict on scores whose consistency becomes this when prompts are shuffled."""
    quality, matched = (np.random.default_rng(seed).uniform(1, 4, N) for seed in (0, 1))
    changed = {"quality": quality, "consistency": consistency_shuffled(matched)}
    scores = {"": {"quality": quality, "consistency": matched}, SHUFFLED: changed, EMPTIED: changed}
    return _judge("made up", scores, GROUPS)


@pytest.mark.parametrize(
    ("shuffled", "words"),
    [
        (lambda matched: matched, "no sign that this model reads the prompt"),
        (lambda matched: matched + np.random.default_rng(2).normal(0, 0.1, N), "no sign that"),
        (lambda matched: matched + 0.5, "no sign that"),
        (lambda matched: matched - 0.1, "this model hardly reads the prompt"),
        (lambda matched: matched - 2.0, "this model reads the prompt"),
    ],
)
def test_the_verdict_follows_the_numbers(shuffled: Callable[[Any], Any], words: str) -> None:
    found = judged(shuffled)
    assert words in found.verdict
    matched, other = np.random.default_rng(1).uniform(1, 4, N), shuffled(np.random.default_rng(1).uniform(1, 4, N))
    pairs = (matched[:, None] > other).mean() + 0.5 * (matched[:, None] == other).mean()
    assert found.auc == pytest.approx(pairs)
    shift = next(s for s in found.shifts if s.perturbation == SHUFFLED)
    assert shift.change == pytest.approx((other - matched).mean())
    assert shift.lower == pytest.approx((other < matched).mean())


def test_too_few_prompts_give_no_interval() -> None:
    few = np.linspace(1, 4, 8)
    scores = {"": {"quality": few, "consistency": few}, SHUFFLED: {"quality": few, "consistency": few - 1}}
    (shift,) = _judge("made up", scores, ["a", "b"] * 4).shifts
    assert (shift.change, shift.ci_low, shift.ci_high) == (-1, None, None)
