"""The commands: each reads its options, calls one workflow, and shows what came back."""

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from aigc_cli.cli import ablate as ablation
from aigc_cli.cli import cache as caching
from aigc_cli.cli import checks, options
from aigc_cli.cli import compare as comparing
from aigc_cli.cli import pick as picking
from aigc_cli.cli import plot as plotting
from aigc_cli.cli.completion import recipes, runs
from aigc_cli.cli.console import print_json, print_metrics, print_text, terminal
from aigc_cli.cli.eval import evaluate
from aigc_cli.cli.recommend import recommend
from aigc_cli.cli.score_summary import show_scores
from aigc_cli.cli.streams import STREAM, table_out
from aigc_cli.errors import AigcError
from aigc_cli.recipe import resolve

FAILED_ROWS = 3
SHOWN_AS_JSON = ("rows", "failed", "means", "reasons", "sources")
RunFolder = Annotated[Optional[Path], typer.Option("-o", "--output", help="Run folder; default: runs/TIME-RECIPE.")]
Unfinished = Annotated[
    Optional[Path],
    typer.Option(help="Go on with the unfinished training in this run folder, as it was begun.", autocompletion=runs),
]
SavedSplits = Annotated[Optional[Path], typer.Option(help="Train and validate on the parts of this splits file.")]
CalibrateFolds = Annotated[
    int,
    typer.Option(help="Error bars from so many further trainings, each without a part of the prompts; 0: validation."),
]
CalibrateFrom = Annotated[
    Optional[Path],
    typer.Option(help="Error bars from such trainings: an `ablate` or `train` folder, or `eval --predictions`."),
]
FrozenLayers = Annotated[Optional[int], typer.Option(help="Frozen blocks of the image tower, instead of a depth.")]


def register(app: typer.Typer) -> None:
    """Adds every command to the application."""
    app.command("train")(options.with_recipe_options(train))
    app.command("eval")(evaluate)
    app.command("score")(score)
    app.command("ablate")(ablation.ablate)
    app.command("pick")(picking.pick)
    app.command("compare")(comparing.compare)
    app.command("plot")(plotting.plot)
    app.command("recommend")(recommend)
    app.command("verify")(checks.verify)
    app.command("doctor")(checks.doctor)
    app.add_typer(caching.app)


