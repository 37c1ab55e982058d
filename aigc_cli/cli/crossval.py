"""`aigc crossval`: how well a recipe does on images that its models never saw."""

from pathlib import Path
from typing import TYPE_CHECKING

from aigc_cli.cli import options
from aigc_cli.cli.completion import list_recipe_paths
from aigc_cli.cli.console import print_metrics, show_progress
from aigc_cli.cli.options import INPUT, TRAINING, make_number, make_option, make_path
from aigc_cli.errors import AigcError
from aigc_cli.recipe import resolve_recipe
from aigc_cli.report.numbers import format_number
from aigc_cli.runtime.hints import check_backbone

if TYPE_CHECKING:
    from aigc_cli.workflows.crossval import CrossvalResult

FOLDS = "Folds"


def crossval(
    *,
    recipe: str = make_option(
        INPUT, "Name of a recipe, or a .yaml file", default="medium", autocompletion=list_recipe_paths
    ),
    rated: options.RatedOptions,
    pairs: Path | None = options.PAIRS,
    by: str | None = options.GROUP_BY,
    mos_min: float | None = options.MOS_MIN,
    mos_max: float | None = options.MOS_MAX,
    protocol: str = make_option(FOLDS, "What folds may not share: prompt, image or group:COLUMN", default="prompt"),
    folds: int | None = make_number(FOLDS, "Number of folds (default 5)"),
    repeats: int | None = make_number(FOLDS, "Repeats with other folds and the next seed (default 1)"),
    splits: Path | None = make_path(FOLDS, "Use the folds of this splits table", extra=True),
    epochs: int | None = make_number(TRAINING, "Number of epochs; default: the recipe's", extra=True),
    settings: list[str] | None = make_option(TRAINING, "SETTING=VALUE changes the recipe; repeatable", "--set"),
    seed: int | None = make_number(TRAINING, "Seed of folds and training (default 0)", extra=True),
    output: Path | None = options.RESULTS_FOLDER,
    resume: bool = options.RESUME,
    page: options.PageOptions,
    overwrite: bool = options.OVERWRITE,
    screen: options.ScreenOptions,
    machine: options.MachineOptions,
) -> None:
    """Cross-validate a recipe on rated images.

    Trains the recipe once per fold and scores every image by a model that never saw it. Writes metrics, predictions
    and folds as tables.
    """
    _check_folds(splits, folds, repeats)
    options.check_resume(resume, output)
    report = page.check(overwrite or resume)
    given = {"epochs": epochs, "seed": seed, "mos_min": mos_min, "mos_max": mos_max}
    changes = options.parse_settings(settings) | {name: value for name, value in given.items() if value is not None}
    source, compute = rated.make_source(pairs=pairs), machine.make_compute()
    resolved = resolve_recipe(changes, recipe)
    source.check()
    check_backbone(resolved.recipe.backbone)
    options.check_inputs("a splits table", splits)
    options.check_outputs(overwrite or resume, output, suffixes=())

    from aigc_cli.storage.atomic_files import Output
    from aigc_cli.workflows.crossval import CrossvalPlan, cross_validate
    from aigc_cli.workflows.experiment.run_folder import name_run_folder

    name, place = Path(recipe).stem, output or name_run_folder("crossval")
    plan = CrossvalPlan(name, protocol, 5 if folds is None else folds, 1 if repeats is None else repeats, splits, by)
    with show_progress(screen.quiet) as progress:
        result = cross_validate(resolved, source, plan, Output(place, overwrite, resume), compute, progress)
        if report is not None:
            from aigc_cli.workflows.reports import report_evaluation

            title = f"Recipe {name}, cross-validated by {protocol}"
            report_evaluation(result, report, progress, title, result.warnings)
    facts = {key: getattr(result, key) for key in ("metrics", "folds", "spread", "warnings")}
    facts = {"folder": str(place), "protocol": protocol, "recipe": recipe, **facts}
    screen.print_result(facts, lambda: _show(result, recipe, place))


def _check_folds(splits: Path | None, folds: int | None, repeats: int | None) -> None:
    if splits and (folds, repeats) != (None, None):
        raise AigcError(
            "Expected either --splits or --folds and --repeats, found both.", "The splits table sets the folds."
        )
    options.check_least("--folds", folds, 2)
    options.check_least("--repeats", repeats, 1)


def _show(result: "CrossvalResult", recipe: str, place: Path) -> None:
    print_metrics(f"Recipe {recipe}: means over folds, 95% intervals over prompts", result.metrics)
    for row in result.spread:
        noise = f"over folds {format_number(row['over_folds'])}"
        if row["over_repeats"] is not None:
            noise += f", of the mean over repeats {format_number(row['over_repeats'])}"
        print(f"SD of SROCC, {row['split']}, {row['target'].replace('_', ' ')}: {noise}")
    for text in result.warnings:
        print(f"Warning: {text}")
    print(f"Results: {place / 'metrics.parquet'}, predictions.parquet, splits.parquet")
