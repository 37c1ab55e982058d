"""Recommendations from a table of ratings: what is found in it, and how that changes the settings."""

import csv
import dataclasses
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from aigc_cli.errors import AigcError
from aigc_cli.mos_scale import MosScale
from aigc_cli.workflows.recommend.by_data import recommend_by_data
from aigc_cli.workflows.recommend.by_size import Recommendation, recommend_by_size

HEADER = ("name", "prompt", "mos_quality", "mos_align")
Look = Callable[..., Recommendation]


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a table of ratings."""

    def write(rows: Sequence[Sequence[object]], header: Sequence[str] = HEADER, sep: str = ",") -> Path:
        path = tmp_path / "ratings.csv"
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, delimiter=sep).writerows([header, *rows])
        return path

    return write


def ratings(n: int, prompts: int, low: float = 0.5, high: float = 4.5) -> list[tuple[object, ...]]:
    """`n` images of `prompts` prompts with scores from low to high, both targets alike but for the order."""
    steps = [low + (high - low) * row / (n - 1) for row in range(n)]
    return [(f"{row}.jpg", f"prompt {row % prompts}", steps[row], steps[(7 * row) % n]) for row in range(n)]


def look(path: Path, images: Path | None = None, scale: tuple[float, float] = (0, 5), **more: Any) -> dict[str, Any]:
    found = recommend_by_data(path, images, scale=MosScale(*scale), **more)
    return {**found.seen["data"], "found": found}


def test_enough_prompts_give_the_row_for_the_size(table: Callable[..., Path]) -> None:
    found = look(table(ratings(600, 50)))["found"]
    plain = recommend_by_size(600)
    assert (found.n, found.recipe, found.reasons) == (600, plain.recipe, plain.reasons)
    assert found.neighbours == plain.neighbours


def test_few_prompts_give_the_row_below_and_say_so(table: Callable[..., Path]) -> None:
    seen = look(table(ratings(600, 49)))
    found = seen["found"]
    assert found.recipe == recommend_by_size(499).recipe
    assert "settings for fewer images: there are only 49 prompts" in found.reasons["freeze"]
    assert found.neighbours == [
        "with 50 prompts or more: freeze partial, freeze_depth 0.8333, residual_scale_q 0.2, residual_scale_c 0.2, "
        "lr 3e-05"
    ]
    assert "Only 49 prompts: a split by prompt leaves about 10 for validation." in seen["notes"]
    lowest = look(table(ratings(40, 10)))["found"]
    by_size = recommend_by_size(40)
    assert lowest.recipe == dataclasses.replace(by_size.recipe, start_from="accurate")
    assert lowest.reasons["freeze"] == by_size.reasons["freeze"]
    assert lowest.command is not None
    assert "--start-from accurate" in lowest.command


def test_an_unrated_target_gets_no_weight(table: Callable[..., Path]) -> None:
    rows = [(name, prompt, quality) for name, prompt, quality, _ in ratings(60, 60)]
    found = look(table(rows, HEADER[:3]))["found"]
    assert (found.recipe.w_q, found.recipe.w_c) == (0.5, 0.0)
    assert found.reasons["w_c"] == "no consistency scores to learn from"
    assert "--w-c 0 " in found.command
    other = look(table([(*row[:2], "", row[3]) for row in ratings(60, 60)]))["found"]
    assert (other.recipe.w_q, other.recipe.w_c) == (0.0, 0.5)


def test_a_target_with_little_to_learn_gets_less_weight(table: Callable[..., Path]) -> None:
    def weights(squeeze: float, std: float = 0.0) -> tuple[float, float]:
        rows = [(*row[:2], 2.5 + (float(str(row[2])) - 2.5) * squeeze, row[3], std, 0) for row in ratings(60, 60)]
        found = look(table(rows, (*HEADER, "std_quality", "std_align")), raters=2)["found"]
        return found.recipe.w_q, found.recipe.w_c

    assert weights(1) == weights(0.75) == (0.5, 0.5)
    assert weights(0.7) == (0.4, 0.6)  # half the variance
    assert weights(1, std=1.3) == (0.4, 0.6)  # the same spread, but most of it noise
    assert weights(1, std=1.0) == (0.5, 0.5)


def test_the_reasons_for_the_weights(table: Callable[..., Path]) -> None:
    rows = [(*row[:3], 2.5 + (float(str(row[3])) - 2.5) / 2) for row in ratings(60, 60)]
    found = look(table(rows))["found"]
    assert found.reasons["w_q"] == "quality scores carry more signal"
    assert found.reasons["w_c"] == "consistency scores carry less signal: 0.25 of the variance of quality beyond noise"
    assert "--w-q 0.6 --w-c 0.4" in found.command


def test_the_scale_is_kept_and_narrow_scores_are_noted(table: Callable[..., Path]) -> None:
    path = table(ratings(60, 60, 10, 90))
    seen = look(path, scale=(0, 100))
    assert (seen["found"].recipe.mos_min, seen["found"].recipe.mos_max) == (0, 100)
    assert "--mos-max 100 " in seen["found"].command
    assert "--mos-min" not in seen["found"].command
    assert not any("the scores cover" in note or "at one end" in note for note in seen["notes"])
    narrow = look(table(ratings(60, 60, 0.1, 0.9)))["notes"]
    assert any(note.startswith("quality: the scores cover 0.1 to 0.9 of the scale 0 to 5.") for note in narrow)
    crowd = look(
        table([(*row[:2], 5 if index % 4 == 0 else row[2], row[3]) for index, row in enumerate(ratings(60, 60))])
    )
    assert any(note.startswith("quality: many scores are at one end of the scale") for note in crowd["notes"])


def test_the_same_bytes_are_found_across_prompts(table: Callable[..., Path], tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    rows = [("a", "one", 1, 1), ("b", "one", 2, 2), ("c", "two", 3, 3), ("d", "two", 4, 4), ("gone", "two", 4, 1)]
    for name, colour in (("a", "red"), ("b", "red"), ("c", "red"), ("d", "blue")):
        Image.new("RGB", (8, 8), colour).save(images / name, "PNG")
    rows.append(("cut", "two", 4, 1))
    (images / "cut").write_bytes((images / "a").read_bytes()[:40])
    seen = look(table(rows), images)
    assert seen["duplicates"] == {"images": 2, "across_prompts": 1, "examples": [["a", "b"], ["a", "c"]]}
    assert (seen["found"].n, seen["images"], seen["left_out"]) == (4, 4, {"missing_file": 1, "truncated": 1})
    assert any(
        note.startswith("2 images are byte-identical copies, 1 of them under another prompt") for note in seen["notes"]
    )


def test_without_images_only_the_table_is_looked_at(table: Callable[..., Path], tmp_path: Path) -> None:
    path = table([*ratings(60, 60), ("blank.jpg", " ", "", 1)])
    seen = look(path)
    assert (seen["found"].n, seen["left_out"], seen["duplicates"]["images"]) == (60, {"no_prompt": 1}, 0)
    assert seen["notes"][0].startswith(f"No images were checked: '{tmp_path}' holds none of the names.")
    assert shlex.split(seen["found"].command)[-4:] == ["--data", str(path), "--images", "images"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(AigcError, match="expected images in"):
        look(path, tmp_path / "empty")  # named by the user, so it is meant


def test_no_usable_row(table: Callable[..., Path]) -> None:
    with pytest.raises(AigcError) as caught:
        look(table([("a.jpg", "", "", 1)]))
    assert caught.value.message.endswith("found none usable (1 x no_prompt).")


def test_the_raters_columns_may_have_other_names(table: Callable[..., Path]) -> None:
    header, names = (*HEADER, "sd", "people"), {"sd": "std_quality", "people": "raters"}
    path = table([(*row, 0.5, 10) for row in ratings(60, 60)], header, ";")
    plain, named = look(path, sep=";"), look(path, sep=";", columns=names)
    assert plain["targets"]["quality"]["ceiling"] is None
    assert any("std_quality" in note for note in plain["notes"])
    assert (named["targets"]["quality"]["rater_std"], named["targets"]["quality"]["raters"]) == (0.5, 10)
    assert 0.9 < named["targets"]["quality"]["ceiling"] < 1
    assert not any("assumed" in note for note in named["notes"])
    words = shlex.split(named["found"].command)
    assert words[-6:] == ["--columns", "sd=std_quality", "--columns", "people=raters", "--sep", ";"]
    assumed = look(path, sep=";", columns={"sd": "std_quality"})["notes"]
    assert "Number of raters unknown: 15 assumed. Give --raters N or a column `raters`." in assumed
