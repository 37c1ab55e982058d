"""`aigc train`: learn from rated images, and leave a run folder."""

import datetime
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aigc_cli import __version__
from aigc_cli.errors import AigcError, Diverged
from aigc_cli.metrics.by_name import metric_rows
from aigc_cli.metrics.splits import grouped_holdout
from aigc_cli.model.backbone import Backbone
from aigc_cli.model.devices import pick_device
from aigc_cli.model.hints import factor_notes, learning_rates
from aigc_cli.model.loading import load_backbone
from aigc_cli.model.model import Judge
from aigc_cli.progress import Progress
from aigc_cli.recipe import Recipe, Resolved, to_yaml
from aigc_cli.storage.checkpoints import save_checkpoint
from aigc_cli.storage.files import check_output, sweep, write_json, write_text
from aigc_cli.storage.locks import owned
from aigc_cli.storage.results import write_table
from aigc_cli.storage.signals import graceful
from aigc_cli.training.diagnosis import Curves, paragraph
from aigc_cli.training.loop import Data, fit, new_judge, predict
from aigc_cli.training.state import Fit, Snapshot
from aigc_cli.workflows.experiment.predictions import CELLS, PREDICTIONS, rated_rows, save_predictions
from aigc_cli.workflows.experiment.rated import (
    TARGETS,
    Rated,
    image_features,
    prepare_views,
    prompt_digest,
    read_rated,
    tell_skipped,
    to_mos,
    training_data,
)
from aigc_cli.workflows.experiment.saved_splits import saved_holdout, straddling
from aigc_cli.workflows.experiment.source import Source
from aigc_cli.workflows.train.held_out import (
    Calibrated,
    Calibrating,
    HeldOut,
    calibrated,
    from_folds,
    from_part,
    from_predictions,
)
from aigc_cli.workflows.train.resume import Keeper, finish, is_unfinished, plan_of, read_plan, resumable, states_folder

ZERO_SHOT = "zero_shot_cosine"


@dataclass(frozen=True)
class TrainResult:
    """What a training run found.

    Attributes:
        run: the run folder.
        metrics: rows of the metrics table (validation part; none without one).
        diagnosis: a paragraph about the curves.
        epochs: rows of the epochs table, without the run.
        kept_epoch: the epoch whose weights were kept.
        n_train, n_val: images in both parts.
        trainable: parameters that were trained.
        chosen_on_val: whether the validation part chose the checkpoint, so that its figures are a little optimistic.
        calibration: what the model's description says of its error bars.
    """

    run: Path
    metrics: list[dict[str, Any]]
    diagnosis: str
    epochs: list[dict[str, Any]]
    kept_epoch: int
    n_train: int
    n_val: int
    trainable: int
    chosen_on_val: bool
    calibration: dict[str, Any]


