"""Summaries of synthetic folds: means, intervals, verdicts and notes."""

from typing import Any

import numpy as np
import pytest

from aigc_cli.images.sample import TARGETS
from aigc_cli.metrics.by_name import UNDECIDED, Estimate
from aigc_cli.workflows.ablate.summary import (
    VariantSummary,
    format_ablation_page,
    format_estimate,
    make_plot_points,
    make_zero_shot,
    summarise_variants,
)
from aigc_cli.workflows.experiment.predictions import FoldFailure, FoldResult


def fold(number: int, noise: float, n: int, truth: str = "same", seed: int = 0) -> FoldResult:
    """A fold of n images, two for each prompt, whose predictions are the human scores with `noise`."""
    random = np.random.default_rng(number + 1000 * seed if truth == "same" else number + 99)
    human = np.random.default_rng(number).uniform(0, 5, n)
    predicted = {target: human + noise * random.standard_normal(n) for target in TARGETS}
    names, groups = [f"{i}.png" for i in range(n)], [f"{number}.{i // 2}" for i in range(n)]
    return FoldResult(number, seed, names, groups, predicted, dict.fromkeys(TARGETS, human), human, 1.0, 5)


@pytest.mark.parametrize(
    ("noises", "n", "verdict"),
    [((3.0, 0.3), 60, "better"), ((0.3, 3.0), 60, "worse"), ((1.5, 1.4), 10, UNDECIDED)],
)
def test_verdicts(noises: tuple[float, float], n: int, verdict: str) -> None:
    results = {str(i): [fold(k, noise, n, str(i)) for k in range(3)] for i, noise in enumerate(noises)}
    first, second = summarise_variants(results)[:2]
    assert (first.difference, first.verdict) == ({}, {})
    for target in TARGETS:
        low, high = second.difference[target].low, second.difference[target].high
        assert low is not None
        assert high is not None
        assert {"better": low > 0, "worse": high < 0, UNDECIDED: low <= 0 <= high}[verdict]
        assert second.verdict[target] == verdict


def test_a_variant_against_itself_is_no_difference() -> None:
    same = [fold(k, 1.0, 20) for k in range(2)]
    _, second = summarise_variants({"a": same, "b": same})[:2]
    estimate = second.difference["quality"]
    assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0)
    assert second.verdict["quality"] == UNDECIDED


def test_constant_predictions_have_no_verdict() -> None:
    flat = [fold(k, 1.0, 20) for k in range(2)]
    for one in flat:
        one.predicted["quality"][:] = 2.5
    _, second = summarise_variants({"a": [fold(k, 1.0, 20) for k in range(2)], "flat": flat})[:2]
    assert second.srocc["quality"].value is None
    assert "constant" in second.srocc["quality"].reason
    assert "quality" not in second.difference
    assert "consistency" in second.difference


def test_a_failed_fold_leaves_no_mean() -> None:
    whole = [fold(k, 1.0, 20) for k in range(3)]
    halves = [whole[0], FoldFailure(1, 0, "Training diverged"), whole[2]]
    _, second = summarise_variants({"a": whole, "b": halves})
    assert second.srocc["quality"].value is None
    assert second.srocc["quality"].reason == "1 of 3 failed: Training diverged"
    assert (second.difference, second.seed_spread) == ({}, {})
    assert (second.seconds, second.trainable) == (1.0, 5)
    _first, second = summarise_variants({"b": halves, "a": whole})
    assert second.srocc["quality"].value is not None
    assert second.difference == {}


def test_training_noise_is_the_spread_between_seeds() -> None:
    cells = [fold(k, 2.0, 40, seed=seed) for seed in range(3) for k in range(2)]
    (summary,) = summarise_variants({"a": cells})
    means = []
    for seed in range(3):
        (one,) = summarise_variants({"a": [cell for cell in cells if cell.seed == seed]})
        means.append(one.srocc["quality"].value)
    assert summary.seed_spread["quality"] == pytest.approx(np.std(np.array(means, dtype=float), ddof=1))
    assert summary.seed_spread["quality"] > 0
    (single,) = summarise_variants({"a": cells[:2]})
    assert single.seed_spread == {}


