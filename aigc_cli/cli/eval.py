"""The command `eval`: a model on rated images, or a recipe by cross-validation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from aigc_cli.cli import options
from aigc_cli.cli.completion import models, recipes
from aigc_cli.cli.console import number, print_json, print_metrics, terminal
from aigc_cli.errors import AigcError

Page = tuple[Path | None, Path | None]  # --report and --thumbs
PROTOCOL_OPTIONS = ("recipe", "epochs", "set", "folds", "repeats", "seed", "splits", "splits_out")
OF_PROTOCOL = "With --protocol"


def _of_protocol(text: str, complete: Any = None) -> Any:
    return typer.Option(help=text, rich_help_panel=OF_PROTOCOL, show_default=False, autocompletion=complete)


Model = Annotated[
    Optional[Path], typer.Argument(help="Run or model folder; default: the shipped scorer.", autocompletion=models)
]
Protocol = Annotated[
    Optional[str], typer.Option(help="Cross-validate a recipe instead: prompt, image or group:COLUMN.")
]
Settings = Annotated[
    Optional[list[str]],
    typer.Option("--set", help="SETTING=VALUE of the recipe; may be repeated.", rich_help_panel=OF_PROTOCOL),
]
Predictions = Annotated[
    Optional[Path],
    typer.Option(help="Save each image's scores beside people's, for `aigc plot` and `train --calibrate-from`."),
]
Repeats = Annotated[Optional[int], _of_protocol("Times that folds are drawn anew, with the next seed (default 1).")]


def evaluate(
    model: Model = None,
    data: options.Data = None,
    images: options.Images = None,
    columns: options.Columns = None,
    sep: options.Separator = ",",
    by: Annotated[Optional[str], typer.Option(help="Also report each value of this column or setting.")] = None,
    mos_min: Annotated[Optional[float], typer.Option(help="Lowest human score; default: the model's.")] = None,
    mos_max: Annotated[Optional[float], typer.Option(help="Highest human score; default: the model's.")] = None,
    protocol: Protocol = None,
    recipe: Annotated[Optional[str], _of_protocol("The recipe (default medium).", recipes)] = None,
    epochs: Annotated[Optional[int], _of_protocol("Epochs; default: the recipe's.")] = None,
    settings: Settings = None,
    folds: Annotated[Optional[int], _of_protocol("Parts, each held out once (default 5).")] = None,
    repeats: Repeats = None,
    seed: Annotated[Optional[int], _of_protocol("Of folds and training (default 0).")] = None,
    splits: Annotated[Optional[Path], _of_protocol("Use the folds of this table.")] = None,
    splits_out: Annotated[Optional[Path], _of_protocol("Save the folds (.parquet .csv .jsonl).")] = None,
    output: Annotated[
        Optional[Path], typer.Option("-o", "--output", help="Table of metrics (.parquet .csv .jsonl).")
    ] = None,
    predictions: Predictions = None,
    report: options.Report = None,
    thumbs: options.Thumbs = None,
    device: options.Device = "auto",
    cache: options.Cache = True,
    cache_gb: options.CacheLimit = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """How far scores agree with people's.

    A model: prompts that it was trained on are reported apart from unseen ones; those say how it does on new work.

    A recipe, with --protocol: it is trained for each fold, and every image is scored by the model that never saw it.
    """
    from aigc_cli.workflows.experiment.source import Source

    source = Source(data, images, options.renames(columns), sep)
    given = (recipe, epochs, settings, folds, repeats, seed, splits, splits_out)
    of_protocol = dict(zip(PROTOCOL_OPTIONS, given, strict=True))
    shared = {
        "by": by,
        "output": output,
        "predictions": predictions,
        "device": device,
        "cache": options.cache_use(cache, cache_gb),
        "overwrite": overwrite,
    }
    _check(model, protocol, of_protocol, mos_min, mos_max)
    options.check_report(report, thumbs, overwrite)
    page = (report, thumbs)
    if protocol is None:
        mos = None if mos_min is None or mos_max is None else (mos_min, mos_max)
        _of_model(model, source, {**shared, "mos": mos}, page, quiet, as_json)
    else:
        _of_recipe(
            protocol, source, {**of_protocol, "mos_min": mos_min, "mos_max": mos_max}, shared, page, quiet, as_json
        )


def _check(
    model: Path | None, protocol: str | None, given: Mapping[str, Any], mos_min: float | None, mos_max: float | None
) -> None:
    """Options that don't go together."""
    if (mos_min is None) != (mos_max is None):
        raise AigcError("Expected --mos-min and --mos-max together, found one of them.", "Give both.")
    if protocol is not None and model is not None:
        raise AigcError(
            f"Expected either a model or --protocol, found {model} and --protocol {protocol}.",
            "A protocol trains models of its own: name a --recipe instead.",
        )
    named = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if protocol is None and named:
        raise AigcError(f"Expected --protocol beside {named[0]}, found none.", "Example: --protocol prompt")
    if given["splits"] and (given["folds"], given["repeats"]) != (None, None):
        raise AigcError("Expected either --splits or --folds and --repeats, found both.", "The file says how many.")


