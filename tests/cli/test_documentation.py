"""The commands of README and docs/: every one is valid, and those of README and the tutorials run as written.

The blocks of a page run from top to end in one folder that is empty at first, beside a clone named `aigc`, with tiny
images and a tiny backbone. `<!-- tests -->` is what CI runs; `<!-- pipe -->` and `<!-- found -->` have tests of their
own, in test_picking.py and test_found.py.
"""

import functools
import json
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from harness import aigc

from aigc_cli.cli import main
from aigc_cli.images import demo as demonstration
from aigc_cli.images.demo import render_demo
from aigc_cli.recipe import FIELDS, resolve_recipe
from aigc_cli.workflows.ablate.variants import make_grid, read_recipe_variants
from aigc_cli.workflows.experiment import rated

ROOT = Path(__file__).parents[2]
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}
WALKS = ("README.md", "index.md", "pictures.md", "ratings.md")
BLOCK = re.compile(r"(?:<!-- (\w+) -->\s*)?```(sh|python)\n(.*?)```", re.S)
INDENTED = re.compile(r"^ {4}(aigc .*)$", re.M)
INLINE = re.compile(r"`(aigc [a-z][^`]*)`")
PLACEHOLDER = re.compile(r"[A-Z]|--calibrate-\.")  # `aigc COMMAND --help`


def list_lines(block: str) -> Iterator[list[str]]:
    """The words of each line, without comments."""
    for line in block.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def list_commands() -> list[tuple[str, str]]:
    """(page, command) of every complete command: in a block, in each part of a pipe, or on an indented line."""
    found = []
    for page, text in TEXTS.items():
        lines = [line for _, language, block in BLOCK.findall(text) if language == "sh" for line in block.splitlines()]
        lines += INDENTED.findall(text) if page != "options.md" else []  # what is indented there is a synopsis
        parts = [part.strip() for line in lines for part in line.split(" | ")]
        found += [(page, part) for part in parts if part.startswith("aigc ")]
    return found


@pytest.fixture(scope="module")
def commands() -> dict[str, Any]:
    """{name: Click's command}."""
    return dict(typer.main.get_command(main.app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("page", "line"), list_commands())
def test_a_command_is_valid(page: str, line: str, commands: dict[str, Any]) -> None:
    name, *arguments = shlex.split(line, comments=True)[1:]
    with commands[name].make_context(name, arguments) as context:  # an unknown option or a missing value raises
        given = context.params
    if name == "train":
        resolve_recipe({setting: given[setting] for setting in FIELDS}, given["recipe"])
    if name == "crossval":
        resolve_recipe({}, given["recipe"])
    if name == "ablate":
        resolve_recipe({}, given["recipe"])
        assert make_grid(given["vary"]) if given["vary"] else True
        assert read_recipe_variants(given["recipes"].split(",")) if given["recipes"] else True


def test_options_in_sentences_exist(commands: dict[str, Any]) -> None:
    found = [(page, line) for page, text in TEXTS.items() for line in INLINE.findall(text) if page != "options.md"]
    assert len(found) > 20
    for page, line in found:
        name, *words = shlex.split(line)[1:]
        assert name in commands, f"{page}: {line}"
        flags = {word for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word)} - {"--help", "--help-all"}
        known = {flag for p in commands[name].params for flag in (*p.opts, *p.secondary_opts)}
        assert flags <= known, f"{page}: {line}"


@pytest.fixture
def _tiny(tiny_folder: Path, few_resamples: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small settings for whatever a page trains, and a small demonstration set."""
    small = {"BACKBONE": f"local-dir:{tiny_folder}", "VIEWS": "1", "EPOCHS": "1", "HIDDEN_Q": "8", "HIDDEN_C": "8"}
    for name, value in small.items():
        monkeypatch.setenv(f"AIGC_{name}", value)
    few = functools.partial(render_demo, n=48, size=48)
    for module in (rated, demonstration):
        monkeypatch.setattr(module, "render_demo", few)


@pytest.mark.slow
@pytest.mark.usefixtures("_tiny")
@pytest.mark.parametrize("page", WALKS)
def test_a_page_runs_from_top_to_end(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "aigc").symlink_to(ROOT)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for mark, language, block in BLOCK.findall(TEXTS[page]):
        if language == "python":
            exec(compile(block, page, "exec"), {})
        elif mark not in ("tests", "pipe"):
            for words in list_lines(block):
                run(words)


@pytest.mark.slow
@pytest.mark.usefixtures("few_resamples")
def test_the_tutorial_of_rating_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the shipped scorer, whose answers a small folder gets; `aigc rate` is answered over HTTP."""
    monkeypatch.chdir(tmp_path)
    few = functools.partial(render_demo, n=48, size=48)
    monkeypatch.setattr(demonstration, "render_demo", few)
    for _, language, block in BLOCK.findall(TEXTS["rate.md"]):
        if language == "python":
            exec(compile(block, "rate.md", "exec"), {})
            continue
        for words in list_lines(block):
            if words[1] == "rate" and "--summary" not in words:
                answer_questions([*words, "--no-browser", "--port", "0"], 24)
            elif words[0] == "aigc":
                run(words)
    assert {path.name for path in tmp_path.iterdir()} >= {"mine.parquet", "raters.html", "ratings.csv", "pairs.csv"}


def answer_questions(words: list[str], count: int) -> None:
    """Runs `aigc rate` and answers its first questions, then ends it as Ctrl-C does."""
    program = subprocess.Popen([sys.executable, "-m", "aigc_cli", *words[1:]], stderr=subprocess.PIPE, text=True)
    try:
        assert program.stderr is not None
        url = next(found[0] for line in program.stderr if (found := re.search(r"http\S+", line)))
        for number in range(count):
            with urllib.request.urlopen(f"{url}state") as answer:
                state = json.load(answer)
            value = "a" if state["pairs"] else str(number % 5 + 1)
            question = state["question"]
            given = {"id": f"{number:032x}", "images": [one["name"] for one in question["images"]]}
            text = json.dumps(given | dict.fromkeys(question["asks"], value)).encode()
            headers = {"Content-Type": "application/json"}
            with urllib.request.urlopen(urllib.request.Request(f"{url}answer", text, headers)) as answer:
                assert json.load(answer)["done"] == number + 1
    finally:
        program.send_signal(signal.SIGINT)
        program.communicate()
        assert program.returncode == 0


def run(words: list[str]) -> None:
    """Runs one line: a command of ours in this process, `cp` in one of its own, an installation not at all."""
    if words[0] == "aigc":
        ending = aigc(*words[1:])
        assert ending.code == 0, f"{shlex.join(words)}\n{ending.out}{ending.err}"
        assert ending.out or ending.err, "it says nothing"
    elif words[0] == "cp":
        subprocess.run(words, check=True)
    else:
        assert words[:4] == ["python", "-m", "pip", "install"], words
