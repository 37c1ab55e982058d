"""`aigc ablate` and `aigc stress` on the command line."""

import json
from pathlib import Path

import pytest
from harness import Work, aigc

pytestmark = pytest.mark.usefixtures("few_resamples")
WRITTEN = ["ablation.json", "ablation.md", "ablation.parquet", "ablation.png", "ablation.svg", "cells"]


@pytest.fixture
def given(work: Work, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Options for a small ablation of the tiny backbone."""
    monkeypatch.setenv("AIGC_BACKBONE", work.backbone)
    monkeypatch.setenv("AIGC_VIEWS", "1")
    return (*work.rated, "--folds", "2", "--epochs", "1", "-o", "out")


@pytest.mark.slow
def test_ablate_prints_its_result(given: tuple[str, ...], tmp_path: Path) -> None:
    ending = aigc("ablate", *given, "--recipes", "quick,small", "--json")
    assert ending.code == 0
    assert [summary["variant"] for summary in json.loads(ending.out)][:2] == ["quick", "small"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == WRITTEN
    again = aigc("ablate", *given, "--recipes", "quick,small")
    assert (again.code, again.err.splitlines()[0]) == (2, "aigc: The output out exists.")
    nothing = aigc("ablate", *given, "-o", "nothing", "--resume")
    assert (nothing.code, (tmp_path / "nothing").exists()) == (2, False)
    assert "aigc: Expected an ablation to resume in nothing, found none." in nothing.err
    resumed = aigc("ablate", *given, "--recipes", "quick,small", "--resume", "--json")
    assert (resumed.code, resumed.out) == (0, ending.out)
    assert "images in training" not in resumed.err


@pytest.mark.slow
def test_the_tables_fit_80_columns(given: tuple[str, ...]) -> None:
    ending = aigc("ablate", *given, "--vary", "freeze=all", "--vary", "hidden-q=64,128", "--seeds", "0,1")
    assert ending.code == 0
    lines = [line.strip() for line in ending.out.splitlines()]
    assert [line for line in ending.out.splitlines() if len(line) > 80] == []
    titles = [line for line in lines if line.startswith(("SROCC of", "Cost"))]
    assert titles[0].startswith("SROCC of quality, mean over folds")
    assert titles[1].startswith("SROCC of consistency, mean over folds")
    assert ending.out.count("hidden_q=64") == 3  # once in each table
    assert sum(line.startswith("zero-shot cosine") for line in lines) == 1
    assert lines[-1] == "Results: out/ablation.md, .parquet, .png, .svg"


def test_variants_of_a_file_and_a_report(given: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "v.yaml").write_text("as it is: {freeze: all}\nwide: {freeze: all, hidden_q: 256}\n")
    ending = aigc("ablate", *given, "--variants", "v.yaml", "--json", "-q", "--report", "r.html")
    assert ending.code == 0, ending.err
    first, second, zero = json.loads(ending.out)
    assert [first["variant"], second["variant"], zero["variant"]] == ["as it is", "wide", "zero-shot cosine"]
    assert second["trainable"] > first["trainable"]
    assert set(second["verdict"]) == {"quality", "consistency"}
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page
    assert "<td>wide</td>" in page
    assert 'id="grid"' not in page


def test_stress_of_a_run(work: Work, tmp_path: Path) -> None:
    ending = aigc("stress", "--model", work.run, *work.rated, "--n", 20, "-o", "out")
    assert ending.code == 0
    assert [line for line in ending.out.splitlines()[:-2] if len(line) > 80] == []
    assert "shuffled prompt" in ending.out
    assert ending.out.splitlines()[-1] == "Results: out/stress.md, .parquet"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["stress.md", "stress.parquet"]
    found = json.loads(aigc("stress", "--model", work.run, *work.rated, "--n", 20, "-o", "two", "--json", "-q").out)
    assert 0 <= found["auc"] <= 1
    assert found["verdict"] in ending.out


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("--seeds 1,x", "Expected whole numbers separated by commas for --seeds, found '1,x'."),
        ("--recipes small,no", "found 'no'"),
        ("--folds 1", "Expected --folds of 2 or more, found 1."),
        (
            "--recipes small --vary lr=1",
            "Expected one of --recipes, --vary and --variants, found --recipes and --vary.",
        ),
        ("--vary lr", "Expected --vary KEY=VALUE,VALUE, found 'lr'."),
        ("--variants no.yaml", "Expected a recipe file at no.yaml"),
        ("--resume", "Expected -o beside --resume, found none."),
    ],
)
def test_bad_input_writes_nothing(line: str, part: str, tmp_path: Path) -> None:
    ending = aigc("ablate", *line.split(), "-q")
    assert (ending.code, ending.out) == (2, "")
    assert part in ending.err.splitlines()[0]
    assert len(ending.err.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []
