"""The summary of rated data, and the noise ceiling compared with a simulation."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from aigc_cli.errors import AigcError
from aigc_cli.images.sample import Sample
from aigc_cli.metrics.opinions import ASSUMED_RATERS, estimate_noise_ceiling, summarise_ratings
from aigc_cli.mos_scale import MosScale

SCALE = MosScale(0.0, 5.0)


def sample(name: str, quality: float | None, align: float | None = None, prompt: str = "p", **groups: str) -> Sample:
    return Sample(name, Path(name), prompt, quality, align, groups)


# --- the ceiling


@pytest.mark.parametrize("raters", [2, 5, 21])
@pytest.mark.parametrize("noise", [0.3, 1.0])
@pytest.mark.parametrize("shape", ["normal", "uniform"])
def test_the_ceiling_is_that_of_a_simulation(raters: int, noise: float, shape: str) -> None:
    """Raters with a noise that differs by image: the true opinion correlates with their mean as the ceiling says."""
    random = np.random.default_rng(0)
    n = 20_000
    truth = random.normal(2.5, 1.0, n) if shape == "normal" else random.uniform(0.8, 4.2, n)
    sigma = noise * random.uniform(0.5, 1.5, n)
    opinions = truth[:, None] + sigma[:, None] * random.normal(size=(n, raters))
    mos, std = opinions.mean(1), opinions.std(1, ddof=1)
    reliability, ceiling = estimate_noise_ceiling(mos, std, np.full(n, float(raters)))
    assert reliability == pytest.approx(np.var(truth) / np.var(mos), abs=0.02)
    assert stats.pearsonr(truth, mos).statistic == pytest.approx(ceiling, abs=0.02)
    assert stats.spearmanr(truth, mos).statistic == pytest.approx(ceiling, abs=0.02)


def test_the_ceiling_at_its_ends() -> None:
    mos, none = np.array([1.0, 2.0, 3.0]), np.zeros(3)
    assert estimate_noise_ceiling(mos, none, np.full(3, 5.0)) == (1.0, 1.0)
    assert estimate_noise_ceiling(mos, np.full(3, 9.0), np.full(3, 2.0)) == (0.0, 0.0)
    assert estimate_noise_ceiling(np.ones(3), none, np.full(3, 5.0)) == (0.0, 0.0)  # all scores are equal


# --- the summary


def test_a_summary_of_five_images() -> None:
    samples = [
        sample("a", 0.0, 1.0, "one"),
        sample("b", 0.04, 2.0, "two"),
        sample("c", 5.0, 4.0, "two"),
        sample("d", 2.5, 3.0, "two"),
        sample("e", None, 3.0, "three"),
    ]
    found = summarise_ratings(samples, SCALE)
    assert (found.images, found.prompts, found.per_prompt, found.single) == (5, 3, (1, 1.0, 3), 2)
    quality, consistency = found.targets["quality"], found.targets["consistency"]
    assert (quality.n, consistency.n) == (4, 5)
    assert (quality.mean, quality.low, quality.high) == (pytest.approx(1.885), 0.0, 5.0)
    assert quality.std == pytest.approx(np.std([0, 0.04, 5, 2.5], ddof=1))
    assert (quality.at_low, quality.at_high) == (0.5, 0.25)  # 0.04 is within 1% of the scale
    assert (quality.rater_std, quality.raters, quality.reliability, quality.ceiling) == (None,) * 4
    both = ([0, 0.04, 5, 2.5], [1, 2, 4, 3])
    assert found.srocc == pytest.approx(stats.spearmanr(*both).statistic)
    assert found.plcc == pytest.approx(stats.pearsonr(*both).statistic)
    assert not found.raters_assumed


def test_an_unrated_target_is_left_out() -> None:
    found = summarise_ratings([sample("a", 1.0), sample("b", 2.0)], SCALE)
    assert list(found.targets) == ["quality"]
    assert (found.srocc, found.plcc) == (None, None)


def test_one_image() -> None:
    found = summarise_ratings([sample("a", 1.0, 2.0, std_quality="0.5")], SCALE)
    assert (found.targets["quality"].std, found.targets["quality"].ceiling, found.srocc) == (0.0, None, None)


def test_where_the_number_of_raters_comes_from() -> None:
    def ceiling(given: int | None, *counts: str) -> tuple[float | None, float | None, bool]:
        rows = zip((1.0, 3.0, 4.0), counts, strict=True)
        samples = [sample(str(mos), mos, std_quality="0.6", raters=count) for mos, count in rows]
        found = summarise_ratings(samples, SCALE, given)
        return found.targets["quality"].raters, found.targets["quality"].ceiling, found.raters_assumed

    spread = np.var([1, 3, 4], ddof=1)

    def expected(counts: float) -> Any:
        return pytest.approx(math.sqrt(1 - 0.36 / counts / spread))

    assert ceiling(None, "", "", "") == (ASSUMED_RATERS, expected(ASSUMED_RATERS), True)
    assert ceiling(4, "", "", "") == (4, expected(4), False)
    assert ceiling(4, "9", "9", "9") == (9, expected(9), False)  # the table has priority
    assert ceiling(4, "9", "9", "") == (pytest.approx(22 / 3), expected(3 / (1 / 9 + 1 / 9 + 1 / 4)), False)
    assert ceiling(None, "9", "9", "")[2]
    assert ceiling(None, "1", "1", "1")[:2] == (None, None)  # one rater has no standard deviation


@pytest.mark.parametrize(
    ("column", "text", "low"),
    [("std_quality", "wide", 0), ("std_quality", "-0.1", 0), ("std_align", "nan", 0), ("raters", "0", 1)],
)
def test_columns_that_are_not_numbers(column: str, text: str, low: int) -> None:
    with pytest.raises(AigcError) as caught:
        summarise_ratings([sample("a.jpg", 1.0, 2.0, **{column: text})], SCALE)
    expected = f"Expected a number of {low} or more in the column {column} for 'a.jpg', found '{text}'."
    assert caught.value.message == expected
    assert "--columns" in caught.value.hint
