"""Bins of predictions: each image is in one bin, equal predictions share a bin, few prompts give no interval."""

import numpy as np
import pytest

from aigc_cli.metrics.bins import MAX_BINS, make_bins


def test_bins_are_in_order_and_hold_every_image() -> None:
    rng = np.random.default_rng(0)
    predicted = rng.uniform(0, 5, 400)
    human = predicted + 0.5
    found = make_bins(predicted, human, [f"p{i % 50}" for i in range(400)])
    assert len(found) == MAX_BINS
    assert sum(one.human.n for one in found) == 400
    assert [one.predicted for one in found] == sorted(one.predicted for one in found)
    for one in found:
        assert one.human.value == pytest.approx(one.predicted + 0.5)
        assert one.human.low is not None
        assert one.human.low <= one.human.value <= (one.human.high or 0)
        assert one.low is one.high is None


def test_few_images_or_equal_predictions_are_one_bin() -> None:
    (found,) = make_bins([2.0] * 40, range(40), ["a"] * 40)
    assert (found.predicted, found.human.value, found.human.n) == (2.0, 19.5, 40)
    assert found.human.low is None  # one prompt gives no interval
    (few,) = make_bins([1.0, 3.0], [2.0, 4.0], ["a", "b"])
    assert (few.predicted, few.human.value) == (2.0, 3.0)
    assert make_bins([], [], []) == []


def test_equal_predictions_share_a_bin() -> None:
    predicted = [1.0] * 30 + [2.0] * 30 + [3.0] * 30
    found = make_bins(predicted, predicted, ["a"] * 90)
    means = [one.human.value for one in found]
    assert means == [one.predicted for one in found]
    assert all(mean in (1.0, 2.0, 2.5, 3.0) for mean in means)
    assert sum(one.human.n for one in found) == 90


def test_predicted_intervals_are_averaged_where_there_are_any() -> None:
    nan = float("nan")
    (found,) = make_bins([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], ["a"] * 3, [0.0, 0.5, nan], [2.0, 1.0, nan])
    assert (found.low, found.high) == (0.25, 1.5)
    (bare,) = make_bins([1.0], [1.0], ["a"], [nan], [nan])
    assert (bare.low, bare.high) == (None, None)
