"""Reports that the tests of the page open."""

import json
import re
from pathlib import Path
from typing import Any

from PIL import Image

from aigc_cli.progress import SilentProgress
from aigc_cli.report.page import Page, PageTable, write_page
from aigc_cli.report.page_output import PageOutput

NASTY = '</script><img src=x onerror="window.hit=1"><b>\'" \u2028 \u202edlrow\u202c & {{ 7*7 }} <!--'
FACTS = {"Model": "<i>tiny</i>", "Weights": "0123456789abcdef", "Scale": "0 to 5"}


def make_row(number: int, **other: Any) -> dict[str, Any]:
    """A scored image. Quality grows with the number; consistency follows it for odd numbers only."""
    quality = round(5 * number / 40, 3) % 5
    consistency = quality / 2 if number % 2 else 5 - quality
    parts = {"quality_base": quality - 0.5, "quality_delta": 0.5, "consistency_base": 2.0, "consistency_delta": -0.25}
    scores = {"quality": quality, "consistency": consistency, **parts}
    texts = {
        "prompt": f"prompt {number // 4}",
        "sampler": ["Euler", "DDIM"][number % 2],
        "status": "ok",
        "reason": None,
    }
    return {"name": f"image-{number:05}.png", "path": None, **scores, **texts} | other


def make_failed_row(number: int) -> dict[str, Any]:
    return {"name": f"bad-{number}.png", "path": None, "prompt": "lost", "status": "failed", "reason": "truncated"}


def save_page(report: Path, page: Page, thumbs: Path | None = None) -> Path:
    write_page(PageOutput(report, thumbs), page, SilentProgress())
    return report


def save_small_page(folder: Path) -> Path:
    """40 images: 38 have scores, 4 have a file, one has a name and a prompt that try to be markup."""
    rows = [make_row(number) for number in range(36)]
    for number in range(4):
        place = folder / f"image-{number:05}.png"
        Image.new("RGB", (300, 200), (60 * number, 90, 120)).save(place)
        rows[number]["path"] = str(place)
    rows[2] |= {"quality_low": 0.1, "quality_high": 0.9, "out_of_domain": 0.97}
    rows += [make_row(36, name=NASTY, prompt=NASTY), make_row(37, consistency=None, prompt=None)]
    rows += [make_failed_row(0), make_failed_row(1)]
    table = PageTable("Agreement <b>", ("score", "value"), [("quality", NASTY)], "A note.")
    return save_page(folder / "r.html", Page(f"A {NASTY}", FACTS, tables=[table], rows=rows))


def read_data(report: Path) -> Any:
    """The JSON that the script of a page reads."""
    text = report.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found
    return json.loads(found[1])
