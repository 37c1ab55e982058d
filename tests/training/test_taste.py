"""A taste follows other raters where held-out prompts gain by it, and leaves the start model alone where not."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from aigc_cli.metrics.by_name import compute_metric
from aigc_cli.metrics.splits import Split
from aigc_cli.model.heads import ResidualHeads
from aigc_cli.model.model import Model
from aigc_cli.progress import SilentProgress
from aigc_cli.recipe import Recipe
from aigc_cli.training.batches import Batch, TrainingData, draw_batches
from aigc_cli.training.loop import embed_rows, fit_model, predict, read_heads
from aigc_cli.training.pairs import Pairs, compute_surprise, differentiate_surprise, weigh_ties
from aigc_cli.training.taste import _Fit, _Opinions, _Score, fit_taste
from aigc_cli.training.warm_start import LEVEL, Penalty

RECIPE = Recipe(backbone="tiny", freeze="all", lr=3e-3, epochs=4, batch_size=8, views=1, plain_view=True, dropout=0)
ROWS = list(range(48))
GROUPS = [str(row % 12) for row in ROWS]
Ready = Callable[..., tuple[Model, TrainingData]]


@pytest.fixture(params=[True, False], ids=["residual", "traditional"])
def started(ready: Ready, request: pytest.FixtureRequest) -> tuple[Model, TrainingData]:
    """A trained model whose heads have a taste of 0."""
    recipe = replace(RECIPE, residual=request.param)
    model, data = ready(recipe)
    fit_model(model, data, Split(ROWS, []), recipe, SilentProgress())
    heads = ResidualHeads(replace(model.heads.config, taste=True))
    heads.load_state_dict({**heads.state_dict(), **model.heads.state_dict()})
    before = predict(model, data, ROWS)
    model.heads = heads.eval()
    for one, other in zip(before, predict(model, data, ROWS), strict=True):
        torch.testing.assert_close(one, other)
    return model, data


def fit(model: Model, data: TrainingData, rows: list[int] = ROWS) -> dict[str, Penalty]:
    return fit_taste(model, data, Split(rows, []), GROUPS, RECIPE, SilentProgress())[1]


def make_pairs(scores: Tensor, question: int, count: int = 300) -> Pairs:
    """Choices by scores (N,) between random images."""
    draw = torch.Generator().manual_seed(0)
    a = torch.randint(0, len(scores), (count,), generator=draw)
    b = (a + torch.randint(1, len(scores), (count,), generator=draw)) % len(scores)
    return Pairs(a, b, torch.full((count,), question), (scores[a] > scores[b]).float())


def test_a_taste_that_the_features_show_is_followed(started: tuple[Model, TrainingData]) -> None:
    model, data = started
    h, scores = read_heads(model, data, ROWS)
    liked = h[:, 0].float()
    wanted = (0.5 + 0.2 * (liked - liked.mean()) / liked.std()).clamp(0, 1)
    targets = torch.stack([wanted, wanted.flip(0)], 1)
    chosen = fit(model, replace(data, targets=targets))
    assert chosen["quality"] not in (None, LEVEL)
    found = predict(model, data, ROWS)
    before = compute_metric("srocc", scores.quality.numpy(), wanted.numpy())
    after = compute_metric("srocc", found.quality.numpy(), wanted.numpy())
    assert after is not None
    assert before is not None
    assert after > max(0.8, before + 0.1)


def test_ratings_as_the_model_gives_them_change_nothing(started: tuple[Model, TrainingData]) -> None:
    model, data = started
    before = predict(model, data, ROWS)
    chosen = fit(model, replace(data, targets=torch.stack([before.quality, before.consistency], 1)))
    assert chosen == {"quality": None, "consistency": None}
    assert torch.equal(predict(model, data, ROWS).quality, before.quality)


def test_what_somebody_likes_does_not_change_what_an_image_shows(started: tuple[Model, TrainingData]) -> None:
    model, data = started
    before = predict(model, data, ROWS)
    h, _ = read_heads(model, data, ROWS)
    targets = torch.stack([(h[:, 0] > h[:, 0].median()).float(), torch.full((48,), torch.nan)], 1)
    assert set(fit(model, replace(data, targets=targets))) == {"quality"}
    after = predict(model, data, ROWS)
    assert not torch.equal(after.quality, before.quality)
    assert torch.equal(after.consistency, before.consistency)


def test_a_second_taste_goes_on_from_the_first(started: tuple[Model, TrainingData]) -> None:
    model, data = started
    h, _ = read_heads(model, data, ROWS)
    targets = torch.stack([(h[:, 0] > h[:, 0].median()).float()] * 2, 1)
    fit(model, replace(data, targets=targets))
    first = predict(model, data, ROWS)
    chosen = fit(model, replace(data, targets=torch.stack([first.quality, first.consistency], 1)))
    assert chosen == {"quality": None, "consistency": None}


def test_another_level_alone_keeps_the_order(started: tuple[Model, TrainingData]) -> None:
    """Somebody who sees the same, but gives lower scores, with noise that no image shows."""
    model, data = started
    before = predict(model, data, ROWS)
    noise = 0.1 * torch.randn(48, 2, generator=torch.Generator().manual_seed(1))
    wanted = (torch.stack([before.quality, before.consistency], 1) - 0.2 + noise).clamp(0, 1)
    assert fit(model, replace(data, targets=wanted))["quality"] == LEVEL
    after = predict(model, data, ROWS)
    assert (after.quality - before.quality).mean() < -0.1
    assert torch.equal(after.quality.argsort(), before.quality.argsort())


def test_one_group_tells_nothing(started: tuple[Model, TrainingData]) -> None:
    model, data = started
    assert fit_taste(model, data, Split(ROWS, []), ["a"] * 48, RECIPE, SilentProgress())[1] == {}


@pytest.mark.parametrize("question", [0, 1])
def test_choices_alone_teach_a_taste(started: tuple[Model, TrainingData], question: int) -> None:
    model, data = started
    h, _ = read_heads(model, data, ROWS)
    none = torch.full((48, 2), torch.nan)
    pairs = make_pairs(h[:, 0].float(), question, 3000)
    same = (pairs.a - pairs.b) % 12 == 0
    data = replace(data, targets=none, pairs=pairs.select(same))
    chosen = fit(model, data)
    name = ("quality", "consistency")[question]
    assert list(chosen) == [name]
    score = getattr(predict(model, data, ROWS), name)
    foreseen = ((score[pairs.a] > score[pairs.b]).float() == pairs.preferred).float().mean()
    assert foreseen > 0.8


def test_the_fit_is_the_least_penalised_loss(started: tuple[Model, TrainingData]) -> None:
    """Autograd finds no direction down from the fitted weights."""
    model, data = started
    h, scores = read_heads(model, data, ROWS)
    pairs, of_row = make_pairs(h[:, 1].float(), 0, 40), torch.zeros(48, dtype=torch.long)
    pairs.preferred[:5] = 0.5
    targets = data.targets[:, 0].double()  # none is NaN: autograd would give NaN
    opinions = _Opinions(targets, pairs, of_row, of_row[pairs.a], weigh_ties(pairs.preferred))
    score = _Score.read(model, h, scores, "quality")
    weights = _Fit(score, opinions).fit(torch.ones(1, dtype=torch.bool), 30.0).requires_grad_(True)
    ridge = 30.0 * score.scale
    ridge[-1] = 10.0
    loss = opinions.sum_by_group(score.compute(weights)[0], 1).sum() + (ridge * weights.square()).sum() / 2
    (gradient,) = torch.autograd.grad(loss, weights)
    (at_start,) = torch.autograd.grad(
        opinions.sum_by_group(score.compute(zero := torch.zeros_like(weights, requires_grad=True))[0], 1).sum(), zero
    )
    assert gradient.norm() < 0.02 * at_start.norm()


def test_the_surprise_is_that_of_davidson() -> None:
    """With as many ties as other choices at equal scores, and odds of e for a lead of 1 / strength."""
    preferred = torch.tensor([1.0, 0.5, 0.0])
    tie = weigh_ties(torch.tensor([1.0, 0.5, 0.0]))
    equal = compute_surprise(torch.zeros(3), preferred, tie).neg().exp()
    torch.testing.assert_close(equal, torch.full((3,), 1 / 3))
    lead = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(compute_surprise(lead, preferred, tie).sum(), lead, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), lead)
    mine = differentiate_surprise(lead.detach(), preferred, tie)
    torch.testing.assert_close(mine[0], first.detach())
    torch.testing.assert_close(mine[1], second)


def test_without_ties_a_tie_is_nearly_impossible() -> None:
    assert weigh_ties(torch.tensor([1.0, 0.0])) == 0
    assert weigh_ties(torch.empty(0)) == 0
    both = compute_surprise(torch.zeros(2), torch.tensor([1.0, 0.0]), 0.0).neg().exp()
    torch.testing.assert_close(both, torch.full((2,), 0.5), rtol=0, atol=1e-5)


# --- choices in the loop


def test_units_are_ratings_and_choices(ready: Ready) -> None:
    _, data = ready(RECIPE)
    pairs = Pairs(torch.tensor([0, 4, 9]), torch.tensor([1, 5, 40]), torch.zeros(3).long(), torch.ones(3))
    targets = data.targets.clone()
    targets[:10] = torch.nan
    both = replace(data, targets=targets, pairs=pairs)
    assert data.list_units(range(4)) == [0, 1, 2, 3]
    assert both.list_units(range(12)) == [10, 11, -1, -2]
    batch = Batch.make([11, -2, 10], [5, 6, 7], pairs)
    assert (batch.rows, batch.views, batch.rated) == ([11, 10, 4, 5], [5, 7, 6, 6], 2)
    assert (batch.pairs.a.tolist(), batch.pairs.b.tolist()) == ([2], [3])
    drawn = [unit for units, _ in draw_batches(both.list_units(range(48)), 8, range(1), _Draw()) for unit in units]  # type: ignore[arg-type]
    assert sorted(drawn) == sorted(both.list_units(range(48)))


class _Draw:
    """A generator that leaves everything in its order."""

    def permutation(self, n: int) -> range:
        return range(n)

    def integers(self, low: int, high: int, size: int) -> Tensor:
        return torch.zeros(size)


def test_the_loop_learns_from_choices_alone(ready: Ready) -> None:
    recipe = replace(RECIPE, epochs=20, w_c=0.0)
    model, data = ready(recipe)
    brightness = embed_rows(model, data, ROWS, [-1] * 48)[0].levels[:, 0]
    data = replace(data, targets=torch.full((48, 2), torch.nan), pairs=make_pairs(brightness, 0))
    result = fit_model(model, data, Split(ROWS, []), recipe, SilentProgress())
    losses = [row["loss_q"] for row in result.epochs]
    assert losses[-1] < 0.7 * losses[0]
    quality = predict(model, data, ROWS).quality
    srocc = compute_metric("srocc", quality.numpy(), brightness.numpy())
    assert srocc is not None
    assert srocc > 0.8


def test_ratings_and_choices_are_learnt_together(ready: Ready) -> None:
    """Ratings of the first half, choices in the second half: both losses fall."""
    model, data = ready(RECIPE)
    truth, targets = data.targets[:, 0].clone(), data.targets.clone()
    targets[24:] = torch.nan
    pairs = make_pairs(truth[24:], 0, 60)
    pairs = Pairs(pairs.a + 24, pairs.b + 24, pairs.question, pairs.preferred)
    result = fit_model(model, replace(data, targets=targets, pairs=pairs), Split(ROWS, []), RECIPE, SilentProgress())
    assert result.epochs[-1]["loss_q"] < result.epochs[0]["loss_q"]
    assert not result.diverged
