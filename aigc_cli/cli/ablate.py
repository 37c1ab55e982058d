"""`aigc ablate`: which recipe variant is better, measured on the same folds."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_cli.cli import options
from aigc_cli.cli.completion import list_recipe_paths
from aigc_cli.cli.console import print_table, print_text, show_progress
from aigc_cli.cli.options import TRAINING, make_number, make_option, make_path
from aigc_cli.errors import AigcError
from aigc_cli.recipe import resolve_recipe
from aigc_cli.report.numbers import MISSING, format_number

if TYPE_CHECKING:
    from aigc_cli.workflows.ablate.summary import VariantSummary

DEMO_FOLDS, DEMO_EPOCHS = 2, 2  # without --data, so that a first try takes a minute
VARIANTS = "Variants"


def ablate(
    *,
    rated: options.RatedOptions,
    recipe: str = make_option(
        VARIANTS, "Recipe that --vary and --variants change", default="medium", autocompletion=list_recipe_paths
    ),
    recipes: str | None = make_option(VARIANTS, "Compare whole recipes: NAME,NAME,..."),
    vary: list[str] | None = make_option(VARIANTS, "SETTING=VALUE,VALUE,...; repeat it for a grid"),
    variants: Path | None = make_path(VARIANTS, "YAML file with lines NAME: {SETTING: VALUE}"),
    folds: int | None = make_number(TRAINING, "Folds without a common prompt (default 5; without --data 2)"),
    epochs: int | None = make_number(TRAINING, "Number of epochs; default: the recipe's (without --data 2)"),
    seeds: str = make_option(TRAINING, "Seeds, separated by commas", default="0"),
    output: Path | None = options.RESULTS_FOLDER,
    resume: bool = options.RESUME,
    report: Path | None = options.REPORT,
    overwrite: bool = options.OVERWRITE,
    screen: options.ScreenOptions,
    machine: options.MachineOptions,
) -> None:
    """Compare recipe variants on the same folds.

    The first variant is the baseline. Without --recipes, --vary and --variants, compares the model without and with
    residual corrections, and with part or all of the backbone frozen.
    """
    options.check_resume(resume, output)
    options.check_least("--folds", folds, 2)
    page = options.PageOptions(report, None).check(overwrite or resume)
    is_demo = rated.data is None
    count = epochs if epochs is not None else DEMO_EPOCHS if is_demo else None
    changes, seed_list = _choose_variants(recipes, vary, variants, count), _parse_seeds(seeds)
    source, compute = rated.make_source(), machine.make_compute()
    source.check()
    options.check_outputs(overwrite or resume, output, suffixes=())
    base = resolve_recipe({"epochs": count}, None if recipes else recipe).recipe

    from aigc_cli.storage.atomic_files import Output
    from aigc_cli.workflows.ablate.ablate import AblationPlan, run_ablation
    from aigc_cli.workflows.experiment.run_folder import name_run_folder

    plan = AblationPlan(base, changes, folds if folds is not None else DEMO_FOLDS if is_demo else 5, seed_list)
    place = output or name_run_folder("ablation")
    with show_progress(screen.quiet) as progress:
        summaries = run_ablation(plan, source, Output(place, overwrite, resume), compute, progress)
        if page is not None:
            from aigc_cli.workflows.reports import report_ablation

            report_ablation(summaries, place, source.describe(), page, progress)
    screen.print_result([asdict(summary) for summary in summaries], lambda: _show(summaries, place))


def _parse_seeds(text: str) -> list[int]:
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise AigcError(f"Expected whole numbers separated by commas for --seeds, found '{text}'.", "Example: 0,1,2")
    return list(dict.fromkeys(int(part) for part in text.split(",")))


def _choose_variants(
    recipes: str | None, vary: Sequence[str] | None, variants: Path | None, epochs: int | None
) -> dict[str, dict[str, Any]]:
    """{variant: settings} of the one option that names variants, else the default comparison."""
    from aigc_cli.workflows.ablate.variants import IDEAS, make_grid, read_recipe_variants, read_variants

    given = [name for name, value in (("--recipes", recipes), ("--vary", vary), ("--variants", variants)) if value]
    if len(given) > 1:
        raise AigcError(
            f"Expected one of --recipes, --vary and --variants, found {' and '.join(given)}.", "Keep one of them."
        )
    if recipes:
        whole = read_recipe_variants([name.strip() for name in recipes.split(",")])
        return {name: changes if epochs is None else {**changes, "epochs": epochs} for name, changes in whole.items()}
    if vary:
        return make_grid(vary)
    return read_variants(variants) if variants else IDEAS


def _show(summaries: "Sequence[VariantSummary]", place: Path) -> None:
    """Prints a table for each target and one for the cost, in 80 columns."""
    from aigc_cli.images.sample import TARGETS
    from aigc_cli.metrics.by_name import UNDECIDED
    from aigc_cli.workflows.ablate.summary import format_estimate

    for target in TARGETS:
        cells = [
            [
                summary.variant,
                format_estimate(summary.srocc[target], ".3f", ".2f"),
                format_estimate(summary.difference.get(target), "+.3f", "+.2f"),
                summary.verdict.get(target, MISSING).replace(UNDECIDED, "can't tell"),
            ]
            for summary in summaries
            if summary.trainable != 0 or summary.srocc[target].value is not None  # the cosine has no quality
        ]
        title = f"SROCC of {target}, mean over folds; difference to the baseline"
        print_table(title, ("variant", "SROCC [95%]", "difference [95%]", "verdict"), cells)
    trained = [summary for summary in summaries if summary.trainable != 0]
    cost = [[s.variant, format_number(s.seconds, ".0f"), format_number(s.trainable, ",")] for s in trained]
    print_table("Cost", ("variant", "seconds per fold", "trained parameters"), cost)
    for summary in trained:
        for reason in summary.list_reasons():
            print_text(f"{summary.variant}: {reason}")
    print(f"Results: {place / 'ablation.md'}, .parquet, .png, .svg")
