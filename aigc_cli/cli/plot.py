"""`aigc plot`: draws figures of a run or a result table."""

from pathlib import Path

import typer

from aigc_cli.cli import options
from aigc_cli.cli.completion import list_runs
from aigc_cli.cli.console import show_progress
from aigc_cli.cli.options import INPUT, OUTPUT, make_option, make_path
from aigc_cli.text import to_printable


def plot(
    *,
    run: Path = typer.Argument(
        metavar="RUN",
        help="Folder of train, crossval or ablate, or a table of eval, score or compare.",
        autocompletion=list_runs,
    ),
    data: Path | None = make_path(INPUT, "Table with human scores by name, for a table of `aigc score`"),
    output: Path | None = make_path(
        OUTPUT, "Folder; default: RUN/plots, or NAME-plots beside a table", "-o", "--output"
    ),
    formats: str = make_option(OUTPUT, "png, svg, pdf, separated by commas", default="png,svg"),
    overwrite: bool = options.OVERWRITE,
    screen: options.ScreenOptions,
    columns: list[str] | None = options.COLUMNS,
    sep: str = options.SEPARATOR,
) -> None:
    """Draw figures of a run or a result table.

    Training curves, model scores against human scores, calibration, or an ablation: what the run or table holds.
    """
    options.check_inputs("a table or a run folder", run)
    source = options.RatedOptions(data, None, columns, sep).make_source()
    source.check()

    from aigc_cli.workflows.plot import draw_plots

    with show_progress(screen.quiet) as progress:
        kinds = [name.strip() for name in formats.split(",")]
        found = draw_plots(run, output=output, source=source, formats=kinds, overwrite=overwrite)
        for note in found.notes:
            progress.say(note)
    files = [str(path) for path in found.files]
    screen.print_result(
        {"files": files, "notes": found.notes},
        lambda: print("".join(f"{to_printable(file)}\n" for file in files), end=""),
    )
