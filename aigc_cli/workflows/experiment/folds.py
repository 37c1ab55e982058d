"""The fold driver: it trains a recipe on all folds but one, for each fold, and keeps finished folds on disk."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aigc_cli.errors import AigcError, Divergence, Interruption
from aigc_cli.images.sample import TARGETS
from aigc_cli.metrics.formulas import Values
from aigc_cli.metrics.splits import Split, hold_out
from aigc_cli.progress import Progress
from aigc_cli.recipe import Recipe
from aigc_cli.runtime.saved import SavedModel
from aigc_cli.storage.atomic_files import Output, discard_folder, read_json, sweep_leftovers, write_json
from aigc_cli.storage.unchanged import refuse_changes
from aigc_cli.training.rates import complete_recipe
from aigc_cli.training.warm_start import hash_start, read_start
from aigc_cli.uncertainty.intervals import is_enough
from aigc_cli.uncertainty.out_of_domain import TrainingDomain
from aigc_cli.workflows.experiment.predictions import FOLDS_FOLDER, FoldFailure, FoldResult, load_fold, save_fold
from aigc_cli.workflows.experiment.rated import (
    RatedImages,
    convert_to_mos,
    freeze_images,
    hash_rated,
    make_training_data,
    prepare_views,
    report_skipped,
)
from aigc_cli.workflows.experiment.source import Compute
from aigc_cli.workflows.experiment.splits import Dealing

if TYPE_CHECKING:
    import torch

    from aigc_cli.model.backbone import Backbone
    from aigc_cli.model.model import Model
    from aigc_cli.training.batches import TrainingData
    from aigc_cli.training.state import FitResult

# Settings on which images at the freeze boundary depend: recipes with the same values share one preparation.
PREPARATION = (
    *("backbone", "start_from", "image_size", "levels", "freeze", "freeze_depth", "freeze_layers", "freeze_text"),
    *("views", "plain_view", "crop_scale_min", "flip", "mos_min", "mos_max"),
)


@dataclass(frozen=True)
class PreparedData:
    """What the folds of a recipe share: a backbone, and all images at its freeze boundary in every view."""

    backbone: "Backbone"
    untouched: "Mapping[str, torch.Tensor]"  # the backbone's state before any training, from which every fold starts
    start: SavedModel | None
    data: "TrainingData"
    rated: RatedImages  # the images that could be decoded, in the order of `data`


def prepare_data(
    backbone: "Backbone", rated: RatedImages, recipe: Recipe, compute: Compute, progress: Progress
) -> PreparedData:
    """Computes all images up to the freeze boundary of `backbone`; leaves out images that can't be decoded."""
    from aigc_cli.model.devices import pick_device
    from aigc_cli.model.trained import load_start

    load_start(backbone, start := read_start(recipe))
    backbone.modules().to(pick_device(compute.device))
    freezing = backbone.find_boundaries(recipe)
    images, rated = freeze_images(backbone, freezing.image, rated, recipe, compute.cache, progress)
    report_skipped(rated.skipped, progress)
    if not recipe.learns_taste:
        prepare_views(images, range(len(rated.samples)), recipe, progress)
    untouched = {key: tensor.clone() for key, tensor in backbone.modules().state_dict().items()}
    data = make_training_data(images, freezing.text, rated, recipe.scale)
    return PreparedData(backbone, untouched, start, data, rated)


