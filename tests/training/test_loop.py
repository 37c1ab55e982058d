"""The training loop: the same run with and without a cache, determinism, divergence and the choice of the epoch."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aigc_cli.metrics.by_name import compute_metric
from aigc_cli.metrics.splits import Split
from aigc_cli.model.backbone import Backbone
from aigc_cli.model.heads import Scores
from aigc_cli.model.loading import load_backbone
from aigc_cli.model.model import Model
from aigc_cli.progress import SilentProgress
from aigc_cli.recipe import Recipe
from aigc_cli.runtime.hints import Hints
from aigc_cli.training import loop as training
from aigc_cli.training.batches import TrainingData, draw_batches
from aigc_cli.training.feature_store import EVALUATION, list_views
from aigc_cli.training.loop import fit_model, make_model, make_optimiser, predict
from aigc_cli.training.losses import EpochStats, rate_epoch
from aigc_cli.training.rates import (
    compute_learning_rates,
    compute_lr_factor,
    compute_residual_scales,
    describe_hints,
)
from aigc_cli.training.state import FitResult

TRAIN, VAL = range(36), range(36, 48)
RECIPE = Recipe(
    backbone="tiny", freeze="all", lr=3e-3, epochs=3, batch_size=8, views=2, hidden_q=16, hidden_c=16, warmup_ratio=0.0
)
PARTIAL = replace(RECIPE, freeze="partial", freeze_depth=0.5)
NONE = replace(RECIPE, freeze="none", epochs=1)


@dataclass
class Run:
    """One training run and everything it used."""

    model: Model
    data: TrainingData
    result: FitResult


@pytest.fixture
def train(ready: Callable[..., tuple[Model, TrainingData]]) -> Callable[..., Run]:
    """Trains on three quarters of the demonstration set."""

    def run(recipe: Recipe, cache: bool = True, val: range = VAL) -> Run:
        model, data = ready(recipe, cache)
        return Run(model, data, fit_model(model, data, Split(TRAIN, val), recipe, SilentProgress()))

    return run


def _drop_seconds(epochs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in epochs]


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def _curve(result: FitResult, split: str, column: str) -> list[float]:
    return [row[column] for row in result.epochs if row["split"] == split]


# --- the same run


@pytest.mark.parametrize(
    "recipe", [pytest.param(RECIPE, id="all", marks=pytest.mark.slow), pytest.param(PARTIAL, id="partial")]
)
def test_a_cached_run_has_the_losses_of_an_uncached_one(train: Callable[..., Run], recipe: Recipe) -> None:
    cached, uncached = train(recipe), train(recipe, cache=False)
    assert cached.data.images.store is not None
    assert uncached.data.images.store is None
    assert len(cached.result.epochs) == len(uncached.result.epochs) == 6
    for one, other in zip(cached.result.epochs, uncached.result.epochs, strict=True):
        for column in ("loss", "loss_q", "loss_c"):
            assert one[column] == pytest.approx(other[column], abs=1e-4)
    losses = _curve(cached.result, "train", "loss")
    assert losses[0] - losses[-1] > 1e-3  # there was something to agree on


def test_a_cached_run_leaves_the_frozen_part_alone(
    ready: Callable[..., tuple[Model, TrainingData]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not computed again, and it stays in eval mode while the rest trains."""
    model, data = ready(PARTIAL)
    modes: set[tuple[bool, ...]] = set()
    original = training.embed_rows

    def embed(model: Model, *rest: Any) -> Any:
        modes.add((model.heads.training, *(block.training for block in model.backbone.image.blocks)))
        return original(model, *rest)

    monkeypatch.setattr(training, "embed_rows", embed)
    for name in ("run_image_to_boundary", "run_text_to_boundary"):
        monkeypatch.setattr(model.backbone, name, None)  # a call would be a TypeError
    assert fit_model(model, data, Split(TRAIN, VAL), PARTIAL, SilentProgress()).kept_epoch == 3
    assert modes == {(True, False, False, True, True), (False,) * 5}


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(RECIPE, id="all"),
        pytest.param(PARTIAL, id="partial", marks=pytest.mark.slow),
        pytest.param(NONE, id="none", marks=pytest.mark.slow),
    ],
)
def test_the_same_seed_gives_the_same_run(train: Callable[..., Run], recipe: Recipe) -> None:
    one, other = train(recipe), train(recipe)
    assert _drop_seconds(one.result.epochs) == _drop_seconds(other.result.epochs)
    assert _same(one.model.copy_trained(), other.model.copy_trained())
    another = train(replace(recipe, seed=1))
    assert _curve(another.result, "train", "loss") != _curve(one.result, "train", "loss")
    assert not _same(another.model.copy_trained(), one.model.copy_trained())


