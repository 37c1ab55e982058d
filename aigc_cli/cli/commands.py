"""The commands: each reads its options, calls one workflow, and shows what came back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from aigc_cli.cli import options
from aigc_cli.cli.console import number, print_json, print_metrics, print_table, terminal
from aigc_cli.cli.evaluation import evaluate
from aigc_cli.errors import AigcError

FAILED_ROWS = 3


def register(app: typer.Typer) -> None:
    """Adds every command to the application."""
    app.command("train")(options.with_recipe_options(train))
    app.command("eval")(evaluate)
    app.command("score")(score)
    app.command("ablate")(ablate)
    app.command("recommend")(recommend)


def train(
    recipe: Annotated[Optional[str], typer.Option(help="A recipe's name, or a .yaml file of your own.")] = None,
    data: options.Data = None,
    images: options.Images = None,
    columns: options.Columns = None,
    sep: options.Separator = ",",
    output: Annotated[
        Optional[Path], typer.Option("-o", "--output", help="Run folder; default: runs/TIME-RECIPE.")
    ] = None,
    freeze_layers: Annotated[
        Optional[int], typer.Option(help="Frozen blocks of the image tower, instead of a depth.")
    ] = None,
    splits: Annotated[Optional[Path], typer.Option(help="Train and validate on the parts of this splits file.")] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the resolved recipe and stop.")] = False,
    device: options.Device = "auto",
    cache: options.Cache = True,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Learn from rated images.

    Settings come from, in this order: options, AIGC_* variables, aigc.yaml in the working folder, the recipe, defaults.
    """
    from aigc_cli.recipe import resolve, to_yaml

    resolved = resolve(settings, recipe)
    if print_config:
        from aigc_cli.workflows.train import factor_notes, with_frozen_layers

        resolved = resolved if freeze_layers is None else with_frozen_layers(resolved, freeze_layers)
        print(to_yaml(resolved, factor_notes(resolved.recipe)), end="")
        return
    from aigc_cli.workflows.ratings import Source
    from aigc_cli.workflows.train import default_run
    from aigc_cli.workflows.train import train as run_training

    source = Source(data, images, options.renames(columns), sep)
    with terminal(quiet) as progress:
        result = run_training(
            resolved,
            source,
            output or default_run(recipe),
            progress=progress,
            device=device,
            cache=cache,
            overwrite=overwrite,
            freeze_layers=freeze_layers,
            splits=splits,
        )
    if as_json:
        shown = ("metrics", "diagnosis", "kept_epoch", "n_train", "n_val", "trainable")
        print_json({"run": str(result.run), **{name: getattr(result, name) for name in shown}})
    else:
        _print_training(result)


def _print_training(result: Any) -> None:
    if result.n_val == 0:
        print(f"Trained on {result.n_train} images, {result.trainable:,} parameters; no validation part.")
        print(f"Run folder: {result.run}")
        return
    how = "chose the checkpoint, so a little optimistic" if result.chosen_on_val else "untouched by training"
    title = f"Validation, {result.n_val} images ({how}); trained on {result.n_train}, {result.trainable:,} parameters"
    print_metrics(title, result.metrics)
    print(result.diagnosis)
    print(f"Run folder: {result.run}")
    print(f"Next: aigc score FOLDER --model {result.run}")


