"""`aigc train`: train a model on rated images and write its run folder."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_cli import __version__
from aigc_cli.errors import AigcError, Divergence
from aigc_cli.images.sample import TARGETS
from aigc_cli.metrics.splits import Split, hold_out
from aigc_cli.progress import Progress
from aigc_cli.recipe import Recipe, ResolvedRecipe, format_recipe
from aigc_cli.runtime.hints import check_backbone
from aigc_cli.storage.atomic_files import Output, discard_folder, sweep_leftovers, write_json, write_text
from aigc_cli.storage.checkpoints import save_checkpoint
from aigc_cli.storage.locks import own_folder
from aigc_cli.storage.results import write_table
from aigc_cli.storage.signals import hold_signals
from aigc_cli.training.diagnosis import Curves, describe_diagnosis
from aigc_cli.training.rates import complete_resolved, compute_learning_rates, describe_hints
from aigc_cli.training.warm_start import describe_start, describe_taste, hash_start, read_start
from aigc_cli.workflows.experiment.predictions import FOLDS_FOLDER, PREDICTIONS, make_rated_rows, save_predictions
from aigc_cli.workflows.experiment.rated import (
    ZERO_SHOT_TARGET,
    RatedImages,
    convert_to_mos,
    freeze_images,
    hash_prompt,
    hash_rated,
    make_evaluation_rows,
    make_training_data,
    measure_choices,
    prepare_views,
    read_rated,
    report_skipped,
)
from aigc_cli.workflows.experiment.run_folder import check_run_folder, find_states_folder
from aigc_cli.workflows.experiment.source import Compute, Source
from aigc_cli.workflows.experiment.splits import count_shared_groups, load_split
from aigc_cli.workflows.train.calibrate import (
    CalibrationResult,
    HeldOutScores,
    HeldOutSource,
    calibrate_model,
    read_held_out_scores,
    take_validation_scores,
    train_held_out_folds,
)
from aigc_cli.workflows.train.resume import (
    StateSaver,
    TrainingPlan,
    hint_resume,
    read_plan,
)

if TYPE_CHECKING:
    from torch import Tensor

    from aigc_cli.model.model import Model
    from aigc_cli.training.batches import TrainingData
    from aigc_cli.training.state import FitResult, Snapshot


@dataclass(frozen=True)
class TrainResult:
    """The result of a training.

    Attributes:
        metrics: rows of the metrics table (validation part; none without one).
        diagnosis: a paragraph about the curves.
        epochs: rows of the epochs table, without the run.
        n_train, n_val, trainable: the number of images in each part, and of trained parameters.
        chosen_on_val: whether the validation part chose the checkpoint, which makes its figures a little optimistic.
        calibration: the description of the calibration.
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


