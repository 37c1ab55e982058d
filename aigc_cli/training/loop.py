"""The training loop."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aigc_cli.metrics.splits import Split
from aigc_cli.model.backbone import Backbone, ImageFeatures
from aigc_cli.model.devices import pick_precision
from aigc_cli.model.heads import ResidualHeads, Scores
from aigc_cli.model.model import Model
from aigc_cli.progress import Progress
from aigc_cli.recipe import Recipe
from aigc_cli.runtime.saved import Freezing, HeadConfig, SavedModel
from aigc_cli.training.batches import Batch, TrainingData, draw_batches
from aigc_cli.training.feature_store import EVALUATION, list_views
from aigc_cli.training.losses import EpochStats, compute_contrastive_loss, compute_mismatch_loss, rate_epoch
from aigc_cli.training.projected_images import ProjectedImages
from aigc_cli.training.rates import (
    complete_recipe,
    compute_learning_rates,
    compute_lr_factor,
    compute_residual_scales,
)
from aigc_cli.training.state import FitResult, LoopState, Snapshot

EVALUATION_BATCH = 64
STANDARDISE_ROWS = 4096


def make_model(backbone: Backbone, recipe: Recipe, start: SavedModel | None = None) -> Model:
    """Untrained heads, or those of `start`, on `backbone`, which is frozen as the recipe says.

    The same for the same seed of the recipe. The backbone has the weights of `start` already, see `load_start`.
    """
    torch.manual_seed(recipe.seed)
    recipe = complete_recipe(recipe)
    scale_q, scale_c = compute_residual_scales(recipe, backbone.hints)
    heads = ResidualHeads(
        replace(start.heads, dropout=recipe.dropout, taste=start.heads.taste or recipe.learns_taste)
        if start
        else HeadConfig(
            embed_dim=backbone.embed_dim,
            level_dim=backbone.count_levels(),
            quality_input=recipe.quality_input or "",
            consistency_input=recipe.consistency_input or "",
            residual=recipe.residual,
            residual_scale_q=scale_q,
            residual_scale_c=scale_c,
            hidden_q=recipe.hidden_q,
            hidden_c=recipe.hidden_c,
            dropout=recipe.dropout,
            feature_axes=recipe.feature_axes or 0,
        )
    )
    freezing = kept = backbone.find_boundaries(recipe)
    if start:
        own = {k.removeprefix("heads."): t for k, t in start.checkpoint.tensors.items() if k.startswith("heads.")}
        # a start model without a taste gets one that changes nothing
        heads.load_state_dict({**heads.state_dict(), **{name: torch.from_numpy(array) for name, array in own.items()}})
        kept = Freezing(min(freezing.image, start.freezing.image), min(freezing.text, start.freezing.text))
    backbone.freeze(freezing)
    if recipe.learns_taste:
        for name, parameter in heads.named_parameters():
            parameter.requires_grad_(name.startswith("taste"))
    device = next(backbone.image.module.parameters()).device
    backbone.autocast = pick_precision(recipe.precision, device)
    return Model(backbone, heads.to(device), freezing, kept)


def make_optimiser(model: Model, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW with separate rates for heads and backbone; vectors (biases, norms) have no weight decay.

    A tower's rate is multiplied by `lr_layer_decay` for each block between a parameter and the tower's end.
    """
    full = compute_learning_rates(recipe, model.backbone.hints)
    rates = [(parameter, full.heads) for parameter in model.heads.parameters()]
    for tower, rate in ((model.backbone.image, full.image), (model.backbone.text, full.text)):
        rates += [(p, rate * recipe.lr_layer_decay**blocks) for p, blocks in tower.measure_distances()]
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter, lr in rates:
        if parameter.requires_grad:
            decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((lr, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": of, "lr": lr, "initial_lr": lr, "weight_decay": decay} for (lr, decay), of in groups.items()]
    )


def embed_rows(
    model: Model, data: TrainingData, rows: Sequence[int], views: Sequence[int]
) -> tuple[ImageFeatures, Tensor]:
    """The inputs of the heads: features of images `rows`, each in its view, and embeddings (B, D) of their prompts."""
    image = model.backbone.run_image_from_boundary(data.images.get(rows, views), model.freezing.image)
    return image, data.texts.embed([data.prompts[row] for row in rows])


def compute_batch_loss(loop: LoopState, data: TrainingData, batch: Batch) -> Tensor:
    """The loss of a batch: the loss of its scores, and the terms that teach the model to read prompts.

    The mismatch term scores every image with the prompt of the next row; the order of rows is random.
    """
    model, recipe, targets = loop.model, loop.recipe, data.targets[batch.rows]
    targets[batch.rated :] = math.nan
    prompts = [data.prompts[row] for row in batch.rows]
    image, text = embed_rows(model, data, batch.rows, batch.views)
    scores = model.heads(image, text)
    loss = loop.stats.add_batch(scores, targets, batch.pairs, data.tie_weights)
    if recipe.w_contrast:
        same = torch.tensor([[a == b for b in prompts] for a in prompts], device=text.device)
        loss = loss + recipe.w_contrast * compute_contrastive_loss(image.embedding, text, targets[:, 1], same)
    if recipe.w_mismatch:
        differs = torch.tensor([a != b for a, b in zip(prompts, [*prompts[1:], prompts[0]], strict=True)])
        other = model.heads(image, text.roll(-1, 0)).consistency
        loss = loss + recipe.w_mismatch * compute_mismatch_loss(
            scores.consistency, other, targets[:, 1], differs.to(other.device)
        )
    return loss


def predict(model: Model, data: TrainingData, rows: Sequence[int]) -> Scores:
    """Scores of the evaluation view of images `rows`, in their order, on the CPU."""
    model.eval()
    with torch.no_grad():
        parts = [model.heads(*embed_rows(model, data, part, [EVALUATION] * len(part))) for part in _cut_batches(rows)]
    if not parts:
        return Scores(*[torch.empty(0) for _ in Scores._fields])
    return Scores(*[torch.cat(column).cpu() for column in zip(*parts, strict=True)])


def read_heads(model: Model, data: TrainingData, rows: Sequence[int]) -> tuple[Tensor, Scores]:
    """The inputs (R, K) of the quality head and the scores, for the evaluation views of images `rows`.

    All are float64 on the CPU, without a gradient.
    """
    model.eval()
    parts = list[tuple[Tensor, ...]]()
    with torch.no_grad():
        for part in _cut_batches(rows):
            image, text = embed_rows(model, data, part, [EVALUATION] * len(part))
            parts.append((model.heads.read_inputs(image, text)[0], *model.heads(image, text)))
    inputs, *scores = (torch.cat(column).cpu().double() for column in zip(*parts, strict=True))
    return inputs, Scores(*scores)


def collect_features(model: Model, data: TrainingData, rows: Sequence[int]) -> NDArray[Any]:
    """The features (len(rows), F) float64 of the evaluation views of images `rows`."""
    model.eval()
    with torch.no_grad():
        states = (data.images.get(part, [EVALUATION] * len(part)) for part in _cut_batches(rows))
        images = (model.backbone.run_image_from_boundary(state, model.freezing.image) for state in states)
        return np.concatenate([model.heads.read_features(image).cpu().double().numpy() for image in images])


def _cut_batches(rows: Sequence[int]) -> list[Sequence[int]]:
    return [rows[start : start + EVALUATION_BATCH] for start in range(0, len(rows), EVALUATION_BATCH)]


def _fit_standardisation(model: Model, data: TrainingData, rows: Sequence[int], random: np.random.Generator) -> None:
    chosen = [rows[i] for i in random.permutation(len(rows))[:STANDARDISE_ROWS]]
    model.eval()
    with torch.no_grad():
        parts = [embed_rows(model, data, part, [EVALUATION] * len(part)) for part in _cut_batches(chosen)]
        image = ImageFeatures(*[torch.cat(column) for column in zip(*(image[:2] for image, _ in parts), strict=True)])
        mean = float(data.targets[list(rows), 0].nanmean().clamp(0.01, 0.99).nan_to_num(0.5))
        model.heads.fit_inputs(image, torch.cat([text for _, text in parts]), mean)


def fit_model(
    model: Model,
    data: TrainingData,
    split: Split,
    recipe: Recipe,
    progress: Progress,
    *,
    warm: bool = False,
    resumed: Snapshot | None = None,
    callback: Callable[[LoopState], None] = lambda loop: None,
) -> FitResult:
    """Trains `model` in place on `split.train`, leaves it with the weights of the kept epoch, and returns the curves.

    The last epoch is kept, or the best on `split.val` (by `rate_epoch`) when the recipe chooses one. A loss that is not
    finite ends the training; the best epoch before it is kept.

    Args:
        warm: whether the model is trained already, so that its heads keep how they read features.
        resumed: the state of an earlier call, from which this one goes on; on a CPU with the same result, bit for bit.
        callback: called after every step and every epoch, when the loop may be saved; its exception ends the training.
    """
    recipe = complete_recipe(recipe)
    loop = LoopState(
        model, make_optimiser(model, recipe), recipe, np.random.default_rng([recipe.seed, len(split.train)])
    )
    torch.manual_seed(recipe.seed)
    if resumed is None:
        if not warm:
            _fit_standardisation(model, data, split.train, loop.random)
        loop.begin()
    else:
        loop.restore(resumed)
    units, views = data.list_units(split.train), list_views(recipe)
    rows = sum(1 if unit >= 0 else 2 for unit in units)
    batches = sum(1 for _ in draw_batches(units, recipe.batch_size, views, np.random.default_rng(0)))
    steps = recipe.epochs * batches
    warmup = round((recipe.warmup_ratio or 0.0) * steps)

    def compute_factor(step: int) -> float:
        return compute_lr_factor(recipe.scheduler, step, steps, warmup)

    data = _project_images(model, data, split, len(views))
    progress.start("images in training", recipe.epochs * rows)
    progress.advance((loop.epoch - 1) * rows + sum(int(n) for n, *_ in loop.stats.losses))
    while not loop.is_finished:
        trained = _train_epoch(loop, data, units, compute_factor, progress, callback)
        if not loop.result.diverged:
            _end_epoch(loop, data, trained, split.val, compute_factor(loop.done), progress)
        if not loop.result.diverged:
            callback(loop)
    model.load_trained(loop.result.kept_weights)
    model.eval()
    return loop.result


def _project_images(model: Model, data: TrainingData, split: Split, views: int) -> TrainingData:
    """`data` with images on the heads' axes, where the heads have axes and the image tower is frozen as a whole."""
    projection, rows = model.heads.projection, len(split.train) + len(split.val)
    frozen = model.freezing.image > len(model.backbone.image.blocks)
    if projection is None or not frozen or not ProjectedImages.fits(projection, rows, views + 1):
        return data
    images = ProjectedImages(data.images, projection, split.train, split.val)
    return replace(data, images=images)  # type: ignore[arg-type]  # a training only calls `get`


def _train_epoch(
    loop: LoopState,
    data: TrainingData,
    units: Sequence[int],
    compute_factor: Callable[[int], float],
    progress: Progress,
    callback: Callable[[LoopState], None],
) -> list[int]:
    """Takes the remaining steps of the epoch, unless it diverges, and returns all its rows, in their order."""
    model, recipe, optimiser = loop.model, loop.recipe, loop.optimiser
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    model.backbone.train(model.freezing)
    model.heads.train()
    drawn = draw_batches(units, recipe.batch_size, list_views(recipe), loop.random)
    batches = [Batch.make(*one, data.pairs) for one in drawn]
    for batch in batches[loop.step :]:
        begun = time.perf_counter()
        loss = compute_batch_loss(loop, data, batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm or math.inf)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            what, found = ("gradient", norm) if torch.isfinite(loss) else ("loss", loss)
            loop.result.diverged = f"the {what} became {float(found.detach())} in epoch {loop.epoch}"
            break
        for group in optimiser.param_groups:
            group["lr"] = group["initial_lr"] * compute_factor(loop.done)
        optimiser.step()
        loop.step, loop.done = loop.step + 1, loop.done + 1
        loop.seconds += time.perf_counter() - begun
        progress.advance(len(batch.rows))
        callback(loop)
    return [row for batch in batches for row in batch.rows]


def _end_epoch(
    loop: LoopState, data: TrainingData, rows: Sequence[int], val: Sequence[int], factor: float, progress: Progress
) -> None:
    """Ends the epoch that was trained on `rows`: adds its curves, updates the kept weights, decides whether to stop."""
    recipe, result, epoch = loop.recipe, loop.result, loop.epoch
    parts = {"train": loop.stats.summarise(data.targets[rows])}
    if val:
        parts["val"] = validate(loop.model, data, val, recipe)
    rate = loop.optimiser.param_groups[0]["initial_lr"] * factor
    for split, row in parts.items():
        result.epochs.append({"epoch": epoch, "split": split, **row, "lr": rate, "seconds": loop.seconds})
    progress.advance(0, _describe_epoch(epoch, recipe.epochs, parts))
    if not all(math.isfinite(row["loss"]) for row in parts.values()):
        result.diverged = f"the validation loss was not finite after epoch {epoch}"
        return
    gained = rate_epoch(parts["val" if val else "train"], recipe)
    loop.stale = 0 if gained > loop.best + recipe.min_delta else loop.stale + 1
    if not (recipe.selects_checkpoint and val) or gained > loop.best:
        result.kept_epoch, result.kept_weights = epoch, loop.model.copy_trained()
    loop.best = max(loop.best, gained)
    result.stopped_early = bool(recipe.patience) and loop.stale >= recipe.patience
    loop.epoch += 1
    loop.begin_epoch()


def validate(model: Model, data: TrainingData, rows: Sequence[int], recipe: Recipe) -> dict[str, Any]:
    """The row of the epochs table for images `rows`, without epoch, split, rate and seconds."""
    stats, targets = EpochStats(recipe, model.heads.config), data.targets[list(rows)].cpu()
    stats.add_batch(predict(model, data, rows), targets, data.pairs.place(rows), data.tie_weights)
    return stats.summarise(targets)


def _describe_epoch(epoch: int, epochs: int, parts: dict[str, dict[str, Any]]) -> str:
    split = "val" if "val" in parts else "train"
    found = (parts[split][key] for key in ("srocc_q", "srocc_c"))
    quality, consistency = ("-" if value is None else f"{value:.3f}" for value in found)
    return f"epoch {epoch}/{epochs} {split} SROCC quality {quality} consistency {consistency}"
