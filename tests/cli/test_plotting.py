"""`aigc plot` behind the commands that leave something to draw."""

import csv
import json
from pathlib import Path

import pytest
from harness import Work, aigc

from aigc_cli.storage.results import iterate_rows

pytestmark = pytest.mark.usefixtures("few_resamples")


@pytest.mark.slow
def test_a_run(work: Work) -> None:
    code, out, err = aigc("plot", work.run, "-o", "figures", "--formats", "svg")
    assert (code, err) == (0, "")
    assert out.split() == [f"figures/{name}.svg" for name in ("training", "agreement", "calibration")]
    code, out, err = aigc("plot", work.run, "-o", "figures", "--formats", "svg")
    assert (code, out) == (2, "")
    assert "figures/training.svg exists" in err
    code, out, _ = aigc("plot", work.run, "-o", "figures", "--formats", "svg", "--overwrite", "--json")
    assert code == 0
    assert json.loads(out)["files"] == [f"figures/{name}.svg" for name in ("training", "agreement", "calibration")]


def test_the_predictions_of_a_model(work: Work) -> None:
    given = ("eval", work.run, *work.rated, "--predictions", "model.csv", "-q")
    assert aigc(*given).code == 0
    rows = rows_of("model.csv")
    assert {row["split"] for row in rows} == {"train", "val"}
    code, out, _ = aigc("plot", "model.csv", "--formats", "png")
    assert (code, out.split()) == (0, ["model-plots/agreement.png", "model-plots/calibration.png"])
    again = aigc(*given)
    assert again.code == 2
    assert "model.csv exists" in again.err


@pytest.mark.slow
def test_the_predictions_of_folds(work: Work) -> None:
    small = ("--recipe", "quick", "--epochs", 1, "--folds", 2, "--repeats", 2)
    settings = ("--set", f"backbone={work.backbone}", "--set", "views=1")
    assert aigc("crossval", *work.rated, *small, *settings, "-o", "folds", "-q").code == 0
    rows = rows_of("folds/predictions.parquet")
    assert len(rows) == 2 * 48
    human = {name: float(quality) for name, quality in read_human_quality(work.table)}
    for row in rows:
        assert row["human_quality"] == pytest.approx(human[str(row["name"])], abs=1e-4)
        assert 0 <= float(str(row["quality"])) <= 5
    code, out, err = aigc("plot", "folds/predictions.parquet", "-o", "drawn", "--formats", "png")
    assert (code, out.split()) == (0, ["drawn/agreement.png", "drawn/calibration.png"])
    assert "first repeat" in err


def read_human_quality(table: Path) -> list[tuple[str, str]]:
    with table.open(newline="") as stream:
        return [(row["image"], row["mos_quality"]) for row in csv.DictReader(stream)]


def rows_of(name: str) -> list[dict[str, object]]:
    return list(iterate_rows(Path(name), "predictions"))
