"""The pages of docs/ that are made from the program are what it says now, and nothing in docs/ is an orphan."""

import re
from pathlib import Path

import pytest
import yaml

from aigc_cli.images.reader import REASONS
from aigc_cli.recipe import FIELDS
from tools.write_reference import pages

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.mark.parametrize("name", sorted(pages()))
def test_a_made_page_is_up_to_date(name: str) -> None:
    found = (DOCS / name).read_text(encoding="utf-8")
    assert found == pages()[name], "run `python tools/write_reference.py` and commit docs/"


def test_the_made_pages_hold_every_setting_and_reason() -> None:
    options, reasons = pages()["options.md"], pages()["reasons.md"]
    assert [name for name in FIELDS if f"\n| `{name}` |" not in options] == []
    assert [name for name in REASONS if f"\n| `{name}` |" not in reasons] == []
    for flag in ("`-o, --output PATH`", "`--json`", "`--cache / --no-cache`", "`FOLDER`", "`[MODEL]`", "`TABLES...`"):
        assert f"| {flag} |" in options, flag
    for command in ("train", "plot", "cache clear"):
        assert f"\n## aigc {command}\n" in options


def test_every_page_is_in_the_navigation_and_every_picture_is_shown() -> None:
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = [page for entry in navigation for page in entry.values()]
    assert sorted(listed) == sorted(path.name for path in DOCS.glob("*.md"))
    texts = "".join(path.read_text(encoding="utf-8") for path in [*DOCS.glob("*.md"), *ROOT.glob("*.md")])
    pictures = [path.name for path in DOCS.iterdir() if path.suffix in (".svg", ".webp", ".png")]
    assert [name for name in pictures if name not in texts and not name.startswith("report-")] == []


def test_links_between_pages_lead_somewhere() -> None:
    for page in DOCS.glob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (DOCS / link).exists(), f"{page.name}: {link}"
