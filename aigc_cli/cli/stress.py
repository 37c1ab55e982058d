"""`aigc stress`: how a model's scores change when images or prompts are damaged."""

from dataclasses import asdict
from pathlib import Path

from aigc_cli.cli import options
from aigc_cli.cli.console import print_table, print_text, show_progress
from aigc_cli.cli.options import INPUT, make_number


def stress(
    *,
    model: Path | None = options.MODEL,
    rated: options.RatedOptions,
    n: int = make_number(INPUT, "Size of the random sample", default=200),
    seed: int = options.SAMPLE_SEED,
    output: Path | None = options.RESULTS_FOLDER,
    overwrite: bool = options.OVERWRITE,
    screen: options.ScreenOptions,
    device: str = options.DEVICE,
) -> None:
    """Measure how scores change when images or prompts are damaged.

    Images are blurred, compressed, resized and cropped; prompts are shuffled and emptied.
    """
    options.check_least("--n", n, 1)
    source = rated.make_source()
    options.check_model(model, device)
    source.check()
    options.check_outputs(overwrite, output, suffixes=())

    from aigc_cli.storage.atomic_files import Output
    from aigc_cli.workflows.experiment.run_folder import name_run_folder
    from aigc_cli.workflows.stress import StressPlan, format_shift, stress_model

    place = output or name_run_folder("stress")
    with show_progress(screen.quiet) as progress:
        found = stress_model(source, StressPlan(model, n, seed, device), Output(place, overwrite), progress)

    def show() -> None:
        head = ("perturbation", "score", "change in MOS [95%]", "lower in", "SROCC")
        print_table(f"{found.model}, {found.shifts[0].n} images", head, [format_shift(shift) for shift in found.shifts])
        print_text(found.verdict)
        print(f"Results: {place / 'stress.md'}, .parquet")

    screen.print_result(asdict(found), show)