def test_the_loss_falls(train: Callable[..., Run]) -> None:
    result = train(replace(RECIPE, epochs=20, lr=0.02, dropout=0.0, quality_input="multilevel")).result
    losses = _curve(result, "train", "loss")
    assert losses[-1] < 0.6 * losses[0]
    assert result.diverged == ""
    assert not result.stopped_early


def test_rows_of_the_epochs_table(train: Callable[..., Run]) -> None:
    run = train(RECIPE)
    places = [(row["epoch"], row["split"]) for row in run.result.epochs]
    assert places == list(itertools.product((1, 2, 3), ("train", "val")))
    last = run.result.epochs[-1]
    scores = predict(run.model, run.data, VAL)
    targets = run.data.targets[list(VAL)]
    loss_q = float((scores.quality - targets[:, 0]).square().mean())
    loss_c = float((scores.consistency - targets[:, 1]).square().mean())
    assert (last["loss_q"], last["loss_c"]) == pytest.approx((loss_q, loss_c), abs=1e-6)
    assert last["loss"] == pytest.approx(0.5 * loss_q + 0.5 * loss_c, abs=1e-6)
    assert last["srocc_q"] == compute_metric("srocc", scores.quality.numpy(), targets[:, 0].numpy())
    assert last["plcc_c"] == compute_metric("plcc", scores.consistency.numpy(), targets[:, 1].numpy())
    moved = run.model.heads.config.residual_scale_q * scores.quality_delta.abs()
    assert last["unused_q"] == pytest.approx(float((moved < 0.05).float().mean()))
    assert last["saturated_c"] == pytest.approx(float((scores.consistency_delta.abs() > 0.95).float().mean()))


def test_rows_that_were_not_rated_train_the_other_target(ready: Callable[..., tuple[Model, TrainingData]]) -> None:
    model, data = ready(RECIPE)
    targets = data.targets.clone()
    targets[:, 1] = math.nan
    targets[::3, 0] = math.nan
    before = model.copy_trained()
    result = fit_model(model, replace(data, targets=targets), Split(TRAIN, VAL), RECIPE, SilentProgress())
    assert result.diverged == ""
    assert all(row["loss_c"] == 0 and row["srocc_c"] is None for row in result.epochs)
    assert all(row["loss_q"] > 0 and row["srocc_q"] is not None for row in result.epochs)
    after = model.copy_trained()
    assert torch.equal(after["heads.a"], before["heads.a"])
    assert not torch.equal(after["heads.base_q.weight"], before["heads.base_q.weight"])


def test_the_loss_weights_decide_what_is_learnt(train: Callable[..., Run]) -> None:
    quality = train(replace(RECIPE, w_q=1.0, w_c=0.0))
    assert quality.model.copy_trained()["heads.a"] == 1
    for row in quality.result.epochs:
        assert row["loss"] == pytest.approx(row["loss_q"])


@pytest.mark.parametrize("recipe", [RECIPE, PARTIAL, NONE], ids=["all", "partial", "none"])
def test_frozen_parameters_stay_bit_for_bit_and_the_others_move(
    ready: Callable[..., tuple[Model, TrainingData]], recipe: Recipe
) -> None:
    model, data = ready(recipe)
    modules = model.backbone.modules()
    before = {name: tensor.clone() for name, tensor in modules.state_dict().items()}
    trainable = {name for name, parameter in modules.named_parameters() if parameter.requires_grad}
    assert (trainable == set()) == (recipe.freeze == "all")
    fit_model(model, data, Split(TRAIN, VAL), recipe, SilentProgress())
    after = modules.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == trainable
    in_backbone = sum(modules.get_parameter(name).numel() for name in trainable)
    assert model.count_trainable() == in_backbone + sum(parameter.numel() for parameter in model.heads.parameters())