class FoldDriver:
    """Trains recipes fold by fold on the same rated images.

    Args:
        folder: keeps every finished fold as a file. Its name is a digest of everything on which its predictions depend;
            a fold with a file is not trained again.
    """

    def __init__(self, rated: RatedImages, folder: Path, compute: Compute, progress: Progress) -> None:
        self.rated, self.folder, self.compute, self.progress = rated, folder, compute, progress
        self._data = hash_rated(rated)
        self._key: tuple[object, ...] = ()
        self._backbone: Backbone | None = None
        self._ready: PreparedData | None = None

    def run(
        self, recipe: Recipe, dealing: Dealing, label: str, keep_going: bool = False
    ) -> Iterator[FoldResult | FoldFailure]:
        """The result of every fold, in order.

        Args:
            label: names the recipe in messages and in the kept files.
            keep_going: a fold that can't be trained is a `FoldFailure` and the next folds follow; otherwise its error
                ends the run.
        """
        files: list[Path] = []
        recipe = complete_recipe(recipe)
        for fold in range(dealing.folds):
            try:
                files = files or self._name_files(recipe, dealing)
                if files[fold].is_file():
                    yield load_fold(files[fold])
                    continue
                ready = self._prepare(recipe)
                groups, parts = ready.rated.list_groups(dealing.group_by), dealing.deal(ready.rated)
                self.progress.say(f"{label}: fold {fold + 1} of {dealing.folds}, seed {recipe.seed}")
                found = train_fold(ready, groups, parts[fold], fold, recipe, self.progress)
            except (AigcError, RuntimeError, MemoryError) as error:
                if not keep_going:
                    raise
                yield self._fail(label, fold, recipe.seed, error)
                continue
            save_fold(files[fold], found, {"variant": label})
            yield found

    def _name_files(self, recipe: Recipe, dealing: Dealing) -> list[Path]:
        weights = hash_start(self._load(recipe).weights_hash, read_start(recipe))
        key = {"data": self._data, "weights": weights, "recipe": asdict(recipe), "dealing": dealing.to_json()}
        texts = (json.dumps({**key, "fold": fold}, sort_keys=True) for fold in range(dealing.folds))
        return [self.folder / f"{sha256(text.encode()).hexdigest()[:16]}.parquet" for text in texts]

    def _load(self, recipe: Recipe) -> "Backbone":
        """The recipe's backbone; it stays loaded for the next recipe with the same preparation."""
        key = tuple(getattr(recipe, name) for name in PREPARATION)
        if self._backbone is None or key != self._key:
            self._backbone = self._ready = None  # frees its memory first
            self.progress.start("loading the model", None)
            from aigc_cli.model.loading import load_backbone

            self._key, self._backbone = key, load_backbone(recipe.backbone, recipe.image_size, recipe.levels or "few")
        return self._backbone

    def _prepare(self, recipe: Recipe) -> PreparedData:
        backbone = self._load(recipe)
        if self._ready is None:
            self._ready = prepare_data(backbone, self.rated, recipe, self.compute, self.progress)
        return self._ready

    def _fail(self, label: str, fold: int, seed: int, error: Exception) -> FoldFailure:
        reason = error.message if isinstance(error, AigcError) else f"{type(error).__name__}: {error}".splitlines()[0]
        self.progress.say(f"{label}, fold {fold + 1}, seed {seed} failed: {reason}")
        return FoldFailure(fold, seed, reason)


def train_fold(
    ready: PreparedData, groups: Sequence[str], held_out: Sequence[int], fold: int, recipe: Recipe, progress: Progress
) -> FoldResult:
    """Trains on every row but `held_out` and predicts these rows.

    They have no part in the choice of a checkpoint either: a validation part of the remaining groups is for that.

    Args:
        groups: the group of each row; no group is in two folds.
        fold: the number of the fold that is held out.

    Raises:
        Divergence: the loss was not finite.
    """
    import torch

    from aigc_cli.training.loop import make_model, predict

    backbone, data, rated = ready.backbone, ready.data, ready.rated
    with torch.no_grad():
        for name, tensor in backbone.modules().state_dict().items():
            tensor.copy_(ready.untouched[name])
    model = make_model(backbone, recipe, ready.start)
    apart = set(held_out)
    rest = [row for row in range(len(rated.samples)) if row not in apart]
    fraction = recipe.val_fraction if recipe.selects_checkpoint else 0.0
    kept, chosen = hold_out([groups[row] for row in rest], fraction, recipe.seed)
    cosine = predict(model, data, held_out).cosine.double().numpy()
    split = Split([rest[i] for i in kept], [rest[i] for i in chosen])
    result = _learn(model, ready, split, groups, recipe, progress)
    scores, scale = predict(model, data, held_out), recipe.scale
    prompts, mismatched = list(data.prompts), None
    others = swap_prompts([prompts[row] for row in held_out], data.targets[list(held_out), 0].tolist())
    if others is not None:
        for row, other in zip(held_out, others, strict=True):
            prompts[row] = other
        mismatched = convert_to_mos(predict(model, replace(data, prompts=prompts), held_out).consistency, scale)
    human = scale.to_mos(data.targets[list(held_out)].cpu().double().numpy())
    return FoldResult(
        fold=fold,
        seed=recipe.seed,
        names=[rated.samples[row].name for row in held_out],
        groups=[groups[row] for row in held_out],
        predicted={target: convert_to_mos(getattr(scores, target), scale) for target in TARGETS},
        human=dict(zip(TARGETS, human.T, strict=True)),
        cosine=cosine,
        seconds=sum(row["seconds"] for row in result.epochs if row["split"] == "train"),
        trainable=model.count_trainable(),
        out_of_domain=measure_out_of_domain(model, data, split.train, held_out),
        mismatched=mismatched,
    )


