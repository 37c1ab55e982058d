"""From prompts to token ids, without PyTorch."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from aigc_cli.errors import AigcError

PAD = 0
MAX_CONTEXT = 1 << 16  # tokens of a text; the padding of a stranger's file may ask for all memory
MAX_STEPS = 16
_HINT = "Fetch the model again."


class PromptTokenizer:
    """Splits texts into tokens; a text that is too long is cut and keeps its end token.

    Args:
        path: a `tokenizer.json` of the `tokenizers` library.
        context_length: the most tokens of a text, including the start and the end token; None takes the file's own.

    Raises:
        AigcError: the file is missing or is no tokenizer, or it has no context length and none is given; or it would
            make a text much longer.
    """

    def __init__(self, path: Path, context_length: int | None = None) -> None:
        self._path = path
        try:
            text = path.read_text(encoding="utf-8")
            _check_steps(json.loads(text))
            self._tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the library raises Exception itself
            raise AigcError(f"Expected a tokenizer in {path}, found none: {error}.", _HINT) from error
        cut, padding = self._tokenizer.truncation or {}, self._tokenizer.padding or {}
        length, pad = (padding.get("length"), padding.get("pad_id", PAD)) if context_length is None else (None, PAD)
        context = cut.get("max_length") if context_length is None else context_length
        if context is None or not 1 < max(context, length or 0) <= MAX_CONTEXT:
            found = "none" if context is None else max(context, length or 0)
            raise AigcError(f"Expected a context of at most {MAX_CONTEXT} tokens in {path}, found {found}.", _HINT)
        self._tokenizer.enable_truncation(context)
        self._tokenizer.enable_padding(pad_id=pad, length=length)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Token ids (len(texts), L), padded to the longest text or to the file's fixed length."""
        return np.array([encoding.ids for encoding in self._encode(texts)], np.int64)

    def truncates(self, text: str) -> bool:
        """Whether `text` has more tokens than the context."""
        return bool(self._encode([text])[0].overflowing)

    def _encode(self, texts: Sequence[str]) -> list[Encoding]:
        try:
            return self._tokenizer.encode_batch(list(texts))
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # a fault in Rust code
                raise
            raise AigcError(
                f"Expected a tokenizer for any prompt in {self._path}, found one that fails: {error}.", _HINT
            ) from error

    def to_json(self) -> str:
        """The text of a `tokenizer.json` with the context length in it."""
        return str(self._tokenizer.to_str())


def _check_steps(tokenizer: Mapping[str, Any]) -> None:
    """Raises ValueError where the steps of a tokenizer can make a text longer and longer."""
    kinds = ("normalizer", "pre_tokenizer", "post_processor")
    steps = [step for kind in kinds for step in _list_steps(tokenizer.get(kind))]
    written = set("".join(step.get("content", "") for step in steps))
    others = [step for step in steps if not _replaces_once(step, written)]
    if len(others) > MAX_STEPS or sum(map(_lengthens, others)) > 1:
        raise ValueError("steps that lengthen a text")


def _list_steps(part: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    if part is not None and part["type"] == "Sequence":
        for inner in part.get("normalizers") or part.get("pretokenizers") or part.get("processors") or ():
            yield from _list_steps(inner)
    elif part is not None:
        yield part


def _replaces_once(step: Mapping[str, Any], written: set[str]) -> bool:
    """Whether it replaces a text by a shorter one, or a character that no step writes, by at most four."""
    old, new = step.get("pattern", {}).get("String", ""), step.get("content", "")
    return step["type"] == "Replace" and (
        len(new) < len(old) or (len(old) == 1 and not {old} & written and len(new) < 5)
    )


def _lengthens(step: Mapping[str, Any]) -> bool:
    repeats = sum("Sequence" in piece for piece in step.get("single", ())) > 1
    return repeats or step["type"] == "Precompiled" or len(step.get("content", "")) > 1
