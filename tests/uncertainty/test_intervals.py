"""Intervals: the quantile of a finite sample, coverage on new prompts, and too few images."""

import math

import numpy as np
import pytest

from aigc_cli.metrics.formulas import Values
from aigc_cli.mos_scale import MosScale
from aigc_cli.uncertainty.calibration import Calibration, fit_calibration
from aigc_cli.uncertainty.intervals import (
    MAX_RESIDUAL_RATIO,
    MIN_IMAGES,
    MIN_PROMPTS,
    MIN_RESIDUAL_RATIO,
    ExpectedResidual,
    FittedIntervals,
    compute_conformal_quantile,
    crossfit_intervals,
    crossfit_residuals,
    make_residual_inputs,
)


def rated(
    prompts: int, each: int, seed: int, noise: float = 0.03, steep: float = 0.2
) -> tuple[Values, Values, Values, list[str]]:
    """(scores, human scores, `out_of_domain`, prompts); images far away and images of the same prompt err alike."""
    random = np.random.default_rng(seed)
    names = [f"prompt {seed} {i}" for i in range(prompts) for _ in range(each)]
    n = prompts * each
    predicted, unusual = random.uniform(0.2, 0.8, n), random.uniform(0, 1, n)
    shared = np.repeat(random.normal(size=prompts), each)
    error = (noise + steep * unusual) * (0.5 * shared + math.sqrt(0.75) * random.normal(size=n))
    return predicted, predicted + error, unusual, names


@pytest.mark.parametrize(("n", "rank"), [(9, 9), (10, 10), (19, 18), (50, 46), (99, 90), (100, 91), (999, 900)])
def test_the_quantile_is_that_of_a_finite_sample(n: int, rank: int) -> None:
    values = np.random.default_rng(n).permutation(n) + 1.0
    assert compute_conformal_quantile(values) == rank


def test_too_few_values_have_no_quantile() -> None:
    assert compute_conformal_quantile(np.arange(8.0)) == math.inf
    assert compute_conformal_quantile(np.arange(4.0), 0.8) == 3.0


def test_new_prompts_are_covered_nine_times_out_of_ten() -> None:
    """On average over many small calibrations, and for near and far images."""
    held: list[Values] = []
    far: list[Values] = []
    for seed in range(60):
        intervals = FittedIntervals.fit(*rated(20, 5, seed))
        assert intervals is not None
        predicted, human, unusual, _ = rated(40, 5, 1000 + seed)
        low, high = intervals.compute(predicted, unusual)
        inside = (low <= human.clip(0, 1)) & (human.clip(0, 1) <= high)
        held.append(inside)
        far.append(inside[unusual > 0.75])
    assert np.mean(held) == pytest.approx(0.9, abs=0.02)
    assert np.mean(np.concatenate(far)) == pytest.approx(0.9, abs=0.05)


def test_intervals_are_narrower_where_small_residuals_are_expected() -> None:
    predicted, human, unusual, names = rated(80, 10, 1)
    intervals = FittedIntervals.fit(predicted, human, unusual, names)
    assert intervals is not None
    low, high = intervals.compute(predicted, unusual)
    width = high - low
    constant = 2 * compute_conformal_quantile(np.abs(predicted - human))
    assert width.mean() < 0.95 * constant
    assert width[unusual < 0.2].mean() < 0.6 * width[unusual > 0.8].mean()


def test_expected_residuals_come_from_other_prompts() -> None:
    """If the residuals of one prompt change, their expected residuals do not."""
    predicted, human, unusual, names = rated(20, 5, 3)
    inputs, residuals = make_residual_inputs(predicted, unusual), np.abs(predicted - human)
    other = residuals.copy()
    mine = np.array([name == names[0] for name in names])
    other[mine] = residuals[mine] * 7
    before, after = crossfit_residuals(inputs, residuals, names), crossfit_residuals(inputs, other, names)
    np.testing.assert_allclose(after[mine], 7 * before[mine])
    assert not np.allclose(after[~mine], before[~mine])


def test_intervals_of_a_fold_come_from_the_other_prompts() -> None:
    predicted, human, unusual, names = rated(20, 5, 4)
    mine = np.array([name == names[0] for name in names])
    wrong = np.where(mine, 1 - human, human)
    before, after = (crossfit_intervals(predicted, side, unusual, names) for side in (human, wrong))
    assert before is not None
    assert after is not None
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one[mine], other[mine])
        assert not np.array_equal(one, other)


def test_crossfit_intervals_cover() -> None:
    held = []
    for seed in range(20):
        predicted, human, unusual, names = rated(40, 6, seed)
        found = crossfit_intervals(predicted, human.clip(0, 1), unusual, names)
        assert found is not None
        held.append((found[0] <= human.clip(0, 1)) & (human.clip(0, 1) <= found[1]))
    assert np.mean(held) == pytest.approx(0.9, abs=0.02)


def test_intervals_stay_on_the_scale_and_around_the_score() -> None:
    intervals = FittedIntervals.fit(*rated(20, 5, 5))
    assert intervals is not None
    scores = np.array([-0.3, 0.0, 0.01, 0.5, 0.99, 1.4])
    low, high = intervals.compute(scores, np.full(6, 1.0))
    assert (low >= 0).all()
    assert (high <= 1).all()
    assert (low <= scores.clip(0, 1)).all()
    assert (scores.clip(0, 1) <= high).all()


