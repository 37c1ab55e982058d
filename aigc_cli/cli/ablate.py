"""`aigc ablate`: its options, and its table on the terminal."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from aigc_cli.cli import completion, options
from aigc_cli.cli.console import print_json, print_table, print_text, terminal
from aigc_cli.errors import AigcError

DEMONSTRATION_FOLDS, DEMONSTRATION_EPOCHS = 2, 2


Base = Annotated[str, typer.Option(help="The recipe that the variants differ from.", autocompletion=completion.recipes)]
Recipes = Annotated[Optional[str], typer.Option(help="Compare whole recipes instead: names with commas between.")]
Vary = Annotated[Optional[list[str]], typer.Option(help="Compare values of a setting, KEY=V1,V2; several make a grid.")]
Own = Annotated[Optional[Path], typer.Option(help="Compare variants of your own: YAML of NAME: {SETTING: VALUE}.")]
Folds = Annotated[Optional[int], typer.Option(help="Prompt-disjoint folds; default 5, 2 for the demonstration.")]
Seeds = Annotated[str, typer.Option(help="Seeds with commas between.")]
Epochs = Annotated[
    Optional[int], typer.Option(help="Epochs of every variant; default: the recipe's, 2 for the demonstration.")
]
Output = Annotated[Optional[Path], typer.Option("-o", "--output", help="Folder; default: runs/TIME-ablation.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on in the folder of -o: only what is missing is trained.")]
Stress = Annotated[
    bool, typer.Option("--stress", help="Instead: how a model's scores move when image or prompt is harmed.")
]
StressModel = Annotated[
    Optional[Path],
    typer.Option(
        help="With --stress: run or model folder; default: the shipped scorer.", autocompletion=completion.models
    ),
]


def ablate(
    data: options.Data = None,
    images: options.Images = None,
    columns: options.Columns = None,
    sep: options.Separator = ",",
    recipe: Base = "medium",
    recipes: Recipes = None,
    vary: Vary = None,
    variants: Own = None,
    folds: Folds = None,
    seeds: Seeds = "0",
    epochs: Epochs = None,
    output: Output = None,
    resume: Resume = False,
    stress: Stress = False,
    model: StressModel = None,
    report: options.Report = None,
    device: options.Device = "auto",
    cache: options.Cache = True,
    cache_gb: options.CacheLimit = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Does each idea help? Trains every variant on the same folds and compares them in pairs.

    Without --recipes, --vary or --variants: no residual, a residual, and that with part or all of the backbone frozen.
    """
    from aigc_cli.recipe import resolve
    from aigc_cli.workflows.ablate.ablate import ablate as run_ablation
    from aigc_cli.workflows.experiment.source import Source
    from aigc_cli.workflows.reports import report_ablation
    from aigc_cli.workflows.train.train import default_run

    source = Source(data, images, options.renames(columns), sep)
    _check(stress, model, resume, output, report, overwrite)
    if stress:
        _stress(model, source, output or default_run("stress"), device, overwrite, quiet, as_json)
        return
    demonstration = data is None
    many = epochs if epochs is not None else DEMONSTRATION_EPOCHS if demonstration else None
    compared = _variants(recipes, vary, variants, many)
    place = output or default_run("ablation")
    with terminal(quiet) as progress:
        summaries = run_ablation(
            resolve({"epochs": many}, None if recipes else recipe).recipe,
            compared,
            source,
            place,
            progress=progress,
            folds=folds if folds is not None else DEMONSTRATION_FOLDS if demonstration else 5,
            seeds=_seeds(seeds),
            device=device,
            cache=options.cache_use(cache, cache_gb),
            overwrite=overwrite,
            resume=resume,
        )
        if report is not None:
            report_ablation(summaries, place, source.describe(), report, progress)
    _report(summaries, place, as_json)


