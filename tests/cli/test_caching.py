"""`aigc cache` and the options about it."""

import json
from pathlib import Path

import pytest
from harness import aigc

ENGINE = f"{'ab' * 12}-{'cd' * 8}.onnx"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AIGC_CACHE", str(tmp_path))
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / ENGINE).write_bytes(b"0" * 5000)
    return tmp_path


def test_size_and_list_as_text_and_as_json(cache: Path) -> None:
    shown = aigc("cache", "size").out
    assert [line.split() for line in shown.splitlines()][-1] == ["all", "5", "kB", "in", str(cache)]
    assert json.loads(aigc("cache", "size", "--json").out)["bytes"]["engine"] == 5000
    shown = aigc("cache", "list").out
    assert "ababab" in shown
    assert "1 item, 5 kB" in shown
    (item,) = json.loads(aigc("cache", "list", "--json").out)["items"]
    assert (item["kind"], item["bytes"]) == ("engine", 5000)


def test_clear(cache: Path) -> None:
    assert aigc("cache", "clear", "--older-than", "1").out == f"Removed from {cache}: nothing\n"
    assert (cache / "engines" / ENGINE).exists()
    assert "1 item" in aigc("cache", "clear").out
    assert not (cache / "engines" / ENGINE).exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("cache", "clear", "--older-than", "-1"), "--older-than of 0 or more"),
        (("eval", "--cache-gb", "-1"), "--cache-gb of 0 or more"),
        (("train", "--precision", "fp8"), "precision"),
        (("score", str(Path(__file__).parents[2] / "examples"), "--engine", "fast"), "an engine out of auto, onnx"),
    ],
)
def test_wrong_values(arguments: tuple[str, ...], said: str) -> None:
    ending = aigc(*arguments)
    assert ending.code == 2
    assert said in ending.err
