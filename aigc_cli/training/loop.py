"""The one training loop."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aigc_cli.model.backbone import Backbone
from aigc_cli.model.backbone import ImageFeatures as Embedded
from aigc_cli.model.devices import pick_precision
from aigc_cli.model.heads import HeadConfig, ResidualHeads, Scores
from aigc_cli.model.hints import learning_rates
from aigc_cli.model.model import Judge
from aigc_cli.progress import Progress
from aigc_cli.recipe import Recipe
from aigc_cli.training.epoch import Tally, merit
from aigc_cli.training.feature_store import EVALUATION, ImageFeatures, TextFeatures, views_of
from aigc_cli.training.losses import contrastive_loss, mismatch_loss
from aigc_cli.training.state import Fit, Loop, Snapshot
from aigc_cli.uncertainty.out_of_domain import joined

EVALUATION_BATCH = 64
STANDARDISE_ROWS = 1024


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
    freezing = backbone.boundaries(recipe)
    backbone.freeze(freezing)
    backbone.drop_path = recipe.drop_path
    device = next(backbone.image.module.parameters()).device
    backbone.autocast = pick_precision(recipe.precision, device)
    heads.to(device)
    return Judge(backbone, heads, freezing)


def _optimiser(judge: Judge, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over heads and backbone at their own rates; vectors (biases, norms) don't decay.

    A tower's rate falls by `lr_layer_decay` for each block between a parameter and the tower's tail.
    """
    full = learning_rates(recipe, judge.backbone.hints)
    rates = [(parameter, full.heads) for parameter in judge.heads.parameters()]
    for tower, rate in ((judge.backbone.image, full.image), (judge.backbone.text, full.text)):
        rates += [(p, rate * recipe.lr_layer_decay**blocks) for p, blocks in tower.distances()]
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter, lr in rates:
        if parameter.requires_grad:
            decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((lr, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": chosen, "lr": lr, "initial_lr": lr, "weight_decay": decay}
            for (lr, decay), chosen in groups.items()
        ]
    )


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
    rows: Sequence[int], size: int, views: range, random: np.random.Generator
) -> Iterator[tuple[list[int], list[int]]]:
    """One epoch's (rows, view of each, out of `views`): shuffled; a last batch of one joins the one before it."""
    order = [rows[i] for i in random.permutation(len(rows))]
    drawn = random.integers(views.start, views.stop, size=len(rows)).tolist()
    starts = list(range(0, len(order), size))
    if len(starts) > 1 and len(order) - starts[-1] == 1:
        starts.pop()
    for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
        yield order[start:stop], drawn[start:stop]


def embed(judge: Judge, data: Data, rows: Sequence[int], views: Sequence[int]) -> tuple[Embedded, Tensor]:
    """What the heads read of images `rows`, each in its view, and of their prompts, from the freeze boundary on."""
    image = judge.backbone.image_from_boundary(data.images.get(rows, views), judge.freezing.image)
    return image, data.texts.embed([data.prompts[row] for row in rows])


def batch_loss(loop: Loop, data: Data, rows: Sequence[int], views: Sequence[int]) -> Tensor:
    """The loss of a batch: that of its scores, and what the recipe asks for beyond them to make the model read prompts.

    For the latter every image meets the prompt of the row after it; the order of rows is random.
    """
    judge, recipe, targets = loop.judge, loop.recipe, data.targets[rows]
    prompts = [data.prompts[row] for row in rows]
    image, text = embed(judge, data, rows, views)
    scores = judge.heads(image, text)
    loss = loop.tally.loss(scores, targets)
    if recipe.w_contrast:
        same = torch.tensor([[a == b for b in prompts] for a in prompts], device=text.device)
        loss = loss + recipe.w_contrast * contrastive_loss(image.embedding, text, targets[:, 1], same)
    if recipe.w_mismatch:
        differs = torch.tensor([a != b for a, b in zip(prompts, [*prompts[1:], prompts[0]], strict=True)])
        other = judge.heads(image, text.roll(-1, 0)).consistency
        loss = loss + recipe.w_mismatch * mismatch_loss(
            scores.consistency, other, targets[:, 1], differs.to(other.device)
        )
    return loss


def predict(judge: Judge, data: Data, rows: Sequence[int]) -> Scores:
    """Scores of the evaluation view of images `rows`, in their order, on the CPU."""
    judge.eval()
    with torch.no_grad():
        parts = [
            judge.heads(*embed(judge, data, part, [EVALUATION] * len(part)))
            for part in (rows[i : i + EVALUATION_BATCH] for i in range(0, len(rows), EVALUATION_BATCH))
        ]
    if not parts:
        return Scores(*[torch.empty(0) for _ in Scores._fields])
    return Scores(*[torch.cat(column).cpu() for column in zip(*parts, strict=True)])


def features_of(judge: Judge, data: Data, rows: Sequence[int]) -> Tensor:
    """The features (len(rows), F) of the evaluation views of images `rows`."""
    judge.eval()
    parts = []
    with torch.no_grad():
        for start in range(0, len(rows), EVALUATION_BATCH):
            part = rows[start : start + EVALUATION_BATCH]
            state = data.images.get(part, [EVALUATION] * len(part))
            parts.append(joined(judge.backbone.image_from_boundary(state, judge.freezing.image)))
    return torch.cat(parts)


def _fit_standardisation(judge: Judge, data: Data, rows: Sequence[int], random: np.random.Generator) -> None:
    chosen = [rows[i] for i in random.permutation(len(rows))[:STANDARDISE_ROWS]]
    features, texts = [], []
    judge.eval()
    with torch.no_grad():
        for start in range(0, len(chosen), EVALUATION_BATCH):
            part = chosen[start : start + EVALUATION_BATCH]
            image, text = embed(judge, data, part, [EVALUATION] * len(part))
            features.append(image)
            texts.append(text)
        image = type(features[0])(*[torch.cat(column) for column in zip(*features, strict=True)])
        mean = float(data.targets[list(rows), 0].nanmean().clamp(0.01, 0.99).nan_to_num(0.5))
        judge.heads.fit_inputs(image, torch.cat(texts), mean)