def _learn(
    model: "Model", ready: PreparedData, split: Split, groups: Sequence[str], recipe: Recipe, progress: Progress
) -> "FitResult":
    """Trains the model as the recipe says, after a warm start only as far as it helps; raises Divergence."""
    from aigc_cli.training.adaptation import limit_change
    from aigc_cli.training.loop import fit_model
    from aigc_cli.training.taste import fit_taste

    if recipe.learns_taste:
        return fit_taste(model, ready.data, split, groups, recipe, progress)[0]
    begun = model.copy_trained()
    result = fit_model(model, ready.data, split, recipe, progress, warm=ready.start is not None)
    if result.diverged:
        raise Divergence(f"Training diverged: {result.diverged}.", f"Try a third of lr ({recipe.lr:g}).")
    if ready.start is not None:
        own = [groups[row] for row in split.train]
        limit_change(model, begun, ready.data, split.train, own, recipe, progress)
    return result


def measure_out_of_domain(model: "Model", data: "TrainingData", trained: Sequence[int], rows: Sequence[int]) -> Values:
    """`out_of_domain` (len(rows),) of images `rows` for a model trained on rows `trained`; NaN where those are few."""
    prompts = [data.prompts[row] for row in trained]
    if not is_enough(len(trained), prompts):
        return np.full(len(rows), np.nan)
    from aigc_cli.training.loop import collect_features

    domain, _ = TrainingDomain.fit(collect_features(model, data, trained), prompts)
    return domain.rank(domain.measure(collect_features(model, data, rows)))


def swap_prompts(prompts: Sequence[str], quality: Sequence[float]) -> list[str] | None:
    """For each image the prompt of the next better image with another prompt; None when all prompts are the same.

    Images with swapped prompts have about equal quality, so the prompt explains the difference of their scores.
    """
    if len(set(prompts)) < 2:
        return None
    order = np.argsort(quality, kind="stable").tolist()
    found = [""] * len(prompts)
    for place, row in enumerate(order):
        following = (order[(place + step) % len(order)] for step in range(1, len(order)))
        found[row] = next(prompts[other] for other in following if prompts[other] != prompts[row])
    return found


@contextmanager
def open_folds(
    output: Output,
    file: str,
    what: str,
    plan: Mapping[str, Any],
    find_changes: Callable[[Any, Any], list[str]],
    total: int,
) -> Iterator[Path]:
    """Writes the plan and yields the folder of finished folds; on an interruption, says how to go on.

    A resumed run keeps its finished folds; a new run discards those in the folder.

    Args:
        file: the plan's name in the folder.
        what: what is run, for messages, such as `an ablation`.
        find_changes: returns what differs between an earlier plan and this one, beside the data, in words; raises
            LookupError, TypeError, ValueError or AttributeError for JSON that is no plan.
        total: the number of trainings.

    Raises:
        AigcError: there is nothing to resume, or the plan changed.
        Interruption: a signal ended the block.
    """
    folder = output.path / FOLDS_FOLDER
    if output.resume:
        try:
            then = read_json(output.path / file)
            changes = ["the images, prompts or scores"] * (then["data"] != plan["data"]) + find_changes(then, plan)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise AigcError(
                f"Expected {what} to resume in {output.path}, found none.", "Leave out --resume."
            ) from error
        hint = "Use the earlier settings and data, or another folder with -o."
        refuse_changes(f"the {what.split()[-1]}", output.path, changes, hint)
    else:
        discard_folder(folder)
    write_json(output.path / file, dict(plan))
    folder.mkdir(exist_ok=True)
    sweep_leftovers(output.path, folder)
    try:
        yield folder
    except (KeyboardInterrupt, SystemExit) as ending:
        done = len(list(folder.glob("*.parquet")))
        raise Interruption(
            f"{done} of {total} trainings are finished and kept in {folder.parent}.",
            f"Go on with the same command and --resume -o {folder.parent}.",
            ending,
        ) from ending
