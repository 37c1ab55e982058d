"""Tables of choices, in the shapes of public data sets."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aigc_cli.errors import AigcError
from aigc_cli.storage.pair_tables import Preference, read_pairs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abcd":
        (tmp_path / f"{name}.png").touch()
    return tmp_path


def read(folder: Path, text: str, name: str = "pairs.csv", **more: Any) -> list[Preference]:
    (folder / name).write_text(text)
    return read_pairs(folder / name, folder, **more)[0]


def test_pairs_with_and_without_optional_columns(folder: Path) -> None:
    plain = read(folder, "prompt,image_a,image_b,preferred\na fox,a.png,b.png,a\na fox,a.png,c.png,Tie\n")
    assert plain == [Preference("a.png", "b.png", "a fox", 1.0), Preference("a.png", "c.png", "a fox", 0.5)]
    rich = "prompt,image_a,image_b,preferred,question,rater\na fox,a.png,b.png,b,Consistency,ann\n"
    assert read(folder, rich) == [Preference("a.png", "b.png", "a fox", 0.0, "consistency", "ann")]


def test_the_shape_of_pick_a_pic(folder: Path) -> None:
    table = pa.table(
        {
            "caption": ["a fox", "a fox", "a dog"],
            "image_0_uid": ["a.png", "b.png", "c.png"],
            "image_1_uid": ["b.png", "c.png", "d.png"],
            "label_0": [1.0, 0.5, 0.0],
            "label_1": [0.0, 0.5, 1.0],
        }
    )
    pq.write_table(table, folder / "pick.parquet")
    columns = {"caption": "prompt", "image_0_uid": "image_a", "image_1_uid": "image_b", "label_0": "preferred"}
    found, places = read_pairs(folder / "pick.parquet", folder, columns=columns)
    assert [choice.preferred for choice in found] == [1.0, 0.5, 0.0]
    assert places["d.png"] == folder / "d.png"


def test_the_shape_of_hpd_v2(folder: Path) -> None:
    train = [{"human_preference": [0, 1], "prompt": "a fox", "file_path": ["a.png", "b.png"]}]
    columns = {"file_path": "images", "human_preference": "preferred"}
    found = read(folder, json.dumps(train), "train.json", columns=columns)
    assert found == [Preference("a.png", "b.png", "a fox", 0.0)]
    test = [{"prompt": "a fox", "image_path": ["a.png", "b.png", "c.png"], "rank": [2, 1, 2]}]
    found = read(folder, json.dumps(test), "test.json", columns={"image_path": "images", "rank": "ranking"})
    assert [(c.a, c.b, c.preferred) for c in found] == [
        ("a.png", "b.png", 0.0),
        ("a.png", "c.png", 0.5),
        ("b.png", "c.png", 1.0),
    ]


def test_the_shape_of_imagereward(folder: Path) -> None:
    rows = [{"prompt_id": "1", "prompt": "a fox", "generations": ["a.png", "b.png"], "ranking": [1, 2]}]
    found = read(folder, json.dumps(rows), "test.json", columns={"generations": "images"})
    assert found == [Preference("a.png", "b.png", "a fox", 1.0)]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("prompt,image_a,image_b\nx,a.png,b.png\n", "'preferred', found", "--columns"),
        ("prompt,image_a,image_b,label_0\nx,a.png,b.png,1\n", "'preferred', found", "'label_0'=preferred"),
        ("prompt,image_a,image_b,preferred\nx,a.png,b.png,left\n", "preferred a, b or tie", "a for image_a"),
        ("prompt,image_a,image_b,preferred\nx,a.png,a.png,a\n", "line 2: expected two images", "Remove"),
        ("prompt,image_a,image_b,preferred\n ,a.png,b.png,a\n", "line 2: expected a prompt", "prompt"),
        ("prompt,image_a,image_b,preferred,question\nx,a.png,b.png,a,beauty\n", "found 'beauty'", "quality"),
        ("prompt,image_a,image_b,preferred\nx,../a.png,b.png,a\n", "outside the image folder", ""),
        ("prompt,image_a,image_b,preferred\nx,e.png,f.png,a\n", "none of the 2 named", "folder"),
        ("prompt,images,preferred\nx,a.png,a\n", "expected a list in images", "JSON"),
        ('prompt,images,ranking\nx,"[""a.png"",""b.png""]",[1]\n', "lists of equal length", "Correct"),
    ],
)
def test_faults(folder: Path, text: str, message: str, hint: str) -> None:
    with pytest.raises(AigcError) as caught:
        read(folder, text)
    assert message in caught.value.message
    assert hint in caught.value.hint
