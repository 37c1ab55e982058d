"""Every command that README and docs/ show runs, in a folder like the reader's but with tiny images and backbone.

A block of ```sh runs line by line from the top of its page to the end, in one folder. Behind `<!-- alone -->` every
line has a folder of its own, in which there is already a run and tables of scores. An indented command is one on
AGIQA-3K, whose place a few rendered images take here; those of docs/accuracy.md would take too long, so only their
options are checked. `<!-- tests -->` is what CI runs, `<!-- pipe -->` has a test in test_picking.py.
"""

import csv
import functools
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from harness import aigc

from aigc_cli.cli import commands
from aigc_cli.images.demo import demo_samples
from aigc_cli.images.sample import Sample
from aigc_cli.workflows import stress
from aigc_cli.workflows.experiment import rated as ratings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"(?:<!-- (\w+) -->\s*)?```sh\n(.*?)```", re.S)
INDENTED = re.compile(r"^ {4}(aigc .*)$", re.M)
SYNOPSES = ("options.md",)  # what is indented there is no command
ELSEWHERE = ("tests", "pipe")
HEADER = ("name", "prompt", "mos_quality", "mos_align")

pytestmark = pytest.mark.usefixtures("few_resamples")


def lines(block: str) -> Iterator[list[str]]:
    """The words of every command of ours in a block, without comments."""
    for line in block.replace("\\\n", " ").splitlines():
        for part in line.split(" && "):
            if words := shlex.split(part, comments=True):
                assert words[0] in ("aigc", "pip"), f"a command of nobody's: {line}"
                assert not {"|", ">", "<", ";"} & set(words), f"more than one command: {line}"
                if words[0] == "aigc":
                    yield words[1:]


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """(mark, commands) of each block that runs here."""
    for mark, block in BLOCK.findall(text):
        if mark not in ELSEWHERE:
            yield mark, block


def alone() -> list[list[str]]:
    """README's commands that have a folder each."""
    found = [words for mark, block in blocks(README) if mark == "alone" for words in lines(block)]
    return found + [words for text in INDENTED.findall(README) for words in lines(text)]


def rated(folder: Path, table: str, samples: list[Sample]) -> None:
    """A folder `images` and a table of scores beside it."""
    (folder / "images").mkdir(parents=True)
    for sample in samples:
        (folder / "images" / sample.name).write_bytes(sample.path.read_bytes())
    rows = [(s.name, s.prompt, s.mos_quality, s.mos_align) for s in samples]
    with (folder / table).open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([HEADER, *rows])


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, demo: list[Sample]) -> Path:
    """What a reader has at the beginning of a page."""
    folder = tmp_path_factory.mktemp("reader") / "work"
    rated(folder, "ratings.csv", demo[:36])
    rated(folder / "AGIQA-3K", "data.csv", demo[:36])
    few = sorted((ROOT / "examples").glob("*.jpg"))[::4]
    for name, images in (("examples", few), ("folder", few[:2]), ("pictures", few), ("other", few)):
        (folder / name).mkdir()
        for image in images:
            shutil.copy(image, folder / name)
    table = ROOT / "examples" / "prompts.csv"
    header, *rows = table.read_text(encoding="utf-8").splitlines()
    kept = [row for row in rows if row.partition(",")[0].strip('"') in {image.name for image in few}]
    for place in ("examples/prompts.csv", "prompts.csv", "p.csv"):
        (folder / place).write_text("\n".join([header, *kept]) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _tiny(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small settings for whatever a page trains, and a small demonstration set."""
    small = {"BACKBONE": f"local-dir:{tiny_folder}", "VIEWS": "1", "EPOCHS": "1", "HIDDEN_Q": "8", "HIDDEN_C": "8"}
    for name, value in small.items():
        monkeypatch.setenv(f"AIGC_{name}", value)
    monkeypatch.setattr(ratings, "demo_samples", functools.partial(demo_samples, n=36, size=48))
    monkeypatch.setattr(stress, "MAX_IMAGES", 6)


@pytest.fixture(scope="module")
def settled(reader: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after some work: a run, and tables of scores."""
    folder = tmp_path_factory.mktemp("settled") / "work"
    shutil.copytree(reader, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tiny = f"--backbone local-dir:{tiny_folder} --views 1 --epochs 2 -q"
        for line in (
            f"train --recipe quick --data ratings.csv --images images -o runs/first {tiny}",
            "score examples --prompts examples/prompts.csv -q",
        ):
            ending = aigc(*line.split())
            assert ending.code == 0, ending.err
        for name in "ab":
            shutil.copy("scores.parquet", f"{name}.parquet")
    return folder


def run(words: list[str]) -> None:
    ending = aigc(*words)
    assert ending.code == 0, f"aigc {shlex.join(words)}\n{ending.out}{ending.err}"
    assert ending.out or ending.err, "it says nothing"


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_a_page_runs_from_top_to_end(page: Path, reader: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(reader, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    for mark, block in blocks(page.read_text(encoding="utf-8")):
        for words in lines(block) if mark != "alone" else ():
            run(words)


@pytest.mark.parametrize("words", alone(), ids=shlex.join)
def test_a_command_of_readme_runs(
    words: list[str], settled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(settled, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    if words[0] == "score":
        Path("scores.parquet").unlink()
    run(words)


def test_the_options_of_measured_commands_exist() -> None:
    app = typer.Typer()
    commands.register(app)
    known = {
        name: {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
        for name, command in typer.main.get_command(app).commands.items()  # type: ignore[attr-defined]
    }
    found = [words for page in PAGES if page.name not in SYNOPSES for words in map(shlex.split, _indented(page))]
    assert found
    for _, command, *given in found:
        unknown = {word.partition("=")[0] for word in given if re.match(r"-{1,2}[a-z]", word)} - known[command]
        assert unknown == set(), f"aigc {command}: {unknown}"


def _indented(page: Path) -> list[str]:
    return INDENTED.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")], ids=str)
def test_python_runs(page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    for example in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
        exec(compile(example, page.name, "exec"), {})
    assert capsys.readouterr().out


def test_something_is_found() -> None:
    shown = {page.name: sum(len(list(lines(block))) for _, block in blocks(page.read_text())) for page in PAGES}
    assert shown["pictures.md"] >= 5
    assert shown["ratings.md"] >= 5
    assert len(alone()) >= 15
    assert os.environ["AIGC_EPOCHS"] == "1"
