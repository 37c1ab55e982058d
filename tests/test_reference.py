"""The pages of docs/ that are made from the program are current, and the pages of docs/ belong together."""

import importlib
import re
from functools import reduce
from pathlib import Path

import pytest
import yaml

from aigc_cli.images.reader import REASONS
from aigc_cli.recipe import FIELDS
from tools.write_reference import SCORING, TRAINING, make_pages

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = make_pages()
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")}


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_made_page_is_current(name: str) -> None:
    assert TEXTS.get(name) == PAGES[name], "run `python tools/write_reference.py` and commit docs/"


def test_the_made_pages_hold_every_setting_and_reason() -> None:
    options, reasons = PAGES["options.md"], PAGES["reasons.md"]
    assert [name for name in FIELDS if f"\n| `{name}` |" not in options] == []
    assert [name for name in REASONS if f"\n| `{name}` |" not in reasons] == []
    for flag in ("`-o, --output PATH`", "`--json`", "`--cache / --no-cache`", "`FOLDER`", "`MODEL`", "`TABLE`"):
        assert f"| {flag} |" in options, flag
    for command in ("train", "plot", "crossval", "stress", "cache clear"):
        assert f"\n## aigc {command}\n" in options
    for code in ("0", "1", "2", "3", "4", "5", "6", "130, 143"):
        assert f"\n| {code} |" in reasons


@pytest.mark.parametrize("name", [name for name, _ in (*SCORING, *TRAINING)])
def test_the_architecture_names_what_exists(name: str) -> None:
    module, *inner = name.split(".")
    while not (ROOT / "aigc_cli" / f"{module.replace('.', '/')}.py").exists():
        module, *inner = f"{module}.{inner[0]}", *inner[1:]
    assert callable(reduce(getattr, inner, importlib.import_module(f"aigc_cli.{module}")))


def test_every_page_is_in_the_navigation_and_every_picture_is_shown() -> None:
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert sorted(page for entry in navigation for page in entry.values()) == sorted(TEXTS)
    shown = "".join([*TEXTS.values(), (ROOT / "README.md").read_text(encoding="utf-8")])
    pictures = [path.name for path in DOCS.iterdir() if path.suffix in (".svg", ".webp", ".png")]
    assert [name for name in pictures if name not in shown and not name.startswith("report-")] == []


def test_links_between_pages_lead_somewhere() -> None:
    for name, text in TEXTS.items():
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (DOCS / link).exists(), f"{name}: {link}"


def test_anchors_are_headings() -> None:
    for name, text in TEXTS.items():
        for page, anchor in re.findall(r"\]\(([\w.-]*)#([\w-]+)\)", text):
            headings = re.findall(r"^#+ (.*)$", TEXTS[page or name], re.M)
            slugs = [re.sub(r"[^\w\s-]", "", heading.lower()).strip().replace(" ", "-") for heading in headings]
            assert anchor in slugs, f"{name}: {page}#{anchor}"


def test_promises_name_tests_that_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.\w+)`", TEXTS["reliability.md"])
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
