"""Ratings without prompts, and one row for each rater."""

import json
import statistics
from pathlib import Path

import pytest

from aigc_cli.errors import AigcError
from aigc_cli.metrics.opinions import summarise_ratings
from aigc_cli.mos_scale import MosScale
from aigc_cli.storage.rating_tables import read_ratings


def read(folder: Path, text: str, name: str = "t.csv", **more: object) -> list:  # type: ignore[type-arg]
    (folder / name).write_text(text)
    return read_ratings(folder / name, folder, without_images=True, **more)  # type: ignore[arg-type]


def test_a_table_without_prompts_rates_quality(tmp_path: Path) -> None:
    samples = read(tmp_path, "name,mos_quality\na.png,3\nb.png,4\n")
    assert [(s.prompt, s.mos_quality, s.mos_align, s.topic) for s in samples] == [
        (None, 3.0, None, "a.png"),
        (None, 4.0, None, "b.png"),
    ]


def test_consistency_without_a_prompt_does_not_count(tmp_path: Path) -> None:
    one, two = read(tmp_path, "name,prompt,mos_quality,mos_align\na.png,,3,2\nb.png,a fox,4,5\n")
    assert (one.mos_quality, one.mos_align) == (3.0, None)
    assert (two.mos_quality, two.mos_align) == (4.0, 5.0)


@pytest.mark.parametrize("column", ["caption", "Prompt", "text", "positive_prompt"])
def test_a_prompt_under_another_name_is_not_overlooked(tmp_path: Path, column: str) -> None:
    with pytest.raises(AigcError) as caught:
        read(tmp_path, f"name,{column},mos_quality\na.png,a fox,3\n")
    assert f"--columns '{column}'=prompt" in caught.value.hint


def test_consistency_needs_a_column_of_prompts(tmp_path: Path) -> None:
    with pytest.raises(AigcError, match="with the column 'prompt', found"):
        read(tmp_path, "name,mos_align\na.png,3\n")


ROWS = """name,prompt,rater,mos_quality,mos_align
a.png,a fox,ann,1,2
a.png,a fox,ben,4,
a.png,a fox,ann,3,4
b.png,a dog,ben,5,1
"""


def test_one_row_per_rater_becomes_means_deviations_and_counts(tmp_path: Path) -> None:
    said: list[str] = []
    one, two = read(tmp_path, ROWS, say=said.append)
    assert (one.mos_quality, one.mos_align) == (3.0, 3.0), "ann's two opinions are averaged first: 2; then ben's 4"
    assert float(one.groups["std_quality"]) == pytest.approx(statistics.stdev([2, 4]))
    assert (one.groups["std_align"], one.groups["raters"]) == ("", "2")
    assert (two.mos_quality, two.groups["std_quality"], two.groups["raters"]) == (5.0, "", "1")
    assert "rater" not in one.groups
    assert said == ["4 rows of 2 raters: means of 2 images, with deviations and counts."]


def test_the_column_of_raters_can_have_another_name(tmp_path: Path) -> None:
    text = ROWS.replace("rater", "worker_id")
    with pytest.raises(AigcError) as caught:
        read(tmp_path, text)
    assert "expected every name once" in caught.value.message
    assert "--columns THEIRS=rater" in caught.value.hint
    assert len(read(tmp_path, text, columns={"worker_id": "rater"})) == 2


def test_the_raters_of_a_table_give_its_noise_ceiling(tmp_path: Path) -> None:
    rows = [f"{i}.png,p{i},r{r},{(i + r) % 5},{i % 5}" for i in range(20) for r in range(3)]
    samples = read(tmp_path, "name,prompt,rater,mos_quality,mos_align\n" + "\n".join(rows) + "\n")
    found = summarise_ratings(samples, MosScale(0, 5))
    assert found.targets["quality"].raters == 3
    assert found.targets["quality"].ceiling is not None
    assert not found.raters_assumed


def test_one_image_has_one_prompt(tmp_path: Path) -> None:
    with pytest.raises(AigcError, match="found 2"):
        read(tmp_path, ROWS.replace("a fox,ben", "a cat,ben"))


def test_an_array_of_json_objects_is_a_table(tmp_path: Path) -> None:
    rows = [{"name": "a.png", "prompt": "a fox", "mos_quality": 2}, {"name": "b.png", "prompt": None, "mos_quality": 1}]
    samples = read(tmp_path, json.dumps(rows, indent=1), "t.json")
    assert [(s.name, s.prompt, s.mos_quality) for s in samples] == [("a.png", "a fox", 2.0), ("b.png", None, 1.0)]