def train_model(
    resolved: ResolvedRecipe,
    source: Source,
    output: Output,
    held_out: HeldOutSource,
    compute: Compute,
    progress: Progress,
) -> TrainResult:
    """Trains one model as the recipe says and writes the run folder.

    The folder holds recipe.yaml, splits.parquet, epochs.parquet, metrics.parquet, predictions.parquet (of the
    validation part, or of the folds for the calibration), run.json and checkpoint/. Until these are complete it also
    holds training/, from which `resume` goes on.

    Args:
        output: the run folder.
        held_out: where the scores for the calibration come from; a resumed training takes this from its plan.

    Raises:
        AigcError: the recipe, the table or the output has a fault, or changed since the run to resume began; nothing
            was written.
        FolderConflict: another process works in the folder.
        EnvironmentProblem: there are no weights, there is no such device, an image is missing, or memory or disk are
            full.
        Divergence: the loss was not finite; the last good epoch is in checkpoint/.
        Interruption: a signal ended it; the state at the last step is kept.
    """
    resolved = complete_resolved(resolved)
    run, recipe = output.path, resolved.recipe
    check_backbone(recipe.backbone)
    with own_folder(run), hint_resume(run, recipe.batch_size):
        check_run_folder(output)
        sweep_leftovers(run)
        rated = read_rated(source, recipe.scale, progress)
        held_out = read_plan(run).held_out if output.resume else held_out
        held_out.check(rated, recipe)
        split = _split(rated, recipe, source.splits)  # a wrong column or table is an error before anything is computed
        _announce(resolved, count_shared_groups(rated.list_groups("prompt"), split) if source.splits else 0, progress)
        progress.start("loading the model", None)
        from aigc_cli.model.devices import pick_device
        from aigc_cli.model.loading import load_backbone
        from aigc_cli.model.trained import load_start
        from aigc_cli.training.loop import make_model

        device = pick_device(compute.device)
        backbone = load_backbone(recipe.backbone, recipe.image_size, recipe.levels or "few")
        load_start(backbone, begun := read_start(recipe))
        backbone.find_boundaries(recipe)  # too many frozen layers are an error before anything is written
        backbone.modules().to(device)
        weights = hash_start(backbone.weights_hash, begun)
        plan = TrainingPlan(resolved, source, hash_rated(rated), weights, held_out)
        resumed = plan.resume(run, progress) if output.resume else None
        if not output.resume:
            plan.begin(run)
        try:
            return _Training(plan, run, compute, progress).run(rated, make_model(backbone, recipe, begun), resumed)
        except AigcError as refused:  # such as the images, after decoding: nothing is left to resume
            if not output.resume and refused.exit_code == AigcError.exit_code:
                discard_folder(find_states_folder(run))
            raise


def _split(rated: RatedImages, recipe: Recipe, splits: Path | None) -> Split:
    """The rows of both parts: drawn, or those of the table `splits`; AigcError where there are none."""
    groups = rated.list_groups(recipe.group_by)
    if splits is None:
        return Split(*hold_out(groups, recipe.val_fraction, recipe.seed))
    split = load_split(splits, rated)
    if recipe.selects_checkpoint and not split.val:
        raise AigcError(
            f"Expected rows marked val in {splits} to choose a checkpoint on, found none.",
            "Set checkpoint to last and patience to 0.",
        )
    return split


def _announce(resolved: ResolvedRecipe, shared: int, progress: Progress) -> None:
    """Says warnings and learning rates before anything is computed; `shared` prompts are in both saved parts."""
    if shared:
        progress.say(f"{shared} prompts are in both parts of the saved split: the validation figures are optimistic.")
    for warning in resolved.warnings:
        progress.say(warning)
    if start := read_start(resolved.recipe):
        progress.say(describe_start(resolved.recipe, start))
    for rate in describe_hints(resolved.recipe).values():
        progress.say(f"{rate[0].upper()}{rate[1:]}.")


