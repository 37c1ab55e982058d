"""Metrics by name: values compared with SciPy, undefined metrics, and intervals clustered by groups."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from aigc_cli.metrics.bootstrap import Resamples, draw_counts
from aigc_cli.metrics.by_name import (
    METRICS,
    Estimate,
    compute_interval,
    compute_metric,
    estimate_fold_mean,
    estimate_mean,
    estimate_metric,
    make_crossval_rows,
    make_metric_rows,
)
from aigc_cli.metrics.formulas import fit_logistic

IN_SCIPY = ("srocc", "plcc", "krocc", "rmse")
CORRELATIONS = ("srocc", "plcc", "plcc_logistic", "krocc")
WITHIN = [name for name, metric in METRICS.items() if metric.needs_groups]
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


@pytest.mark.parametrize("name", IN_SCIPY)
@given(rows=pairs)
def test_values_are_those_of_scipy(name: str, rows: list[tuple[float, float]]) -> None:
    x, y = np.array(rows).T
    if name != "rmse" and min(len(set(x)), len(set(y))) == 1:
        assert compute_metric(name, x, y) is None
        return
    assert compute_metric(name, x, y) == pytest.approx(_scipy(name, x, y), abs=1e-12, rel=1e-12)


def test_ties_by_hand() -> None:
    x, y = [1, 2, 2, 3], [1, 3, 2, 4]
    assert compute_metric("srocc", x, y) == pytest.approx(0.9486832980505138, abs=1e-12)  # 4.5 / sqrt(4.5 * 5)
    assert compute_metric("krocc", x, y) == pytest.approx(5 / math.sqrt(5 * 6), abs=1e-12)  # tau-b
    assert compute_metric("rmse", x, y) == pytest.approx(math.sqrt(0.5), abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(("x", "y", "n"), [([], [], 0), ([1.0], [2.0], 1), ([1.0, math.nan], [2.0, 3.0], 1)])
def test_fewer_than_two_rows(name: str, x: list[float], y: list[float], n: int) -> None:
    assert compute_metric(name, x, y) is None
    found = estimate_metric(name, x, y, ["a"] * len(x))
    assert found == Estimate(None, None, None, 0 if name in WITHIN else n, f"n = {n}, at least 2 are needed")


@pytest.mark.parametrize("name", CORRELATIONS)
@pytest.mark.parametrize(
    ("x", "y", "label"),
    [
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], "predictions"),
        ([1.0, 2.0, 3.0], [0.1, 0.1, 0.1], "human scores"),
        ([0.1 + 1e-14, 0.1, 0.1], [1.0, 2.0, 3.0], "predictions"),  # constant up to rounding
    ],
)
def test_a_constant_side_has_no_correlation(name: str, x: list[float], y: list[float], label: str) -> None:
    assert estimate_metric(name, x, y, ["a", "b", "c"]) == Estimate(None, None, None, 3, f"the {label} are constant")


def test_metrics_that_are_defined_for_a_constant_side() -> None:
    """RMSE, and the share of pairs: equal predictions count half."""
    assert estimate_metric("rmse", [1.0, 1.0], [2.0, 4.0], ["a", "b"]).value == pytest.approx(math.sqrt(5))
    assert estimate_metric("pairwise", [1.0, 1.0], [2.0, 4.0], ["a", "b"]).value == 0.5
    assert estimate_metric("pairwise", [1.0, 2.0], [2.0, 2.0], ["a", "b"]).reason == "the human scores are constant"


@pytest.mark.parametrize("name", WITHIN)
def test_no_prompt_with_enough_images(name: str) -> None:
    few = METRICS[name].needs_groups
    found = estimate_metric(name, [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], list("abc"))
    assert found == Estimate(None, None, None, 0, f"no prompt has {few} images with different scores")
    assert estimate_metric(name, [1.0, 2.0, 3.0], [2.0, 2.0, 2.0], list("aaa")) == found
    assert estimate_metric(name, [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], list("aaa")).n == 1


@pytest.mark.parametrize("name", METRICS)
def test_rows_without_a_score_are_left_out(name: str) -> None:
    x, y = [1.0, 2.0, 9.0, 4.0, math.nan], [1.0, 3.0, math.nan, 2.0, 5.0]
    found = estimate_metric(name, x, y, list("aaaaa"))
    assert found.n == (1 if name in WITHIN else 3)
    assert found.value == compute_metric(name, [1.0, 2.0, 4.0], [1.0, 3.0, 2.0])


@pytest.mark.parametrize("name", METRICS)
def test_an_infinite_prediction_is_not_averaged_away(name: str) -> None:
    found = estimate_metric(name, [1.0, math.inf, 3.0], [1.0, 2.0, 3.0], list("abc"))
    assert found == Estimate(None, None, None, 0 if name in WITHIN else 3, "some values are not finite")


# --- intervals


def _grouped(effect: float, seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], list[str]]:
    """20 prompts of 8 images; `effect` is the spread of what the images of a prompt have in common, on both sides."""
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
    first, second = estimate_metric("srocc", x, y, groups), estimate_metric("srocc", x, y, groups)
    assert first == second
    assert first.value is not None
    assert first.low is not None
    assert first.high is not None
    assert 0.9 < first.low < first.value < first.high <= 1
    assert estimate_metric("srocc", x, y, groups, seed=1).low != first.low


def test_an_interval_by_groups_is_wider_when_groups_share_an_effect() -> None:
    x, y, groups = _grouped(1)
    alone = [str(row) for row in range(160)]
    assert _width(estimate_metric("plcc", x, y, groups)) > 1.5 * _width(estimate_metric("plcc", x, y, alone))


def test_an_interval_by_groups_is_as_wide_when_groups_share_nothing() -> None:
    x, y, groups = _grouped(0)
    alone = [str(row) for row in range(160)]
    assert 0.7 < _width(estimate_metric("plcc", x, y, groups)) / _width(estimate_metric("plcc", x, y, alone)) < 1.4


def test_a_sample_draws_as_many_groups_as_there_are() -> None:
    counts = draw_counts(3, 200, 0)
    assert counts.shape == (200, 3)
    assert (counts.sum(1) == 3).all()
    assert len({tuple(row) for row in counts.tolist()}) == 10  # every way to draw 3 out of 3 with replacement
    np.testing.assert_array_equal(counts, draw_counts(3, 200, 0))
    assert (counts != draw_counts(3, 200, 1)).any()


def _resample_rows(name: str, of: Resamples) -> list[float]:
    """The statistic of every sample, computed from its rows; a group that was drawn twice counts as two groups."""
    predicted = fit_logistic(of.predicted, of.target) if name == "plcc_logistic" else of.predicted
    found = []
    for counts in of.counts.astype(int):
        rows, codes = [], []
        for group, times in enumerate(counts.tolist()):
            for _ in range(times):
                members = np.flatnonzero(of.codes == group).tolist()
                rows += members
                codes += [max(codes, default=-1) + 1] * len(members)
        of_all = "plcc" if name == "plcc_logistic" else name
        one = compute_metric(of_all, predicted[rows], of.target[rows], np.array(codes, dtype=np.int64))
        found.append(math.nan if one is None else one)
    return found


def _samples(case: str, samples: int = 60) -> Resamples:
    random = np.random.default_rng(0)
    n, groups = {"ties": (90, 12), "no ties": (90, 12), "few groups": (9, 3), "own groups": (40, 40)}[case]
    x, y = random.standard_normal((2, n)) + random.standard_normal(n)
    if case in ("ties", "few groups"):
        x, y = np.round(x), np.round(y)
    codes = np.arange(n) if case == "own groups" else random.permutation(np.arange(n) % groups)
    return Resamples(x, y, codes, draw_counts(groups, samples, 1))


@pytest.mark.parametrize("case", ["ties", "no ties", "few groups", "own groups"])
@pytest.mark.parametrize("name", METRICS)
def test_all_samples_at_once_are_the_samples_one_by_one(name: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in (1 << 17, 200):  # in one piece, and in many
        monkeypatch.setattr("aigc_cli.metrics.bootstrap.BLOCK", block)
        monkeypatch.setattr("aigc_cli.metrics.bootstrap.STEP", 7)
        of, metric = _samples(case), METRICS[name]
        if name in WITHIN:
            found = of.compute_ratio(*metric.function(of.predicted, of.target, of.codes))
        else:
            assert metric.resample is not None
            found = metric.resample(of)
        np.testing.assert_allclose(found, _resample_rows(name, of), rtol=1e-12, atol=1e-12)


def test_samples_with_a_constant_side_are_not_defined() -> None:
    """One of three groups is constant up to rounding: a sample of this group alone has no correlation."""
    x = np.array([0.1, 0.1 + 1e-14, 2.0, 3.0, 4.0, 6.0])
    of = Resamples(x, np.arange(6.0), np.array([0, 0, 1, 1, 2, 2]), np.array([[3.0, 0, 0], [1, 1, 1], [0, 3, 0]]))
    for name in CORRELATIONS:
        metric = METRICS[name]
        assert metric.resample is not None
        assert np.isnan(metric.resample(of)).tolist() == [True, False, False]


@pytest.mark.parametrize("name", METRICS)
def test_an_estimate_is_the_value_with_percentiles_of_the_samples(name: str) -> None:
    of = _samples("ties", samples=200)
    order = np.argsort(of.codes, kind="stable")  # groups are numbered as they come
    x, y, codes = of.predicted[order], of.target[order], of.codes[order]
    found = estimate_metric(name, x, y, [f"prompt {code}" for code in codes], resamples=200, seed=1)
    assert found.value == compute_metric(name, x, y, codes)
    low, high = np.nanpercentile(_resample_rows(name, Resamples(x, y, codes, of.counts)), [2.5, 97.5])
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12))


def test_memory_does_not_grow_with_pairs_of_rows() -> None:
    """A matrix of all pairs has 200 MB, one of samples times rows 20 MB."""
    import tracemalloc

    random = np.random.default_rng(0)
    x, y = random.standard_normal((2, 5_000))
    of = Resamples(x, y, np.arange(5_000) % 500, draw_counts(500, 500, 0))
    tracemalloc.start()
    assert of.compute_spearman().shape == of.compute_pearson(x, y).shape == (500,)
    of.compute_kendall()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_percentiles_by_hand_and_too_many_undefined_draws() -> None:
    assert compute_interval([float(x) for x in range(101)]) == (2.5, 97.5)
    assert compute_interval([None, 1.0, None]) == (None, None)
    assert compute_interval([None, 1.0, 3.0]) == (1.05, 2.95)
    assert compute_interval([]) == (None, None)


@pytest.mark.parametrize("groups", [1, 4, 5])
def test_no_interval_over_fewer_than_five_prompts(groups: int) -> None:
    x, y = np.random.default_rng(0).random((2, 20))
    found = estimate_metric("plcc", x, y, [str(row % groups) for row in range(20)])
    assert found.value == compute_metric("plcc", x, y)
    assert (found.low is None) == (found.high is None) == (groups < 5)
    assert found.reason == ("no interval: fewer than 5 prompts" if groups < 5 else "")


def test_no_interval_within_fewer_than_five_prompts_that_count() -> None:
    """Six prompts, of which four have images with different scores."""
    x, y = np.random.default_rng(0).random((2, 10))
    found = estimate_metric("best_of_n", x, y, list("aabbccddef"))
    assert (found.n, found.low, found.reason) == (4, None, "no interval: fewer than 5 prompts")
    assert found.value is not None


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
    found, draws = estimate_fold_mean("srocc", folds)
    points = [compute_metric("srocc", predicted, human) for predicted, human, _ in folds]
    assert found.value == pytest.approx(np.mean([point for point in points if point is not None]), abs=1e-12)
    assert found.n == 180
    assert draws.shape == (1000,)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])))


def test_draws_of_two_variants_are_paired() -> None:
    """The same prompts are drawn for both, so their difference varies less than either."""
    (_, one), (_, other) = estimate_fold_mean("plcc", _folds(0)), estimate_fold_mean("plcc", _folds(0.02))
    assert np.std(one - other) < 0.3 * np.std(one)
    assert np.corrcoef(one, other)[0, 1] > 0.95


def test_a_sample_draws_the_same_groups_in_every_fold() -> None:
    fold = _folds(0)[1]
    _, alone = estimate_fold_mean("plcc", [fold])
    _, twice = estimate_fold_mean("plcc", [fold, fold])
    np.testing.assert_allclose(twice, alone, atol=1e-12)


def test_an_undefined_fold_is_named() -> None:
    good, (_, human, groups) = _folds(0)[:2]
    found, draws = estimate_fold_mean("srocc", [good, (np.zeros(60), human, groups)])
    assert found == Estimate(None, None, None, 120, "fold 1: the predictions are constant")
    assert np.isnan(draws).all()
    labelled, _ = estimate_fold_mean("srocc", [(np.zeros(60), human, groups)], ["seed 3, fold 1"])
    assert labelled.reason == "seed 3, fold 1: the predictions are constant"


def test_few_prompts_in_a_fold_are_enough_when_there_are_several_folds() -> None:
    folds = [(x, y, [f"{fold} {row % 3}" for row in range(12)]) for fold, (x, y) in enumerate(_random_folds(2, 12))]
    assert estimate_fold_mean("plcc", folds)[0].low is not None
    assert estimate_fold_mean("plcc", [folds[0], folds[0]])[0].reason == "no interval: fewer than 5 prompts"


def test_rows_of_the_metrics_table() -> None:
    x, y, groups = _grouped(1)
    labels = {"run": "r", "split": "val", "group": "prompt"}
    rows = make_metric_rows({"quality": (x, y), "consistency": (np.zeros(160), y)}, groups, labels, resamples=20)
    assert [(row["target"], row["metric"]) for row in rows] == [
        (target, name) for target in ("quality", "consistency") for name in METRICS
    ]
    columns = ["run", "split", "group", "target", "metric", "value", "ci_low", "ci_high", "n", "reason"]
    assert list(rows[0]) == columns
    assert all(
        row["n"] == (20 if row["metric"] in WITHIN else 160) and row["run"] == "r" for row in rows[: len(METRICS)]
    )
    of = {(row["target"], row["metric"]): row for row in rows}
    assert of["quality", "srocc"]["value"] == compute_metric("srocc", x, y)
    for name in CORRELATIONS:
        assert of["consistency", name]["value"] is None
        assert of["consistency", name]["reason"] == "the predictions are constant"
    assert of["consistency", "best_of_n"]["value"] == of["consistency", "best_of_n_chance"]["value"] == 1 / 8


# --- cross-validation


def _random_folds(folds: int, n: int) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    found = []
    for seed in range(folds):
        human = np.random.default_rng(seed).random(n)
        found.append((human + np.random.default_rng(seed + 100).standard_normal(n), human))
    return found


def _by_metric(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["metric"]: row for row in rows}


def test_folds_are_averaged_and_prompts_ranked_over_all_of_them() -> None:
    """Two folds that both contain every prompt, as in a split by image."""
    parts = _random_folds(2, 30)
    groups = [f"prompt {row % 10}" for row in range(30)]
    rows = _by_metric(make_crossval_rows([[({"quality": part}, groups) for part in parts]], {}, 50))
    for name in METRICS:
        if name in WITHIN:
            joined = [np.concatenate(sides) for sides in zip(*parts, strict=True)]
            expected = compute_metric(name, *joined, np.tile(np.arange(30) % 10, 2))
        else:
            expected = float(np.mean([compute_metric(name, *part) or 0 for part in parts]))
        assert rows[name]["value"] == pytest.approx(expected, abs=1e-12)
        assert rows[name]["n"] == (10 if name in WITHIN else 60)


def test_a_repeat_adds_no_prompts() -> None:
    """The same predictions twice are no more evidence: the interval is as wide, and n counts the images once."""
    once = [
        ({"quality": part}, [f"{fold} {row % 10}" for row in range(30)])
        for fold, part in enumerate(_random_folds(3, 30))
    ]
    labels = {"run": "r", "split": "s", "group": "all"}
    one, two = make_crossval_rows([once], labels, 100), make_crossval_rows([once, once], labels, 100)
    for first, second in zip(one, two, strict=True):
        assert second == pytest.approx(first)
    assert _by_metric(one)["srocc"]["n"] == 90


def test_folds_that_share_prompts_are_drawn_together() -> None:
    """Both folds are equal, so the interval is that of one of them; independent draws would make it narrower."""
    (part,), groups = _random_folds(1, 100), [f"prompt {row % 20}" for row in range(100)]
    fold = ({"quality": part}, groups)
    one, both = (_by_metric(make_crossval_rows([folds], {}, 200))["plcc"] for folds in ([fold], [fold, fold]))
    assert (both["ci_low"], both["ci_high"]) == pytest.approx((one["ci_low"], one["ci_high"]))


def test_a_fold_without_spread_is_named() -> None:
    parts = [*_random_folds(1, 30), (np.zeros(30), np.arange(30.0))]
    groups = [str(row % 10) for row in range(30)]
    rows = _by_metric(make_crossval_rows([[({"quality": part}, groups) for part in parts]], {}, 20))
    assert rows["plcc"]["reason"] == "fold 1, repeat 0: the predictions are constant"
    assert (rows["plcc"]["value"], rows["plcc"]["n"]) == (None, 60)
    assert rows["rmse"]["value"] is not None


def test_a_mean_of_differences_is_resampled_by_whole_prompts() -> None:
    """Forty copies of each prompt's value give the interval of one copy."""
    values = np.random.default_rng(0).normal(0.1, 1, 30)
    prompts = [f"p{i}" for i in range(30)]
    once = estimate_mean(values, prompts)
    often = estimate_mean(np.repeat(values, 40), [p for p in prompts for _ in range(40)])
    assert once.low is not None
    assert often.low == pytest.approx(once.low)
    assert often.high == pytest.approx(once.high)
    assert (once.value, once.n, often.n) == (pytest.approx(values.mean()), 30, 1200)
    half = 1.96 * values.std(ddof=1) / np.sqrt(30)
    assert once.low == pytest.approx(values.mean() - half, abs=0.08)


def test_a_mean_over_four_prompts_has_no_interval() -> None:
    found = estimate_mean([1.0] * 8, list("abcd") * 2)
    assert (found.value, found.low, found.high, found.reason) == (1.0, None, None, "no interval: fewer than 5 prompts")
    assert estimate_mean([], []).value is None