def fit(
    judge: Judge,
    data: Data,
    train: Sequence[int],
    val: Sequence[int],
    recipe: Recipe,
    progress: Progress,
    *,
    start: Snapshot | None = None,
    after: Callable[[Loop], None] = lambda loop: None,
) -> Fit:
    """Trains `judge` in place on rows `train`, leaves it with the weights of the kept epoch, and returns the curves.

    The kept epoch is the last one, or the best on rows `val` (by `merit`) when the recipe chooses one. A
    loss that is not finite ends the run; the best epoch before it is kept.

    Args:
        start: where an earlier call stood; on a CPU the rest is bit for bit what it would have been.
        after: called after every step and at the end of every epoch, when the loop may be written down; what it raises
            ends the run.
    """
    loop = Loop(judge, _optimiser(judge, recipe), recipe, np.random.default_rng([recipe.seed, len(train)]))
    torch.manual_seed(recipe.seed)
    if start is None:
        _fit_standardisation(judge, data, train, loop.random)
        loop.begin()
    else:
        loop.restore(start)
    steps = recipe.epochs * sum(
        1 for _ in batches(train, recipe.batch_size, views_of(recipe), np.random.default_rng(0))
    )
    warmup = round(recipe.warmup_ratio * steps)
    progress.start("images in training", recipe.epochs * len(train))
    progress.advance((loop.epoch - 1) * len(train) + sum(int(n) for n, *_ in loop.tally.losses))
    while not loop.finished:
        rows = _train_epoch(
            loop, data, train, lambda step: schedule(recipe.scheduler, step, steps, warmup), progress, after
        )
        if not loop.result.diverged:
            _end_epoch(loop, data, rows, val, schedule(recipe.scheduler, loop.done, steps, warmup), progress)
        if not loop.result.diverged:
            after(loop)
    judge.load(loop.result.kept_state)
    judge.eval()
    return loop.result


def _train_epoch(
    loop: Loop,
    data: Data,
    train: Sequence[int],
    factor: Callable[[int], float],
    progress: Progress,
    after: Callable[[Loop], None],
) -> list[int]:
    """Takes the steps that the epoch still lacks and returns its rows in their order; sets `diverged` and ends there
    when a loss or a gradient is not finite."""
    judge, recipe, optimiser = loop.judge, loop.recipe, loop.optimiser
    learnt = [p for group in optimiser.param_groups for p in group["params"]]
    judge.backbone.train(judge.freezing)
    judge.heads.train()
    parts = list(batches(train, recipe.batch_size, views_of(recipe), loop.random))
    for rows, views in parts[loop.step :]:
        begun = time.perf_counter()
        loss = batch_loss(loop, data, rows, views)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(learnt, recipe.max_grad_norm or math.inf)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            what, found = ("gradient", norm) if torch.isfinite(loss) else ("loss", loss)
            loop.result.diverged = f"the {what} became {float(found.detach())} in epoch {loop.epoch}"
            break
        for group in optimiser.param_groups:
            group["lr"] = group["initial_lr"] * factor(loop.done)
        optimiser.step()
        loop.count_step()
        loop.seconds += time.perf_counter() - begun
        progress.advance(len(rows))
        after(loop)
    return [row for rows, _ in parts for row in rows]


def _end_epoch(
    loop: Loop, data: Data, rows: Sequence[int], val: Sequence[int], factor: float, progress: Progress
) -> None:
    """Judges the epoch that was trained on `rows`: its rows of the table, the kept weights, whether to go on."""
    recipe, result, epoch = loop.recipe, loop.result, loop.epoch
    parts = {"train": loop.tally.row(data.targets[rows])}
    if val:
        with loop.averaged():
            parts["val"] = _validate(loop.judge, data, val, recipe)
    rate = loop.optimiser.param_groups[0]["initial_lr"] * factor
    for split, row in parts.items():
        result.epochs.append({"epoch": epoch, "split": split, **row, "lr": rate, "seconds": loop.seconds})
    progress.advance(0, _note(epoch, recipe.epochs, parts))
    if not all(math.isfinite(row["loss"]) for row in parts.values()):
        result.diverged = f"the validation loss was not finite after epoch {epoch}"
        return
    gained = merit(parts["val" if val else "train"], recipe)
    loop.stale = 0 if gained > loop.best + recipe.min_delta else loop.stale + 1
    if not (recipe.chooses and val) or gained > loop.best:
        result.kept_epoch, result.kept_state = epoch, loop.weights()
    loop.best = max(loop.best, gained)
    result.stopped_early = bool(recipe.patience) and loop.stale >= recipe.patience
    loop.epoch += 1
    loop.begin_epoch()


def _validate(judge: Judge, data: Data, rows: Sequence[int], recipe: Recipe) -> dict[str, Any]:
    tally, targets = Tally(recipe), data.targets[list(rows)].cpu()
    tally.loss(predict(judge, data, rows), targets)
    return tally.row(targets)


def _note(epoch: int, epochs: int, parts: dict[str, dict[str, Any]]) -> str:
    row = parts.get("val", parts["train"])
    shown = ["-" if row[key] is None else f"{row[key]:.3f}" for key in ("srocc_q", "srocc_c")]
    return (
        f"epoch {epoch}/{epochs} {'val' if 'val' in parts else 'train'} SROCC quality {shown[0]} consistency {shown[1]}"
    )