@dataclass(frozen=True)
class _Training:
    """One training, from decoding the images to writing the results."""

    plan: TrainingPlan
    folder: Path
    compute: Compute
    progress: Progress

    @property
    def recipe(self) -> Recipe:
        return self.plan.resolved.recipe

    def run(self, rated: RatedImages, model: "Model", resumed: "Snapshot | None") -> TrainResult:
        from aigc_cli.model.export import keep_graphs
        from aigc_cli.training.loop import predict

        recipe, backbone = self.recipe, model.backbone
        images, rated = freeze_images(backbone, model.freezing.image, rated, recipe, self.compute.cache, self.progress)
        report_skipped(rated.skipped, self.progress)
        split = _split(rated, recipe, self.plan.source.splits)
        if not recipe.learns_taste:
            prepare_views(images, split.train, recipe, self.progress)
        data = make_training_data(images, model.freezing.text, rated, recipe.scale)
        zero_shot, start = predict(model, data, split.val).cosine, read_start(recipe)
        if recipe.learns_taste:
            result, adapted = self._fit_taste(model, data, rated, split)
        else:
            result, adapted = self._fit(model, data, rated, split, resumed)
        scores = predict(model, data, split.val)._asdict() | {ZERO_SHOT_TARGET: zero_shot}
        labels = {"run": self.folder.name, "split": "val", "group": "all"}
        metrics = make_evaluation_rows(scores, data, split.val, recipe.scale, labels)
        metrics += measure_choices(rated, scores, split.val, labels)
        calibration = CalibrationResult(None, {})
        if not result.diverged:
            held_out = self._find_held_out(rated, data, scores, split)
            calibration = calibrate_model(model, data, split.train, held_out, recipe)
            if start:
                calibration = calibration.complete_from(start)
        predicted = {target: convert_to_mos(scores[target], recipe.scale) for target in TARGETS}
        samples = [rated.samples[row] for row in split.val]
        predictions = calibration.rows or make_rated_rows(samples, predicted, scores[ZERO_SHOT_TARGET])
        graphs = keep_graphs(model, self.progress)
        origin = {"model": start.name, "model_hash": start.checkpoint.digest, **adapted} if start else None
        content = RunContent(self.plan, rated, split, model, result, metrics, predictions, calibration, graphs, origin)
        write_run(self.folder, content)
        discard_folder(find_states_folder(self.folder))
        if result.diverged:
            raise Divergence(
                f"Training diverged: {result.diverged}.",
                f"The weights of epoch {result.kept_epoch} are in {self.folder / 'checkpoint'}. "
                f"What to try next: aigc recommend --run {self.folder}",
            )
        return TrainResult(
            run=self.folder,
            metrics=metrics,
            diagnosis=(
                describe_taste(adapted["penalties"])
                if recipe.learns_taste
                else describe_diagnosis(Curves.from_rows(result.epochs), recipe)
            ),
            epochs=result.epochs,
            kept_epoch=result.kept_epoch,
            n_train=len(split.train),
            n_val=len(split.val),
            trainable=model.count_trainable(),
            chosen_on_val=recipe.selects_checkpoint,
            calibration=calibration.description,
        )

    def _fit_taste(
        self, model: "Model", data: "TrainingData", rated: RatedImages, split: Split
    ) -> "tuple[FitResult, dict[str, Any]]":
        """Fits a taste; the curves, and the penalties that were chosen."""
        from aigc_cli.training.taste import fit_taste

        groups = rated.list_groups(self.recipe.group_by)
        result, chosen = fit_taste(model, data, split, groups, self.recipe, self.progress)
        return result, {"penalties": chosen}

    def _fit(
        self, model: "Model", data: "TrainingData", rated: RatedImages, split: Split, resumed: "Snapshot | None"
    ) -> "tuple[FitResult, dict[str, Any]]":
        """Trains the model; the curves and, after a warm start, the share of the way from the start model."""
        from aigc_cli.training.loop import fit_model

        warm, begun = self.recipe.start_from is not None, model.copy_trained()
        with hold_signals() as ending:
            saver = StateSaver(self.folder, split, ending)
            saver.check(resumed)
            clock, read = time.perf_counter(), data.images.seconds
            result = fit_model(
                model, data, split, self.recipe, self.progress, warm=warm, resumed=resumed, callback=saver
            )
        waited = (data.images.seconds - read) / (time.perf_counter() - clock)
        self.progress.say(f"Training waited for data for {waited:.0%} of its time.")
        if not warm or result.diverged:  # it would diverge again, and its last good epoch is kept
            return result, {}
        return result, {"share": self._limit_change(model, begun, data, rated, split)}

    def _limit_change(
        self, model: "Model", begun: "Mapping[str, Tensor]", data: "TrainingData", rated: RatedImages, split: Split
    ) -> float:
        from aigc_cli.training.adaptation import limit_change

        groups = rated.list_groups(self.recipe.group_by)
        own = [groups[row] for row in split.train]
        share = limit_change(model, begun, data, split.train, own, self.recipe, self.progress)
        self.progress.say(f"The model goes {share:.0%} of the way from the start model to what these ratings teach.")
        return share

    def _find_held_out(
        self, rated: RatedImages, data: "TrainingData", scores: "Mapping[str, Tensor]", split: Split
    ) -> HeldOutScores:
        source, recipe = self.plan.held_out, self.recipe
        if source.predictions:
            return read_held_out_scores(source.predictions, rated, recipe)
        if source.folds:
            compute = Compute(data.targets.device.type, self.compute.cache)
            folder = find_states_folder(self.folder) / FOLDS_FOLDER
            return train_held_out_folds(source.folds, rated, recipe, folder, compute, self.progress)
        return take_validation_scores(scores, split.val, len(rated.samples), recipe)