def test_fine_tuning_uses_the_backbones_own_rates() -> None:
    hints = Hints((0,), "embedding", finetune_lr_factor=30.0, finetune_backbone_lr_factor=6.0)
    assert compute_learning_rates(replace(RECIPE, lr=1e-3), hints) == (1e-3, 0.0, 0.0)
    assert compute_learning_rates(replace(PARTIAL, lr=1e-3), hints) == pytest.approx((3e-2, 6e-3, 6e-3))
    assert compute_learning_rates(replace(PARTIAL, lr=1e-3, lr_backbone=1e-5), hints) == pytest.approx(
        (3e-2, 6e-5, 6e-5)
    )
    text_alone = replace(PARTIAL, lr=1e-3, freeze="all", freeze_text="partial", lr_backbone=1e-4)
    assert compute_learning_rates(text_alone, hints) == pytest.approx((3e-2, 0.0, 6e-4))
    assert compute_learning_rates(replace(PARTIAL, lr=1e-3, freeze_text="all"), hints) == pytest.approx(
        (3e-2, 6e-3, 0.0)
    )


def test_a_backbone_may_want_a_larger_correction_on_frozen_features(tiny: Backbone) -> None:
    hints, wide = Hints((0,), frozen_residual_scale_factor=3.0), {"residual_scale_q": 0.1, "residual_scale_c": 0.4}
    assert compute_residual_scales(replace(RECIPE, **wide), hints) == pytest.approx((0.3, 1.0))
    assert compute_residual_scales(replace(PARTIAL, **wide), hints) == (0.1, 0.4)
    frozen = replace(RECIPE, backbone="mini", **wide)
    assert list(describe_hints(frozen)) == ["residual_scale_q", "residual_scale_c"]
    assert "residual_scale_q" not in describe_hints(replace(frozen, residual=False))
    config = make_model(load_backbone("mini", 32), frozen).heads.config
    assert (config.residual_scale_q, config.residual_scale_c) == pytest.approx((0.3, 1.0))
    config = make_model(tiny, replace(RECIPE, **wide)).heads.config
    assert (config.residual_scale_q, config.residual_scale_c) == (0.1, 0.4)


# --- divergence


def _spoil(monkeypatch: pytest.MonkeyPatch, batch: int, spoil: Callable[[Tensor], Tensor]) -> None:
    """Applies `spoil` to the loss of every training batch from number `batch` on."""
    original, calls = EpochStats.add_batch, itertools.count()

    def add_batch(self: Any, scores: Scores, *given: Any) -> Tensor:
        found = original(self, scores, *given)
        return spoil(found) if found.requires_grad and next(calls) >= batch else found

    monkeypatch.setattr(EpochStats, "add_batch", add_batch)


BATCHES = 5  # of 36 rows by 8: four of 8, one of 4


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(("batch", "epoch"), [(0, 1), (BATCHES + 2, 2)])
def test_a_loss_that_is_not_finite_ends_the_run(
    train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, bad: float, batch: int, epoch: int
) -> None:
    _spoil(monkeypatch, batch, lambda loss: loss * bad)
    run = train(PARTIAL)
    assert run.result.diverged == f"the loss became {bad} in epoch {epoch}"
    assert run.result.kept_epoch == epoch - 1
    assert len(run.result.epochs) == 2 * (epoch - 1)
    assert all(torch.isfinite(tensor).all() for tensor in run.result.kept_weights.values())
    assert _same(run.model.copy_trained(), run.result.kept_weights)


@pytest.mark.parametrize("val", [VAL, range(0)], ids=["val", "no val"])
@pytest.mark.parametrize("norm", [1.0, 0.0], ids=["clipped", "not clipped"])
@pytest.mark.parametrize("batch", [2, BATCHES - 1, 3 * BATCHES - 1])
def test_a_gradient_that_is_not_finite_ends_the_run(
    train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, val: range, norm: float, batch: int
) -> None:
    """The loss is finite but its gradient is not, as that of the root of 0; also in the very last batch."""
    _spoil(monkeypatch, batch, lambda loss: loss + (loss * 0).sqrt())
    run = train(replace(RECIPE, max_grad_norm=norm), val=val)
    assert run.result.diverged != ""
    assert run.result.kept_epoch == batch // BATCHES
    assert all(torch.isfinite(tensor).all() for tensor in run.result.kept_weights.values())
    assert _same(run.model.copy_trained(), run.result.kept_weights)


