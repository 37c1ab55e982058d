"""Long prompts: the fewest parts that fit, no lost words, and unchanged embeddings of short prompts."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from aigc_cli.model.backbone import Backbone, average_text_parts
from aigc_cli.runtime.long_prompts import average_parts, split_prompt
from aigc_cli.training.feature_store import FrozenTexts


def longer_than(limit: int):  # type: ignore[no-untyped-def]
    return lambda text: len(text) > limit


@given(text=st.text(st.sampled_from("ab ,。\n"), max_size=300), limit=st.integers(1, 40))
def test_parts_fit_and_lose_nothing(text: str, limit: int) -> None:
    parts = split_prompt(text, longer_than(limit))
    assert "".join("".join(parts).split()) == "".join(text.split())
    if len(text) <= limit:
        assert parts == [text]
        return
    assert all(0 < len(part) <= limit for part in parts)


def test_cuts_fall_where_a_sentence_or_word_ends() -> None:
    text = "a red fox, sitting in deep snow, under a yellow sun at dawn"
    assert split_prompt(text, longer_than(40)) == ["a red fox, sitting in deep snow,", "under a yellow sun at dawn"]
    assert split_prompt("one two three four five six", longer_than(15)) == ["one two three", "four five six"]
    assert split_prompt("雪" * 25, longer_than(10)) == ["雪" * 8, "雪" * 8, "雪" * 9]
    assert len(split_prompt("word " * 200, longer_than(100))) <= 12
    assert split_prompt("ab", lambda text: True) == ["a", "b"]  # ends even if nothing fits


def test_parts_are_averaged() -> None:
    parts = F.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    assert average_text_parts(parts, [1, 1, 1, 1]) is parts
    found = average_text_parts(parts, [1, 2, 1])
    assert torch.equal(found[[0, 2]], parts[[0, 3]])
    torch.testing.assert_close(found[1], F.normalize(parts[1] + parts[2], dim=0))
    assert np.array_equal(average_parts(parts[:1].numpy()), parts[0].numpy())
    torch.testing.assert_close(torch.from_numpy(average_parts(parts[1:3].numpy())), found[1], atol=1e-7, rtol=0)
    opposite = np.array([[1, 0], [-1, 0]], np.float32)
    assert not average_parts(opposite).any()  # a mean of zero stays zero


LONG = ", ".join(f"a red fox number {i} under a yellow sun" for i in range(40))


@pytest.mark.parametrize("which", ["tiny", "mini"])
def test_every_word_counts(which: str, request: pytest.FixtureRequest) -> None:
    """Each part has its start and end token, and the last word changes the embedding."""
    backbone: Backbone = request.getfixturevalue(which)
    parts = split_prompt(LONG, backbone.truncates)
    assert len(parts) > 2
    assert ", ".join(part.rstrip(",") for part in parts) == LONG
    width = backbone.tokenize([LONG]).shape[1]
    tokens = backbone.tokenize(parts)
    used = (tokens != 0).sum(1)
    assert used.max() <= width
    assert used.min() > width / 3  # of about equal length
    start, end = tokens[0, 0], tokens[0, used[0] - 1]
    assert all(row[0] == start and row[count - 1] == end for row, count in zip(tokens, used, strict=True))
    texts = [LONG, f"{LONG} in the rain", "a fox"]
    with torch.inference_mode():
        found = FrozenTexts(backbone, 0, texts).embed(texts)
        expected = F.normalize(backbone.encode_text(parts).mean(0), dim=0)
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    assert not torch.allclose(found[0], found[1], atol=1e-4)