def default_run(recipe: str | None, folder: Path = Path("runs")) -> Path:
    """A run folder named by the time and the recipe that does not exist yet."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    stem = folder / f"{stamp}-{Path(recipe).stem if recipe else 'default'}"
    return next(p for p in (stem, *(stem.with_name(f"{stem.name}-{i}") for i in range(2, 1000))) if not p.exists())


def train(
    resolved: Resolved,
    source: Source,
    run: Path,
    *,
    progress: Progress,
    device: str = "auto",
    cache: bool | float = True,
    overwrite: bool = False,
    freeze_layers: int | None = None,
    resume: bool = False,
    calibrating: Calibrating | None = None,
) -> TrainResult:
    """Trains one model as the recipe says and writes the run folder.

    The folder holds recipe.yaml, splits.parquet, epochs.parquet, metrics.parquet, predictions.parquet (of the
    validation part, or of what the error bars come from), run.json and checkpoint/; until those are whole, also
    training/, from which `resume` goes on.

    Args:
        calibrating: what the error bars are computed from, by default the validation part; a resumed training does as
            it was begun.

    Raises:
        AigcError: the recipe, the table or the output is not as it should be, or not as it was when the run to resume
            began; nothing was written.
        RunHeld: another process works in `run`.
        EnvironmentProblem: no weights, no such device, an image went missing, memory or disk are full.
        Diverged: the loss was not finite; the last good epoch is in checkpoint/.
        Interrupted: a signal ended it; the state at the last step is kept.
    """
    with owned(run), resumable(run, resolved.recipe.batch_size):
        if not (overwrite or resume) and is_unfinished(run):
            raise AigcError(
                f"The training in {run} is not finished.",
                f"Go on with `aigc train --resume {run}`, or add --overwrite.",
            )
        check_output(run, overwrite=overwrite or resume, suffixes=())
        sweep(run)
        place = pick_device(device)
        rated = read_rated(source, resolved.recipe, progress)
        calibrating = read_plan(run).calibrating if resume else calibrating or Calibrating()
        calibrating.check(rated, resolved.recipe)
        rated.groups(resolved.recipe.group_by)  # an unknown column is an error before anything is computed
        parts = _parts(rated, resolved.recipe, source.splits) if source.splits else ()
        if freeze_layers is not None:
            resolved = with_frozen_layers(resolved, freeze_layers)
        _announce(resolved, straddling(rated.groups("prompt"), parts), progress)
        backbone = load_backbone(resolved.recipe.backbone, resolved.recipe.image_size)
        backbone.modules().to(place)
        plan, start = plan_of(resolved, source, rated, backbone.weights_hash, calibrating), None
        if resume:
            start = plan.go_on(run, progress)
        else:
            plan.begin(run)
        with nullcontext() if resume else _leaving_nothing_when_refused(run):
            return _train(resolved, source, run, rated, backbone, start, calibrating, cache, progress)


@contextmanager
def _leaving_nothing_when_refused(run: Path) -> Iterator[None]:
    """Only decoding the images shows whether enough of them can be used: where not, there is nothing to go on with."""
    try:
        yield
    except AigcError as refused:
        if refused.exit_code == AigcError.exit_code:
            finish(run)
        raise


def _train(
    resolved: Resolved,
    source: Source,
    run: Path,
    rated: Rated,
    backbone: Backbone,
    start: Snapshot | None,
    calibrating: Calibrating,
    cache: bool | float,
    progress: Progress,
) -> TrainResult:
    """From the first look at an image to the written results."""
    recipe = resolved.recipe
    judge = new_judge(backbone, recipe)
    images, rated = image_features(backbone, judge.freezing, rated, recipe, cache, progress)
    tell_skipped(rated.skipped, progress)
    rows_train, rows_val = _parts(rated, recipe, source.splits)
    prepare_views(images, rows_train, recipe, progress)
    data = training_data(images, judge.freezing, rated, recipe)
    zero_shot = predict(judge, data, rows_val).cosine
    splits = {"train": rows_train, "val": rows_val}
    begun, read = time.perf_counter(), images.seconds
    with graceful() as ending:
        keeper = Keeper(run, splits, ending)
        keeper.check(start)
        begun, read = time.perf_counter(), images.seconds
        result = fit(judge, data, rows_train, rows_val, recipe, progress, start=start, after=keeper)
    waited = (images.seconds - read) / (time.perf_counter() - begun)
    progress.say(f"Training waited for data for {waited:.0%} of its time.")
    scores = predict(judge, data, rows_val)._asdict() | {ZERO_SHOT: zero_shot}
    metrics = evaluation_rows(scores, data, rows_val, recipe, {"run": run.name, "split": "val", "group": "all"})
    bars = Calibrated(None, {})
    if not result.diverged:
        held_out = _held_out(calibrating, rated, data, scores, rows_val, recipe, run, cache, progress)
        bars = calibrated(judge, data, rows_train, held_out, recipe)
    sides = {target: to_mos(scores[target], recipe) for target in TARGETS}
    predictions = bars.rows or rated_rows([rated.samples[row] for row in rows_val], sides, scores[ZERO_SHOT])
    write_run(run, resolved, rated, splits, result, metrics, predictions, judge, source, bars)
    finish(run)
    if result.diverged:
        raise Diverged(
            f"Training diverged: {result.diverged}.",
            f"The weights of epoch {result.kept_epoch} are in {run / 'checkpoint'}. "
            f"What to try next: aigc recommend --run {run}",
        )
    return TrainResult(
        run=run,
        metrics=metrics,
        diagnosis=paragraph(Curves.of(result.epochs), recipe),
        epochs=result.epochs,
        kept_epoch=result.kept_epoch,
        n_train=len(rows_train),
        n_val=len(rows_val),
        trainable=judge.trainable(),
        chosen_on_val=recipe.chooses,
        calibration=bars.description,
    )


def _held_out(
    calibrating: Calibrating,
    rated: Rated,
    data: Data,
    scores: Mapping[str, Tensor],
    rows_val: Sequence[int],
    recipe: Recipe,
    run: Path,
    cache: bool | float,
    progress: Progress,
) -> HeldOut:
    """What the error bars are computed from."""
    if calibrating.predictions:
        return from_predictions(calibrating.predictions, rated, recipe)
    if calibrating.folds:
        device, cells = data.targets.device.type, states_folder(run) / CELLS
        return from_folds(calibrating.folds, rated, recipe, cells, device=device, cache=cache, progress=progress)
    return from_part(scores, rows_val, len(rated.samples), recipe)


def _parts(rated: Rated, recipe: Recipe, splits: Path | None) -> tuple[list[int], list[int]]:
    """(rows to train on, rows to validate on), drawn as the recipe says or as they were saved."""
    if splits is None:
        return grouped_holdout(rated.groups(recipe.group_by), recipe.val_fraction, recipe.seed)
    train, val = saved_holdout(splits, rated)
    if recipe.chooses and not val:
        raise AigcError(
            f"Expected rows marked val in {splits} to choose a checkpoint on, found none.",
            "Set checkpoint to last and patience to 0.",
        )
    return train, val


def _announce(resolved: Resolved, shared: int, progress: Progress) -> None:
    """What is worth knowing before anything is computed; `shared` prompts are in both saved parts."""
    if shared:
        progress.say(f"{shared} prompts are in both parts of the saved split: the validation figures are optimistic.")
    for warning in resolved.warnings:
        progress.say(warning)
    for key, note in factor_notes(resolved.recipe).items():
        progress.say(f"{key} {note}.")


def with_frozen_layers(resolved: Resolved, layers: int) -> Resolved:
    """The recipe with `freeze_depth` set so that `layers` blocks of the image tower are frozen.

    Raises:
        AigcError: the tower has fewer blocks.
    """
    blocks = len(load_backbone(resolved.recipe.backbone, resolved.recipe.image_size).image.blocks)
    if not 0 <= layers <= blocks:
        raise AigcError(
            f"Expected --freeze-layers of 0 to {blocks}, the blocks of {resolved.recipe.backbone}'s image tower, "
            f"found {layers}.",
            "Use --freeze-depth for a share instead.",
        )
    recipe = replace(resolved.recipe, freeze="partial", freeze_depth=layers / blocks)
    sources = {**resolved.sources, "freeze": "flag", "freeze_depth": f"flag, {layers} of {blocks} blocks"}
    return Resolved(recipe, sources, resolved.warnings)


def evaluation_rows(
    scores: Mapping[str, Tensor],
    data: Data,
    rows: Sequence[int],
    recipe: Recipe,
    labels: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Metrics of both targets on `rows`, and of the untrained cosine against the alignment scores, in MOS units.

    Intervals are over prompts, and images are ranked within prompts, whatever the parts were split by.

    Args:
        scores: quality and consistency on [0, 1] and the untrained cosine `ZERO_SHOT`, each (len(rows),).
    """
    if not rows:
        return []
    human = data.targets[list(rows)].cpu().double() * (recipe.mos_max - recipe.mos_min) + recipe.mos_min
    predictions = {
        "quality": (to_mos(scores["quality"], recipe), human[:, 0].numpy()),
        "consistency": (to_mos(scores["consistency"], recipe), human[:, 1].numpy()),
        ZERO_SHOT: (scores[ZERO_SHOT].numpy(), human[:, 1].numpy()),
    }
    return without_units(metric_rows(predictions, [data.prompts[row] for row in rows], labels))


