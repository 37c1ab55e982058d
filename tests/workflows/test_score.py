"""Scoring: every image has a row, in order, and no score depends on another image."""

import csv
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scored import score as score_table

from aigc_cli import Scorer
from aigc_cli.errors import AigcError
from aigc_cli.images.sample import Sample
from aigc_cli.storage.results import read_parquet_rows
from aigc_cli.storage.schemas import SCHEMAS
from aigc_cli.workflows.score import scorer as scoring
from aigc_cli.workflows.score.score import ScoreSummary

MOS = ("quality", "consistency")
PARTS = tuple(f"{score}_{part}" for score in MOS for part in ("base", "delta"))


@pytest.fixture(scope="module")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an untrained model; its scale is 1 to 5."""
    run = shutil.copytree(tiny_model, tmp_path_factory.mktemp("scored") / "run")
    place = run / "checkpoint" / "model.json"
    description = json.loads(place.read_text())
    description["recipe"]["mos_min"] = 1.0
    place.write_text(json.dumps(description))
    return run


@pytest.fixture(scope="module")
def scorer(model: Path) -> Scorer:
    return Scorer.load(model, "cpu")


Score = Callable[..., tuple[ScoreSummary, list[dict[str, Any]]]]


@pytest.fixture
def score(model: Path, tmp_path: Path) -> Score:
    """Return a function that scores a folder into a new Parquet table: (summary, rows)."""

    def run(folder: Path, **options: Any) -> tuple[ScoreSummary, list[dict[str, Any]]]:
        output = tmp_path / f"{len(list(tmp_path.iterdir()))}.parquet"
        summary = score_table(folder, output, options.pop("model", model), **options)
        return summary, read_parquet_rows(output)

    return run


@pytest.fixture
def images(demo: list[Sample], tmp_path: Path) -> Path:
    """A folder of 8 good images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i, sample in enumerate(demo[:8]):
        (folder / f"{i}.jpg").write_bytes(sample.path.read_bytes())
    return folder


