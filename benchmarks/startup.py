"""Measures how long light commands take in a new process."""

import os
import subprocess
import sys
from functools import partial
from statistics import median

from benchmarks.measure import Row, time_in_turns

COMMANDS = {"aigc --help": (["--help"], 0.15), "aigc recommend --n 3000": (["recommend", "--n", "3000"], 0.4)}


def measure_startup(rounds: int) -> list[Row]:
    """Rows of part `cli`, and bare Python for comparison.

    Python writes bytecode here even if the environment turns it off, because an installed package has it.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def run(*arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)

    sides = {name: partial(run, "-m", "aigc_cli", *arguments) for name, (arguments, _) in COMMANDS.items()}
    sides["python"] = partial(run, "-c", "pass")
    sides["typer"] = partial(run, "-c", "import typer")
    sides["pydantic"] = partial(run, "-c", "import typer, pydantic")
    for side in sides.values():
        side()
    seconds = time_in_turns(rounds, sides)
    typer, pydantic = (median(seconds[side]) for side in ("typer", "pydantic"))
    why = (
        f"A process that only imports typer takes {typer:.2f} s; with Pydantic, which reads options, {pydantic:.2f} s."
    )
    rows = [
        Row("cli", name, seconds[name], limit, at_least=False, unit="s", why=why)
        for name, (_, limit) in COMMANDS.items()
    ]
    limits = (
        ("python -c pass", "python"),
        ("python -c 'import typer'", "typer"),
        ("python -c 'import typer, pydantic'", "pydantic"),
    )
    return [*rows, *(Row("cli", what, seconds[side], unit="s") for what, side in limits)]
