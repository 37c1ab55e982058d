"""The formulas compared with SciPy and with plain loops over pairs and prompts."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from aigc_cli.metrics import formulas
from aigc_cli.metrics.by_name import METRICS, compute_metric

Array = np.ndarray[Any, Any]
small = st.integers(0, 4).map(float)
rows_of_prompts = st.lists(st.tuples(small, small, st.integers(0, 4)), min_size=2, max_size=40)


def pairs_by_hand(x: Array, y: Array) -> tuple[float, int]:
    """(pairs ordered as people do, equal predictions counting half; pairs with different human scores)."""
    right, total = 0.0, 0
    for i, j in itertools.combinations(range(len(x)), 2):
        if y[i] != y[j]:
            total += 1
            right += 0.5 if x[i] == x[j] else float((x[i] < x[j]) == (y[i] < y[j]))
    return right, total


def prompts(codes: Array) -> list[list[int]]:
    return [np.flatnonzero(codes == code).tolist() for code in sorted(set(codes.tolist()))]


def by_hand(name: str, x: Array, y: Array, codes: Array) -> float | None:
    """A metric within prompts by its definition, prompt by prompt."""
    found: list[float] = []
    if name == "within_pairwise":
        parts = [pairs_by_hand(x[rows], y[rows]) for rows in prompts(codes)]
        total = sum(pairs for _, pairs in parts)
        return sum(right for right, _ in parts) / total if total else None
    for rows in prompts(codes):
        p, t = x[rows].tolist(), y[rows].tolist()
        if name == "within_srocc":
            if len(rows) >= 3 and len(set(p)) > 1 and len(set(t)) > 1:
                found.append(float(stats.spearmanr(p, t).statistic))
            continue
        if len(set(t)) == 1:
            continue
        picks = [i for i in range(len(p)) if p[i] == max(p) or name == "best_of_n_chance"]
        if name == "regret":
            found.append(max(t) - sum(t[i] for i in picks) / len(picks))
        else:
            found.append(sum(t[i] == max(t) for i in picks) / len(picks))
    return sum(found) / len(found) if found else None


@given(rows_of_prompts)
def test_pairwise_is_the_share_of_pairs(rows: list[tuple[float, float, int]]) -> None:
    x, y, _ = np.array(rows).T
    right, total = pairs_by_hand(x, y)
    found = compute_metric("pairwise", x, y)
    if total == 0:
        assert found is None
    else:
        assert found == pytest.approx(right / total, abs=1e-12)


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.needs_groups])
@given(rows=rows_of_prompts)
def test_within_prompts_as_by_hand(name: str, rows: list[tuple[float, float, int]]) -> None:
    x, y = (np.array(side) for side in list(zip(*rows, strict=True))[:2])
    codes = np.array([row[2] for row in rows])
    expected, found = by_hand(name, x, y, codes), compute_metric(name, x, y, codes)
    assert (found is None) == (expected is None)
    if expected is not None:
        assert found == pytest.approx(expected, abs=1e-12)


def test_one_choice_by_hand() -> None:
    """Two prompts: the pick of the first is wrong and loses 2; in the second two images share the first place."""
    x, y = np.array([3.0, 2.0, 1.0, 5.0, 5.0, 1.0]), np.array([1.0, 3.0, 2.0, 4.0, 2.0, 4.0])
    codes = np.array([0, 0, 0, 1, 1, 1])
    found = {name: compute_metric(name, x, y, codes) for name in METRICS}
    assert found["best_of_n"] == (0 + 1 / 2) / 2
    assert found["best_of_n_chance"] == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert found["regret"] == ((3 - 1) + (4 - 3)) / 2
    assert found["within_pairwise"] == (1 + 0.5 + 0.0) / (3 + 2)


def test_a_perfect_prediction_and_its_opposite() -> None:
    y, codes = np.arange(12.0), np.repeat([0, 1, 2], 4)
    best = {name: compute_metric(name, y, y, codes) for name in METRICS}
    worst = {name: compute_metric(name, -y, y, codes) for name in METRICS}
    for name in ("srocc", "plcc", "plcc_logistic", "krocc", "within_srocc"):
        assert (best[name], worst[name]) == (pytest.approx(1), pytest.approx(-1))
    for name in ("pairwise", "best_of_n", "within_pairwise"):
        assert (best[name], worst[name]) == (1, 0)
    assert (best["regret"], worst["regret"]) == (0, 3)
    assert best["best_of_n_chance"] == worst["best_of_n_chance"] == 0.25


# --- the logistic map


def curve(x: Array, low: float, high: float, middle: float, width: float) -> Array:
    return np.asarray(low + (high - low) / (1 + np.exp(-(x - middle) / width)))


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e4])
def test_a_known_curve_is_recovered(scale: float) -> None:
    x = np.random.default_rng(0).random(200) * 10
    y = curve(x, 1.0, 4.5, 6.0, 0.4)
    assert compute_metric("plcc_logistic", x * scale, y) == pytest.approx(1, abs=1e-9)
    assert compute_metric("plcc_logistic", -x * scale, y) == pytest.approx(-1, abs=1e-9)
    assert (compute_metric("plcc", x, y) or 1) < 0.93
    mapped = formulas.fit_logistic(x * scale, y)  # a line, with b1 and b2 free
    np.testing.assert_allclose(np.polyval(np.polyfit(mapped, y, 1), mapped), y, atol=1e-3)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e3, 1e3), small), min_size=2, max_size=30))
def test_the_map_is_never_worse_than_a_line_and_never_changes_the_order(rows: list[tuple[float, float]]) -> None:
    x, y = np.round(np.array(rows), 3).T
    linear, found = compute_metric("plcc", x, y), compute_metric("plcc_logistic", x, y)
    assert (linear is None) == (found is None)
    if linear is None or found is None:
        return
    assert math.isfinite(found)
    assert abs(linear) - 1e-9 <= abs(found) <= 1
    order = np.argsort(x, kind="stable")
    assert (np.diff(formulas.fit_logistic(x, y)[order]) >= -1e-9).all()


def test_four_points_are_too_few_for_four_parameters() -> None:
    x, y = np.array([1.0, 2.0, 4.0, 9.0]), np.array([1.0, 3.0, 2.0, 4.0])
    assert formulas.fit_logistic(x, y) is x
    assert compute_metric("plcc_logistic", x, y) == compute_metric("plcc", x, y)


@pytest.mark.parametrize("found", [math.nan, -0.5])
def test_a_fit_that_fails_leaves_the_line(found: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit fails if it is not a number, or correlates less than a straight line."""
    fit = type("Fit", (), {"x": np.array([0.0, 0.0]), "fun": found})
    monkeypatch.setattr("scipy.optimize.minimize", lambda *_, **__: fit)
    x = np.random.default_rng(0).random(50)
    assert formulas.fit_logistic(x, x**2) is x


