"""`aigc verify`: scores a sample of a table again and compares."""

from dataclasses import asdict
from pathlib import Path

import typer

from aigc_cli.cli import options
from aigc_cli.cli.console import show_progress
from aigc_cli.cli.options import INPUT, make_number
from aigc_cli.text import to_printable

DIFFERENT = 3  # exit code: a score or the model is not the table's


def verify(
    *,
    table: Path = typer.Argument(metavar="TABLE", help="Table of `aigc score` (.parquet .csv .jsonl)."),
    model: Path | None = options.MODEL,
    images: Path | None = options.TABLE_IMAGES,
    n: int = make_number(INPUT, "Number of rows to score again", default=50),
    seed: int = options.SAMPLE_SEED,
    screen: options.ScreenOptions,
    device: str = options.DEVICE,
) -> None:
    """Score a random sample of a table again and compare.

    Also compares the hashes of model and preprocessing. Exits with 3 if anything differs.
    """
    options.check_least("--n", n, 1)
    options.check_inputs("a table of scores", table)
    options.check_model(model, device)

    from aigc_cli.workflows.verify import SCORE_TOLERANCE, verify_table

    with show_progress(screen.quiet) as progress:
        found = verify_table(table, images=images, n=n, seed=seed, model=model, device=device, progress=progress)
    rows = f"{found.checked} of {found.scored} rows scored again"
    change = "" if found.largest is None else f"; largest change {found.largest:.1e} MOS, allowed {SCORE_TOLERANCE}"
    problems = [f"  {to_printable(problem)}" for problem in found.problems]
    lines = [f"Different from the table ({rows}):", *problems] if problems else [f"Verified: {rows}{change}."]
    screen.print_result(asdict(found), lambda: print(*lines, sep="\n"))
    if found.problems:
        raise typer.Exit(DIFFERENT)