# --- which epoch is kept


def _replace_validation(monkeypatch: pytest.MonkeyPatch, *sroccs: float) -> list[dict[str, Tensor]]:
    """Replaces the SROCC of each validation; returns a list that gets the weights after every epoch."""
    states: list[dict[str, Tensor]] = []
    original = training.validate

    def validate(model: Model, *rest: Any) -> dict[str, Any]:
        states.append(model.copy_trained())
        srocc = sroccs[len(states) - 1]
        return original(model, *rest) | {"srocc_q": srocc, "srocc_c": srocc}

    monkeypatch.setattr(training, "validate", validate)
    return states


@pytest.mark.parametrize(
    ("checkpoint", "sroccs", "kept"),
    [
        ("best", (0.1, 0.3, 0.2), 2),
        ("best", (0.3, 0.1, 0.2), 1),
        ("best", (0.1, 0.1005, 0.1), 2),  # any gain counts here, min_delta is for patience
        ("best", (0.2, 0.2, 0.2), 1),
        ("last", (0.3, 0.1, 0.2), 3),
    ],
)
def test_the_kept_epoch(
    train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, checkpoint: str, sroccs: tuple[float, ...], kept: int
) -> None:
    states = _replace_validation(monkeypatch, *sroccs)
    run = train(replace(RECIPE, checkpoint=checkpoint))
    assert run.result.kept_epoch == kept
    assert _same(run.model.copy_trained(), states[kept - 1])
    assert not _same(states[0], states[1])


def test_best_is_best_on_the_real_curve(train: Callable[..., Run]) -> None:
    recipe = replace(RECIPE, checkpoint="best", epochs=6, lr=0.02)
    result = train(recipe).result
    figures = [rate_epoch(row, recipe) for row in result.epochs if row["split"] == "val"]
    assert result.kept_epoch == 1 + int(np.argmax(figures))


def test_the_last_epoch_is_kept_where_there_is_no_validation(train: Callable[..., Run]) -> None:
    run = train(RECIPE, val=range(0))
    assert run.result.kept_epoch == 3
    assert {row["split"] for row in run.result.epochs} == {"train"}


@pytest.mark.parametrize(
    ("sroccs", "min_delta", "epochs", "kept"),
    [
        ((0.5, 0.4, 0.3, 0.9), 0.001, 3, 1),
        ((0.5, 0.4, 0.6, 0.5, 0.5, 0.9), 0.001, 5, 3),
        ((0.5, 0.5005, 0.501, 0.9), 0.01, 3, 3),  # gains that are too small to wait for
        ((0.1, 0.2, 0.3, 0.4, 0.5, 0.6), 0.001, 6, 6),
    ],
)
def test_patience_ends_a_run_that_gains_nothing(
    train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, sroccs: Any, min_delta: float, epochs: int, kept: int
) -> None:
    states = _replace_validation(monkeypatch, *sroccs)
    result = train(replace(RECIPE, epochs=6, patience=2, min_delta=min_delta, checkpoint="best")).result
    assert len(states) == len(_curve(result, "val", "loss")) == epochs
    assert result.kept_epoch == kept
    assert result.stopped_early == (epochs < 6)


def test_the_figure_of_an_epoch_weighs_both_targets_as_their_losses() -> None:
    recipe = replace(RECIPE, w_q=0.9, w_c=0.3)
    row = {"srocc_q": 0.8, "srocc_c": 0.4, "loss": 0.1}
    assert rate_epoch(row, recipe) == pytest.approx(0.7)
    assert rate_epoch(row | {"srocc_c": None}, recipe) == pytest.approx(0.8)
    assert rate_epoch(row, replace(recipe, w_q=0.0)) == pytest.approx(0.4)
    undefined = row | {"srocc_q": None, "srocc_c": None}
    assert rate_epoch(undefined, recipe) == pytest.approx(-2.1)
    assert rate_epoch(undefined, recipe) < rate_epoch(row | {"srocc_q": -1.0, "srocc_c": -1.0}, recipe)


