"""Scores, intervals and metrics on the terminal: what is printed, in 80 columns."""

from pathlib import Path
from typing import Any

import pytest
from harness import aigc

from aigc_cli.cli.console import print_metrics, print_table, print_text
from aigc_cli.cli.score import draw_histograms, show_scores
from aigc_cli.cli.train import print_calibration
from aigc_cli.mos_scale import MosScale
from aigc_cli.workflows.score.score import ScoreSummary


def summary(bars: dict[str, float | None], unusual: int | None) -> ScoreSummary:
    row = {"name": "a.png", "path": None, "prompt": "a fox", "quality": 3.412, "consistency": None} | bars
    sums = {"quality": 3.412, "consistency": 0.0}
    bins = {"quality": [0] * 6 + [1] + [0] * 3, "consistency": [0] * 10}
    return ScoreSummary(Path("s.csv"), MosScale(0, 5), "fast", 1, 0, [row], [row], sums, bins, unusual=unusual)


def test_the_best_and_worst_have_their_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    show_scores(summary({"quality_low": 2.56, "quality_high": 4.24, "consistency_low": None}, 0))
    out = capsys.readouterr().out
    assert "Best and worst by quality, with 90% intervals" in out
    assert "3.41 [2.6, 4.2]" in out
    assert "out_of_domain" not in out


def test_images_unlike_those_trained_on_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    show_scores(summary({}, 7))
    out = capsys.readouterr().out
    assert "Unusual for this model (out_of_domain above 0.95): 7 images." in out
    assert "with 90% intervals" not in out
    assert "3.41 " in out


def test_a_training_says_how_wide_its_intervals_are_and_what_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    print_calibration(
        {
            "held_out": "the validation part",
            "targets": {"quality": {"images": 470, "prompts": 48, "width": 1.7351}},
            "notes": ["no consistency intervals: no images were held out"],
        }
    )
    assert capsys.readouterr().out.splitlines() == [
        "90% interval of quality: 1.74 MOS wide on average, calibrated on 470 images of 48 prompts "
        "(the validation part).",
        "No consistency intervals: no images were held out.",
    ]


def test_coverage_is_among_the_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    row: dict[str, Any] = {"split": "unseen", "group": "all", "target": "quality", "n": 90, "reason": ""}
    ends = {"ci_low": 0.88, "ci_high": 0.92}
    print_metrics("Title", [row | {"metric": "coverage90", "value": 0.9} | ends])
    assert "in 90% interval" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train --resume runs/x --calibrate-folds 3", "Expected --resume without --calibrate-folds, found both."),
        ("train --calibrate-folds 1", "Expected --calibrate-folds of 2 or more, found 1."),
        ("train --calibrate-from nowhere", "Expected predictions at nowhere, found nothing there"),
    ],
)
def test_options_that_can_not_work_are_refused(
    line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ending = aigc(*line.split())
    assert ending.code == 2
    assert message in ending.err
    assert list(tmp_path.glob("runs/*/*.*")) == []


def test_names_give_way_before_numbers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    bars = {f"{score}_low": 2.5 for score in ("quality", "consistency")}
    bars |= {f"{score}_high": 4.0 for score in ("quality", "consistency")}
    row: dict[str, Any] = {"name": "a-name-of-thirty-characters.jpg", "prompt": "一座红房子" * 9, "consistency": 2.0}
    show_scores(summary(row | bars, 0))
    shown = next(line for line in capsys.readouterr().out.splitlines() if "a-name" in line)
    assert shown.rstrip().endswith("3.41 [2.5, 4.0]  2.00 [2.5, 4.0]  一座红房...")


def test_three_intervals_fit_into_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    row: dict[str, Any] = {"split": "unseen", "group": "all", "metric": "within_srocc", "n": 90, "reason": ""}
    row |= {"value": -0.0001, "ci_low": -0.15, "ci_high": -0.001}
    print_metrics("Title", [row | {"target": target} for target in ("quality", "consistency", "zero_shot_cosine")])
    line = next(line for line in capsys.readouterr().out.splitlines() if "SROCC in prompt" in line)
    assert line.rstrip().split("  ")[1:] == ["0.000 [-0.15, 0.00]"] * 3


def test_text_is_no_name_of_an_emoji(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(":fox:", (":fox:",), [[":fox:"]])
    print_text(":fox: [bold]")
    assert capsys.readouterr().out.count(":fox:") == 4


def test_histograms_are_to_scale() -> None:
    lines = draw_histograms({"quality": [0, 1, 0, 240, 120, 0], "consistency": [0] * 6}, MosScale(0, 3), "#")
    assert lines == [
        "             quality",
        "   2 - 2.5   ############ 120",
        " 1.5 - 2     ######################## 240",
        "   1 - 1.5",
        " 0.5 - 1     # 1",
        "",
    ]
    assert draw_histograms({"quality": [0, 0]}, MosScale(0, 5), "#") == []
