"""The HTML of a report: reproducible, closed to scripts of others, with thumbnails in the right place."""

import base64
import hashlib
import re
from pathlib import Path

import pytest
from PIL import Image
from report_pages import FACTS, NASTY, make_row, read_data, save_page, save_small_page

from aigc_cli.errors import AigcError
from aigc_cli.report import page as reports
from aigc_cli.report.page import Page, PageFigure, PageTable
from aigc_cli.report.page_output import PageOutput


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_page(tmp_path_factory.mktemp("small"))


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_page(tmp_path / f"{name}.html", Page("R", FACTS, rows=[make_row(1)]))
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_policy_allows_only_the_script_and_style_of_the_page(small: Path) -> None:
    text = small.read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    assert "unsafe" not in policy[1]
    assert "default-src &#39;none&#39;" in policy[1]
    for tag in ("script", "style"):
        (own,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S)
        assert base64.b64encode(hashlib.sha256(own.encode()).digest()).decode() in policy[1]
    assert len(re.findall(r"<script", text)) == 2  # scripts in names and prompts are escaped
    assert "https://" not in text


def test_thumbnails_go_into_a_folder_above_the_limit_or_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (640, 480), "red").save(tmp_path / "a b#.png")
    rows = [make_row(n, path=str(tmp_path / "a b#.png")) for n in range(3)]
    save_page(tmp_path / "in.html", Page("R", rows=rows))
    inside = read_data(tmp_path / "in.html")["columns"]
    assert all(thumb.startswith("data:image/webp;base64,") for thumb in inside["thumb"])
    assert inside["link"][0] == "a%20b%23.png"
    save_page(tmp_path / "out.html", Page("R", rows=rows), tmp_path / "t")
    monkeypatch.setattr(reports, "MAX_EMBEDDED", 2)
    save_page(tmp_path / "many.html", Page("R", rows=rows))
    for name, folder in (("out", "t"), ("many", "many-thumbs")):
        thumbs = read_data(tmp_path / f"{name}.html")["columns"]["thumb"]
        assert thumbs == [f"{folder}/{n:06}.webp" for n in range(3)]
        with Image.open(tmp_path / thumbs[0]) as thumb:
            assert (thumb.format, thumb.size) == ("WEBP", (224, 168))


def test_existing_output_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.html").touch()
    (tmp_path / "thumbs").mkdir()
    (tmp_path / "thumbs" / "a.webp").touch()
    with pytest.raises(AigcError, match="exists"):
        PageOutput(tmp_path / "r.html").check(overwrite=False)
    with pytest.raises(AigcError, match=r"\.html"):
        PageOutput(tmp_path / "r.pdf").check(overwrite=True)


def test_page_without_a_gallery_has_tables_and_figures(tmp_path: Path) -> None:
    table = PageTable("Variants", ("variant", "SROCC"), [(NASTY, "0.819")])
    page = Page("Ablation", FACTS, tables=[table], figures=[PageFigure("A plot", b"png")])
    text = save_page(tmp_path / "r.html", page).read_text(encoding="utf-8")
    assert "<td>0.819</td>" in text
    assert f'src="data:image/png;base64,{base64.b64encode(b"png").decode()}"' in text
    assert 'id="grid"' not in text
    assert "<img src=x" not in text
