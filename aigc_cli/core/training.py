"""The one training loop, and what it takes to predict with its result."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from aigc_cli.core.backbone import Backbone, Freezing
from aigc_cli.core.features import EVALUATION, ImageFeatures, TextFeatures
from aigc_cli.core.hints import learning_rates
from aigc_cli.core.losses import loss_named
from aigc_cli.core.metrics import value
from aigc_cli.core.model import HeadConfig, ResidualHeads, Scores
from aigc_cli.progress import Progress
from aigc_cli.recipe import Recipe

SATURATED, UNUSED = 0.95, 0.05
EVALUATION_BATCH = 64
STANDARDISE_ROWS = 1024


@dataclass
class Judge:
    """A backbone with trained heads: everything that turns an image and its prompt into scores."""

    backbone: Backbone
    heads: ResidualHeads
    freezing: Freezing

    def state(self) -> dict[str, Tensor]:
        """Copies of the heads' tensors and of the backbone's that are not frozen, buffers included."""
        learnt: set[int] = set()
        for tower, boundary in ((self.backbone.image, self.freezing.image), (self.backbone.text, self.freezing.text)):
            for part in tower.trainable_parts(boundary):
                tensors = [*part.parameters(), *part.buffers()] if isinstance(part, nn.Module) else [part]
                learnt |= {id(tensor) for tensor in tensors}
        backbone = self.backbone.modules().state_dict(prefix="backbone.", keep_vars=True)
        kept = {name: tensor for name, tensor in backbone.items() if id(tensor) in learnt}
        kept |= self.heads.state_dict(prefix="heads.")
        return {name: tensor.detach().clone() for name, tensor in kept.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Puts back what `state` returned."""
        with torch.no_grad():
            own = self.backbone.modules().state_dict(prefix="backbone.", keep_vars=True)
            own |= self.heads.state_dict(prefix="heads.", keep_vars=True)
            for name, tensor in state.items():
                own[name].copy_(tensor)

    def trainable(self) -> int:
        """How many parameters are trained."""
        modules = (self.heads, self.backbone.modules())
        return sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad)

    def eval(self) -> None:
        """Eval mode throughout."""
        self.backbone.eval()
        self.heads.eval()


@dataclass(frozen=True)
class Data:
    """Images at the freeze boundary, their prompts and their human scores.

    Attributes:
        images: the boundary states, by row.
        texts: the prompts' boundary states.
        prompts: the prompt of each row.
        targets: (N, 2) quality and consistency on [0, 1]; NaN where a row was not rated.
    """

    images: ImageFeatures
    texts: TextFeatures
    prompts: Sequence[str]
    targets: Tensor


@dataclass
class Fit:
    """What a training run leaves: its curves, and the weights of the epoch that was kept."""

    epochs: list[dict[str, Any]] = field(default_factory=list)
    kept_epoch: int = 0
    kept_state: dict[str, Tensor] = field(default_factory=dict)
    diverged: str = ""
    stopped_early: bool = False


def new_judge(backbone: Backbone, recipe: Recipe) -> Judge:
    """Fresh heads on `backbone`, which is frozen as the recipe says; deterministic for the recipe's seed."""
    torch.manual_seed(recipe.seed)
    hints = backbone.hints
    heads = ResidualHeads(
        HeadConfig(
            embed_dim=backbone.embed_dim,
            level_dim=backbone.level_dim(),
            quality_input=recipe.quality_input or hints.head_input,  # type: ignore[arg-type]
            consistency_input=recipe.consistency_input or hints.head_input,  # type: ignore[arg-type]
            residual=recipe.residual,
            scale_q=recipe.scale_q,
            scale_c=recipe.scale_c,
            hidden_q=recipe.hidden_q,
            hidden_c=recipe.hidden_c,
            dropout=recipe.dropout,
        )
    )
    freezing = backbone.boundaries(recipe.freeze, recipe.freeze_depth)  # type: ignore[arg-type]
    backbone.freeze(freezing)
    heads.to(next(backbone.image.module.parameters()).device)
    return Judge(backbone, heads, freezing)


