"""A taste: how the scores of a trained model change for other raters, fitted by ridge regression.

The model stays as it is; the layers `taste_q` and `taste_c` of its heads are fitted. That takes seconds, needs no
augmented views, and a few ratings can't harm what the start model knows: the penalty is chosen on prompts that were
held out, and without a clear gain there the layers stay as they are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from aigc_cli.images.sample import TARGETS
from aigc_cli.metrics.splits import Split, make_folds
from aigc_cli.model.heads import Scores
from aigc_cli.model.model import Model
from aigc_cli.progress import Progress
from aigc_cli.recipe import Recipe
from aigc_cli.training.adaptation import MOST_PARTS
from aigc_cli.training.batches import TrainingData
from aigc_cli.training.loop import read_heads, validate
from aigc_cli.training.pairs import NOISE, Pairs, compute_surprise, differentiate_surprise, weigh_ties
from aigc_cli.training.rates import complete_recipe
from aigc_cli.training.state import FitResult
from aigc_cli.training.warm_start import LEVEL, Penalty

PENALTIES = (300.0, 1000.0, 3000.0, 10000.0, math.inf)  # smaller ones follow the noise of single ratings
LARGEST = 1e12  # in place of infinity
SURE = 2.33  # one chance in a hundred to follow noise
BIAS_PENALTY = 10.0
FLATTENED = 16.0  # the sigmoid of quality makes changes at most a quarter as large; consistency has none
NUMBERS_SHARE = 0.04  # of the penalty of a feature, on cosine and quality
STEPS, CONVERGED = 30, 1e-6


def fit_taste(
    model: Model, data: TrainingData, split: Split, groups: Sequence[str], recipe: Recipe, progress: Progress
) -> tuple[FitResult, dict[str, Penalty]]:
    """Fits the taste of a model with `HeadConfig.taste` to the ratings and choices of `split.train`, in place.

    The penalty of each target is chosen on up to five parts of the groups, each predicted without it. The largest one
    moves only the level of the scores; that is used where it is clearly better than no change. A smaller one is taken
    if the best is clearly better than the level, by `SURE` standard errors over groups: the largest that is not worse
    than the best by one standard error.

    Args:
        groups: the group of each row of `data`, such as its prompt; no group is in two parts.

    Returns:
        the curves of one epoch, and {target: its penalty}: `LEVEL` where only the level of the scores changed, None
        where nothing did.
    """
    recipe, rows, chosen = complete_recipe(recipe), list(split.train), dict[str, Penalty]()
    progress.start("fitting a taste", None)
    h, found = read_heads(model, data, rows)
    pairs = data.pairs.place(rows)
    names = sorted({groups[row] for row in rows})
    number = {name: index for index, name in enumerate(names)}
    of_row = torch.tensor([number[groups[row]] for row in rows], dtype=torch.long)
    parts, part_of = min(MOST_PARTS, len(names)), torch.zeros(len(names), dtype=torch.long)
    for part, members in enumerate(make_folds(names, parts, recipe.seed) if parts > 1 else []):
        part_of[members] = part
    shifts: list[tuple[nn.Linear, Tensor]] = []
    for index, (target, layer) in enumerate(zip(TARGETS, (model.heads.taste_q, model.heads.taste_c), strict=True)):
        scores, own = data.targets[rows, index].cpu().double(), pairs.select(pairs.question == index)
        if parts < 2 or not (len(own) or (~scores.isnan()).any()):
            continue
        assert layer is not None
        opinions = _Opinions(scores, own, of_row, of_row[own.a], weigh_ties(own.preferred))
        weights, chosen[target] = _Fit(_Score.read(model, h, found, target), opinions).choose(part_of, parts)
        shifts.append((layer, weights))
    for layer, weights in shifts:
        _add_weights(layer, weights)
    curves = {"train": validate(model, data, rows, recipe)}
    if split.val:
        curves["val"] = validate(model, data, split.val, recipe)
    result = FitResult(kept_epoch=1, kept_weights=model.copy_trained())
    result.epochs = [{"epoch": 1, "split": part, **row, "lr": 0.0, "seconds": 0.0} for part, row in curves.items()]
    return result, chosen


@dataclass(frozen=True)
class _Opinions:
    """Ratings and choices of one target, and the number of the group of each.

    Attributes:
        targets: (R,) on [0, 1], NaN where an image was not rated.
        pairs: P choices between these images.
        of_row, of_pair: (R,) and (P,).
        tie_weight: see `weigh_ties`.
    """

    targets: Tensor
    pairs: Pairs
    of_row: Tensor
    of_pair: Tensor
    tie_weight: float

    def compute_lead(self, scores: Tensor) -> Tensor:
        """Score of a minus score of b, (P,)."""
        return scores[self.pairs.a] - scores[self.pairs.b]

    def sum_by_group(self, scores: Tensor, groups: int) -> Tensor:
        """The negative log-likelihood (groups,) of each group's ratings and choices, for scores (R,)."""
        rated = (scores - self.targets).square().nan_to_num() / (2 * NOISE**2)
        chosen = compute_surprise(self.compute_lead(scores), self.pairs.preferred, self.tie_weight)
        sums = torch.zeros(groups, dtype=scores.dtype).index_add(0, self.of_row, rated)
        return sums.index_add(0, self.of_pair, chosen)