def test_the_map_is_the_least_squares_fit_of_all_four_parameters() -> None:
    from scipy.optimize import curve_fit

    random = np.random.default_rng(0)
    x = random.random(300) * 10
    y = curve(x, 1.0, 4.5, 6.0, 0.8) + 0.3 * random.standard_normal(300)
    fitted, _ = curve_fit(curve, x, y, (1.0, 4.0, 5.0, 1.0))
    expected = stats.pearsonr(curve(x, *fitted), y).statistic
    assert compute_metric("plcc_logistic", x, y) == pytest.approx(expected, abs=1e-7)


def test_partial_srocc_is_the_correlation_of_the_ranks_without_the_control() -> None:
    random = np.random.default_rng(0)
    control = random.normal(size=200).round(1)  # with ties
    x, y = control + random.normal(size=200), control + random.normal(size=200).round(1)
    ranks = [stats.rankdata(side) for side in (x, y, control)]
    left = [side - np.polyval(np.polyfit(ranks[2], side, 1), ranks[2]) for side in ranks[:2]]
    assert formulas.partial_srocc(x, y, control) == pytest.approx(stats.pearsonr(*left).statistic, abs=1e-12)
    assert formulas.srocc(x, y) > formulas.partial_srocc(x, y, control) + 0.2


def test_partial_srocc_is_nan_where_the_control_orders_a_side_fully() -> None:
    x = np.arange(5.0)
    assert math.isnan(formulas.partial_srocc(x, x[[1, 0, 2, 3, 4]], x))


def test_auc_counts_pairs_and_halves_ties() -> None:
    matched, shuffled = np.array([3.0, 1.0, 2.0]), np.array([2.0, 0.0])
    expected = np.mean([(m > s) + 0.5 * (m == s) for m in matched for s in shuffled])
    assert formulas.auc(matched, shuffled) == expected
