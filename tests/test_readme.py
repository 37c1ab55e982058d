"""README keeps its word: its tree names every file, its example runs, its commands exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_the_tree_names_every_file() -> None:
    (tree,) = blocks("text")
    words = set(re.split(r"\s+", tree))
    files = [*(ROOT / "aigc_cli").rglob("*.py"), *(ROOT / "tools").glob("*.py")]
    missing = sorted({path.name for path in files} - words - {"__init__.py", "__main__.py"})
    assert missing == []
    named = {word for word in words if word.endswith(".py")}
    assert named <= {path.name for path in files}


def test_the_python_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    (example,) = blocks("python")
    exec(compile(example, "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert "cottage-clean.jpg" in shown
    assert "quality" in shown


def test_the_commands_exist() -> None:
    import typer

    from aigc_cli.cli import commands

    app = typer.Typer()
    commands.register(app)
    lines = [line for block in blocks("sh") for line in re.findall(r"aigc (\w+)", block)]
    assert {"train", "score", "ablate", "recommend", "eval"} <= set(lines)
    groups = {group.typer_instance.info.name for group in app.registered_groups if group.typer_instance}
    assert set(lines) <= {command.name for command in app.registered_commands} | groups


def test_every_recipe_is_named() -> None:
    from aigc_cli.recipe import recipe_names

    assert all(f"`{name}`" in README for name in recipe_names())


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) >= 7
    assert [link for link in links if not (ROOT / link).exists()] == []
