"""The generation record: prompt and settings of an image, built from untrusted values."""

import contextlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from aigc_cli.prompts.clean import MAX_PROMPT, clean_prompt, collapse_spaces, to_text

RECORDED_SETTINGS = ("model", "sampler", "steps", "cfg", "seed")
MAX_TEXT = 8 << 20  # characters of one text; the largest graphs of ComfyUI have a few million
MAX_SETTING = 200  # characters of a setting; the rest is cut off
_CHECKPOINT_SUFFIX = re.compile(r"\.(?:safetensors|ckpt|gguf|sft|pth|pt|bin)\Z", re.IGNORECASE)


@dataclass(frozen=True)
class GenerationRecord:
    """Prompt and settings that an image was generated with; None for everything that is not recorded.

    Attributes:
        source: the program, a value of `prompt_source` in docs/prompts.md such as a1111 or comfyui; None if no program
            is recognised.
        prompt: the positive prompt without the program's commands (see `clean_prompt`).
        raw: the positive prompt as it was recorded.
        model: the checkpoint's name, without folder and suffix.
        sampler: the name in the program's own spelling, followed by the schedule if there is one.
        cfg: the scale of the classifier-free guidance.
        seed: decimal digits, since a seed may exceed 64 bits.
        fault: ambiguous_prompt or bad_metadata if there is no prompt for this reason.
    """

    source: str | None = None
    prompt: str | None = None
    raw: str | None = None
    model: str | None = None
    sampler: str | None = None
    steps: int | None = None
    cfg: float | None = None
    seed: str | None = None
    fault: str | None = None

    def get_settings(self) -> dict[str, Any]:
        """The RECORDED_SETTINGS by name, which are columns of the scores table; None if not recorded."""
        return {name: getattr(self, name) for name in RECORDED_SETTINGS}


def make_record(
    source: str, raw: Any, fields: Mapping[str, Any], names: Sequence[str] = RECORDED_SETTINGS, fault: str | None = None
) -> GenerationRecord:
    """Build a record from untrusted values of any type; `names` are the keys of the RECORDED_SETTINGS in `fields`.

    Settings that are missing or have unusable values become None.
    """
    text = to_text(raw).strip()
    if len(text) > MAX_PROMPT:
        text, fault = "", "bad_metadata"
    model, sampler, steps, cfg, seed = map(fields.get, names)
    return GenerationRecord(
        source=source,
        prompt=clean_prompt(text, source) or None,
        raw=text or None,
        model=_clean_model(model),
        sampler=_clean_word(sampler),
        steps=_clean_whole(steps),
        cfg=_clean_real(cfg),
        seed=_clean_digits(seed),
        fault=None if text else fault,
    )


def _clean_word(value: Any) -> str | None:
    return collapse_spaces(to_text(value))[:MAX_SETTING] or None


def _clean_model(value: Any) -> str | None:
    return _clean_word(_CHECKPOINT_SUFFIX.sub("", PurePosixPath(to_text(value).replace("\\", "/")).name))


def _clean_real(value: Any) -> float | None:
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
        return number if math.isfinite(number) else None
    return None


def _clean_whole(value: Any) -> int | None:
    number = _clean_real(value)
    return int(number) if number is not None and number.is_integer() and abs(number) < 2**31 else None


def _clean_digits(value: Any) -> str | None:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**70 else value
    return text if isinstance(text, str) and re.fullmatch(r"-?[0-9]{1,22}", text) else None


def parse_json_object(text: Any) -> dict[str, Any] | None:
    """The object that a JSON text describes; None if the text is something else. Never raises."""
    if isinstance(text, str) and len(text) <= MAX_TEXT and text.lstrip()[:1] == "{":
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(text)
            return value if isinstance(value, dict) else None
    return None


def join_prompts(texts: list[str]) -> str:
    """Join texts to one prompt with commas; equal texts appear once."""
    parts = dict.fromkeys(text.strip().rstrip(" ,") for text in texts)
    return ", ".join(part for part in parts if part)
