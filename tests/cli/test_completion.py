"""What a shell is told when it asks: names of recipes, models and runs, at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_startup import HEAVY, modules

from aigc_cli.cli import completion
from aigc_cli.recipe import recipe_names


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path) -> None:
    for run, mark in (("first", "checkpoint/model.json"), ("second", "plan.json"), ("notes", "readme.txt")):
        file = tmp_path / "runs" / run / mark
        file.parent.mkdir(parents=True)
        file.write_text("{}")
    (tmp_path / "mine.yaml").write_text("extends: medium\n")
    (tmp_path / "models").mkdir()


def asked(line: str, shell: str = "bash") -> list[str]:
    """What `aigc` answers to a shell that completes the last word of a line."""
    words = f"{line}x".split()
    variables = {"_AIGC_COMPLETE": f"complete_{shell}", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    variables |= {"_TYPER_COMPLETE_ARGS": line}
    done = subprocess.run(
        [sys.executable, "-m", "aigc_cli"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | variables,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_a_shell_gets_recipes_models_and_runs() -> None:
    assert asked("aigc train --recipe ") == [*recipe_names(), "mine.yaml", "models/", "runs/"]
    assert asked("aigc train --recipe qua") == ["quality-first"]
    assert asked("aigc score --model runs/") == ["runs/first"]
    assert asked("aigc train --resume ") == ["runs/first", "runs/second"]
    assert "score" in asked("aigc sc")


def test_what_is_offered() -> None:
    assert completion.recipes("m") == ["medium", "mine.yaml", "models/"]
    assert completion.runs("") == ["runs/first", "runs/second"]
    assert completion.runs("mo") == ["models/"]
    assert completion.runs("nowhere/") == []
    assert completion.models("") == ["runs/first", (str(completion.SHIPPED), "the shipped scorer")]
    assert (completion.SHIPPED / "model.json").is_file()


def test_completing_imports_nothing_heavy() -> None:
    code = "from aigc_cli.cli import commands, main, completion; commands.register(main.app); "
    code += "completion.recipes(''); completion.models('')"
    assert modules(code) & HEAVY == set()
