"""How long light commands take, from an empty process to the prompt."""

import os
import subprocess
import sys
from functools import partial
from statistics import median

from benchmarks.measure import Row, turns

COMMANDS = {"aigc --help": (["--help"], 0.15), "aigc recommend --n 3000": (["recommend", "--n", "3000"], 0.4)}


def startup(rounds: int) -> list[Row]:
    """Rows of part `cli`; bare Python beside them says how fast the machine is.

    Python may keep its bytecode, whatever the environment says: an installed package has it.
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
    seconds = turns(rounds, sides)
    typer, pydantic = (median(seconds[side]) for side in ("typer", "pydantic"))
    why = f"Importing typer takes {typer:.2f} s of a bare process, {pydantic:.2f} with the Pydantic that reads options."
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