def train(
    recipe: Annotated[
        Optional[str], typer.Option(help="A recipe's name, or a .yaml file of your own.", autocompletion=recipes)
    ] = None,
    data: options.Data = None,
    images: options.Images = None,
    columns: options.Columns = None,
    sep: options.Separator = ",",
    output: RunFolder = None,
    resume: Unfinished = None,
    freeze_layers: FrozenLayers = None,
    splits: SavedSplits = None,
    calibrate_folds: CalibrateFolds = 0,
    calibrate_from: CalibrateFrom = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the resolved recipe and stop.")] = False,
    device: options.Device = "auto",
    cache: options.Cache = True,
    cache_gb: options.CacheLimit = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Learn from rated images.

    Settings come from, in this order: options, AIGC_* variables, aigc.yaml in the working folder, the recipe, defaults.
    """
    if resume and any((output, overwrite, freeze_layers is not None, print_config, calibrate_folds, calibrate_from)):
        others = "-o, --overwrite, --freeze-layers, --print-config and --calibrate-..."
        raise AigcError(f"Expected --resume without {others}.", "Leave them out: a training goes on as it was begun.")
    resolved = resolve({}) if resume else resolve(settings, recipe)
    if print_config:
        _print_config(resolved, freeze_layers, quiet)
        return
    from aigc_cli.workflows.experiment.source import Source
    from aigc_cli.workflows.train import train as workflow
    from aigc_cli.workflows.train.held_out import Calibrating
    from aigc_cli.workflows.train.resume import is_finished, unfinished

    with terminal(quiet) as progress:
        source = Source(data, images, options.renames(columns), sep, splits)
        if resume and is_finished(resume):
            progress.say(f"The training in {resume} is finished: there is nothing to do.")
            return
        if resume:
            resolved, source = unfinished(resume, settings, recipe, source)
        result = workflow.train(
            resolved,
            source,
            resume or output or workflow.default_run(recipe),
            progress=progress,
            device=device,
            cache=options.cache_use(cache, cache_gb),
            overwrite=overwrite,
            freeze_layers=freeze_layers,
            resume=bool(resume),
            calibrating=Calibrating(calibrate_folds, calibrate_from),
        )
    _print_training(result, as_json)


def _print_config(resolved: Any, freeze_layers: int | None, quiet: bool) -> None:
    from aigc_cli.model.hints import factor_notes
    from aigc_cli.recipe import to_yaml

    if freeze_layers is not None:
        from aigc_cli.workflows.train.train import with_frozen_layers  # counts the backbone's blocks, so it loads it

        resolved = with_frozen_layers(resolved, freeze_layers)
    with terminal(quiet) as progress:
        for warning in resolved.warnings:
            progress.say(warning)
    print(to_yaml(resolved, factor_notes(resolved.recipe)), end="")


def _print_training(result: Any, as_json: bool) -> None:
    if as_json:
        shown = ("metrics", "diagnosis", "kept_epoch", "n_train", "n_val", "trainable", "calibration")
        print_json({"run": str(result.run), **{name: getattr(result, name) for name in shown}})
        return
    if result.n_val == 0:
        print(f"Trained on {result.n_train} images, {result.trainable:,} parameters; no validation part.")
        _print_bars(result.calibration)
        print(f"Run folder: {result.run}")
        return
    how = "chose the checkpoint, so a little optimistic" if result.chosen_on_val else "untouched by training"
    title = f"Validation, {result.n_val} images ({how}); trained on {result.n_train}, {result.trainable:,} parameters"
    print_metrics(title, result.metrics)
    print_text(result.diagnosis)
    _print_bars(result.calibration)
    print(f"Run folder: {result.run}")
    print(f"Next: aigc score FOLDER --model {result.run}")


def _print_bars(said: Any) -> None:
    """What folds add to consistency, the mean width of the error bars, and what there are none of."""
    if any(said["added"].values()):
        print_text(
            f"Added to consistency, by what it lacked on prompts held out: {said['added']['offset']:+.2f} MOS and "
            f"{said['added']['share']:.2f} of quality above the lowest score"
        )
    for target, found in said["targets"].items():
        print_text(
            f"90% interval of {target}: {found['width']:.2f} MOS wide on average, from {found['images']} images of "
            f"{found['prompts']} prompts ({said['held_out']})"
        )
    for note in said["notes"]:
        print_text(f"{note[0].upper()}{note[1:]}.")


def score(
    folder: Annotated[Path, typer.Argument(help="Folder of images.")],
    prompts: options.Prompts = None,
    prompt: options.Prompt = None,
    recursive: options.Recursive = False,
    include: options.Include = None,
    exclude: options.Exclude = None,
    columns: options.Columns = None,
    sep: options.Separator = ",",
    model: options.Model = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Table (.parquet .csv .jsonl, or - for CSV).")] = Path(
        "scores.parquet"
    ),
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted scoring to -o stopped.")] = False,
    engine: Annotated[str, typer.Option(help="Runs the image tower: auto, eager, onnx or openvino.")] = "auto",
    fail_on_bad: Annotated[bool, typer.Option("--fail-on-bad", help="Exit with 3 when an image failed.")] = False,
    report: options.Report = None,
    thumbs: options.Thumbs = None,
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Rate a folder of images: quality, and consistency with the prompt where there is one.

    The prompt is that of --prompts, else --prompt, else a text file beside the image, else the image's own metadata.
    """
    from aigc_cli.workflows.score.plan import Selection
    from aigc_cli.workflows.score.score import score_folder

    if output == STREAM and (resume or as_json):
        raise AigcError("Expected -o - without --resume and --json, found both.", "Name a file with -o.")
    options.check_report(report, thumbs, overwrite or resume)
    with terminal(quiet) as progress, table_out(output) as place:
        assert place is not None
        summary = score_folder(
            folder,
            place,
            prompts=prompts,
            prompt=prompt,
            columns=options.renames(columns),
            sep=sep,
            model=model,
            device=device,
            engine=engine,
            overwrite=overwrite,
            resume=resume,
            selection=Selection(recursive, include or (), exclude or ()),
            progress=progress,
        )
        if report is not None:
            _report(place, report, progress, thumbs)
        _tell(summary, progress)
    if as_json:
        print_json({"output": str(output), **{k: getattr(summary, k) for k in SHOWN_AS_JSON}})
    elif output != STREAM:
        show_scores(summary)
    if fail_on_bad and summary.failed:
        raise typer.Exit(FAILED_ROWS)


def _report(scores: Path, report: Path, progress: Any, thumbs: Path | None) -> None:
    from aigc_cli.workflows.reports import report_scores  # with its statistics, which take seconds

    report_scores(scores, report, progress, thumbs)


def _tell(summary: Any, progress: Any) -> None:
    """Where prompts come from, and what happened to some images."""
    counts = [f"{count} {source}" for source, count in sorted(summary.sources.items())]
    progress.say(f"Prompts: {', '.join(counts)}.")
    for reason, count in sorted(summary.reasons.items()):
        progress.say(f"{count} x {reason}: {_explained(reason)}")


def _explained(reason: str) -> str:
    from aigc_cli.images.reader import REASONS

    return "; ".join(REASONS.get(part, part) for part in reason.split(","))
