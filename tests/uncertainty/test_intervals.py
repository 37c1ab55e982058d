"""Error bars: the rank of a finite sample, coverage on prompts that nothing was fitted on, and what gives none."""

import math

import numpy as np
import pytest
import torch

from aigc_cli.uncertainty.intervals import (
    FEWEST_IMAGES,
    FEWEST_PROMPTS,
    LEAST,
    MOST,
    Bars,
    Calibration,
    Spread,
    calibrate,
    conformal_quantile,
    crossfit_intervals,
    crossfitted,
    spread_inputs,
)
from aigc_cli.uncertainty.out_of_domain import Column


def rated(
    prompts: int, each: int, seed: int, noise: float = 0.03, steep: float = 0.2
) -> tuple[Column, Column, Column, list[str]]:
    """Scores whose errors grow with the distance and are shared in part by the images of a prompt."""
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
    assert conformal_quantile(values) == rank


def test_too_few_values_have_no_quantile() -> None:
    assert conformal_quantile(np.arange(8.0)) == math.inf
    assert conformal_quantile(np.arange(4.0), 0.8) == 3.0


def test_new_prompts_are_covered_nine_times_out_of_ten() -> None:
    """Over many small calibrations, as the promise is one on average, and for near and far images alike."""
    held: list[Column] = []
    far: list[Column] = []
    for seed in range(60):
        bars = Bars.fit(*rated(20, 5, seed))
        assert bars is not None
        predicted, human, unusual, _ = rated(40, 5, 1000 + seed)
        low, high = bars.interval(predicted, unusual)
        inside = (low <= human.clip(0, 1)) & (human.clip(0, 1) <= high)
        held.append(inside)
        far.append(inside[unusual > 0.75])
    assert np.mean(held) == pytest.approx(0.9, abs=0.02)
    assert np.mean(np.concatenate(far)) == pytest.approx(0.9, abs=0.05)


def test_a_good_expectation_makes_intervals_narrower_where_it_can() -> None:
    predicted, human, unusual, names = rated(80, 10, 1)
    bars = Bars.fit(predicted, human, unusual, names)
    assert bars is not None
    low, high = bars.interval(predicted, unusual)
    width = high - low
    constant = 2 * conformal_quantile(np.abs(predicted - human))
    assert width.mean() < 0.95 * constant
    assert width[unusual < 0.2].mean() < 0.6 * width[unusual > 0.8].mean()


def test_an_image_is_scaled_by_what_other_prompts_say() -> None:
    """The residuals of one prompt are changed: what they are divided by stays."""
    predicted, human, unusual, names = rated(20, 5, 3)
    inputs, residuals = spread_inputs(predicted, unusual), np.abs(predicted - human)
    other = residuals.copy()
    mine = np.array([name == names[0] for name in names])
    other[mine] = residuals[mine] * 7
    before, after = crossfitted(inputs, residuals, names), crossfitted(inputs, other, names)
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
    bars = Bars.fit(*rated(20, 5, 5))
    assert bars is not None
    scores = np.array([-0.3, 0.0, 0.01, 0.5, 0.99, 1.4])
    low, high = bars.interval(scores, np.full(6, 1.0))
    assert (low >= 0).all()
    assert (high <= 1).all()
    assert (low <= scores.clip(0, 1)).all()
    assert (scores.clip(0, 1) <= high).all()


def test_an_expectation_is_positive_and_bounded_anywhere() -> None:
    predicted, human, unusual, _ = rated(20, 5, 6)
    spread = Spread.fit(spread_inputs(predicted, unusual), np.abs(predicted - human))
    anywhere = spread(spread_inputs(np.linspace(-9, 9, 50), np.linspace(0, 1, 50)))
    assert anywhere.min() == pytest.approx(LEAST * spread.mean)
    assert anywhere.max() <= MOST * spread.mean


def test_residuals_that_do_not_differ_are_expected_everywhere() -> None:
    inputs = spread_inputs(np.linspace(0, 1, 60), np.full(60, 0.5))
    np.testing.assert_allclose(Spread.fit(inputs, np.full(60, 0.1))(inputs), 0.1)
    assert Spread.fit(inputs, np.zeros(60))(inputs).min() > 0


