"""Plots: whole files, the same bytes for the same points, every variant named."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from aigc_cli.report.plots import draw_ablation, draw_comparison

POINTS: list[dict[str, Any]] = [
    {"variant": name, "target": target, "seconds": seconds, "value": value, "low": low, "high": high}
    for target in ("quality", "consistency")
    for name, seconds, value, low, high in (
        ("first & <best>", 300.0, 0.8, 0.75, 0.84),
        ("second", 0.0, 0.5, None, None),
    )
]


def test_both_formats_are_written_whole(tmp_path: Path) -> None:
    draw_ablation(POINTS, [tmp_path / "a.png", tmp_path / "a.svg"])
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300
        assert len(picture.convert("RGB").getcolors(10**6) or []) > 20
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    for label in ("first &amp; &lt;best&gt;", "second", "quality", "consistency", "SROCC, 95% interval"):
        assert label in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.svg"]


def test_trainings_of_less_than_a_second_have_an_axis(tmp_path: Path) -> None:
    draw_ablation([{**point, "seconds": point["seconds"] / 5000} for point in POINTS], [tmp_path / "a.svg"])
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert all(f">{tick}<" in text for tick in ("0.0", "0.4", "1.0"))


@pytest.mark.slow
def test_the_same_points_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw_ablation(POINTS, [tmp_path / f"{name}.png", tmp_path / f"{name}.svg"])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_one_target_or_nothing(tmp_path: Path) -> None:
    draw_ablation(POINTS[:2], [tmp_path / "one.svg"])
    assert "consistency" not in (tmp_path / "one.svg").read_text()
    draw_ablation([], [tmp_path / "none.svg"])
    assert (tmp_path / "none.svg").stat().st_size > 100


ROWS: list[dict[str, Any]] = [
    {"table": "b", "baseline": "a", "target": target, "group": group, "difference": value}
    | {"ci_low": None if low is None else value - low, "ci_high": None if low is None else value + low}
    for target in ("quality", "consistency")
    for group, value, low in (("all", 0.3, 0.1), (f"sampler={'x' * 70}", -0.2, None), ("cost=$5$", 0.1, 0.2))
]


def test_differences_are_drawn_beside_zero(tmp_path: Path) -> None:
    unknown = ROWS[0] | {"group": "unknown", "difference": None}
    for name in ("a", "b"):
        draw_comparison([*ROWS, unknown], [tmp_path / f"{name}.svg", tmp_path / f"{name}.png"])
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert all(label in text for label in ("b - a", "b - a, cost=$5$", "quality", "consistency", "xxx..."))
    assert "unknown" not in text
    assert text == (tmp_path / "b.svg").read_text(encoding="utf-8")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_no_difference_at_all(tmp_path: Path) -> None:
    draw_comparison([], [tmp_path / "none.png"])
    with Image.open(tmp_path / "none.png") as picture:
        assert picture.format == "PNG"