def _of_model(
    model: Path | None, source: Any, given: Mapping[str, Any], page: Page, quiet: bool, as_json: bool
) -> None:
    from aigc_cli.workflows.evaluate import evaluate as run_evaluation
    from aigc_cli.workflows.reports import report_evaluation

    with terminal(quiet) as progress:
        result = run_evaluation(model, source, progress=progress, **given)
        splits = {row["split"] for row in result.metrics}
        if "train" in splits:
            progress.say(
                "Rows marked train: the model was trained on these prompts, so they say little about new ones."
            )
        if "val" in splits:
            progress.say("Rows marked val: prompts of the run's validation part.")
        if page[0] is not None:
            report_evaluation(result.metrics, result.images, result.metadata, page[0], progress, page[1])
    if as_json:
        print_json({"model": result.model, "metrics": result.metrics})
    else:
        print_metrics(f"Agreement of {result.model} with the scores given", result.metrics)


def _of_recipe(
    protocol: str,
    source: Any,
    given: Mapping[str, Any],
    shared: Mapping[str, Any],
    page: Page,
    quiet: bool,
    as_json: bool,
) -> None:
    from aigc_cli.recipe import resolve
    from aigc_cli.workflows.crossval import Plan, cross_validate
    from aigc_cli.workflows.reports import report_evaluation

    recipe = given["recipe"] or "medium"
    settings = options.settings_of(given["set"]) | {
        name: given[name] for name in ("epochs", "seed", "mos_min", "mos_max") if given[name] is not None
    }
    chosen = {name: given[name] for name in ("folds", "repeats") if given[name] is not None}
    plan = Plan(protocol, **chosen, saved=given["splits"], save=given["splits_out"])
    with terminal(quiet) as progress:
        result = cross_validate(
            resolve(settings, recipe), source, plan, progress=progress, run=Path(recipe).stem, **shared
        )
        if page[0] is not None:
            title = f"Recipe {Path(recipe).stem}, cross-validated by {protocol}"
            report_evaluation(
                result.metrics, result.images, result.metadata, page[0], progress, page[1], title, result.warnings
            )
    if as_json:
        shown = ("metrics", "folds", "spread", "warnings")
        print_json({"protocol": protocol, "recipe": recipe, **{name: getattr(result, name) for name in shown}})
        return
    print_metrics(f"Recipe {recipe}: means over folds, 95% intervals over prompts", result.metrics)
    for row in result.spread:
        noise = f"over folds {number(row['over_folds'])}"
        if row["over_repeats"] is not None:
            noise += f", of the mean over repeats {number(row['over_repeats'])}"
        print(f"SD of SROCC, {row['split']}, {row['target'].replace('_', ' ')}: {noise}")
    for text in result.warnings:
        print(f"Warning: {text}")
