"""install/score.txt holds what scoring imports, with the bounds of the whole package."""

import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LISTED = [line for line in (ROOT / "install" / "score.txt").read_text().splitlines() if line and line[0] != "#"]
SCORING = """
import json, sys
before = {*sys.modules}  # what an environment adds to every process
from aigc_cli.__main__ import main
try:
    main()
except SystemExit as ending:
    found = {name.partition(".")[0] for name in {*sys.modules} - before if sys.modules[name] is not None}
    print(json.dumps([ending.code, sorted(found)]), file=sys.stderr)
"""


def list_needed(names: list[str]) -> set[str]:
    """Distributions with everything that they require."""
    needed, waiting = set[str](), [canonicalize_name(name) for name in names]
    while waiting:
        if (name := waiting.pop()) not in needed:
            needed.add(name)
            found = map(Requirement, metadata.requires(name) or ())
            waiting += [canonicalize_name(r.name) for r in found if not r.marker or r.marker.evaluate({"extra": ""})]
    return needed


def test_bounds_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(LISTED) <= set(project["dependencies"])
    assert sorted(LISTED) == LISTED


def test_scoring_imports_what_is_listed_and_nothing_else(tmp_path: Path) -> None:
    examples, output = ROOT / "examples", tmp_path / "scores.parquet"
    line = ["score", examples, "--prompts", examples / "prompts.csv", "-o", output, "--report", tmp_path / "page.html"]
    command = [sys.executable, "-c", SCORING, *map(str, line), "--device", "cpu"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    code, imported = json.loads(ended.stderr.splitlines()[-1])
    assert code == 0
    found = metadata.packages_distributions().items()
    homes = {module: {canonicalize_name(name) for name in names} for module, names in found}
    used = {module: homes[module] for module in imported if module in homes and module != "aigc_cli"}
    listed = [Requirement(text).name for text in LISTED]
    needed = list_needed(listed)
    assert {module for module, names in used.items() if not names & needed} == set()
    others = {"packaging", "pyyaml", "kornia-rs"}  # of `doctor`, of `recommend` and of the decoding processes
    assert {canonicalize_name(name) for name in listed} - set().union(*used.values()) <= others


def test_the_documented_commands_install_the_list_and_no_dependencies() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- score -->\s*```sh\n(.*?)```", page, re.S)  # `.ci/run` runs these
    assert found is not None
    assert found[1].splitlines() == [
        "python -m pip install -r ../aigc/install/score.txt",
        "python -m pip install --no-deps ../aigc",
    ]