def without_units(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the metrics table without the error of the cosine, which has no MOS units."""
    return [row for row in rows if (row["target"], row["metric"]) != (ZERO_SHOT, "rmse")]


def describe(
    judge: Judge,
    resolved: Resolved,
    result: Fit,
    metrics: Sequence[Mapping[str, Any]],
    source: Source,
    prompts: Mapping[str, set[str]],
) -> dict[str, Any]:
    """The JSON beside a checkpoint's weights: everything needed to use the model and to know where it came from."""
    recipe = resolved.recipe
    rates = learning_rates(recipe, judge.backbone.hints)
    return {
        "backbone": {
            "name": recipe.backbone,
            "image_size": recipe.image_size,
            "weights_hash": judge.backbone.weights_hash,
            "preprocessing": asdict(judge.backbone.preprocessing),
            "frozen_blocks": asdict(judge.freezing),
        },
        "heads": judge.heads.config.to_json(),
        "recipe": asdict(recipe),
        "learning_rates": rates._asdict(),
        "kept_epoch": result.kept_epoch,
        "metrics": [dict(row) for row in metrics],
        "trained_on": source.describe(),
        "prompts": {split: sorted(map(prompt_digest, texts)) for split, texts in prompts.items()},
        "versions": {"aigc": __version__, "torch": torch.__version__},
    }


def write_run(
    run: Path,
    resolved: Resolved,
    rated: Rated,
    splits: Mapping[str, Sequence[int]],
    result: Fit,
    metrics: Sequence[dict[str, Any]],
    predictions: Sequence[Mapping[str, Any]],
    judge: Judge,
    source: Source,
    bars: Calibrated,
) -> None:
    """Writes the run folder; run.json comes last and says that everything else is whole."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "run.json").unlink(missing_ok=True)  # until everything is whole, nothing says so
    prompts = {split: {rated.samples[row].prompt or "" for row in rows} for split, rows in splits.items()}
    targets = rated.targets(splits["train"])
    description = {"targets": targets, **describe(judge, resolved, result, metrics, source, prompts)}
    description |= {"calibration": bars.description}
    save_checkpoint(run / "checkpoint", judge.state(), description, calibration=bars.tensors())
    meta = {"aigc_version": __version__, "weights_hash": judge.backbone.weights_hash, "run": run.name}
    write_text(run / "recipe.yaml", to_yaml(resolved))
    rows = [
        {"name": rated.samples[row].name, "prompt": rated.samples[row].prompt, "split": split}
        for split, chosen in splits.items()
        for row in chosen
    ]
    write_table(run / "splits.parquet", "splits", rows, meta)
    write_table(run / "epochs.parquet", "epochs", [{"run": run.name, **row} for row in result.epochs], meta)
    write_table(run / "metrics.parquet", "metrics", metrics, meta)
    save_predictions(run / PREDICTIONS, predictions, resolved.recipe, meta)
    write_json(
        run / "run.json",
        {
            "run": run.name,
            "status": f"diverged: {result.diverged}" if result.diverged else "done",
            "kept_epoch": result.kept_epoch,
            "stopped_early": result.stopped_early,
            "images": {split: len(chosen) for split, chosen in splits.items()},
            "group_by": None if source.splits else resolved.recipe.group_by,
            "skipped": [{"name": name, "reason": reason} for name, reason in rated.skipped],
            "diagnosis": paragraph(Curves.of(result.epochs, result.diverged), resolved.recipe),
            "trained_on": source.describe(),
            "source": source.to_json(),
            "version": __version__,
        },
    )