@dataclass(frozen=True)
class RunContent:
    """The content of a run folder; `metrics` and `predictions` are rows of these tables, `graphs` files by name."""

    plan: TrainingPlan
    rated: RatedImages
    split: Split
    model: "Model"
    result: "FitResult"
    metrics: Sequence[dict[str, Any]]
    predictions: Sequence[Mapping[str, Any]]
    calibration: CalibrationResult
    graphs: Mapping[str, bytes]
    start: Mapping[str, Any] | None  # the start model, and the share of the way that the training went from it

    def describe_model(self) -> dict[str, Any]:
        """The JSON beside a checkpoint's weights: what is needed to use the model, and how it was trained."""
        import torch

        recipe, backbone = self.plan.resolved.recipe, self.model.backbone
        samples = self.rated.samples
        prompts = {part: {samples[row].topic for row in rows} for part, rows in self.split._asdict().items()}
        return {
            "targets": self.rated.list_targets(self.split.train),
            "backbone": {
                "name": recipe.backbone,
                "image_size": recipe.image_size,
                "weights_hash": backbone.weights_hash,
                "preprocessing": asdict(backbone.preprocessing),
                "frozen_blocks": asdict(self.model.kept),
            },
            "heads": self.model.heads.config.to_json(),
            "recipe": asdict(recipe),
            "learning_rates": compute_learning_rates(recipe, backbone.hints)._asdict(),
            "kept_epoch": self.result.kept_epoch,
            "start": self.start,
            "metrics": [dict(row) for row in self.metrics],
            "trained_on": self.plan.source.describe(),
            "prompts": {part: sorted(map(hash_prompt, texts)) for part, texts in prompts.items()},
            "versions": {"aigc": __version__, "torch": torch.__version__},
            "calibration": self.calibration.description,
        }

    def describe_run(self, run: Path) -> dict[str, Any]:
        """The content of run.json."""
        recipe, result = self.plan.resolved.recipe, self.result
        return {
            "run": run.name,
            "status": f"diverged: {result.diverged}" if result.diverged else "done",
            "kept_epoch": result.kept_epoch,
            "stopped_early": result.stopped_early,
            "images": {part: len(rows) for part, rows in self.split._asdict().items()},
            "group_by": None if self.plan.source.splits else recipe.group_by,
            "skipped": [{"name": name, "reason": reason} for name, reason in self.rated.skipped],
            "diagnosis": describe_diagnosis(Curves.from_rows(result.epochs, result.diverged), recipe),
            "trained_on": self.plan.source.describe(),
            "source": self.plan.source.to_json(),
            "version": __version__,
        }


def write_run(run: Path, content: RunContent) -> None:
    """Writes the run folder; run.json comes last and marks it as complete."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "run.json").unlink(missing_ok=True)  # it marks a complete folder
    model, resolved = content.model, content.plan.resolved
    tensors, calibration = model.copy_trained(), content.calibration.to_tensors()
    save_checkpoint(run / "checkpoint", tensors, content.describe_model(), frozenset(), calibration, content.graphs)
    metadata = {"aigc_version": __version__, "weights_hash": model.backbone.weights_hash, "run": run.name}
    write_text(run / "recipe.yaml", format_recipe(resolved))
    samples = content.rated.samples
    splits = [
        {"name": samples[row].name, "prompt": samples[row].prompt, "split": part}
        for part, rows in content.split._asdict().items()
        for row in rows
    ]
    write_table(run / "splits.parquet", "splits", splits, metadata)
    epochs = [{"run": run.name, **row} for row in content.result.epochs]
    write_table(run / "epochs.parquet", "epochs", epochs, metadata)
    write_table(run / "metrics.parquet", "metrics", content.metrics, metadata)
    save_predictions(run / PREDICTIONS, content.predictions, resolved.recipe, metadata)
    write_json(run / "run.json", content.describe_run(run))
