"""The command line starts at once: nothing heavy is imported before it is needed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import aigc_cli

EXAMPLES = Path(__file__).parents[2] / "examples"
HEAVY = {"torch", "pandas", "pyarrow", "open_clip", "scipy", "safetensors", "transformers"}
LOADED = """
import json, sys
try:
    {}
finally:
    print("\\n" + json.dumps(sorted(sys.modules)))
"""
RUN = "sys.argv[1:] = {!r}; from aigc_cli.__main__ import main; main()"


def find_modules(code: str, quiet: bool = True) -> set[str]:
    """The top-level modules that a fresh interpreter holds after `code`, which prints no error if `quiet`."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(code)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not (quiet and done.stderr)
    return {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["train", "--help-all"],
        ["train", "--print-config"],
        ["recommend", "--n", "3000"],
        ["recommend", "--n", "1", "--json"],
    ],
    ids=" ".join,
)
def test_a_light_command_imports_nothing_heavy(arguments: list[str]) -> None:
    found = find_modules(RUN.format(arguments))
    assert "typer" in found
    assert found & HEAVY == set()


def test_looking_at_data_or_a_run_needs_no_torch(tmp_path: Path) -> None:
    table = tmp_path / "ratings.csv"
    table.write_text("name,prompt,mos_quality,std_quality\na.jpg,a cat,1,0.1\nb.jpg,a dog,3,0.2\n")
    code = "import aigc_cli.workflows.recommend.by_run; from aigc_cli.cli import main; main.register(main.app); "
    code += f"assert main.run(['recommend', '--data', {str(table)!r}]) == 0"
    assert find_modules(code) & {"torch", "open_clip"} == set()


@pytest.mark.slow
def test_scoring_imports_no_statistics(tmp_path: Path) -> None:
    arguments = ["score", str(EXAMPLES), "-o", str(tmp_path / "scores.parquet"), "--quiet"]
    found = find_modules(RUN.format(arguments))
    assert "torch" in found
    assert found & {"scipy", "matplotlib", "jinja2"} == set()


def test_the_package_imports_nothing_heavy() -> None:
    found = find_modules("import aigc_cli; aigc_cli.__version__")
    assert "aigc_cli" in found
    assert found & (HEAVY | {"typer", "rich", "numpy", "PIL", "yaml"}) == set()


@pytest.mark.slow
def test_the_scorer_comes_with_torch_when_it_is_asked_for() -> None:
    assert find_modules("from aigc_cli import Scorer; Scorer.load") >= {"torch", "pandas"}


def test_the_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="module 'aigc_cli' has no attribute 'Judge'"):
        aigc_cli.Judge  # noqa: B018


def test_the_version() -> None:
    done = subprocess.run([sys.executable, "-m", "aigc_cli", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"aigc {aigc_cli.__version__}\n", "")


def test_a_reader_that_leaves_is_no_error() -> None:
    """As in `aigc ... | head`: nobody reads the pipe any more."""
    reading, writing = os.pipe()
    os.close(reading)
    for arguments in (["--help"], ["recommend", "--n", "5", "--json"]):
        command = [sys.executable, "-m", "aigc_cli", *arguments]
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, ""), arguments
    os.close(writing)
