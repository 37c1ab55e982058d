"""`aigc plot` behind the commands that leave something to draw."""

import json
from pathlib import Path

import pytest
from harness import Work, aigc

from aigc_cli.storage.results import iter_rows

pytestmark = pytest.mark.usefixtures("few_resamples")


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


def test_the_predictions_of_eval(work: Work) -> None:
    rated = ("--data", work.table, "--images", work.images, "--columns", "image=name", "--device", "cpu")
    assert aigc("eval", work.run, *rated, "--predictions", "model.csv", "-q").code == 0
    of_model = rows_of("model.csv")
    assert {row["split"] for row in of_model} == {"train", "val"}
    backbone = next(option for option in work.options if option.startswith("local-dir:"))
    quick = ("--protocol", "prompt", "--recipe", "quick", "--epochs", "1", "--folds", "2", "--repeats", "2")
    given = (
        *rated,
        *quick,
        "--set",
        f"backbone={backbone}",
        "--set",
        "views=1",
        "--predictions",
        "folds.parquet",
        "-q",
    )
    assert aigc("eval", *given).code == 0
    of_folds = rows_of("folds.parquet")
    assert len(of_folds) == 2 * len(of_model)
    human = {row["name"]: row["human_quality"] for row in of_model}
    for row in of_folds:
        assert row["human_quality"] == pytest.approx(human[row["name"]])
        assert 0 <= row["quality"] <= 5
    code, out, err = aigc("plot", "folds.parquet", "--formats", "png")
    assert (code, out.split()) == (0, ["folds-plots/agreement.png", "folds-plots/calibration.png"])
    assert err.startswith("Drawn of the first repeat")
    code, _, err = aigc("eval", work.run, *rated, "--predictions", "model.csv", "-q")
    assert code == 2
    assert "model.csv exists" in err


def rows_of(name: str) -> list[dict[str, object]]:
    return list(iter_rows(Path(name), "predictions"))
