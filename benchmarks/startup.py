"""Measures how long light commands take in a new process."""

import sys
from functools import partial

from benchmarks.measure import Row, divide_rounds, time_in_turns
from benchmarks.process import make_command, make_environment, run_quietly

COMMANDS = {"aigc --help": ["--help"], "aigc recommend --n 3000": ["recommend", "--n", "3000"]}
LIMIT = 1.5  # a command over the library that every command imports
IMPORTS = ("typer", "typer, pydantic")


def measure_startup(rounds: int) -> list[Row]:
    """Rows of part `cli`: light commands over `import typer`, and what Python and its imports take alone."""
    environment = make_environment()
    lines = {name: make_command(*arguments) for name, arguments in COMMANDS.items()}
    lines |= {f"import {names}": [sys.executable, "-c", f"import {names}"] for names in IMPORTS}
    lines["python"] = [sys.executable, "-c", "pass"]
    sides = {name: partial(run_quietly, line, environment) for name, line in lines.items()}
    for side in sides.values():
        side()
    seconds = time_in_turns(rounds, sides)
    rows = [
        Row("cli", f"{name} over import typer", divide_rounds(seconds[name], seconds["import typer"]), LIMIT, False)
        for name in COMMANDS
    ]
    return [*rows, *(Row("cli", name, found, unit="s") for name, found in seconds.items())]
