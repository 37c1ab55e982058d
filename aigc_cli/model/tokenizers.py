"""The tokenizer of a backbone as a `tokenizer.json` of the `tokenizers` library."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ftfy import chardata  # it comes with open_clip, which cleans prompts with it
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from aigc_cli.errors import EnvironmentProblem

# What a tokenizer must treat alike in both forms: cases, accents, entities, quotes, scripts, widths, emoji, length.
SAMPLES = (
    "a red fox, in deep snow",
    "A Photo of Two DOGS!! it's 1999's café & bar",
    "“quoted” ‘text’, &amp; more &lt;tags&gt;",
    "赤い狐，Ёлка 🦊  \n tabs\tand   spaces ",
    "(masterpiece:1.2), ((best quality)), <lora:x:0.8>, 8k-uhd --ar 16:9",
    "word " * 300,
    "",
)
_ENTITIES = (("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&#39;", "'"))
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def convert_tokenizer(tokenizer: Any) -> str:
    """open_clip's tokenizer as the text of a `tokenizer.json`.

    open_clip also repairs wrongly decoded texts and rare HTML entities; here both stay as they are.

    Raises:
        EnvironmentProblem: it is of another kind, or it gives other tokens for `SAMPLES`.
    """
    made = _convert_hf(tokenizer) if hasattr(tokenizer, "tokenizer") else _convert_bpe(tokenizer)
    found = np.array([encoding.ids for encoding in made.encode_batch(list(SAMPLES))])
    if not np.array_equal(found, _encode(tokenizer, SAMPLES)):
        raise EnvironmentProblem(
            f"The tokenizer {type(tokenizer).__name__} can't be exported: its tokens differ.",
            "Score with --engine eager.",
        )
    return str(made.to_str())


def _encode(tokenizer: Any, texts: Sequence[str]) -> Any:
    return tokenizer(list(texts)).numpy()


def _convert_bpe(tokenizer: Any) -> Tokenizer:
    """open_clip's own byte-level BPE; its vocabulary and merges, and the same steps before and after."""
    start, end = "<start_of_text>", "<end_of_text>"
    made = Tokenizer(
        models.BPE(
            vocab=tokenizer.encoder,
            merges=list(tokenizer.bpe_ranks),
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
        )
    )
    made.normalizer = normalizers.Sequence(_list_normalizers())
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(start, normalized=False), AddedToken(end, normalized=False)])
    made.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, tokenizer.sot_token_id), (end, tokenizer.eot_token_id)]
    )
    made.enable_truncation(tokenizer.context_length)
    made.enable_padding(length=tokenizer.context_length, pad_id=0)
    return made


def _list_normalizers() -> list[normalizers.Normalizer]:
    """What open_clip does to a text before it is split: most of it are the steps of ftfy."""
    single, double = chardata.SINGLE_QUOTE_RE.pattern, chardata.DOUBLE_QUOTE_RE.pattern
    hidden = "".join(f"\\x{{{code:x}}}" for code in chardata.CONTROL_CHARS)
    patterns = ((single, "'"), (double, '"'), (f"[{hidden}]", ""))
    entities = [normalizers.Replace(old, new) for old, new in _ENTITIES * 2]  # it unescapes a text twice
    wide = [normalizers.Replace(chr(code), new) for code, new in (chardata.LIGATURES | chardata.WIDTH_MAP).items()]
    others = [normalizers.Replace(Regex(old), new) for old, new in patterns]
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    return [*entities, *wide, *others, normalizers.NFC(), spaces, normalizers.Lowercase()]


def _convert_hf(tokenizer: Any) -> Tokenizer:
    """The fast tokenizer inside a tokenizer of transformers."""
    inner = getattr(tokenizer.tokenizer, "backend_tokenizer", None)
    if inner is None:
        raise EnvironmentProblem(
            f"The tokenizer {type(tokenizer.tokenizer).__name__} can't be exported.", "Score with --engine eager."
        )
    made = Tokenizer.from_str(inner.to_str())
    made.enable_truncation(tokenizer.context_length)
    made.enable_padding(length=tokenizer.context_length, pad_id=tokenizer.tokenizer.pad_token_id or 0)
    return made
