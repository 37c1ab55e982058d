"""`aigc export`: writes a model as ONNX graphs."""

from pathlib import Path

import typer

from aigc_cli.cli import options
from aigc_cli.cli.completion import list_models
from aigc_cli.cli.console import show_progress
from aigc_cli.cli.options import OUTPUT, make_path
from aigc_cli.text import to_printable


def export(
    *,
    model: Path | None = typer.Argument(
        None,
        metavar="MODEL",
        help="Run or model folder, or accurate (default) or fast, which ship.",
        autocompletion=list_models,
    ),
    output: Path | None = make_path(OUTPUT, "Folder; default: adds graphs to MODEL itself", "-o", "--output"),
    overwrite: bool = options.OVERWRITE,
    screen: options.ScreenOptions,
) -> None:
    """Write a model as ONNX graphs.

    They score without this package and without PyTorch; examples/score_with_onnxruntime.py shows how.
    """
    from aigc_cli.workflows.export import export_model

    with show_progress(screen.quiet) as progress:
        files = export_model(model, output, overwrite, progress)
    lines = [f"{name}  {size / 1e6:,.1f} MB" for name, size in files.items()]
    place = to_printable(str(output or model))
    screen.print_result({"folder": place, "files": files}, lambda: print(*lines, f"Written to {place}.", sep="\n"))
