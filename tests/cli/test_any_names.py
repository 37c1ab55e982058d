"""Folders and files whose names are not UTF-8: what is written there is read back, by every command."""

import csv
import os
import shutil
from pathlib import Path

import pytest
from harness import Work, aigc

from aigc_cli.storage.results import iterate_rows

FOLDER = os.fsdecode(b"pictures-\xff\xe9")
GIVEN = ("--device", "cpu", "-q")


@pytest.fixture
def folder(work: Work, tmp_path: Path) -> Path:
    """Nine images, the name of one of which is not UTF-8 either, and a trained model."""
    there = tmp_path / FOLDER
    there.mkdir()
    images = sorted(work.images.iterdir())[:9]
    for image, name in zip(images, [*(image.name for image in images[:8]), os.fsdecode(b"\xff.jpg")], strict=True):
        shutil.copy(image, there / name)
    shutil.copytree(work.run, there / "run")
    return Path(FOLDER)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_scores_are_read_back(folder: Path, suffix: str) -> None:
    table = folder / f"s.{suffix}"
    score = ("score", folder, "--model", folder / "run", "--prompt", "a house", "-o", table, *GIVEN)
    ended = aigc(*score, "--report", folder / "r.html")
    assert ended.code == 0, ended.err
    assert "scores in pictures-\\xff\\xe9/s." in ended.out
    names = [row["name"] for row in iterate_rows(table)]
    assert "\\xff.jpg" in names
    assert len(names) == 9
    ended = aigc("verify", table, "--model", folder / "run", *GIVEN)
    assert (ended.code, ended.out.startswith("Verified: 9 of 9")) == (0, True), ended.out
    assert aigc("compare", table, table, "-o", folder / "c.parquet", "-q").code == 0
    ended = aigc("pick", table, "-k", 9, "--copy", folder / "best", "-q")
    assert ended.code == 0, ended.err
    assert (folder / "best" / os.fsdecode(b"\xff.jpg")).is_file()
    (record,) = (folder / "best").glob("undo-*.json")
    assert aigc("pick", "--undo", record).out == "9 files undone.\n"
    listed = aigc("pick", table, "-k", 9, "--paths", "-q").out.splitlines()
    assert len([path for path in listed if Path(path).is_file()]) == 9


def test_a_scoring_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aigc_cli.workflows.score import score

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    line = ("score", folder, "--model", folder / "run", "--prompt", "a house", "-o", folder / "s.csv", *GIVEN)
    with monkeypatch.context() as patch:
        patch.setattr(score, "TableWriter", stop)  # opened when the shards are joined
        assert aigc(*line).code == 130
    assert aigc(*line, "--resume").code == 0
    assert len(list(iterate_rows(folder / "s.csv"))) == 9


@pytest.mark.slow
def test_a_model_is_trained_and_used(work: Work, folder: Path) -> None:
    given = ("--data", folder / "r.csv", "--images", work.images, "--columns", "image=name", *GIVEN)
    shutil.copy(work.table, folder / "r.csv")
    assert aigc("train", *work.options, *given, "--epochs", 1, "-o", folder / "own").code == 0
    assert aigc("recommend", "--run", folder / "own").code == 0
    ended = aigc("eval", folder / "own", *given, "-o", folder / "m.csv", "--predictions", folder / "p.parquet")
    assert ended.code == 0, ended.err
    with (folder / "m.csv").open(newline="") as stream:
        assert {row["run"] for row in csv.DictReader(stream)} == {"own"}