def _check(
    stress: bool, model: Path | None, resume: bool, output: Path | None, report: Path | None, overwrite: bool
) -> None:
    """Options that don't go together."""
    if stress and report is not None:
        raise AigcError("Expected --report without --stress, found both.", "Its page is stress.md.")
    if model is not None and not stress:
        raise AigcError("Expected --stress beside --model, found none.", "An ablation trains its own models.")
    if resume and output is None and not stress:
        raise AigcError("Expected -o beside --resume, found none.", "Name the folder of the ablation: -o runs/...")
    options.check_report(report, None, overwrite or resume)


def _report(summaries: Sequence[Any], place: Path, as_json: bool) -> None:
    if as_json:
        print_json([asdict(summary) for summary in summaries])
    else:
        _print_ablation(summaries)
        print(f"Results: {place / 'ablation.md'}, .parquet, .png, .svg")


def _seeds(text: str) -> list[int]:
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise AigcError(f"Expected whole numbers with commas between for --seeds, found '{text}'.", "Example: 0,1,2")
    return list(dict.fromkeys(int(part) for part in text.split(",")))


def _variants(
    recipes: str | None, vary: Sequence[str] | None, variants: Path | None, epochs: int | None
) -> dict[str, dict[str, Any]]:
    """What is compared: one of the three ways to say it, else the project's own ideas."""
    from aigc_cli.workflows.ablate.variants import IDEAS, from_file, from_grid, from_recipes

    given = [name for name, value in (("--recipes", recipes), ("--vary", vary), ("--variants", variants)) if value]
    if len(given) > 1:
        raise AigcError(f"Expected one way to name the variants, found {' and '.join(given)}.", "Keep one of them.")
    if recipes:
        whole = from_recipes([name.strip() for name in recipes.split(",")])
        return {name: changes if epochs is None else {**changes, "epochs": epochs} for name, changes in whole.items()}
    if vary:
        return from_grid(vary)
    return from_file(variants) if variants else IDEAS


def _print_ablation(summaries: Sequence[Any]) -> None:
    """A table for each target and one for the cost, each within 80 columns."""
    from aigc_cli.metrics.by_name import UNTOLD
    from aigc_cli.workflows.ablate.summary import shown
    from aigc_cli.workflows.experiment.rated import TARGETS

    for target in TARGETS:
        cells = [
            [
                summary.variant,
                shown(summary.srocc[target], digits=2),
                shown(summary.difference.get(target), signed=True, digits=2),
                summary.verdict.get(target, "-").replace(UNTOLD, "can't tell"),
            ]
            for summary in summaries
            if summary.trainable != 0 or summary.srocc[target].value is not None  # a cosine says nothing of quality
        ]
        title = f"SROCC of {target}, mean over folds; difference to the first"
        print_table(title, ("variant", "SROCC [95%]", "difference [95%]", "verdict"), cells)
    cost = [
        [
            s.variant,
            "-" if s.seconds is None else f"{s.seconds:.0f}",
            "-" if s.trainable is None else f"{s.trainable:,}",
        ]
        for s in summaries
        if s.trainable != 0
    ]
    print_table("Cost", ("variant", "seconds for one fold", "trained parameters"), cost)
    for summary in summaries:
        for reason in sorted({e.reason for e in summary.srocc.values() if e.reason and summary.trainable != 0}):
            print_text(f"{summary.variant}: {reason}")


def _stress(
    model: Path | None, source: Any, place: Path, device: str, overwrite: bool, quiet: bool, as_json: bool
) -> None:
    from aigc_cli.workflows.stress import cells
    from aigc_cli.workflows.stress import stress as run_stress

    with terminal(quiet) as progress:
        found = run_stress(model, source, place, progress=progress, device=device, overwrite=overwrite)
    if as_json:
        print_json(asdict(found))
        return
    columns = ("perturbation", "score", "change in MOS [95%]", "lower in", "SROCC")
    print_table(f"{found.model}, {found.shifts[0].n} images", columns, [cells(shift) for shift in found.shifts])
    print_text(found.verdict)
    print(f"Results: {place / 'stress.md'}, .parquet")
