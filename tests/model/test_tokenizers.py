"""open_clip's tokenizer as a `tokenizer.json`: the same tokens for every text."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aigc_cli.errors import EnvironmentProblem
from aigc_cli.model.tokenizers import SAMPLES, convert_tokenizer
from aigc_cli.runtime.tokenizer import PromptTokenizer

TEXTS = (
    *SAMPLES,
    "1girl, 2boys, 3.5e-4, 1234567890",
    "don't can't I'll we've she'd they're it's 'quoted' ''",
    "👩‍👩‍👧‍👦 family, 🏳️‍🌈 flag, 👍🏽",
    "漢字かな交じり文。中文，测试！한국어 텍스트",
    "naïve façade — “curly” … ½ ﬁ Å Å",
    "a <end_of_text> b <start_of_text> c",
    "under_score __init__ x^2 a*b {c} [d] ~ ` | \\ /",
    "MiXeD CaSe ÀÉÎ ẞ İstanbul",
    "tabs\tand\nnew lines\r\n and   spaces\u00a0\u3000here",
    "x" * 500,
    ",".join("abc" for _ in range(100)),
    "&amp;amp; &lt;b&gt; &quot;q&quot; &#39;",
    " ",
    "\u200bzero width\ufeff",
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, PromptTokenizer]:
    """CLIP's tokenizer and the converted one."""
    original = open_clip.get_tokenizer("ViT-B-32")
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(convert_tokenizer(original), encoding="utf-8")
    return original, PromptTokenizer(path)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:20]))
def test_tokens_are_those_of_open_clip(text: str, pair: tuple[Any, PromptTokenizer]) -> None:
    original, converted = pair
    assert converted([text]).tolist() == original([text]).tolist()


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"]), max_size=120))
def test_any_plain_text_has_the_same_tokens(text: str, pair: tuple[Any, PromptTokenizer]) -> None:
    original, converted = pair
    assert converted([text]).tolist() == original([text]).tolist()


def test_a_long_text_is_cut_with_its_end_token(pair: tuple[Any, PromptTokenizer]) -> None:
    _, converted = pair
    (row,) = converted(["fox " * 300])
    assert (len(row), row[0], row[-1]) == (77, 49406, 49407)
    assert converted.truncates("fox " * 300)
    assert not converted.truncates("fox " * 75)


class _Odd:
    """CLIP's tokenizer but for one word."""

    def __init__(self) -> None:
        self._inner = open_clip.get_tokenizer("ViT-B-32")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        return self._inner([text.replace("fox", "cat") for text in texts])  # type: ignore[no-any-return]


def test_a_tokenizer_with_other_tokens_is_refused() -> None:
    with pytest.raises(EnvironmentProblem, match="its tokens differ"):
        convert_tokenizer(_Odd())


def test_a_tokenizer_without_a_fast_form_is_refused() -> None:
    with pytest.raises(EnvironmentProblem, match=r"The tokenizer SimpleNamespace can't be exported\."):
        convert_tokenizer(SimpleNamespace(tokenizer=SimpleNamespace(), context_length=77))


def test_a_fast_tokenizer_is_taken_as_it_is(tmp_path: Path, pair: tuple[Any, PromptTokenizer]) -> None:
    """open_clip wraps those of transformers; they hold one of the library `tokenizers`."""
    _, converted = pair
    (tmp_path / "t.json").write_text(converted.to_json(), encoding="utf-8")

    class Wrapped:
        context_length = 12
        tokenizer = SimpleNamespace(backend_tokenizer=SimpleNamespace(to_str=converted.to_json), pad_token_id=0)

        def __call__(self, texts: Sequence[str]) -> torch.Tensor:
            short = PromptTokenizer(tmp_path / "t.json", 12)
            rows = [short([text])[0] for text in texts]
            return torch.tensor(np.array([np.pad(row, (0, 12 - len(row))) for row in rows]))

    (tmp_path / "made.json").write_text(convert_tokenizer(Wrapped()), encoding="utf-8")
    made = PromptTokenizer(tmp_path / "made.json")
    assert made(["a red fox"]).shape == (1, 12)
    assert made(["a red fox"])[0, :5].tolist() == converted(["a red fox"])[0, :5].tolist()
