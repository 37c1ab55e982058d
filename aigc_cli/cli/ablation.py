"""`aigc ablate`: its options, and its table on the terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from aigc_cli.cli import options
from aigc_cli.cli.console import print_json, print_table, terminal
from aigc_cli.errors import AigcError

DEMONSTRATION_FOLDS, DEMONSTRATION_EPOCHS = 2, 2


def ablate(
    data: options.Data = None,
    images: options.Images = None,
    columns: options.Columns = None,
    sep: options.Separator = ",",
    recipe: Annotated[str, typer.Option(help="The recipe that the variants differ from.")] = "medium",
    recipes: Annotated[
        Optional[str], typer.Option(help="Compare whole recipes instead: names with commas between.")
    ] = None,
    vary: Annotated[
        Optional[list[str]], typer.Option(help="Compare values of a setting, KEY=V1,V2; several make a grid.")
    ] = None,
    variants: Annotated[
        Optional[Path], typer.Option(help="Compare variants of your own: YAML of NAME: {SETTING: VALUE}.")
    ] = None,
    folds: Annotated[
        Optional[int], typer.Option(help="Prompt-disjoint folds; default 5, 2 for the demonstration.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds with commas between.")] = "0",
    epochs: Annotated[
        Optional[int], typer.Option(help="Epochs of every variant; default: the recipe's, 2 for the demonstration.")
    ] = None,
    output: Annotated[
        Optional[Path], typer.Option("-o", "--output", help="Folder; default: runs/TIME-ablation.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on in the folder of -o: only what is missing is trained.")
    ] = False,
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
    from aigc_cli.workflows.ablate import ablate as run_ablation
    from aigc_cli.workflows.ratings import Source
    from aigc_cli.workflows.train import default_run

    if resume and output is None:
        raise AigcError("Expected -o beside --resume, found none.", "Name the folder of the ablation: -o runs/...")
    if not all(part.strip().isdigit() for part in seeds.split(",")):
        raise AigcError(f"Expected whole numbers with commas between for --seeds, found '{seeds}'.", "Example: 0,1,2")
    demonstration = data is None
    many = epochs if epochs is not None else DEMONSTRATION_EPOCHS if demonstration else None
    compared = _variants(recipes, vary, variants)
    if recipes and many is not None:
        compared = {name: {**changes, "epochs": many} for name, changes in compared.items()}
    place = output or default_run("ablation")
    with terminal(quiet) as progress:
        summaries = run_ablation(
            resolve({"epochs": many}, None if recipes else recipe).recipe,
            compared,
            Source(data, images, options.renames(columns), sep),
            place,
            progress=progress,
            folds=folds if folds is not None else DEMONSTRATION_FOLDS if demonstration else 5,
            seeds=list(dict.fromkeys(int(part) for part in seeds.split(","))),
            device=device,
            cache=options.cache_use(cache, cache_gb),
            overwrite=overwrite,
            resume=resume,
        )
    if as_json:
        from dataclasses import asdict

        print_json([asdict(summary) for summary in summaries])
        return
    _print_ablation(summaries)
    print(f"Results: {place}{'/' if str(place)[-1:] != '/' else ''}ablation.md, .parquet, .png, .svg")


def _variants(recipes: str | None, vary: Sequence[str] | None, variants: Path | None) -> dict[str, dict[str, Any]]:
    """What is compared: one of the three ways to say it, else the project's own ideas."""
    from aigc_cli.workflows.variants import IDEAS, from_file, from_grid, from_recipes

    given = [name for name, value in (("--recipes", recipes), ("--vary", vary), ("--variants", variants)) if value]
    if len(given) > 1:
        raise AigcError(f"Expected one way to name the variants, found {' and '.join(given)}.", "Keep one of them.")
    if recipes:
        return from_recipes([name.strip() for name in recipes.split(",")])
    if vary:
        return from_grid(vary)
    return from_file(variants) if variants else IDEAS


def _print_ablation(summaries: Sequence[Any]) -> None:
    from aigc_cli.workflows.ratings import TARGETS
    from aigc_cli.workflows.summary import shown

    cells = [
        [
            summary.variant if target == "quality" else "",
            target,
            shown(summary.srocc[target]),
            shown(summary.difference.get(target), signed=True),
            summary.verdict.get(target, "-"),
            "-" if summary.seconds is None else f"{summary.seconds:.0f}",
            "-" if summary.trainable is None else f"{summary.trainable:,}",
        ]
        for summary in summaries
        for target in TARGETS
    ]
    columns = ("variant", "target", "SROCC [95%]", "difference", "verdict", "s/fold", "trained")
    print_table("Mean SROCC over folds", columns, cells)
    for summary in summaries:
        for reason in sorted({e.reason for e in summary.srocc.values() if e.reason and summary.trainable != 0}):
            print(f"{summary.variant}: {reason}")
