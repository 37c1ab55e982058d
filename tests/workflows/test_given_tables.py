"""Tables that people give beside a folder: names in other forms, rows without images, and tables of scores again."""

import csv
import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from aigc_cli.errors import AigcError
from aigc_cli.images.sample import Sample
from aigc_cli.storage.atomic_files import Output
from aigc_cli.storage.results import iterate_rows
from aigc_cli.workflows.compare import ComparisonPlan, compare_tables
from aigc_cli.workflows.pick import Choice, find_files, pick_images
from aigc_cli.workflows.score.plan import ScoringPlan, Selection
from aigc_cli.workflows.score.score import score_folder

NFD = unicodedata.normalize("NFD", "é.jpg")


class Notes:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def start(self, task: str, total: int | None) -> None: ...

    def advance(self, steps: int = 1, note: str = "") -> None: ...

    def say(self, message: str) -> None:
        self.said.append(message)


Score = Callable[..., tuple[dict[str, Any], list[str]]]


@pytest.fixture
def folder(demo: list[Sample], tmp_path: Path) -> Path:
    """Images in a folder and below it, one with a name in NFD, one of macOS's companions, a HEIC and a damaged one."""
    folder = tmp_path / "images"
    for name in ("a.jpg", "-b.jpg", NFD, "x/c.jpg", "y/d.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(demo[0].path, folder / name)
    (folder / "._a.jpg").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X")
    (folder / "e.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (folder / "bad.png").write_bytes(b"")
    return folder


@pytest.fixture
def score(folder: Path, tiny_model: Path, tmp_path: Path) -> Score:
    """Scores the folder with a table of prompts; returns ({name: prompt} of the scored rows, notes)."""

    def run(table: Path, output: str = "t.csv", sep: str = ",", **selection: Any) -> tuple[dict[str, Any], list[str]]:
        notes, plan = Notes(), ScoringPlan(table, selection=Selection(**selection), model=tiny_model, sep=sep)
        score_folder(folder, Output(tmp_path / output, overwrite=True), plan, notes)
        rows = list(iterate_rows(tmp_path / output))
        return {row["name"]: row["prompt"] for row in rows if row["status"] == "ok"}, notes.said

    return run


def write_prompts(path: Path, prompts: dict[str, str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("name", "prompt"), *prompts.items()])
    return path


def test_names_as_people_write_them(score: Score, folder: Path, tmp_path: Path) -> None:
    given = {"pics/a.jpg": "one", "-b": "two", "é.jpg": "three", "c.jpg": "four", str(folder / "y/d.jpg"): "five"}
    found, said = score(write_prompts(tmp_path / "p.csv", given), recursive=True)
    assert found == {"a.jpg": "one", "-b.jpg": "two", NFD: "three", "x/c.jpg": "four", "y/d.jpg": "five"}
    assert said == []


def test_every_file_has_a_row_but_those_of_macos(score: Score, tmp_path: Path) -> None:
    score(write_prompts(tmp_path / "p.csv", {"a.jpg": "one"}))
    rows = {row["name"]: row["reason"] for row in iterate_rows(tmp_path / "t.csv")}
    expected = {"a.jpg": None, "-b.jpg": "no_prompt", NFD: "no_prompt"}
    assert rows == expected | {"e.heic": "unsupported_format", "bad.png": "not_an_image"}


def test_rows_without_an_image_are_a_note(score: Score, tmp_path: Path) -> None:
    table = write_prompts(tmp_path / "p.csv", {"a.jpg": "one", "aa.jpg": "gone", "zzz.webp": "gone"})
    found, said = score(table)
    assert (found["a.jpg"], len(found)) == ("one", 3)
    assert said == [f"{table}: 2 of 3 rows fit no image, such as 'aa.jpg'; the nearest is 'a.jpg'."]


def test_a_table_that_fits_nothing_is_refused(score: Score, tmp_path: Path) -> None:
    table = write_prompts(tmp_path / "p.csv", {"c.jpg": "one", "d.jpg": "two"})
    with pytest.raises(AigcError, match="2 of 2 rows fit no image") as caught:
        score(table)
    assert "--recursive" in caught.value.hint
    assert not (tmp_path / "t.csv").exists()


def test_two_images_that_one_row_could_mean_get_none(score: Score, folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "x/c.jpg", folder / "y/c.jpg")
    found, said = score(write_prompts(tmp_path / "p.csv", {"c.jpg": "one", "d.jpg": "two"}), recursive=True)
    assert (found["x/c.jpg"], found["y/c.jpg"], found["y/d.jpg"]) == (None, None, "two")
    assert len(said) == 1


PROMPTS = {"a.jpg": "@noir style, a cat", "-b.jpg": "=a formula on a board", NFD: "a, b"}


def save_by_pandas(table: Path, path: Path) -> Path:
    frame = pd.read_parquet(table) if table.suffix == ".parquet" else pd.read_csv(table)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".csv":
        frame.to_csv(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    return path


def save_by_spreadsheet(table: Path, path: Path) -> Path:
    """As a spreadsheet of a country with decimal commas saves a CSV."""

    def change(name: str, cell: str) -> str:
        if name in ("name", "prompt", "path", "seed"):
            return cell
        return {"true": "TRUE", "false": "FALSE"}.get(cell, cell.replace(".", ","))

    with table.open(newline="", encoding="utf-8") as stream:
        head, *rows = csv.reader(stream)
    changed = [[change(name, cell) for name, cell in zip(head, row, strict=True)] for row in rows]
    with path.open("w", newline="", encoding="utf-8-sig") as out:
        csv.writer(out, delimiter=";").writerows([head, *changed])
    return path


@pytest.mark.parametrize(
    ("first", "how"),
    [
        *((f"first.{suffix}", "unchanged") for suffix in ("csv", "parquet", "jsonl")),
        *((f"first.{suffix}", f"pandas.{after}") for suffix in ("csv", "parquet") for after in ("csv", "parquet")),
        *((f"first.{suffix}", "pandas.jsonl") for suffix in ("csv", "parquet")),
        ("first.csv", "spreadsheet"),
    ],
)
def test_a_table_of_scores_goes_back_in(first: str, how: str, score: Score, folder: Path, tmp_path: Path) -> None:
    expected, _ = score(write_prompts(tmp_path / "p.csv", PROMPTS), first)
    assert expected == PROMPTS
    table = tmp_path / first
    if how == "spreadsheet":
        table = save_by_spreadsheet(table, tmp_path / "saved.csv")
    elif how != "unchanged":
        table = save_by_pandas(table, tmp_path / how)
    found, said = score(table, "again.csv", ";" if how == "spreadsheet" else ",")
    assert (found, said) == (expected, [])
    picks = pick_images(table, Choice(group="none", keep=3))
    assert {file.name for file in find_files(picks.rows, tmp_path)} == set(expected)
    compared = compare_tables([tmp_path / first, table, tmp_path / "again.csv"])
    assert compared.paired_by == "image"
    assert max(abs(row["difference"]) for row in compared.rows) < 1e-8  # pandas writes ten digits


def test_two_folders_under_one_table_are_compared(demo: list[Sample], tiny_model: Path, tmp_path: Path) -> None:
    """Each folder has images that the other lacks, and a damaged one: the tables still pair by prompt or image."""
    prompts = {f"{i}.jpg": f"prompt {i}" for i in range(8)}
    table = write_prompts(tmp_path / "p.csv", prompts)
    for name, chosen in (("one", range(7)), ("two", range(1, 8))):
        (tmp_path / name).mkdir()
        for i in chosen:
            shutil.copy(demo[i].path, tmp_path / name / f"{i}.jpg")
    (tmp_path / "two" / "3.jpg").write_bytes(b"")
    plan = ScoringPlan(table, model=tiny_model)
    for name in ("one", "two"):
        score_folder(tmp_path / name, Output(tmp_path / f"{name}.csv"), plan)
    found = compare_tables([tmp_path / "one.csv", tmp_path / "two.csv"])
    assert found.rows[0]["pairs"] == 5
    live = compare_tables([tmp_path / "one", tmp_path / "two"], ComparisonPlan(scoring=plan))
    assert live.rows[0]["pairs"] == 5
    shutil.rmtree(tmp_path / "two")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    (tmp_path / "two" / "3.jpg").write_bytes(b"")
    score_folder(tmp_path / "two", Output(tmp_path / "two.csv", overwrite=True), plan)
    found = compare_tables([tmp_path / "one.csv", tmp_path / "two.csv"])
    assert (found.paired_by, found.rows[0]["pairs"]) == ("image", 6)


def test_json_lines_of_a_dataset(score: Score, tmp_path: Path) -> None:
    table = tmp_path / "metadata.jsonl"
    table.write_text(json.dumps({"file_name": "a.jpg", "text": 'a "big" apple, red'}) + "\n")
    with pytest.raises(AigcError, match=r"expected a table \(CSV, Parquet or JSON\) with the columns") as caught:
        score(table)
    assert "--columns 'file_name'=name --columns 'text'=prompt" in caught.value.hint
