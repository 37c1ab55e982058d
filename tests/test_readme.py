"""README is short, its example runs, its links and folders exist, and it holds the command that `.ci/run` runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MOST_LINES = 150


def find_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_it_is_short(name: str) -> None:
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "aigc").symlink_to(ROOT)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (example,) = find_blocks("python")
    exec(compile(example, "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert "cat-clean.jpg" in shown
    assert "consistency" in shown


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) >= 7
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_map_holds_the_folders_of_the_project() -> None:
    (tree,) = find_blocks("text")
    inner, outer = (set(re.findall(rf"^{indent}(\w+)/ ", tree, re.M)) for indent in ("  ", ""))
    packages = {path.parent.name for path in (ROOT / "aigc_cli").glob("*/__init__.py")}
    assert inner == packages | {"weights"}
    assert [name for name in outer if not (ROOT / name).is_dir()] == []


def test_it_holds_the_test_command() -> None:
    found = re.search(r"<!-- tests -->\s*```sh\n(.*?)```", README, re.S)
    assert found is not None
    assert found[1].splitlines() == ['python -m pip install -e ".[dev]"', "pytest"]