@dataclass(frozen=True)
class _Score:
    """What a score is made of: score = link(z + x @ w) + rest, where w is added to the layer of the taste.

    Attributes:
        x: (R, K), the layer's inputs and a column of ones.
        z, rest: (R,).
        scale: (K,), the penalty of each column is the penalty times this.
        is_sigmoid: whether the link is a sigmoid; else it is the identity.
    """

    x: Tensor
    z: Tensor
    rest: Tensor
    scale: Tensor
    is_sigmoid: bool

    @classmethod
    def read(cls, model: Model, h: Tensor, scores: Scores, target: str) -> "_Score":
        """That of one target, from the inputs `h` of the quality head and the scores as they are."""
        layer, ones = model.heads.taste_q, torch.ones(len(h), 1, dtype=h.dtype)
        assert layer is not None
        z, rest = scores.quality_base.clamp(1e-6, 1 - 1e-6).logit(), scores.quality - scores.quality_base
        spread = h.var(0, correction=0).mean().clamp(min=1e-12).expand(h.shape[1])
        bias = torch.tensor([1.0], dtype=h.dtype)
        if target == "quality":
            return cls(torch.cat([h, ones], 1), z, rest, torch.cat([spread, bias]), True)
        own = functional.linear(h, layer.weight.detach().cpu().double(), layer.bias.detach().cpu().double()).squeeze(1)
        general = (z - own).sigmoid() + rest  # without taste
        numbers = torch.stack([scores.cosine, general], 1)
        x = torch.cat([h, numbers, ones], 1)
        scale = torch.cat([spread, NUMBERS_SHARE * numbers.var(0, correction=0).clamp(min=1e-6), bias])
        if model.heads.config.residual:
            return cls(x, scores.consistency, 0 * rest, FLATTENED * scale, False)
        return cls(x, scores.consistency.clamp(1e-6, 1 - 1e-6).logit(), 0 * rest, scale, True)

    def compute(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The scores (R,) with these weights, and their derivatives by z + x @ w."""
        z = self.z + self.x @ weights
        if not self.is_sigmoid:
            return z + self.rest, torch.ones_like(z)
        p = z.sigmoid()
        return p + self.rest, p * (1 - p)


@dataclass(frozen=True)
class _Fit:
    """The ridge regression of one target."""

    score: _Score
    opinions: _Opinions

    def choose(self, part_of: Tensor, parts: int) -> tuple[Tensor, Penalty]:
        """The weights with the penalty that is chosen, see `fit_taste`.

        Args:
            part_of: (groups,), the part in which each group is held out.
        """
        groups, none = len(part_of), torch.zeros_like(self.score.scale)
        start = self.opinions.sum_by_group(self.score.compute(none)[0], groups)
        gains = torch.zeros(len(PENALTIES), groups, dtype=start.dtype)
        for part in range(parts):
            apart = part_of == part
            for place, penalty in enumerate(PENALTIES):
                found = self.score.compute(self.fit(~apart, penalty))[0]
                gains[place, apart] = (start - self.opinions.sum_by_group(found, groups))[apart]
        best, everything = int(gains.sum(1).argmax()), torch.ones(groups, dtype=torch.bool)
        place = len(PENALTIES) - 1
        if _is_clear(gains[best] - gains[place], SURE):
            place = max(i for i in range(len(PENALTIES)) if i == best or not _is_clear(gains[best] - gains[i]))
        if PENALTIES[place] < math.inf:
            return self.fit(everything, PENALTIES[place]), PENALTIES[place]
        if _is_clear(gains[place]):
            return self.fit(everything, math.inf), LEVEL
        return none, None

    def fit(self, used: Tensor, penalty: float) -> Tensor:
        """The weights (K,) with the highest penalised likelihood on the groups `used`, a mask: Gauss-Newton steps."""
        of = self.opinions
        rows, pairs = used[of.of_row] & ~of.targets.isnan(), used[of.of_pair]
        x, chosen, targets = self.score.x, of.pairs.select(pairs), of.targets[rows]
        ridge, weights = min(penalty, LARGEST) * self.score.scale, torch.zeros_like(self.score.scale)
        ridge[-1] = BIAS_PENALTY

        def measure(w: Tensor) -> float:
            loss = of.sum_by_group(self.score.compute(w)[0], len(used))[used].sum()
            return float(loss + (ridge * w.square()).sum() / 2)

        loss = measure(weights)
        for _ in range(STEPS):
            scores, slope = self.score.compute(weights)
            j = slope[rows, None] * x[rows] / NOISE
            jp = slope[chosen.a, None] * x[chosen.a] - slope[chosen.b, None] * x[chosen.b]
            first, second = differentiate_surprise(scores[chosen.a] - scores[chosen.b], chosen.preferred, of.tie_weight)
            gradient = j.T @ ((scores[rows] - targets) / NOISE) + jp.T @ first + ridge * weights
            step = torch.linalg.solve(j.T @ j + jp.T @ (second[:, None] * jp) + ridge.diag(), gradient)
            before, loss = loss, measure(weights - step)
            while not loss <= before and step.abs().max() > CONVERGED:
                step = step / 2
                loss = measure(weights - step)
            if not loss <= before:
                break
            weights = weights - step
            if before - loss <= CONVERGED * abs(before):
                break
        return weights


def _is_clear(gains: Tensor, times: float = 1.0) -> bool:
    """Whether the sum of the gains (groups,) is larger than so many times its standard error over groups."""
    return bool(gains.sum() > times * gains.square().sum().sqrt())


def _add_weights(layer: nn.Linear, weights: Tensor) -> None:
    """Adds weights (K,), the last of which is the bias, to those of the layer."""
    with torch.no_grad():
        layer.weight.add_(weights[None, :-1].to(layer.weight))
        layer.bias.add_(weights[-1:].to(layer.bias))
