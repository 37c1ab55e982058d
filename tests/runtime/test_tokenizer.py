"""Prompts as tokens: padded, cut with the end token kept; tokenizers of strangers do no harm."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_cli.errors import AigcError
from aigc_cli.runtime.hints import MINI, TOKENIZER
from aigc_cli.runtime.tokenizer import MAX_CONTEXT, PAD, PromptTokenizer


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    """The shipped tokenizer as JSON."""
    return json.loads((MINI / TOKENIZER).read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def change(described: dict[str, Any], folder: Path, **parts: Any) -> Path:
    (folder / TOKENIZER).write_text(json.dumps(described | parts), encoding="utf-8")
    return folder / TOKENIZER


def test_texts_are_padded_to_the_longest_and_cut_before_the_end_token() -> None:
    tokenizer = PromptTokenizer(MINI / TOKENIZER)
    tokens = tokenizer(["a cat", "two dogs on a long road", "word " * 300])
    assert (tokens.dtype, tokens.shape) == (np.int64, (3, 128))
    start, end = tokens[0, 0], tokens[2, -1]
    counts = [int(np.flatnonzero(row == end)[0]) + 1 for row in tokens]
    assert [row[0] for row in tokens] == [start] * 3
    assert counts == [4, 8, 128]
    assert all((row[count:] == PAD).all() for row, count in zip(tokens, counts, strict=True))
    assert [tokenizer.truncates(text) for text in ("a cat", "word " * 126, "word " * 127)] == [False, False, True]


def test_another_context_can_be_asked_for(tmp_path: Path) -> None:
    short = PromptTokenizer(MINI / TOKENIZER, context_length=6)
    assert short(["two dogs on a long road"]).shape == (1, 6)
    assert short.truncates("two dogs on a long road")
    (tmp_path / TOKENIZER).write_text(short.to_json(), encoding="utf-8")
    again = PromptTokenizer(tmp_path / TOKENIZER)
    assert np.array_equal(again(["two dogs on a long road"]), short(["two dogs on a long road"]))


def test_a_fixed_length_is_kept(tiny_model: Path) -> None:
    tokens = PromptTokenizer(tiny_model / "checkpoint" / TOKENIZER)(["a cat"])
    assert tokens.shape == (1, 77)
    assert (tokens[0] != 0).sum() == 4


CUT = {"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
PADDED = {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
PADDED |= {"pad_type_id": 0, "pad_token": "[PAD]"}
DOUBLE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
GROWN = {"type": "Replace", "pattern": {"Regex": ""}, "content": "a"}
TWICE = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 2, "pair": []}
HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "no context": ({"truncation": None}, "found none"),
    "a context of gigabytes": ({"truncation": CUT | {"max_length": 10**12}}, f"at most {MAX_CONTEXT} tokens"),
    "padding of gigabytes": ({"padding": PADDED | {"strategy": {"Fixed": 10**12}}}, f"at most {MAX_CONTEXT} tokens"),
    "two steps that double": ({"normalizer": {"type": "Sequence", "normalizers": [DOUBLE] * 2}}, "lengthen a text"),
    "many steps": ({"normalizer": {"type": "Sequence", "normalizers": [GROWN] * 20}}, "lengthen a text"),
    "two copies": ({"post_processor": {"type": "Sequence", "processors": [TWICE] * 2}}, "lengthen a text"),
    "a step of no type": ({"normalizer": {}}, "Expected a tokenizer"),
    "no model": ({"model": None}, "Expected a tokenizer"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_tokenizer_is_refused(what: str, described: dict[str, Any], tmp_path: Path) -> None:
    parts, message = HOSTILE[what]
    with pytest.raises(AigcError, match=message) as caught:
        PromptTokenizer(change(described, tmp_path, **parts))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"{}", b"[" * 100_000], ids=lambda data: repr(data[:4]))
def test_a_file_that_is_no_tokenizer_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / TOKENIZER).write_bytes(data)
    for place in (tmp_path / TOKENIZER, tmp_path / "none.json", tmp_path):
        with pytest.raises(AigcError, match="Expected a tokenizer in"):
            PromptTokenizer(place)


def test_padding_and_overlaps_that_a_file_asks_for_besides_have_no_effect(
    described: dict[str, Any], tmp_path: Path
) -> None:
    odd = change(described, tmp_path, truncation=CUT | {"stride": 100}, padding=PADDED | {"pad_to_multiple_of": 10**12})
    assert PromptTokenizer(odd)(["two dogs on a long road, " * 9]).shape == (1, 8)


def test_a_pattern_that_never_ends_is_an_error(described: dict[str, Any], tmp_path: Path) -> None:
    """The library's fault is no Exception in Python."""
    pattern = {"type": "Split", "pattern": {"Regex": "^(a+)+$"}, "behavior": "Isolated", "invert": False}
    tokenizer = PromptTokenizer(change(described, tmp_path, pre_tokenizer=pattern))
    assert tokenizer(["a cat"]).shape[0] == 1
    for call in (tokenizer.truncates, lambda text: tokenizer([text])):
        with pytest.raises(AigcError, match="Expected a tokenizer for any prompt") as caught:
            call("a" * 40 + "!")
        assert caught.value.exit_code == 2
