"""Metrics beside SciPy, what is not defined, and intervals that respect groups."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from aigc_cli.core.metrics import (
    METRICS,
    Estimate,
    cluster_resamples,
    estimate,
    fold_mean,
    interval,
    metric_rows,
    value,
)

CORRELATIONS = [name for name in METRICS if name != "rmse"]
numbers = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-3))
pairs = st.lists(st.tuples(numbers, numbers), min_size=2, max_size=40)


def _scipy(name: str, x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> float:
    if name == "srocc":
        return float(stats.spearmanr(x, y).statistic)
    if name == "plcc":
        return float(stats.pearsonr(x, y).statistic)
    if name == "krocc":
        return float(stats.kendalltau(x, y).statistic)
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(x.tolist(), y.tolist(), strict=True)) / len(x))


@pytest.mark.parametrize("name", METRICS)
@given(rows=pairs)
def test_values_are_scipys_with_ties(name: str, rows: list[tuple[float, float]]) -> None:
    x, y = np.array(rows).T
    if name != "rmse" and min(len(set(x)), len(set(y))) == 1:
        assert value(name, x, y) is None
        return
    assert value(name, x, y) == pytest.approx(_scipy(name, x, y), abs=1e-12, rel=1e-12)


def test_ties_by_hand() -> None:
    x, y = [1, 2, 2, 3], [1, 3, 2, 4]
    assert value("srocc", x, y) == pytest.approx(0.9486832980505138, abs=1e-12)  # 4.5 / sqrt(4.5 * 5)
    assert value("krocc", x, y) == pytest.approx(5 / math.sqrt(5 * 6), abs=1e-12)  # tau-b
    assert value("rmse", x, y) == pytest.approx(math.sqrt(0.5), abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(("x", "y", "n"), [([], [], 0), ([1.0], [2.0], 1), ([1.0, math.nan], [2.0, 3.0], 1)])
def test_fewer_than_two_rows(name: str, x: list[float], y: list[float], n: int) -> None:
    assert value(name, x, y) is None
    found = estimate(name, x, y, ["a"] * len(x))
    assert found == Estimate(None, None, None, n, f"n = {n}, at least 2 are needed")


@pytest.mark.parametrize("name", CORRELATIONS)
@pytest.mark.parametrize(
    ("x", "y", "label"),
    [
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], "predictions"),
        ([1.0, 2.0, 3.0], [0.1, 0.1, 0.1], "human scores"),
        ([0.1 + 1e-14, 0.1, 0.1], [1.0, 2.0, 3.0], "predictions"),  # constant but for rounding
    ],
)
def test_a_constant_side_has_no_correlation(name: str, x: list[float], y: list[float], label: str) -> None:
    assert estimate(name, x, y, ["a", "b", "c"]) == Estimate(None, None, None, 3, f"the {label} are constant")


def test_a_constant_side_has_an_rmse() -> None:
    assert estimate("rmse", [1.0, 1.0], [2.0, 4.0], ["a", "b"]).value == pytest.approx(math.sqrt(5))


@pytest.mark.parametrize("name", METRICS)
def test_rows_without_a_score_are_left_out(name: str) -> None:
    x, y = [1.0, 2.0, 9.0, 4.0, math.nan], [1.0, 3.0, math.nan, 2.0, 5.0]
    found = estimate(name, x, y, list("abcde"))
    assert found.n == 3
    assert found.value == value(name, [1.0, 2.0, 4.0], [1.0, 3.0, 2.0])


@pytest.mark.parametrize("name", METRICS)
def test_an_infinite_prediction_is_not_averaged_away(name: str) -> None:
    found = estimate(name, [1.0, math.inf, 3.0], [1.0, 2.0, 3.0], list("abc"))
    assert found == Estimate(None, None, None, 3, "some values are not finite")


# --- intervals


def _grouped(effect: float, seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], list[str]]:
    """20 prompts of 8 images; `effect` is the spread of what the images of a prompt share, on both sides."""
    random = np.random.default_rng(seed)
    shared = effect * random.standard_normal((20, 2)).repeat(8, axis=0)
    own = 0.3 * random.standard_normal((160, 2))
    x, y = (shared + own).T
    return x, y, [f"prompt {row // 8}" for row in range(160)]


def _width(found: Estimate) -> float:
    assert found.low is not None
    assert found.high is not None
    return found.high - found.low


def test_an_interval_is_deterministic_and_holds_the_point() -> None:
    x, _, groups = _grouped(1)
    y = x + 0.1 * np.random.default_rng(1).standard_normal(160)
    first, second = estimate("srocc", x, y, groups), estimate("srocc", x, y, groups)
    assert first == second
    assert first.value is not None
    assert first.low is not None
    assert first.high is not None
    assert 0.9 < first.low < first.value < first.high <= 1
    assert estimate("srocc", x, y, groups, seed=1).low != first.low


def test_an_interval_by_groups_is_wider_when_groups_share_an_effect() -> None:
    x, y, groups = _grouped(1)
    alone = [str(row) for row in range(160)]
    assert _width(estimate("plcc", x, y, groups)) > 1.5 * _width(estimate("plcc", x, y, alone))


def test_an_interval_by_groups_is_as_wide_when_groups_share_nothing() -> None:
    x, y, groups = _grouped(0)
    alone = [str(row) for row in range(160)]
    assert 0.7 < _width(estimate("plcc", x, y, groups)) / _width(estimate("plcc", x, y, alone)) < 1.4


def test_a_resample_draws_whole_groups() -> None:
    groups = ["a", "b", "a", "c", "b", "b"]
    draws = cluster_resamples(groups, 200, 0)
    assert len(draws) == 200
    for rows in draws:
        times = {name: sum(groups[row] == name for row in rows) / groups.count(name) for name in "abc"}
        assert all(count == int(count) for count in times.values())
        assert sum(times.values()) == 3  # as many groups as there are
    assert {tuple(sorted(rows)) for rows in draws[:20]} != {tuple(range(6))}
    for one, other in zip(draws, cluster_resamples(groups, 200, 0), strict=True):
        assert one.tolist() == other.tolist()


def test_percentiles_by_hand_and_too_many_undefined_draws() -> None:
    assert interval([float(x) for x in range(101)]) == (2.5, 97.5)
    assert interval([None, 1.0, None]) == (None, None)
    assert interval([None, 1.0, 3.0]) == (1.05, 2.95)
    assert interval([]) == (None, None)


def test_one_group_alone_gives_no_width_of_its_own() -> None:
    found = estimate("plcc", [1.0, 2.0, 3.0], [1.0, 2.0, 4.0], ["a", "a", "a"])
    assert found.value is not None
    assert found.low == pytest.approx(found.value)
    assert found.high == pytest.approx(found.value)


# --- folds


def _folds(noise: float) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], list[str]]]:
    folds = []
    for seed in range(3):
        random = np.random.default_rng(seed)
        human = random.random(60)
        predicted = human + 0.5 * random.standard_normal(60) + noise * random.standard_normal(60)
        folds.append((predicted, human, [f"{seed} {row // 5}" for row in range(60)]))
    return folds


def test_the_mean_over_folds_is_the_mean_of_their_values() -> None:
    folds = _folds(0)
    found, draws = fold_mean("srocc", folds)
    points = [value("srocc", predicted, human) for predicted, human, _ in folds]
    assert found.value == pytest.approx(np.mean([point for point in points if point is not None]), abs=1e-12)
    assert found.n == 180
    assert draws.shape == (1000,)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])))


def test_draws_of_two_variants_are_paired() -> None:
    """The same prompts are drawn for both, so their difference is known better than either."""
    (_, one), (_, other) = fold_mean("plcc", _folds(0)), fold_mean("plcc", _folds(0.02))
    assert np.std(one - other) < 0.3 * np.std(one)
    assert np.corrcoef(one, other)[0, 1] > 0.95


def test_the_same_fold_under_another_seed_draws_the_same_groups() -> None:
    fold = _folds(0)[1]
    _, alone = fold_mean("plcc", [fold], [1])
    _, twice = fold_mean("plcc", [fold, fold], [1, 1])
    np.testing.assert_allclose(twice, alone, atol=1e-12)
    assert not np.allclose(fold_mean("plcc", [fold], [2])[1], alone)


def test_an_undefined_fold_is_named() -> None:
    good, (_, human, groups) = _folds(0)[:2]
    found, draws = fold_mean("srocc", [good, (np.zeros(60), human, groups)])
    assert found == Estimate(None, None, None, 120, "fold 1: the predictions are constant")
    assert np.isnan(draws).all()


def test_rows_of_the_metrics_table() -> None:
    x, y, groups = _grouped(1)
    labels = {"run": "r", "split": "val", "group": "prompt"}
    rows = metric_rows({"quality": (x, y), "consistency": (np.zeros(160), y)}, groups, labels, resamples=20)
    assert [(row["target"], row["metric"]) for row in rows] == [
        (target, name) for target in ("quality", "consistency") for name in ("srocc", "plcc", "krocc", "rmse")
    ]
    assert list(rows[0]) == ["run", "split", "group", "target", "metric", "value", "ci_low", "ci_high", "n"]
    assert all(row["n"] == 160 and row["run"] == "r" for row in rows)
    assert rows[0]["value"] == value("srocc", x, y)
    assert [row["value"] for row in rows[4:7]] == [None] * 3
    assert METRICS["rmse"].higher_is_better is False