def test_percentiles_count_lower_scores() -> None:
    bars = Bars(Spread(np.zeros(4), 1.0), 1.0, np.array([0.1, 0.2, 0.2, 0.4]))
    np.testing.assert_allclose(bars.percentile(np.array([0.0, 0.1, 0.2, 0.3, 0.4, 2.0])), [0, 12.5, 50, 75, 87.5, 100])


def test_percentiles_of_many_known_scores_are_kept_in_few() -> None:
    predicted, human, unusual, names = rated(300, 10, 7)
    bars = Bars.fit(predicted, human, unusual, names)
    assert bars is not None
    assert len(bars.known) == 1024
    exact = [(predicted < value).mean() * 100 for value in predicted[:200]]
    np.testing.assert_allclose(bars.percentile(predicted[:200]), exact, atol=0.2)


def test_too_few_images_or_prompts_give_no_bars() -> None:
    assert Bars.fit(*rated(FEWEST_PROMPTS, FEWEST_IMAGES // FEWEST_PROMPTS, 0)) is not None
    assert Bars.fit(*rated(FEWEST_PROMPTS - 1, FEWEST_IMAGES, 0)) is None
    predicted, human, unusual, names = rated(FEWEST_PROMPTS, FEWEST_IMAGES // FEWEST_PROMPTS, 0)
    human[3] = np.nan
    assert Bars.fit(predicted, human, unusual, names) is None
    assert crossfit_intervals(*rated(9, 50, 0)) is None


def known(n: int = 120, width: int = 12, seed: int = 0) -> tuple[torch.Tensor, list[str]]:
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(n, width, generator=random) * torch.arange(1.0, width + 1)
    return features.double(), [f"prompt {i // 6}" for i in range(n)]


def calibration_of(rows: int = 120) -> tuple[Calibration | None, torch.Tensor]:
    features, names = known(rows)
    predicted = {"quality": np.linspace(0.1, 0.9, rows), "consistency": np.linspace(0.9, 0.1, rows)}
    human = {name: column + np.random.default_rng(1).normal(0, 0.1, rows) for name, column in predicted.items()}
    human["consistency"][45:] = np.nan
    return calibrate(features, names, range(rows), predicted, human), features


def test_what_is_kept_is_what_was_computed() -> None:
    made, features = calibration_of()
    assert made is not None
    again = Calibration.of({name: tensor.clone() for name, tensor in made.tensors().items()})
    scores = {"quality": torch.linspace(-0.2, 1.2, 120)}
    one, other = made.columns(features, scores), again.columns(features, scores)
    assert one.keys() == {"out_of_domain", "quality_low", "quality_high", "quality_percentile"}
    for name, column in one.items():
        np.testing.assert_array_equal(column, other[name])


def test_a_target_with_few_ratings_has_no_bars_and_the_other_has() -> None:
    made, _ = calibration_of()
    assert made is not None
    assert made.bars.keys() == {"quality"}


def test_a_model_of_few_images_has_no_calibration() -> None:
    assert calibration_of(48)[0] is None
    assert calibration_of(54)[0] is None  # nine prompts


def test_a_batch_of_features_is_judged_row_by_row_on_any_scale() -> None:
    made, features = calibration_of()
    assert made is not None
    scores = {"quality": torch.linspace(0, 1, 8)}
    whole = made.columns(features[:8], scores)
    for row in range(8):
        alone = made.columns(features[row : row + 1], {"quality": scores["quality"][row : row + 1]}, (1, 5))
        for name, column in alone.items():
            wanted = whole[name][row]
            on_scale = 1 + 4 * wanted if name in ("quality_low", "quality_high") else wanted
            assert column[0] == pytest.approx(on_scale, abs=1e-9)


def test_the_distances_of_held_out_models_are_used_where_they_are_known() -> None:
    """The same errors, far more frequent where the other models found images unusual."""
    features, names = known(600)
    random = np.random.default_rng(2)
    unusual = random.uniform(0, 1, 600)
    predicted = {"quality": random.uniform(0.3, 0.7, 600), "consistency": np.full(600, np.nan)}
    human = {"quality": predicted["quality"] + random.normal(0, 1, 600) * 0.3 * unusual, "consistency": np.zeros(600)}
    told = calibrate(features, names, range(600), predicted, human, unusual)
    untold = calibrate(features, names, range(600), predicted, human, np.full(600, np.nan))
    assert told is not None
    assert untold is not None
    assert told.bars["quality"].spread.weights[3] > 3 * abs(untold.bars["quality"].spread.weights[3])