def test_the_baseline_is_the_cosine() -> None:
    cell = fold(0, 1.0, 20)
    baseline = make_zero_shot(cell)
    assert baseline.predicted["consistency"] is cell.cosine
    (summary,) = summarise_variants({"cosine": [baseline]})
    assert summary.srocc["consistency"].value == pytest.approx(1.0)
    assert summary.srocc["quality"].value is None


def page(summaries: list[VariantSummary]) -> list[str]:
    return format_ablation_page(summaries, "40 images of t.csv", 2, (0, 1)).splitlines()


def test_notes_on_the_page() -> None:
    noisy = [fold(k, 2.0, 40, seed=seed) for seed in range(2) for k in range(2)]
    broken = [FoldFailure(k, seed, "no weights") for seed in range(2) for k in range(2)]
    lines = page(summarise_variants({"noisy": noisy, "broken": broken}))
    assert any(line.startswith("- noisy: standard deviation between seeds: quality 0.") for line in lines)
    assert "- broken: 4 of 4 failed: no weights" in lines
    (row,) = [line for line in lines if line.startswith("| broken")]
    assert set(row.removeprefix("| broken").replace("|", "").split()) == {"-"}


def test_only_values_are_plotted() -> None:
    flat = fold(0, 1.0, 20)
    flat.predicted["quality"][:] = 1
    found = make_plot_points(summarise_variants({"flat": [flat]}))
    assert [point["target"] for point in found] == ["consistency"]


def test_estimates_are_formatted_with_their_interval() -> None:
    assert format_estimate(None) == format_estimate(Estimate(None, None, None, 0)) == "-"
    assert format_estimate(Estimate(0.5, 0.25, 0.75, 9)) == "0.500 [0.250, 0.750]"
    assert format_estimate(Estimate(0.5, -0.25, 0.75, 9), "+.3f") == "+0.500 [-0.250, +0.750]"
    assert format_estimate(Estimate(0.5, -0.25, 0.75, 9), "+.3f", "+.2f") == "+0.500 [-0.25, +0.75]"
    assert format_estimate(Estimate(0.5, None, None, 9)) == "0.500"


def test_a_difference_over_few_prompts_has_no_interval() -> None:
    """As with means, four prompts are too few for an interval and a verdict, however large the difference."""
    few = {str(noise): [fold(0, noise, 8, str(noise))] for noise in (5.0, 0.01)}
    _, second = summarise_variants(few)
    found = second.difference["quality"]
    assert found.value is not None
    assert (found.low, found.high, second.verdict["quality"]) == (None, None, UNDECIDED)
    assert found.reason == "no interval: fewer than 5 prompts"


def test_the_measures_of_reading_the_prompt() -> None:
    """Consistency that follows quality alone is at chance level; consistency that follows the prompt is above."""
    random = np.random.default_rng(0)
    n = 400
    quality = random.uniform(0, 5, n)
    human = {"quality": quality, "consistency": 0.5 * quality + random.uniform(0, 2.5, n)}
    names, groups = [str(i) for i in range(n)], [str(i // 4) for i in range(n)]

    def reading(consistency: Any, mismatched: Any) -> Any:
        predicted = {"quality": quality, "consistency": consistency}
        cell = FoldResult(0, 0, names, groups, predicted, human, quality, 1.0, 5, mismatched=mismatched)
        (summary,) = [s for s in summarise_variants({"one": [cell]}) if s.variant == "one"]
        return summary

    blind = reading(quality + random.normal(size=n), quality + random.normal(size=n))
    sees = reading(human["consistency"] + random.normal(size=n), 0.5 * quality - 1)
    assert blind.reading.auc == pytest.approx(0.5, abs=0.05)
    assert blind.reading.partial == pytest.approx(0, abs=0.1)
    assert sees.reading.auc > 0.85
    assert sees.reading.partial > 0.4
    assert f"{sees.reading.auc:.1%} of pairs (chance 50%)" in "\n".join(page([sees]))
    assert reading(quality, None).reading is None
    assert reading(np.zeros(n), np.zeros(n)).reading is None