@pytest.mark.parametrize(
    "recipe", [pytest.param(PARTIAL, id="partial"), pytest.param(NONE, id="none", marks=pytest.mark.slow)]
)
def test_a_state_restores_predictions_exactly(
    train: Callable[..., Run], ready: Callable[..., tuple[Model, TrainingData]], recipe: Recipe
) -> None:
    run = train(recipe)
    expected = predict(run.model, run.data, VAL)
    state = run.model.copy_trained()
    model, data = ready(replace(recipe, seed=5))
    assert not torch.equal(predict(model, data, VAL).quality, expected.quality)
    model.load_trained(state)
    for one, other in zip(predict(model, data, VAL), expected, strict=True):
        assert torch.equal(one, other)


def test_a_state_holds_copies_and_only_what_is_learnt(ready: Callable[..., tuple[Model, TrainingData]]) -> None:
    model, _ = ready(PARTIAL)
    state = model.copy_trained()
    learnt = {f"backbone.{name}" for name, p in model.backbone.modules().named_parameters() if p.requires_grad}
    assert {name for name in state if name.startswith("backbone.")} == learnt
    assert {name for name in state if name.startswith("heads.")} == {f"heads.{n}" for n in model.heads.state_dict()}
    with torch.no_grad():
        model.heads.a.add_(1)
    assert state["heads.a"] == 1
    assert {n for n in ready(RECIPE)[0].copy_trained() if n.startswith("backbone.")} == set()


@pytest.mark.slow
def test_batchnorm_statistics_belong_to_the_state() -> None:
    names = set(
        make_model(load_backbone("RN50/random"), replace(RECIPE, freeze="partial", freeze_depth=0.75)).copy_trained()
    )
    assert "backbone.image.layer4.2.bn1.running_mean" in names
    assert "backbone.image.layer1.0.bn1.running_mean" not in names


def test_predictions_come_in_the_order_asked_for(ready: Callable[..., tuple[Model, TrainingData]]) -> None:
    model, data = ready(RECIPE)
    whole, some = predict(model, data, range(48)), predict(model, data, [40, 3])
    torch.testing.assert_close(some.quality, whole.quality[[40, 3]], atol=1e-6, rtol=0)
    model.heads.train()
    assert torch.equal(predict(model, data, [40, 3]).quality, some.quality)  # without dropout
    assert not model.heads.training
    assert [len(column) for column in predict(model, data, [])] == [0] * len(Scores._fields)


# --- schedules and batches


def _course(name: str, steps: int, warmup: int) -> list[float]:
    return [compute_lr_factor(name, step, steps, warmup) for step in range(steps)]


@pytest.mark.parametrize("name", ["cosine", "linear", "step", "constant"])
def test_the_warm_up_rises_to_the_full_rate_and_nothing_rises_after(name: str) -> None:
    course = _course(name, 100, 10)
    assert course[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert course[10] == 1
    assert all(b <= a for a, b in itertools.pairwise(course[10:]))
    assert min(course[10:]) >= 0


def test_the_schedules_by_hand() -> None:
    cosine, linear, steps = (_course(name, 100, 0) for name in ("cosine", "linear", "step"))
    assert (cosine[0], cosine[50]) == pytest.approx((1, 0.5))
    assert cosine[25] == pytest.approx(0.5 + math.sqrt(0.5) / 2)
    assert 0 < cosine[99] < 1e-3
    assert (linear[0], linear[25], linear[99]) == pytest.approx((1, 0.75, 0.01))
    assert [steps[step] for step in (0, 33, 34, 66, 67, 99)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert _course("constant", 100, 0) == [1.0] * 100


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (2, 2)])
def test_a_schedule_of_few_steps(steps: int, warmup: int) -> None:
    for name in ("cosine", "linear", "step", "constant"):
        assert all(0 < factor <= 1 for factor in _course(name, steps, warmup))
        assert (
            0 <= compute_lr_factor(name, steps, steps, warmup) <= 1
        )  # the scheduler asks once more after the last step


@pytest.mark.parametrize("n", [2, 8, 9, 15, 16, 17, 36])
@pytest.mark.parametrize("size", [2, 8])
def test_batches_hold_each_row_once_and_are_never_of_one(n: int, size: int) -> None:
    rows = list(range(100, 100 + n))
    parts = list(draw_batches(rows, size, range(3), np.random.default_rng(0)))
    assert sorted(row for part, _ in parts for row in part) == rows
    assert all(len(part) == len(views) and set(views) <= {0, 1, 2} for part, views in parts)
    sizes = [len(part) for part, _ in parts]
    assert min(sizes) > 1
    assert max(sizes) <= size + 1
    assert all(length == size for length in sizes[:-1])


