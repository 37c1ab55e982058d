"""The examples in docstrings run and print what they say; the example images are in the order that is known."""

import csv
import doctest
import importlib
from pathlib import Path

import pytest
from PIL import Image

import aigc_cli
from aigc_cli import Scorer
from tools.make_examples import PHOTOGRAPHS

PACKAGE = Path(aigc_cli.__file__).parent
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PACKAGE.parent)
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted
    assert not found.failed


def test_what_people_call_has_examples() -> None:
    called = {"mos_scale", "metrics.formulas", "metrics.by_name", "metrics.splits", "workflows.score.scorer"}
    assert {f"aigc_cli.{name}" for name in called} <= set(MODULES)


@pytest.mark.parametrize("model", ["accurate", "fast"])
def test_the_example_images_are_in_the_known_order(model: str) -> None:
    """A harmed image is worse than the clean one, a wrong prompt fits worse."""
    folder = PACKAGE.parent / "examples"
    with (folder / "prompts.csv").open(encoding="utf-8") as stream:
        prompts = {row["name"]: row["prompt"] for row in csv.DictReader(stream)}
    paths = [folder / name for name in prompts]
    assert sorted(path.name for path in folder.glob("*.jpg")) == sorted(prompts)
    table = Scorer.load(model, "cpu").score(images=paths, prompts=list(prompts.values())).set_index("name")
    for name, photograph in PHOTOGRAPHS.items():
        clean, wrong = f"{name}-clean.jpg", f"{name}-wrong-prompt.jpg"
        harmed = f"{name}-{photograph.harm[0]}.jpg"
        assert table.quality[harmed] < table.quality[clean]
        assert table.consistency[wrong] < table.consistency[clean]
        with Image.open(folder / clean) as image:
            assert image.size == (320, 320)