def test_an_expectation_is_positive_and_bounded_anywhere() -> None:
    predicted, human, unusual, _ = rated(20, 5, 6)
    spread = ExpectedResidual.fit(make_residual_inputs(predicted, unusual), np.abs(predicted - human))
    anywhere = spread(make_residual_inputs(np.linspace(-9, 9, 50), np.linspace(0, 1, 50)))
    assert anywhere.min() == pytest.approx(MIN_RESIDUAL_RATIO * spread.mean)
    assert anywhere.max() <= MAX_RESIDUAL_RATIO * spread.mean


def test_residuals_that_do_not_differ_are_expected_everywhere() -> None:
    inputs = make_residual_inputs(np.linspace(0, 1, 60), np.full(60, 0.5))
    np.testing.assert_allclose(ExpectedResidual.fit(inputs, np.full(60, 0.1))(inputs), 0.1)
    assert ExpectedResidual.fit(inputs, np.zeros(60))(inputs).min() > 0


def test_percentiles_count_lower_scores() -> None:
    intervals = FittedIntervals(ExpectedResidual(np.zeros(4), 1.0), 1.0, np.array([0.1, 0.2, 0.2, 0.4]))
    np.testing.assert_allclose(intervals.rank(np.array([0.0, 0.1, 0.2, 0.3, 0.4, 2.0])), [0, 12.5, 50, 75, 87.5, 100])


def test_percentiles_of_many_known_scores_are_kept_in_few() -> None:
    predicted, human, unusual, names = rated(300, 10, 7)
    intervals = FittedIntervals.fit(predicted, human, unusual, names)
    assert intervals is not None
    assert len(intervals.known) == 1024
    exact = [(predicted < value).mean() * 100 for value in predicted[:200]]
    np.testing.assert_allclose(intervals.rank(predicted[:200]), exact, atol=0.2)


def test_too_few_images_or_prompts_give_no_intervals() -> None:
    assert FittedIntervals.fit(*rated(MIN_PROMPTS, MIN_IMAGES // MIN_PROMPTS, 0)) is not None
    assert FittedIntervals.fit(*rated(MIN_PROMPTS - 1, MIN_IMAGES, 0)) is None
    predicted, human, unusual, names = rated(MIN_PROMPTS, MIN_IMAGES // MIN_PROMPTS, 0)
    human[3] = np.nan
    assert FittedIntervals.fit(predicted, human, unusual, names) is None
    assert crossfit_intervals(*rated(9, 50, 0)) is None


def known(n: int = 120, width: int = 12, seed: int = 0) -> tuple[Values, list[str]]:
    """Features (n, width) of images, six for each prompt."""
    features = np.random.default_rng(seed).standard_normal((n, width)) * np.arange(1.0, width + 1)
    return features, [f"prompt {i // 6}" for i in range(n)]


def calibration_of(rows: int = 120) -> tuple[Calibration | None, Values]:
    features, names = known(rows)
    predicted = {"quality": np.linspace(0.1, 0.9, rows), "consistency": np.linspace(0.9, 0.1, rows)}
    human = {name: column + np.random.default_rng(1).normal(0, 0.1, rows) for name, column in predicted.items()}
    human["consistency"][45:] = np.nan
    return fit_calibration(features, names, range(rows), predicted, human), features


def test_what_is_kept_is_what_was_computed() -> None:
    made, features = calibration_of()
    assert made is not None
    again = Calibration.from_tensors({name: array.copy() for name, array in made.to_tensors().items()})
    scores = {"quality": np.linspace(-0.2, 1.2, 120)}
    one, other = made.describe_scores(features, scores), again.describe_scores(features, scores)
    assert one.keys() == {"out_of_domain", "quality_low", "quality_high", "quality_percentile"}
    for name, column in one.items():
        np.testing.assert_array_equal(column, other[name])


def test_a_target_with_few_ratings_has_no_intervals_and_the_other_has() -> None:
    made, _ = calibration_of()
    assert made is not None
    assert made.intervals.keys() == {"quality"}


def test_a_model_of_few_images_has_no_calibration() -> None:
    assert calibration_of(48)[0] is None
    assert calibration_of(54)[0] is None  # nine prompts


def test_columns_do_not_depend_on_other_rows_and_are_on_the_scale() -> None:
    made, features = calibration_of()
    assert made is not None
    scores = {"quality": np.linspace(0, 1, 8)}
    whole = made.describe_scores(features[:8], scores)
    for row in range(8):
        alone = made.describe_scores(
            features[row : row + 1], {"quality": scores["quality"][row : row + 1]}, MosScale(1, 5)
        )
        for name, column in alone.items():
            wanted = whole[name][row]
            on_scale = 1 + 4 * wanted if name in ("quality_low", "quality_high") else wanted
            assert column[0] == pytest.approx(on_scale, abs=1e-9)


def test_the_distances_of_held_out_models_are_used_where_they_are_known() -> None:
    """The errors are larger where the other models found images unusual."""
    features, names = known(600)
    random = np.random.default_rng(2)
    unusual = random.uniform(0, 1, 600)
    predicted = {"quality": random.uniform(0.3, 0.7, 600), "consistency": np.full(600, np.nan)}
    human = {"quality": predicted["quality"] + random.normal(0, 1, 600) * 0.3 * unusual, "consistency": np.zeros(600)}
    told = fit_calibration(features, names, range(600), predicted, human, unusual)
    untold = fit_calibration(features, names, range(600), predicted, human, np.full(600, np.nan))
    assert told is not None
    assert untold is not None
    assert told.intervals["quality"].expected.weights[3] > 3 * abs(untold.intervals["quality"].expected.weights[3])
