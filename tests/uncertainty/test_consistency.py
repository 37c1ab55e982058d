"""The correction of consistency on new prompts."""

import numpy as np
import pytest
from numpy.typing import NDArray

from aigc_cli.uncertainty.consistency import ConsistencyCorrection, fit_consistency_correction
from aigc_cli.uncertainty.intervals import MIN_IMAGES

N = 400
PROMPTS = [f"prompt {row // 8}" for row in range(N)]


@pytest.fixture
def scores() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Consistency and quality, both (N,)."""
    random = np.random.default_rng(0)
    return random.uniform(0, 1, N), random.uniform(0, 1, N)


def test_a_linear_error_is_found(scores: tuple[NDArray[np.float64], ...]) -> None:
    c, q = scores
    found = fit_consistency_correction(c, q, c + 0.1 + 0.3 * q, PROMPTS)
    assert found == pytest.approx((0.1, 0.3))
    np.testing.assert_allclose(found.apply(c, q), c + 0.1 + 0.3 * q)


def test_quality_never_counts_against_consistency(scores: tuple[NDArray[np.float64], ...]) -> None:
    c, q = scores
    found = fit_consistency_correction(c, q, c + 0.3 - 0.2 * q, PROMPTS)
    assert found == pytest.approx((0.3 - 0.2 * q.mean(), 0))


def test_the_weight_of_consistency_stays_one(scores: tuple[NDArray[np.float64], ...]) -> None:
    """Even if human consistency depends little on the model's."""
    c, q = scores
    found = fit_consistency_correction(c, q, 0.2 * c + 0.5 * q, PROMPTS)
    np.testing.assert_allclose(found.apply(c + 0.3, q) - found.apply(c, q), 0.3)
    assert found.weight == pytest.approx(0.5, abs=0.1)


def test_an_error_that_grows_with_quality_is_taken_out() -> None:
    random = np.random.default_rng(0)
    q = random.normal(0.5, 0.2, N)
    human = 0.6 * q + random.normal(0.2, 0.1, N)
    c = human - 0.1 - 0.2 * q + random.normal(0, 0.05, N)
    found = fit_consistency_correction(c, q, human, PROMPTS)
    assert np.corrcoef(found.apply(c, q), human)[0, 1] > np.corrcoef(c, human)[0, 1] + 0.01
    assert np.square(found.apply(c, q) - human).mean() < np.square(c + (human - c).mean() - human).mean() / 1.3


def test_rows_without_a_score_are_left_out(scores: tuple[NDArray[np.float64], ...]) -> None:
    c, q = scores
    human = c + 0.1 + 0.3 * q
    human[::3] = np.nan
    c[1::5] = np.nan
    q[2::7] = np.nan
    assert fit_consistency_correction(c, q, human, PROMPTS) == pytest.approx((0.1, 0.3))


def test_without_quality_there_is_only_an_offset(scores: tuple[NDArray[np.float64], ...]) -> None:
    c, _ = scores
    nothing = np.full(N, np.nan)
    found = fit_consistency_correction(c, nothing, c + 0.1, PROMPTS)
    assert found == pytest.approx((0.1, 0))
    np.testing.assert_allclose(found.apply(c, nothing), c + 0.1)
    assert fit_consistency_correction(c, np.full(N, 0.5), c + 0.1, PROMPTS) == pytest.approx((0.1, 0))


def test_too_few_images_or_prompts_change_nothing(scores: tuple[NDArray[np.float64], ...]) -> None:
    c, q = scores
    few = slice(0, MIN_IMAGES - 1)
    assert fit_consistency_correction(c[few], q[few], 0.5 * c[few], PROMPTS[few]) == ConsistencyCorrection()
    assert fit_consistency_correction(c, q, 0.5 * c, ["one"] * N) == ConsistencyCorrection()
    np.testing.assert_array_equal(ConsistencyCorrection().apply(c, np.full(N, np.nan)), c)
