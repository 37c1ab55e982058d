"""`aigc plot`: its options, and the paths of what was drawn."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from aigc_cli.cli import options
from aigc_cli.cli.completion import runs
from aigc_cli.cli.console import print_json, terminal
from aigc_cli.text import printable


def plot(
    run: Annotated[
        Path,
        typer.Argument(
            help="Run folder of train or ablate, or a table of eval, score or compare.", autocompletion=runs
        ),
    ],
    data: Annotated[
        Optional[Path], typer.Option(help="Ratings for a table of scores: people's scores by name.")
    ] = None,
    columns: options.Columns = None,
    sep: options.Separator = ",",
    formats: Annotated[str, typer.Option("--formats", help="png, svg, pdf with commas between.")] = "png,svg",
    output: Annotated[
        Optional[Path], typer.Option("-o", "--output", help="Folder; default: RUN/plots, or NAME-plots beside a table.")
    ] = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Figures for papers: curves of a training, predicted against human scores, calibration, an ablation."""
    from aigc_cli.workflows.experiment.source import Source
    from aigc_cli.workflows.plot import plot as run_plot

    with terminal(quiet) as progress:
        found = run_plot(
            run,
            output=output,
            source=Source(data, None, options.renames(columns), sep),
            formats=[name.strip() for name in formats.split(",")],
            overwrite=overwrite,
        )
        for note in found.notes:
            progress.say(note)
    if as_json:
        print_json({"files": [str(path) for path in found.files], "notes": found.notes})
        return
    for path in found.files:
        print(printable(str(path)))