def score(
    folder: Annotated[Path, typer.Argument(help="Folder of images.")],
    prompts: Annotated[Optional[Path], typer.Option(help="CSV with name, prompt.")] = None,
    prompt: Annotated[Optional[str], typer.Option(help="One prompt for every image that has none.")] = None,
    columns: options.Columns = None,
    sep: options.Separator = ",",
    model: Annotated[Optional[Path], typer.Option(help="Run or model folder; default: the shipped scorer.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Table (.parquet .csv .jsonl).")] = Path(
        "scores.parquet"
    ),
    fail_on_bad: Annotated[bool, typer.Option("--fail-on-bad", help="Exit with 3 when an image failed.")] = False,
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Rate a folder of images: quality, and consistency with the prompt where there is one."""
    from aigc_cli.workflows.score import score_folder

    with terminal(quiet) as progress:
        summary = score_folder(
            folder,
            output,
            prompts=prompts,
            prompt=prompt,
            columns=options.renames(columns),
            sep=sep,
            model=model,
            device=device,
            overwrite=overwrite,
            progress=progress,
        )
        for reason, count in sorted(summary.reasons.items()):
            progress.say(f"{count} x {reason}: {_explained(reason)}")
    if as_json:
        print_json({"output": str(output), **{k: getattr(summary, k) for k in ("rows", "failed", "means", "reasons")}})
    else:
        _print_scores(summary)
    if fail_on_bad and summary.failed:
        raise typer.Exit(FAILED_ROWS)


def _explained(reason: str) -> str:
    from aigc_cli.io.images import REASONS

    return "; ".join(REASONS[part] for part in reason.split(","))


def _print_scores(summary: Any) -> None:
    """The best rows, then the worst ones that are not among them."""
    among = {row["name"] for row in summary.best}
    rows = summary.best + [row for row in summary.worst[::-1] if row["name"] not in among]
    cells = [
        [row["name"], number(row["quality"], ".2f"), number(row["consistency"], ".2f"), _short(row["prompt"])]
        for row in rows
    ]
    print_table("Best and worst by quality", ("image", "quality", "consistency", "prompt"), cells)
    means = ", ".join(f"mean {name} {number(mean, '.2f')}" for name, mean in summary.means.items())
    print(f"{summary.rows} images, {summary.failed} failed, {means}; scores in {summary.output}")


def _short(text: str | None, width: int = 40) -> str:
    if text is None:
        return "-"
    return text if len(text) <= width else f"{text[: width - 3]}..."


def ablate(
    data: options.Data = None,
    images: options.Images = None,
    columns: options.Columns = None,
    sep: options.Separator = ",",
    recipe: Annotated[str, typer.Option(help="The recipe that the variants differ from.")] = "medium",
    recipes: Annotated[
        Optional[str], typer.Option(help="Compare whole recipes instead: names with commas between.")
    ] = None,
    folds: Annotated[
        Optional[int], typer.Option(help="Prompt-disjoint folds; default 5, 2 for the demonstration.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds with commas between.")] = "0",
    epochs: Annotated[Optional[int], typer.Option(help="Epochs of every variant; default: the recipe's.")] = None,
    output: Annotated[
        Optional[Path], typer.Option("-o", "--output", help="Folder; default: runs/TIME-ablation.")
    ] = None,
    device: options.Device = "auto",
    cache: options.Cache = True,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Does each idea help? Trains every variant on the same folds and compares them in pairs."""
    from aigc_cli.recipe import resolve
    from aigc_cli.workflows.ablate import VARIANTS, recipe_variants
    from aigc_cli.workflows.ablate import ablate as run_ablation
    from aigc_cli.workflows.ratings import Source
    from aigc_cli.workflows.train import default_run

    demonstration = data is None
    settings = {"epochs": epochs if epochs is not None else 5 if demonstration else None}
    variants = recipe_variants(recipes.split(",")) if recipes else VARIANTS
    if recipes and settings["epochs"] is not None:
        variants = {name: {**changes, "epochs": settings["epochs"]} for name, changes in variants.items()}
    if not all(part.strip().isdigit() for part in seeds.split(",")):
        raise AigcError(f"Expected whole numbers with commas between for --seeds, found '{seeds}'.", "Example: 0,1,2")
    place = output or default_run("ablation")
    with terminal(quiet) as progress:
        summaries = run_ablation(
            resolve(settings, None if recipes else recipe).recipe,
            variants,
            Source(data, images, options.renames(columns), sep),
            place,
            progress=progress,
            folds=folds if folds is not None else 2 if demonstration else 5,
            seeds=[int(part) for part in seeds.split(",")],
            device=device,
            cache=cache,
            overwrite=overwrite,
        )
    if as_json:
        from dataclasses import asdict

        print_json([asdict(summary) for summary in summaries])
        return
    _print_ablation(summaries)
    print(f"Results: {place / 'ablation.parquet'}, {place / 'ablation.md'}")


def _print_ablation(summaries: Sequence[Any]) -> None:
    from aigc_cli.workflows.ablate import shown
    from aigc_cli.workflows.ratings import TARGETS

    cells = [
        [
            summary.variant,
            target,
            shown(summary.srocc[target]),
            shown(summary.difference.get(target), signed=True),
            summary.verdict.get(target, "-"),
            f"{summary.seconds:.0f}",
        ]
        for summary in summaries
        for target in TARGETS
    ]
    print_table("Mean SROCC over folds", ("variant", "target", "SROCC [95%]", "difference", "verdict", "s/fold"), cells)


def recommend(
    n: Annotated[int, typer.Option("--n", help="Number of rated images.")],
    output: Annotated[
        Optional[Path], typer.Option("-o", "--output", help="Also write it as a recipe file (.yaml).")
    ] = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Which settings suit a data set of this size, and why."""
    from aigc_cli.workflows.recommend import recommend as find

    found = find(n)
    if output:
        _write_recipe(output, found, overwrite)
    if as_json:
        print_json(found.to_json())
        return
    values = found.to_json()["recipe"]
    print(f"For {n:,} rated images:\n")
    for key, reason in found.reasons.items():
        shown = f"{values[key]:g}" if isinstance(values[key], float) else str(values[key])
        print(f"  {key:<13}{shown:<9}{reason}")
    print("\nNearby: " + "\n        ".join(found.neighbours))
    print(f"\nRun:    {found.command}")


def _write_recipe(output: Path, found: Any, overwrite: bool) -> None:
    import yaml

    from aigc_cli.io.files import check_output, write_text

    check_output(output, overwrite=overwrite, suffixes=(".yaml", ".yml"))
    head = f"# For {found.n:,} rated images, by `aigc recommend --n {found.n}`.\n"
    write_text(output, head + yaml.safe_dump(found.to_json()["recipe"], sort_keys=False))
