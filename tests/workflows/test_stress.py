"""`aigc stress`: every perturbation is measured, and the verdict tells whether a score depends on the prompt."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from rated import write_table

from aigc_cli.errors import AigcError
from aigc_cli.images.degrade import PERTURBATIONS
from aigc_cli.images.sample import Sample
from aigc_cli.progress import SilentProgress
from aigc_cli.storage.atomic_files import Output
from aigc_cli.storage.results import read_parquet_rows
from aigc_cli.storage.schemas import SCHEMAS
from aigc_cli.workflows.experiment.source import Source
from aigc_cli.workflows.stress import (
    EMPTIED,
    SHUFFLED,
    StressPlan,
    StressResult,
    shuffle_prompts,
    stress_model,
    summarise_stress,
)

N = 120
GROUPS = [f"prompt {i // 4}" for i in range(N)]


@pytest.fixture
def stress(tiny_model: Path, demo: list[Sample], tmp_path: Path) -> Callable[..., StressResult]:
    """Return a function that stresses an untrained model with `samples` into the folder `name`."""

    def run(name: str, samples: Sequence[Sample] = demo, folder: Path | None = None, **plan: Any) -> StressResult:
        source = Source(write_table(tmp_path / "t.csv", samples), folder or demo[0].path.parent)
        return stress_model(
            source, StressPlan(tiny_model, device="cpu", **plan), Output(tmp_path / name), SilentProgress()
        )

    return run


def test_every_perturbation_is_measured(stress: Callable[..., StressResult], tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = stress("out", images=20)
    assert sorted(path.name for path in out.iterdir()) == ["stress.md", "stress.parquet"]
    assert pq.read_schema(out / "stress.parquet").remove_metadata() == SCHEMAS["stress"]
    rows = read_parquet_rows(out / "stress.parquet")
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
    assert stress("again", images=20) == found
    assert stress("other", images=20, seed=1) != found


def test_an_image_that_cannot_be_read_is_left_out(
    stress: Callable[..., StressResult], demo: list[Sample], tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for sample in demo[:16]:
        (folder / sample.name).write_bytes(sample.path.read_bytes())
    (folder / demo[3].name).write_bytes(demo[3].path.read_bytes()[:400])
    found = stress("out", demo[:16], folder)
    assert {shift.n for shift in found.shifts} == {15}


def test_one_prompt_can_not_be_shuffled(
    stress: Callable[..., StressResult], demo: list[Sample], tmp_path: Path
) -> None:
    same = [replace(sample, prompt="a red house") for sample in demo]
    with pytest.raises(AigcError, match="at least 2 prompts to shuffle"):
        stress("out", same)
    assert not (tmp_path / "out").exists()


def test_shuffling_gives_every_image_another_prompt() -> None:
    swapped = shuffle_prompts(GROUPS, np.random.default_rng(0))
    assert set(swapped) <= set(GROUPS)
    assert all(a != b for a, b in zip(GROUPS, swapped, strict=True))
    assert swapped == shuffle_prompts(GROUPS, np.random.default_rng(0))


def judged(consistency_shuffled: Callable[[Any], Any]) -> StressResult:
    """The verdict on scores whose consistency becomes this when prompts are shuffled."""
    quality, matched = (np.random.default_rng(seed).uniform(1, 4, N) for seed in (0, 1))
    changed = {"quality": quality, "consistency": consistency_shuffled(matched)}
    scores = {"": {"quality": quality, "consistency": matched}, SHUFFLED: changed, EMPTIED: changed}
    return summarise_stress("made up", scores, GROUPS)


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
    (shift,) = summarise_stress("made up", scores, ["a", "b"] * 4).shifts
    assert (shift.change, shift.ci_low, shift.ci_high) == (-1, None, None)
