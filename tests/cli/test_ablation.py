"""`aigc ablate` on the command line."""

import json
from pathlib import Path

import pytest
from harness import Work, aigc

pytestmark = pytest.mark.usefixtures("few_resamples")
WRITTEN = ["ablation.json", "ablation.md", "ablation.parquet", "ablation.png", "ablation.svg", "cells"]


@pytest.fixture
def given(work: Work, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> tuple[str, ...]:
    """Options for a small ablation of the tiny backbone."""
    monkeypatch.setenv("AIGC_BACKBONE", f"local-dir:{tiny_folder}")
    monkeypatch.setenv("AIGC_VIEWS", "1")
    options = ("--data", work.table, "--images", work.images, "--columns", "image=name", "--device", "cpu")
    return (*map(str, options), "--folds", "2", "--epochs", "1", "-o", "out")


def test_ablate_prints_its_result(given: tuple[str, ...], tmp_path: Path) -> None:
    ending = aigc("ablate", *given, "--recipes", "quick,small", "--json")
    assert ending.code == 0
    assert [summary["variant"] for summary in json.loads(ending.out)][:2] == ["quick", "small"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == WRITTEN
    again = aigc("ablate", *given, "--recipes", "quick,small")
    assert (again.code, again.err.splitlines()[0]) == (2, "aigc: The output out exists.")
    resumed = aigc("ablate", *given, "--recipes", "quick,small", "--resume", "--json")
    assert (resumed.code, resumed.out) == (0, ending.out)
    assert "images in training" not in resumed.err


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


def test_variants_of_ones_own(given: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "v.yaml").write_text("as it is: {freeze: all}\nwide: {freeze: all, hidden_q: 256}\n")
    ending = aigc("ablate", *given, "--variants", "v.yaml", "--json", "-q")
    assert ending.code == 0
    first, second, zero = json.loads(ending.out)
    assert [first["variant"], second["variant"], zero["variant"]] == ["as it is", "wide", "zero-shot cosine"]
    assert second["trainable"] > first["trainable"]
    assert set(second["verdict"].values()) <= {"better", "worse", "can't tell at this n"}


def test_stress_of_a_run(work: Work, tmp_path: Path) -> None:
    options = ("--data", work.table, "--images", work.images, "--columns", "image=name", "--device", "cpu")
    ending = aigc("ablate", "--stress", "--model", work.run, *options, "-o", "out")
    assert ending.code == 0
    assert [line for line in ending.out.splitlines()[:-2] if len(line) > 80] == []
    assert "shuffled prompt" in ending.out
    assert "reads the prompt." in ending.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["stress.md", "stress.parquet"]
    found = json.loads(aigc("ablate", "--stress", "--model", work.run, *options, "-o", "two", "--json", "-q").out)
    assert 0 <= found["auc"] <= 1
    assert found["verdict"] in ending.out


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("--seeds 1,x", "Expected whole numbers with commas between for --seeds, found '1,x'."),
        ("--recipes small,no", "found 'no'"),
        ("--folds 1", "Expected at least 2 folds, found 1."),
        ("--recipes small --vary lr=1", "Expected one way to name the variants, found --recipes and --vary."),
        ("--vary lr", "Expected --vary KEY=VALUE,VALUE, found 'lr'."),
        ("--variants no.yaml", "Expected a recipe file at no.yaml"),
        ("--resume", "Expected -o beside --resume, found none."),
        ("--resume -o nothing", "Expected an ablation to resume in nothing, found none."),
        ("--model run", "Expected --stress beside --model, found none."),
    ],
)
def test_bad_input_writes_nothing(line: str, part: str, tmp_path: Path) -> None:
    ending = aigc("ablate", *line.split(), "-q")
    assert (ending.code, ending.out) == (2, "")
    assert part in ending.err.splitlines()[0]
    assert len(ending.err.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []
