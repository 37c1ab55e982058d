"""`aigc doctor` and `aigc verify`: is the machine, and is a table, as it should be?"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Optional

import typer

from aigc_cli.cli import options
from aigc_cli.cli.console import print_json, terminal
from aigc_cli.errors import EnvironmentProblem

DIFFERENT = 3


def doctor(
    backbone: Annotated[
        Optional[str], typer.Option(help="One that has to be at hand or on a hub that answers.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Does this machine have what aigc needs? Exit code 4 where something is wrong.

    Looks at versions, devices, the cache, the shipped weights and a backbone's.
    """
    from aigc_cli.text import printable
    from aigc_cli.workflows.doctor import examine

    checks = examine(backbone)
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            print(f"{'WRONG' if check.ok is False else 'ok' if check.ok else '':<6}{check.name:<{width}}  ", end="")
            print(printable(check.found))
    if wrong := [check for check in checks if check.ok is False]:
        raise EnvironmentProblem(
            "; ".join(f"{check.name}: {check.found}" for check in wrong) + ".",
            "\n      ".join(check.mend for check in wrong),
        )


def verify(
    table: Annotated[Path, typer.Argument(help="What `aigc score` wrote (.parquet .csv .jsonl).")],
    images: Annotated[
        Optional[Path], typer.Option(help="Folder of the images; default: the paths in the table.")
    ] = None,
    n: Annotated[int, typer.Option("--n", help="Rows to score again.")] = 50,
    seed: Annotated[int, typer.Option(help="Of the random sample.")] = 0,
    model: options.Model = None,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Are these scores what the model says? Scores a random sample again; exit code 3 where a score moved.

    Also compares the hashes of the weights and the preprocessing with those that the table was made with.
    """
    from aigc_cli.text import printable
    from aigc_cli.workflows.verify import TOLERANCE
    from aigc_cli.workflows.verify import verify as run_verification

    with terminal(quiet) as progress:
        found = run_verification(table, images=images, n=n, seed=seed, model=model, device=device, progress=progress)
    if as_json:
        print_json(asdict(found))
    elif not found.problems:
        most = found.largest
        largest = "" if most is None else f"; the largest change is {most:.1e} MOS of {TOLERANCE} allowed"
        print(f"Verified: {found.checked} of {found.scored} rows scored again{largest}.")
    else:
        print(f"Not as the table says ({found.checked} of {found.scored} rows scored again):")
        print("\n".join(f"  {printable(problem)}" for problem in found.problems))
    if found.problems:
        raise typer.Exit(DIFFERENT)
