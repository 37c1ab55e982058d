"""What a shell is told when it asks: names of recipes, models and runs, at once."""

from pathlib import Path

import pytest
from harness import aigc
from test_startup import HEAVY, find_modules

from aigc_cli.cli import completion
from aigc_cli.recipe import list_recipes
from aigc_cli.storage.checkpoints import SHIPPED_SCORERS


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path) -> None:
    for run, mark in (("first", "checkpoint/model.json"), ("second", "plan.json"), ("notes", "readme.txt")):
        file = tmp_path / "runs" / run / mark
        file.parent.mkdir(parents=True)
        file.write_text("{}")
    (tmp_path / "mine.yaml").write_text("extends: medium\n")
    (tmp_path / "models").mkdir()


def complete(line: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What `aigc` answers to bash, which completes the last word of a line."""
    words = f"{line}x".split()
    monkeypatch.setenv("_AIGC_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    ending = aigc()
    assert (ending.code, ending.err) == (0, "")
    return ending.out.splitlines()


def test_a_shell_gets_recipes_models_and_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert complete("aigc train --recipe ", monkeypatch) == [*list_recipes(), "mine.yaml", "models/", "runs/"]
    assert complete("aigc train --recipe qua", monkeypatch) == ["quality-first"]
    assert complete("aigc score --model runs/", monkeypatch) == ["runs/first"]
    assert complete("aigc train --resume ", monkeypatch) == ["runs/first", "runs/second"]
    assert "score" in complete("aigc sc", monkeypatch)


def test_what_is_offered() -> None:
    assert completion.list_recipe_paths("m") == ["medium", "mine.yaml", "models/"]
    assert completion.list_runs("") == ["runs/first", "runs/second"]
    assert completion.list_runs("mo") == ["models/"]
    assert completion.list_runs("nowhere/") == []
    assert completion.list_models("") == ["runs/first", *completion.SHIPPED_MODELS.items()]
    assert completion.SHIPPED_MODELS.keys() == SHIPPED_SCORERS.keys()


def test_completing_imports_nothing_heavy() -> None:
    code = "from aigc_cli.cli import completion; "
    code += "completion.list_recipe_paths(''); completion.list_models('')"
    assert find_modules(code) & HEAVY == set()
