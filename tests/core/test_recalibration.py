"""How consistency is read on new prompts."""

import numpy as np
import pytest

from aigc_cli.core.calibration import FEWEST_IMAGES
from aigc_cli.core.recalibration import Recalibration, recalibration

N = 400
PROMPTS = [f"prompt {row // 8}" for row in range(N)]


def scores(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.uniform(0, 1, N), random.uniform(0, 1, N)


def test_what_is_linear_is_found() -> None:
    c, q = scores()
    found = recalibration(c, q, 0.1 + 0.5 * c + 0.3 * q, PROMPTS)
    assert found == pytest.approx((0.1, 0.5, 0.3))
    np.testing.assert_allclose(found(c, q), 0.1 + 0.5 * c + 0.3 * q)


@pytest.mark.parametrize(("gain", "share"), [(0.5, -0.3), (-0.3, 0.5)])
def test_neither_score_is_turned_round(gain: float, share: float) -> None:
    c, q = scores()
    found = recalibration(c, q, 0.3 + gain * c + share * q, PROMPTS)
    assert min(found.gain, found.share) == pytest.approx(0, abs=1e-6)
    assert max(found.gain, found.share) == pytest.approx(0.5, abs=0.05)


def test_a_model_that_trusts_its_reading_too_much_is_corrected() -> None:
    """Its score is the sum of what holds for new prompts and of noise that looked as good in training."""
    random = np.random.default_rng(0)
    shown, q = random.normal(0.5, 0.2, N), random.normal(0.5, 0.1, N)
    human = 0.5 * shown + 0.5 * q
    c = human + random.normal(0, 0.2, N)
    found = recalibration(c, q, human, PROMPTS)
    assert found.gain < 0.5
    assert found.share > 0.1
    error = [float(np.square(side - human).mean()) for side in (c, found(c, q))]
    assert error[1] < error[0] / 3


def test_rows_that_nobody_rated_are_left_out_and_without_quality_it_has_no_share() -> None:
    c, q = scores()
    human = 0.1 + 0.5 * c
    human[::3] = np.nan
    assert recalibration(c, np.full(N, np.nan), human, PROMPTS) == pytest.approx((0.1, 0.5, 0))
    c[1::3] = np.nan
    assert recalibration(c, q, human, PROMPTS) == pytest.approx((0.1, 0.5, 0), abs=1e-6)


def test_too_few_images_or_prompts_change_nothing() -> None:
    c, q = scores()
    few = slice(0, FEWEST_IMAGES - 1)
    assert recalibration(c[few], q[few], 0.5 * c[few], PROMPTS[few]) == Recalibration()
    assert recalibration(c, q, 0.5 * c, ["one"] * N) == Recalibration()
    np.testing.assert_array_equal(Recalibration()(c, np.full(N, np.nan)), c)