def prompts_table(path: Path, rows: Sequence[tuple[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("name", "prompt"), *rows])
    return path


# --- a row for every image


def test_a_hundred_rows_with_bad_ones_among_them(demo: list[Sample], tmp_path: Path, score: Score) -> None:
    good, mixed = tmp_path / "good", tmp_path / "mixed"
    good.mkdir()
    mixed.mkdir()
    data = [sample.path.read_bytes() for sample in demo]
    bad = {
        "empty": (b"", "not_an_image"),
        "cut": (data[0][: len(data[0]) // 2], "truncated"),
        "text": (b"not an image at all", "not_an_image"),
        "page": (b"<html></html>", "not_an_image"),
    }
    expected, prompts = {}, []
    for i in range(97):
        kind = list(bad)[i // 5 % 4] if i % 5 == 3 else "good"
        name = f"{i:03d}_{kind}.{'png' if kind == 'text' else 'jpg'}"
        content, reason = bad.get(kind, (data[i % 48], None))
        (mixed / name).write_bytes(content)
        if kind == "good":
            (good / name).write_bytes(content)
        expected[name] = reason
        prompts.append((name, demo[i % 48].prompt or ""))
    os.mkfifo(mixed / "pipe.jpg")
    (mixed / "loop.jpg").symlink_to("loop.jpg")
    expected |= {"loop.jpg": "not_regular", "pipe.jpg": "not_regular"}
    table = prompts_table(tmp_path / "prompts.csv", [*prompts, ("gone.jpg", "a fox")])
    summary, rows = score(mixed, prompts=table)
    assert [(row["name"], row["reason"]) for row in rows] == list(expected.items())
    assert len(rows) == summary.rows == 99
    failed = [row for row in rows if row["status"] == "failed"]
    assert len(failed) == summary.failed == sum(reason is not None for reason in expected.values())
    assert all(row[name] is None for row in failed for name in (*MOS, *PARTS, "clip_cosine", "width", "height"))
    _, alone = score(good, prompts=prompts_table(tmp_path / "good.csv", [p for p in prompts if "good" in p[0]]))
    plain = [{**row, "path": None} for row in rows if row["status"] == "ok"]
    assert plain == [{**row, "path": None} for row in alone]


def test_the_schema_and_the_metadata(images: Path, model: Path, tmp_path: Path) -> None:
    score_table(images, tmp_path / "t.parquet", model, prompt="a fox")
    schema = pq.read_schema(tmp_path / "t.parquet")
    assert schema.remove_metadata() == SCHEMAS["scores"]
    said = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    assert said.keys() >= {"schema", "schema_version", "model", "model_hash", "backbone", "backbone_hash"}
    assert said.keys() >= {"preprocessing", "aigc_version", "mos_min", "mos_max"}
    assert (said["model"], said["mos_min"], said["mos_max"]) == ("run", "1.0", "5.0")


def test_scores_are_in_mos_units_and_add_up(images: Path, score: Score) -> None:
    _, rows = score(images, prompt="a fox")
    for row in rows:
        assert (row["status"], row["prompt"], row["prompt_source"]) == ("ok", "a fox", "option")
        assert (row["width"], row["height"], row["prompt_split"]) == (64, 64, False)
        for name in MOS:
            total = row[f"{name}_base"] + row[f"{name}_delta"]
            assert row[name] == pytest.approx(min(5, max(1, total)), abs=1e-5)
            assert abs(row[f"{name}_delta"]) <= 0.2 * 4 + 1e-6
        assert -1 <= row["clip_cosine"] <= 1
    assert len({row["quality"] for row in rows}) == len(rows)


def test_the_summary_is_that_of_the_rows(images: Path, score: Score) -> None:
    (images / "bad.jpg").write_bytes(b"")
    summary, rows = score(images)
    ranked = sorted((row for row in rows if row["status"] == "ok"), key=lambda row: row["quality"])
    assert [row["name"] for row in summary.worst] == [row["name"] for row in ranked[:5]]
    assert [row["name"] for row in summary.best] == [row["name"] for row in ranked[:-6:-1]]
    assert summary.means["quality"] == pytest.approx(sum(row["quality"] for row in ranked) / 8)
    assert summary.means["consistency"] is None
    assert summary.reasons == {"no_prompt": 8, "not_an_image": 1}


# --- prompts


def test_an_image_without_prompt_has_quality_only(images: Path, score: Score) -> None:
    summary, rows = score(images)
    assert summary.failed == 0
    empty = ("consistency", "consistency_base", "consistency_delta", "clip_cosine", "prompt", "prompt_raw")
    for row in rows:
        assert (row["status"], row["reason"], row["prompt_source"]) == ("ok", "no_prompt", "none")
        assert row["quality"] is not None
        assert [row[name] for name in empty] == [None] * 6


def test_where_a_prompt_comes_from(images: Path, score: Score, tmp_path: Path) -> None:
    table = prompts_table(tmp_path / "p.csv", [("1.jpg", "None"), ("0.jpg", "a, \"b\" 'c'"), ("2.jpg", " ")])
    _, rows = score(images, prompts=table)
    found = {row["name"]: (row["prompt"], row["prompt_source"], row["reason"]) for row in rows}
    assert found["0.jpg"] == ("a, \"b\" 'c'", "csv", None)
    assert found["1.jpg"] == ("None", "csv", None)
    assert found["2.jpg"] == found["3.jpg"] == (None, "none", "no_prompt")
    _, rows = score(images, prompts=table, prompt="a fox")
    found = {row["name"]: (row["prompt"], row["prompt_source"], row["reason"]) for row in rows}
    assert found["1.jpg"] == ("None", "csv", None)
    assert found["2.jpg"] == found["3.jpg"] == ("a fox", "option", None)


@pytest.mark.parametrize("prompt", ["", "  "])
def test_a_blank_prompt_is_none(prompt: str, images: Path, score: Score, scorer: Scorer) -> None:
    _, rows = score(images, prompt=prompt)
    assert {(row["consistency"], row["reason"]) for row in rows} == {(None, "no_prompt")}
    table = scorer.score(images=[images / "0.jpg"], prompts=[prompt])
    assert table["reason"].tolist() == ["no_prompt"]


def test_a_prompt_that_is_too_long_says_so(images: Path, score: Score) -> None:
    _, rows = score(images, prompt="a red fox " * 60)
    assert {row["prompt_split"] for row in rows} == {True}


def test_a_prompt_that_is_no_text_is_refused(images: Path, score: Score) -> None:
    """A byte on the command line that is not UTF-8 is a lone surrogate in Python."""
    with pytest.raises(AigcError, match="Expected --prompt as UTF-8 text"):
        score(images, prompt="a fox \udcff")


# --- nothing else matters


@pytest.mark.parametrize(("batch", "window"), [(1, 1), (3, 7), (5, 1024)])
def test_the_batch_does_not_matter(
    batch: int, window: int, images: Path, score: Score, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, expected = score(images, prompt="a fox")
    monkeypatch.setattr(scoring, "BATCH", batch)
    monkeypatch.setattr(scoring, "WINDOW", window)
    _, found = score(images, prompt="a fox")
    assert found == expected


def test_the_order_does_not_matter(images: Path, scorer: Scorer) -> None:
    paths = sorted(images.iterdir())
    prompts = [f"prompt {i}" for i in range(8)]
    forth = scorer.score(images=paths, prompts=prompts)
    back = scorer.score(images=paths[::-1], prompts=prompts[::-1]).iloc[::-1].reset_index(drop=True)
    pd.testing.assert_frame_equal(forth, back, check_exact=True)


def test_every_format_holds_the_same(images: Path, model: Path, tmp_path: Path) -> None:
    (images / "9.jpg").write_bytes(b"")
    for suffix in ("parquet", "csv", "jsonl"):
        score_table(images, tmp_path / f"t.{suffix}", model, prompt="a fox")
    rows = read_parquet_rows(tmp_path / "t.parquet")
    assert [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()] == rows
    with (tmp_path / "t.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    texts = [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]
    for row in texts:
        row["prompt_split"] = row["prompt_split"].lower()
    assert table == texts


# --- from Python


def test_paths_and_images_give_the_same(images: Path, scorer: Scorer) -> None:
    path = images / "0.jpg"
    with Image.open(path) as opened:
        picture = opened.copy()
    table = scorer.score(images=[str(path), picture, images / "no.jpg", path], prompts=["a fox"] * 3 + [None])
    assert list(table.columns) == SCHEMAS["scores"].names
    assert table["name"].tolist() == ["0.jpg", "image_1", "no.jpg", "0.jpg"]
    assert table["status"].tolist() == ["ok", "ok", "failed", "ok"]
    assert [None if pd.isna(reason) else reason for reason in table["reason"]] == [
        None,
        None,
        "missing_file",
        "no_prompt",
    ]
    assert table.loc[0, list(MOS)].tolist() == pytest.approx(table.loc[1, list(MOS)].tolist(), abs=1e-5)
    assert pd.isna(table.loc[1, "path"])
    assert pd.isna(table.loc[3, "consistency"])
    assert table["quality"].dtype == "float64"


def test_without_prompts_or_images(images: Path, scorer: Scorer) -> None:
    table = scorer.score(images=[images / "0.jpg"])
    assert table["reason"].tolist() == ["no_prompt"]
    assert list(scorer.score(images=[]).columns) == SCHEMAS["scores"].names
    with pytest.raises(AigcError, match="Expected 1 prompts, one for each image, found 2"):
        scorer.score(images=[images / "0.jpg"], prompts=["a", "b"])
    with pytest.raises(TypeError):
        scorer.score([images / "0.jpg"])  # type: ignore[misc]


def test_alpha_and_orientation_are_as_in_files(demo: list[Sample], tmp_path: Path, scorer: Scorer) -> None:
    with Image.open(demo[0].path) as opened:
        picture = opened.convert("RGB").crop((0, 0, 64, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, clear = tmp_path / "turned.png", tmp_path / "clear.png"
    picture.save(turned, exif=exif)
    alpha = picture.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(alpha.size))
    alpha.save(clear)
    upright = picture.transpose(Image.Transpose.ROTATE_270)
    with Image.open(turned) as one, Image.open(clear) as two:
        table = scorer.score(images=[turned, one, upright, clear, two, alpha, picture], prompts=["a fox"] * 7)
    quality = table["quality"].tolist()
    assert quality[:3] == pytest.approx([quality[2]] * 3, abs=1e-5)
    assert quality[3:6] == pytest.approx([quality[5]] * 3, abs=1e-5)
    assert len({round(value, 5) for value in quality}) == 3
    assert table[["width", "height"]].to_numpy().tolist() == [[40, 64]] * 3 + [[64, 40]] * 4


# --- what is refused


def test_wrong_input_writes_nothing(images: Path, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "t.csv"

    def refused(part: str, folder: Path = images, model: Path = model, **options: Any) -> None:
        with pytest.raises(AigcError) as caught:
            score_table(folder, output, model, **options)
        assert caught.value.exit_code == 2
        assert part in caught.value.message
        assert not output.exists()

    refused("found nothing there", tmp_path / "nowhere")
    refused("expected images", model)
    refused(f"found none at {tmp_path}", model=tmp_path)
    refused("found nothing there", prompts=tmp_path / "no.csv")
    refused("outside the image folder", prompts=prompts_table(tmp_path / "p.csv", [("../x.jpg", "a")]))
    refused("found 'tpu'", device="tpu")
    output.write_text("precious")
    with pytest.raises(AigcError, match=r"t\.csv exists"):
        score_table(images, output, model)
    assert output.read_text() == "precious"
    score_table(images, output, model, overwrite=True)
    assert output.read_text().startswith("name,path,")
