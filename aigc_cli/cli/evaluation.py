"""The command `eval`."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from aigc_cli.cli import options
from aigc_cli.cli.console import print_json, print_metrics, terminal
from aigc_cli.errors import AigcError


def evaluate(
    model: Annotated[Optional[Path], typer.Argument(help="Run or model folder; default: the shipped scorer.")] = None,
    data: options.Data = None,
    images: options.Images = None,
    columns: options.Columns = None,
    sep: options.Separator = ",",
    by: Annotated[Optional[str], typer.Option(help="Also report each value of this column.")] = None,
    mos_min: Annotated[Optional[float], typer.Option(help="Lowest human score; default: the model's.")] = None,
    mos_max: Annotated[Optional[float], typer.Option(help="Highest human score; default: the model's.")] = None,
    output: Annotated[
        Optional[Path], typer.Option("-o", "--output", help="Table of metrics (.parquet .csv .jsonl).")
    ] = None,
    device: options.Device = "auto",
    cache: options.Cache = True,
    cache_gb: options.CacheLimit = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """How far a model's scores agree with people's.

    Prompts that the model was trained on are reported apart from unseen ones; only those say how it does on new work.
    """
    from aigc_cli.workflows.evaluate import evaluate as run_evaluation
    from aigc_cli.workflows.ratings import Source

    if (mos_min is None) != (mos_max is None):
        raise AigcError("Expected --mos-min and --mos-max together, found one of them.", "Give both.")
    mos = None if mos_min is None or mos_max is None else (mos_min, mos_max)
    with terminal(quiet) as progress:
        result = run_evaluation(
            model,
            Source(data, images, options.renames(columns), sep),
            progress=progress,
            by=by,
            output=output,
            device=device,
            cache=options.cache_use(cache, cache_gb),
            overwrite=overwrite,
            mos=mos,
        )
        splits = {row["split"] for row in result.metrics}
        if "train" in splits:
            progress.say(
                "Rows marked train: the model was trained on these prompts, so they say little about new ones."
            )
        if "val" in splits:
            progress.say("Rows marked val: prompts of the run's validation part.")
    if as_json:
        print_json({"model": result.model, "metrics": result.metrics})
    else:
        print_metrics(f"Agreement of {result.model} with the scores given", result.metrics)
