"""`--report` on the commands that have it."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from harness import Work, aigc

from aigc_cli.storage.results import read_parquet_rows


def gallery(report: Path) -> Any:
    found = re.search(r'id="data">(.*?)</script>', report.read_text(encoding="utf-8"), re.S)
    assert found
    return json.loads(found[1])["columns"]


def test_score_shows_its_table(work: Work, tmp_path: Path) -> None:
    (work.images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    try:
        ended = aigc("score", work.images, "--model", work.run, "-o", "s.csv", "--report", "r.html", "--device", "cpu")
    finally:
        (work.images / "broken.png").unlink()
    assert ended.code == 0, ended.err
    columns, page = gallery(Path("r.html")), Path("r.html").read_text(encoding="utf-8")
    assert columns["status"].count("failed") == 1
    assert "1 failed image" in page
    where = columns["name"].index("broken.png")
    assert columns["thumb"][where] is None
    assert all(thumb for i, thumb in enumerate(columns["thumb"]) if i != where)
    assert (tmp_path / columns["link"][0]).resolve() == (work.images / columns["name"][0]).resolve()
    note = json.loads(Path("s.csv.meta.json").read_text())
    assert note["model_hash"][:16] in page
    again = aigc("score", work.images, "--model", work.run, "-o", "other.csv", "--report", "r.html")
    assert (again.code, Path("other.csv").exists()) == (2, False)


def test_eval_shows_both_scores(work: Work) -> None:
    ended = aigc("eval", work.run, *work.rated, "--report", "r.html", "--thumbs", "t")
    assert ended.code == 0, ended.err
    columns = gallery(Path("r.html"))
    assert len(columns["human_quality"]) == len(columns["quality"]) == 48
    assert all(Path(thumb).is_file() for thumb in columns["thumb"])
    assert "srocc" in Path("r.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_crossval_shows_every_image_by_the_model_that_never_saw_it(work: Work) -> None:
    """Half of the images are rated for quality alone. An image split has the prompt-disjoint one beside it."""
    lines = work.table.read_text(encoding="utf-8").splitlines()
    header = lines[0].split(",")
    where = header.index("mos_align")
    rows = [line.rsplit(",", len(header) - where) for line in lines[1:]]  # prompts may hold commas, numbers don't
    halved = [
        ",".join([row[0], "" if number % 2 else row[1], *row[2:], f"g{number % 3}"]) for number, row in enumerate(rows)
    ]
    Path("half.csv").write_text("\n".join([f"{lines[0]},generator", *halved]), encoding="utf-8")
    quick = ("--recipe", "quick", "--set", f"backbone={work.backbone}", "--set", "views=1", "--epochs", 1, "--folds", 2)
    given = (*work.rated, "--data", "half.csv", *quick)
    ended = aigc("crossval", "--protocol", "image", *given, "--report", "r.html", "--thumbs", "t", "-o", "out")
    assert ended.code == 0, ended.err
    columns = gallery(Path("r.html"))
    assert Counter(columns["split"]) == {"image-level 2-fold": 48, "prompt-disjoint 2-fold": 48}
    assert Counter(columns["generator"]) == {"g0": 32, "g1": 32, "g2": 32}
    assert columns["human_consistency"].count(None) == 48
    assert all(Path(thumb).is_file() for thumb in columns["thumb"])
    held_out = {
        (row["split"], row["name"]): row["quality"] for row in read_parquet_rows(Path("out/predictions.parquet"))
    }
    shown = dict(zip(zip(columns["split"], columns["name"], strict=True), columns["quality"], strict=True))
    assert shown == pytest.approx(held_out, abs=1e-4)
    assert "Prompts seen in training reappear" in Path("r.html").read_text(encoding="utf-8")


def test_thumbs_need_a_report(work: Work) -> None:
    assert aigc("score", work.images, "--thumbs", "t").code == 2


@pytest.mark.slow
def test_compare_shows_the_images_of_all_tables(work: Work, tmp_path: Path) -> None:
    for name in ("a.parquet", "b.csv"):
        assert aigc("score", work.images, "--model", work.run, "-o", name, "--device", "cpu").code == 0
    ended = aigc("compare", "a.parquet", "b.csv", "--report", "r.html")
    assert ended.code == 0, ended.err
    columns, page = gallery(Path("r.html")), Path("r.html").read_text(encoding="utf-8")
    assert (columns["table"].count("a"), columns["table"].count("b")) == (48, 48)
    assert "data:image/png;base64," in page
    assert "can&#39;t tell" in page
    assert aigc("compare", "a.parquet", "b.csv", "--report", "r.html").code == 2
