"""`aigc train`: trains a model on rated images."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_cli.cli import options
from aigc_cli.cli.completion import list_recipe_paths, list_runs
from aigc_cli.cli.console import print_metrics, print_text, show_progress
from aigc_cli.cli.options import INPUT, OUTPUT, make_flag, make_number, make_option, make_path
from aigc_cli.cli.settings import RecipeSettings
from aigc_cli.errors import AigcError
from aigc_cli.recipe import resolve_recipe

if TYPE_CHECKING:
    from aigc_cli.recipe import ResolvedRecipe
    from aigc_cli.storage.atomic_files import Output
    from aigc_cli.workflows.experiment.source import Source
    from aigc_cli.workflows.train.train import TrainResult

CALIBRATION_GROUP = "Calibration"
PRINTED = ("metrics", "diagnosis", "kept_epoch", "n_train", "n_val", "trainable", "calibration")  # by --json


def train(
    *,
    recipe: str | None = make_option(INPUT, "Name of a recipe, or a .yaml file", autocompletion=list_recipe_paths),
    rated: options.RatedOptions,
    pairs: Path | None = options.PAIRS,
    splits: Path | None = make_path(INPUT, "Train and validate on the parts of this splits table", extra=True),
    output: Path | None = make_path(OUTPUT, "Run folder; default: a new one in runs/", "-o", "--output"),
    resume: Path | None = make_path(
        OUTPUT, "Continue the unfinished training of this run folder", autocompletion=list_runs
    ),
    overwrite: bool = make_flag(OUTPUT, "Replace existing output", "--overwrite", extra=True),
    print_config: bool = make_flag(OUTPUT, "Print the resolved recipe and exit", "--print-config", extra=True),
    screen: options.ScreenOptions,
    machine: options.MachineOptions,
    settings: RecipeSettings,
    calibrate_folds: int = make_number(
        CALIBRATION_GROUP, "Calibrate intervals by K-fold training; 0 uses the validation part", default=0, extra=True
    ),
    calibrate_from: Path | None = make_path(
        CALIBRATION_GROUP, "Calibrate intervals with the predictions of an ablate, crossval or train folder", extra=True
    ),
) -> None:
    """Train a model on rated images.

    Each setting comes from the first of these that gives it: option, AIGC_* variable, aigc.yaml in the working
    folder, recipe, default.
    """
    others = {"-o": output, "--overwrite": overwrite, "--print-config": print_config}
    _check_resume(resume, others | {"--calibrate-folds": calibrate_folds, "--calibrate-from": calibrate_from})
    options.check_least("--calibrate-folds", calibrate_folds or None, 2)
    resolved = resolve_recipe({}) if resume else resolve_recipe(settings, recipe)
    if print_config:
        _print_config(resolved, screen.quiet)
        return
    source, compute = rated.make_source(splits, pairs), machine.make_compute()

    from aigc_cli.storage.atomic_files import Output
    from aigc_cli.workflows.experiment.run_folder import name_run_folder

    place = Output(resume or output or name_run_folder(recipe), overwrite, bool(resume))
    options.check_inputs("an unfinished training", resume)
    options.check_inputs("a splits table", splits)
    options.check_inputs("predictions", calibrate_from)
    if not resume:
        _check_new(resolved, source, place)

    from aigc_cli.workflows.train.calibrate import HeldOutSource
    from aigc_cli.workflows.train.resume import is_finished, read_unfinished
    from aigc_cli.workflows.train.train import train_model

    with show_progress(screen.quiet) as progress:
        if resume and is_finished(resume):
            progress.say(f"The training in {resume} is finished: nothing to do.")
            return
        if resume:
            resolved, source = read_unfinished(resume, settings, recipe, source)
        held_out = HeldOutSource(calibrate_folds, calibrate_from)
        result = train_model(resolved, source, place, held_out, compute, progress)
    facts = {"run": str(result.run)} | {name: getattr(result, name) for name in PRINTED}
    screen.print_result(facts, lambda: _show(result))


def _check_resume(resume: Path | None, others: Mapping[str, object]) -> None:
    """Refuses options that the training in the run folder was started with or without."""
    if resume and (given := [name for name, value in others.items() if value]):
        raise AigcError(f"Expected --resume without {', '.join(given)}, found both.", "Leave out all but --resume.")


def _check_new(resolved: "ResolvedRecipe", source: "Source", place: "Output") -> None:
    """Refuses a new training before anything heavy is imported."""
    from aigc_cli.runtime.hints import check_backbone
    from aigc_cli.storage.atomic_files import LOCK
    from aigc_cli.workflows.experiment.run_folder import check_run_folder

    source.check()
    check_backbone(resolved.recipe.backbone)
    if not (place.path / LOCK).exists():  # who holds the folder is said later
        check_run_folder(place)


def _print_config(resolved: "ResolvedRecipe", quiet: bool) -> None:
    from aigc_cli.recipe import format_recipe
    from aigc_cli.training.rates import complete_resolved, describe_hints

    with show_progress(quiet) as progress:
        for warning in resolved.warnings:
            progress.say(warning)
    print(format_recipe(complete_resolved(resolved), describe_hints(resolved.recipe)), end="")


def _show(result: "TrainResult") -> None:
    if result.n_val == 0:
        print(f"Trained on {result.n_train} images, {result.trainable:,} parameters; no validation part.")
    else:
        how = "chose the checkpoint, so slightly optimistic" if result.chosen_on_val else "not used for training"
        parts = f"Validation, {result.n_val} images ({how}); trained on {result.n_train}"
        print_metrics(f"{parts}, {result.trainable:,} parameters", result.metrics)
        print_text(result.diagnosis)
    print_calibration(result.calibration)
    print(f"Run folder: {result.run}")
    print(f"Next: aigc score FOLDER --model {result.run}")


def print_calibration(description: Mapping[str, Any]) -> None:
    """Prints the mean width of the intervals, and what is missing.

    Args:
        description: `calibration` of a model's description: `targets`, `held_out` and `notes`.
    """
    for target, found in description["targets"].items():
        print_text(
            f"90% interval of {target}: {found['width']:.2f} MOS wide on average, calibrated on {found['images']} "
            f"images of {found['prompts']} prompts ({description['held_out']})."
        )
    for note in description["notes"]:
        print_text(f"{note[0].upper()}{note[1:]}.")