def _optimiser(judge: Judge, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over heads and backbone at their own rates; vectors (biases, norms) don't decay."""
    rate, rate_backbone = learning_rates(recipe, judge.backbone.hints)
    groups = []
    for module, lr in ((judge.heads, rate), (judge.backbone.modules(), rate_backbone)):
        learnt = [p for p in module.parameters() if p.requires_grad]
        for decays in (True, False):
            chosen = [p for p in learnt if (p.ndim > 1) == decays]
            groups.append({"params": chosen, "lr": lr, "weight_decay": recipe.weight_decay if decays else 0.0})
    return torch.optim.AdamW([group for group in groups if group["params"]])


def schedule(name: str, step: int, steps: int, warmup: int) -> float:
    """The factor on the learning rate at `step` of `steps`: a linear warm-up, then the named course down."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    courses: dict[str, Callable[[float], float]] = {
        "cosine": lambda x: 0.5 * (1 + math.cos(math.pi * x)),
        "linear": lambda x: 1 - x,
        "step": lambda x: 0.1 ** int(3 * x),
        "constant": lambda x: 1.0,
    }
    return courses[name](done)


def batches(
    rows: Sequence[int], size: int, views: int, random: np.random.Generator
) -> Iterator[tuple[list[int], list[int]]]:
    """One epoch's (rows, view of each): shuffled; a last batch of one joins the one before it."""
    order = [rows[i] for i in random.permutation(len(rows))]
    drawn = random.integers(views, size=len(rows)).tolist()
    starts = list(range(0, len(order), size))
    if len(starts) > 1 and len(order) - starts[-1] == 1:
        starts.pop()
    for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
        yield order[start:stop], drawn[start:stop]


def forward(judge: Judge, data: Data, rows: Sequence[int], views: Sequence[int]) -> Scores:
    """Scores of images `rows`, each in its view, from the freeze boundary on."""
    image = judge.backbone.image_from_boundary(data.images.get(rows, views), judge.freezing.image)
    return judge.heads(image, data.texts.embed([data.prompts[row] for row in rows]))  # type: ignore[no-any-return]


def predict(judge: Judge, data: Data, rows: Sequence[int]) -> Scores:
    """Scores of the evaluation view of images `rows`, in their order, on the CPU."""
    judge.eval()
    with torch.no_grad():
        parts = [
            forward(judge, data, part, [EVALUATION] * len(part))
            for part in (rows[i : i + EVALUATION_BATCH] for i in range(0, len(rows), EVALUATION_BATCH))
        ]
    if not parts:
        return Scores(*[torch.empty(0) for _ in Scores._fields])
    return Scores(*[torch.cat(column).cpu() for column in zip(*parts, strict=True)])


def _fit_standardisation(judge: Judge, data: Data, rows: Sequence[int], random: np.random.Generator) -> None:
    chosen = [rows[i] for i in random.permutation(len(rows))[:STANDARDISE_ROWS]]
    features, texts = [], []
    judge.eval()
    with torch.no_grad():
        for start in range(0, len(chosen), EVALUATION_BATCH):
            part = chosen[start : start + EVALUATION_BATCH]
            state = data.images.get(part, [EVALUATION] * len(part))
            features.append(judge.backbone.image_from_boundary(state, judge.freezing.image))
            texts.append(data.texts.embed([data.prompts[row] for row in part]))
        image = type(features[0])(*[torch.cat(column) for column in zip(*features, strict=True)])
        judge.heads.fit_inputs(image, torch.cat(texts))


class _Tally:
    """Collects an epoch's predictions and losses into one row of the epochs table."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.loss_of = loss_named(recipe.loss)
        self.scores: list[list[NDArray[Any]]] = []
        self.losses: list[tuple[int, float, float]] = []

    def loss(self, scores: Scores, targets: Tensor) -> Tensor:
        """The weighted loss of a batch, remembered."""
        loss_q, loss_c = self.loss_of(scores.quality, targets[:, 0]), self.loss_of(scores.consistency, targets[:, 1])
        self.losses.append((len(targets), float(loss_q.detach()), float(loss_c.detach())))
        columns = (
            scores.quality,
            scores.consistency,
            scores.quality_delta,
            scores.consistency_delta,
            *targets.unbind(1),
        )
        self.scores.append([column.detach().cpu().numpy() for column in columns])
        return self.recipe.w_q * loss_q + self.recipe.w_c * loss_c

    def row(self) -> dict[str, Any]:
        """loss, srocc, plcc and the spread of the corrections."""
        quality, consistency, delta_q, delta_c, human_q, human_c = (
            np.concatenate(c) for c in zip(*self.scores, strict=True)
        )
        weights = np.array([n for n, _, _ in self.losses], dtype=float)
        loss_q, loss_c = (float(np.average([x[i] for x in self.losses], weights=weights)) for i in (1, 2))
        row: dict[str, Any] = {
            "loss": self.recipe.w_q * loss_q + self.recipe.w_c * loss_c,
            "loss_q": loss_q,
            "loss_c": loss_c,
        }
        for metric in ("srocc", "plcc"):
            for letter, predicted, human in (("q", quality, human_q), ("c", consistency, human_c)):
                rated = ~np.isnan(human)
                row[f"{metric}_{letter}"] = value(metric, predicted[rated], human[rated])
        for letter, delta, scale in (("q", delta_q, self.recipe.scale_q), ("c", delta_c, self.recipe.scale_c)):
            row[f"saturated_{letter}"] = float((np.abs(delta) > SATURATED).mean())
            row[f"unused_{letter}"] = float((scale * np.abs(delta) < UNUSED).mean())
        return row


def merit(row: dict[str, Any], recipe: Recipe) -> float:
    """What chooses the checkpoint: SROCC of both targets weighted as their losses, else the negative loss - 2."""
    parts = [(recipe.w_q, row["srocc_q"]), (recipe.w_c, row["srocc_c"])]
    known = [(weight, srocc) for weight, srocc in parts if srocc is not None and weight > 0]
    if not known:
        return -2 - float(row["loss"])
    return float(sum(weight * srocc for weight, srocc in known) / sum(weight for weight, _ in known))


def fit(judge: Judge, data: Data, train: Sequence[int], val: Sequence[int], recipe: Recipe, progress: Progress) -> Fit:
    """Trains `judge` in place on rows `train`, leaves it with the weights of the kept epoch, and returns the curves.

    The kept epoch is the last one, or the best on rows `val` (by `merit`) when the recipe chooses one. A
    loss that is not finite ends the run; the best epoch before it is kept.
    """
    random = np.random.default_rng([recipe.seed, len(train)])
    torch.manual_seed(recipe.seed)
    _fit_standardisation(judge, data, train, random)
    optimiser = _optimiser(judge, recipe)
    learnt = [p for group in optimiser.param_groups for p in group["params"]]
    per_epoch = sum(1 for _ in batches(train, recipe.batch_size, recipe.views, np.random.default_rng(0)))
    steps = per_epoch * recipe.epochs
    warmup = round(recipe.warmup_ratio * steps)
    scheduler = LambdaLR(optimiser, lambda step: schedule(recipe.scheduler, step, steps, warmup))
    result, best, stale = Fit(kept_state=judge.state()), -math.inf, 0
    progress.start("images in training", recipe.epochs * len(train))
    for epoch in range(1, recipe.epochs + 1):
        begun, tally = time.perf_counter(), _Tally(recipe)
        judge.backbone.train(judge.freezing)
        judge.heads.train()
        for rows, views in batches(train, recipe.batch_size, recipe.views, random):
            loss = tally.loss(forward(judge, data, rows, views), data.targets[rows])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(learnt, recipe.max_grad_norm or math.inf)
            if not (torch.isfinite(loss) and torch.isfinite(norm)):
                what, value_ = ("gradient", norm) if torch.isfinite(loss) else ("loss", loss)
                result.diverged = f"the {what} became {float(value_.detach())} in epoch {epoch}"
                judge.load(result.kept_state)
                judge.eval()
                return result
            optimiser.step()
            scheduler.step()
            progress.advance(len(rows))
        rate = scheduler.get_last_lr()[0]
        seconds = time.perf_counter() - begun
        parts = {"train": tally.row()} | ({"val": _validate(judge, data, val, recipe)} if val else {})
        for split, row in parts.items():
            result.epochs.append({"epoch": epoch, "split": split, **row, "lr": rate, "seconds": seconds})
        progress.advance(0, _note(epoch, recipe.epochs, parts))
        if not all(math.isfinite(row["loss"]) for row in parts.values()):
            result.diverged = f"the validation loss was not finite after epoch {epoch}"
            break
        gained = merit(parts["val" if val else "train"], recipe)
        stale = 0 if gained > best + recipe.min_delta else stale + 1
        if not (recipe.chooses and val) or gained > best:
            result.kept_epoch, result.kept_state = epoch, judge.state()
        best = max(best, gained)
        if recipe.patience and stale >= recipe.patience:
            result.stopped_early = True
            break
    judge.load(result.kept_state)
    judge.eval()
    return result


def _validate(judge: Judge, data: Data, rows: Sequence[int], recipe: Recipe) -> dict[str, Any]:
    tally = _Tally(recipe)
    tally.loss(predict(judge, data, rows), data.targets[list(rows)].cpu())
    return tally.row()


def _note(epoch: int, epochs: int, parts: dict[str, dict[str, Any]]) -> str:
    row = parts.get("val", parts["train"])
    shown = ["-" if row[key] is None else f"{row[key]:.3f}" for key in ("srocc_q", "srocc_c")]
    return (
        f"epoch {epoch}/{epochs} {'val' if 'val' in parts else 'train'} SROCC quality {shown[0]} consistency {shown[1]}"
    )