def test_batches_of_each_epoch_are_shuffled_and_draw_every_view() -> None:
    random = np.random.default_rng(0)
    first, second = (list(draw_batches(range(50), 10, range(3), random)) for _ in range(2))
    assert first != second
    assert [row for part, _ in first for row in part] != list(range(50))
    assert {view for _, views in first for view in views} == {0, 1, 2}
    assert first == list(draw_batches(range(50), 10, range(3), np.random.default_rng(0)))


def test_the_image_itself_may_be_one_of_the_views() -> None:
    assert list(list_views(replace(RECIPE, views=3))) == [0, 1, 2]
    assert list(list_views(replace(RECIPE, views=3, plain_view=True))) == [EVALUATION, 0, 1]
    drawn = draw_batches(range(50), 10, list_views(replace(RECIPE, views=2, plain_view=True)), np.random.default_rng(0))
    assert {view for _, views in drawn for view in views} == {EVALUATION, 0}


def test_one_plain_view_is_one_pass_over_the_images(
    ready: Callable[..., tuple[Model, TrainingData]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The view for scoring is the one for training, so no other view is read."""
    recipe = replace(RECIPE, views=1, plain_view=True)
    model, data = ready(recipe)
    seen: list[int] = []
    get = data.images.get
    monkeypatch.setattr(data.images, "get", lambda rows, views: seen.extend(views) or get(rows, views))
    fit_model(model, data, Split(TRAIN, VAL), recipe, SilentProgress())
    assert set(seen) == {EVALUATION}


def test_the_text_tower_learns_its_projection_alone(train: Callable[..., Run]) -> None:
    recipe = replace(PARTIAL, freeze="all", freeze_text="partial", freeze_depth=1.0)
    run = train(recipe)
    learnt = {name for name in run.model.copy_trained() if name.startswith("backbone.")}
    assert "backbone.text.text_projection" in learnt
    assert not any("resblocks" in name or name.startswith("backbone.image") for name in learnt)


def test_each_block_down_the_tower_learns_at_a_lower_rate(ready: Callable[..., tuple[Model, TrainingData]]) -> None:
    model, _ = ready(replace(PARTIAL, lr_layer_decay=0.5))
    groups = make_optimiser(model, replace(PARTIAL, lr_layer_decay=0.5)).param_groups
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    heads, backbone, _ = compute_learning_rates(PARTIAL, model.backbone.hints)
    assert {rate[id(p)] for p in model.heads.parameters()} == {heads}
    for tower in (model.backbone.image, model.backbone.text):
        for parameter, distance in tower.measure_distances():
            assert rate.get(id(parameter)) == (backbone * 0.5**distance if parameter.requires_grad else None)


@pytest.mark.slow
def test_prompt_terms_teach_the_model_to_tell_prompts_apart(train: Callable[..., Run]) -> None:
    """The cosine of matched pairs rises over that of others by `w_contrast`, and the score follows by `w_mismatch`."""
    recipe = replace(PARTIAL, epochs=12, lr=2e-3, consistency_input="multilevel")

    def lead(recipe: Recipe) -> tuple[float, float]:
        run = train(recipe)
        rows = list(TRAIN)
        image, text = training.embed_rows(run.model, run.data, rows, [0] * len(rows))
        other = text.roll(1, 0)
        differs = torch.tensor(
            [run.data.prompts[a] != run.data.prompts[b] for a, b in zip(rows, [rows[-1], *rows[:-1]], strict=True)]
        )
        with torch.no_grad():
            own_scores, other_scores = run.model.heads(image, text), run.model.heads(image, other)
        gaps = (own_scores.cosine - other_scores.cosine, own_scores.consistency - other_scores.consistency)
        return tuple(float(gap[differs].mean()) for gap in gaps)  # type: ignore[return-value]

    plain, contrast, mismatch = (
        lead(recipe),
        lead(replace(recipe, w_contrast=0.5)),
        lead(replace(recipe, w_mismatch=1.0)),
    )
    assert contrast[0] > plain[0] + 0.02
    assert mismatch[1] > plain[1] + 0.02
