"""`--report` on the commands that have it."""

import json
import re
from pathlib import Path
from typing import Any

from harness import Work, aigc


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
    arguments = ("--data", work.table, "--images", work.images, "--columns", "image=name", "--device", "cpu")
    ended = aigc("eval", work.run, *arguments, "--report", "r.html", "--thumbs", "t")
    assert ended.code == 0, ended.err
    columns = gallery(Path("r.html"))
    assert len(columns["human_quality"]) == len(columns["quality"]) == 48
    assert all(Path(thumb).is_file() for thumb in columns["thumb"])
    assert "srocc" in Path("r.html").read_text(encoding="utf-8")


def test_ablate_shows_table_and_plot(work: Work) -> None:
    wanted = {"--images": str(work.images), "--columns": "image=name", "--device": "cpu"}
    given = [part for pair in wanted.items() for part in pair]
    backbone = work.options[work.options.index("--backbone") + 1]
    Path("v.yaml").write_text(f"one: {{backbone: '{backbone}'}}\ntwo: {{backbone: '{backbone}', lr: 1.0e-4}}\n")
    few = ("--recipe", "quick", "--variants", "v.yaml", "--epochs", 1, "--folds", 2, "-o", "ab")
    ended = aigc("ablate", "--data", work.table, *given, *few, "--report", "r.html")
    assert ended.code == 0, ended.err
    page = Path("r.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page
    assert "<td>two</td>" in page
    assert 'id="grid"' not in page


def test_what_does_not_go_together(work: Work) -> None:
    assert aigc("score", work.images, "--thumbs", "t").code == 2
    assert aigc("ablate", "--stress", "--report", "r.html").code == 2
    assert not Path("r.html").exists()


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
