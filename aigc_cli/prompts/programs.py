"""Parses the texts in which image generators record prompt and settings.

Formats: Automatic1111 and Forge (`parameters`, see modules/infotext_utils.py of stable-diffusion-webui), Fooocus (both
schemes of its modules/meta_parser.py), InvokeAI (`invokeai_metadata`, and `sd-metadata` and `Dream` of earlier
versions), NovelAI (`Description` and `Comment`). The module `comfyui` reads ComfyUI's graphs.
"""

import contextlib
import itertools
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
_MAX_SETTING = 200  # characters of a setting; the rest is cut off
_CHECKPOINT_SUFFIX = re.compile(r"\.(?:safetensors|ckpt|gguf|sft|pth|pt|bin)\Z", re.IGNORECASE)
_PAIR = re.compile(r'\s*(\w[\w \-/]{0,60}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|\Z)')
_SETTING_NAMES = frozenset({"Steps", "Sampler", "CFG scale", "Seed", "Size", "Model", "Model hash"})
_LINES = 64  # searched for the settings, from the end; extensions write a few lines after the settings


@dataclass(frozen=True)
class GenerationRecord:
    """Prompt and settings that an image was generated with; None for everything that is not recorded.

    Attributes:
        source: the program: a1111, comfyui, invokeai, novelai or fooocus; None if none of them is recognised.
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
    return collapse_spaces(to_text(value))[:_MAX_SETTING] or None


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


# --- Automatic1111, Forge and programs that use their format


def is_infotext(text: str) -> bool:
    """Whether a text has Automatic1111's form: it has a line of settings or a negative prompt."""
    return _find_settings_line(text.split("\n")) is not None or "\nNegative prompt:" in f"\n{text}"


def read_infotext(text: str, source: str = "a1111") -> GenerationRecord:
    """Parse the text of `parameters` into positive prompt and settings.

    The lines of the prompt come first, then those of the negative prompt, then one line of settings
    `Name: value, ...`, then lines that extensions add. `source`, a1111 or fooocus, is the program that wrote the text.
    """
    lines = to_text(text).strip().split("\n")
    where = _find_settings_line(lines)
    fields = {} if where is None else _parse_pairs(lines[where])
    raw = "\n".join(itertools.takewhile(lambda line: not line.strip().startswith("Negative prompt:"), lines[:where]))
    if fields.get("Version", "").startswith("Fooocus"):
        source, raw = "fooocus", fields.get("Raw prompt") or raw
    sampler, schedule = fields.get("Sampler", ""), fields.get("Schedule type", "Automatic")
    if schedule != "Automatic" and not sampler.endswith(schedule):
        fields["Sampler"] = f"{sampler} {schedule}"
    return make_record(source, raw, fields, ("Model", "Sampler", "Steps", "CFG scale", "Seed"))


def _find_settings_line(lines: list[str]) -> int | None:
    """Index of the line of settings: the last that begins with `Steps:`, else the last that looks like settings."""
    likely = []
    for index in range(len(lines) - 1, max(-1, len(lines) - 1 - _LINES), -1):
        fields = {} if lines[index].startswith("Negative prompt:") else _parse_pairs(lines[index])
        if len(fields) >= 3 and len(fields.keys() & _SETTING_NAMES) >= 2:
            if lines[index].lstrip().startswith("Steps:"):
                return index
            likely.append(index)
    return likely[0] if likely else None


def _parse_pairs(line: str) -> dict[str, str]:
    found: dict[str, str] = {}
    line, position = line[:MAX_PROMPT], 0
    while position < len(line):
        pair = _PAIR.match(line, position)
        if pair is None:
            position = line.find(",", position) + 1 or len(line)
            continue
        value = pair[2].strip()
        if value.startswith('"'):
            with contextlib.suppress(ValueError):
                value = str(json.loads(value))
        found.setdefault(pair[1], value)
        position = max(pair.end(), position + 1)
    return found


# --- Fooocus, InvokeAI, NovelAI


def read_fooocus(fields: Mapping[str, Any]) -> GenerationRecord:
    """Read Fooocus's own scheme, one JSON object. The prompt is the user's, without the styles that Fooocus adds."""
    sampler = f"{to_text(fields.get('sampler'))} {to_text(fields.get('scheduler'))}"
    names = ("base_model", "sampler", "steps", "guidance_scale", "seed")
    return make_record("fooocus", fields.get("prompt"), {**fields, "sampler": sampler}, names)


def is_fooocus(fields: Mapping[str, Any]) -> bool:
    """Whether Fooocus wrote a JSON object; other programs also write objects with a `prompt`."""
    return "prompt" in fields and ("base_model" in fields or to_text(fields.get("version")).startswith("Fooocus"))


def read_invokeai(texts: Mapping[str, str]) -> GenerationRecord | None:
    """Read InvokeAI's metadata of any version; None if there is none.

    SDXL's style prompt is appended unless it equals the prompt.
    """
    if "invokeai_metadata" in texts:
        fields = parse_json_object(texts["invokeai_metadata"])
        if fields is None:
            return GenerationRecord("invokeai", fault="bad_metadata")
        raw = join_prompts([to_text(fields.get("positive_prompt")), to_text(fields.get("positive_style_prompt"))])
        model = fields.get("model")
        name = (model.get("name") or model.get("model_name")) if isinstance(model, dict) else model
        names = ("model", "scheduler", "steps", "cfg_scale", "seed")
        return make_record("invokeai", raw, fields | {"model": name}, names)
    if "sd-metadata" in texts:
        fields = parse_json_object(texts["sd-metadata"]) or {}
        image = fields.get("image")
        if not isinstance(image, dict):
            return GenerationRecord("invokeai", fault="bad_metadata")
        prompts = image.get("prompt")
        parts = prompts if isinstance(prompts, list) else [{"prompt": prompts}]
        raw = join_prompts([to_text(part.get("prompt")) for part in parts if isinstance(part, dict)])
        settings = image | {"model": fields.get("model_weights")}
        names = ("model", "sampler", "steps", "cfg_scale", "seed")
        return make_record("invokeai", _drop_negative_prompt(raw), settings, names)
    return _read_dream(texts["Dream"]) if "Dream" in texts else None


def _read_dream(text: str) -> GenerationRecord:
    """Parse the command line of InvokeAI 1: `"prompt [negative prompt]" -s 50 -S 42 -C 7.5 -A k_lms`."""
    text = text.strip()
    last = text.rfind('"')
    if not text.startswith('"') or last == 0:
        return GenerationRecord("invokeai", fault="bad_metadata")
    words = text[last + 1 :].split()
    names = ("", "-A", "-s", "-C", "-S")  # the model is not recorded
    return make_record("invokeai", _drop_negative_prompt(text[1:last]), dict(itertools.pairwise(words)), names)


def _drop_negative_prompt(prompt: str) -> str:
    """Drop the negative prompt, which InvokeAI before version 3 wrote into the prompt in square brackets."""
    return re.sub(r"\[[^\[\]]{0,20000}\]", " ", prompt)


def read_novelai(texts: Mapping[str, str]) -> GenerationRecord | None:
    """Read NovelAI's `Description` and `Comment`; None if NovelAI did not write them.

    The prompts of single characters are appended to the prompt. `Source` names the model and ends in a hash.
    """
    if texts.get("Software") != "NovelAI" and "NovelAI" not in texts.get("Title", "") + texts.get("Source", ""):
        return None
    fields = parse_json_object(texts.get("Comment"))
    if fields is None and not texts.get("Description"):
        return GenerationRecord("novelai", fault="bad_metadata")
    fields = fields or {}
    form = fields.get("v4_prompt")
    caption = form.get("caption") if isinstance(form, dict) else None
    caption = caption if isinstance(caption, dict) else {}
    people = caption.get("char_captions")
    captions = [p.get("char_caption") for p in people if isinstance(p, dict)] if isinstance(people, list) else []
    base = to_text(caption.get("base_caption")) or to_text(fields.get("prompt")) or texts.get("Description", "")
    model = re.sub(r"\s+[0-9A-F]{6,16}\Z", "", texts.get("Source", "")[:_MAX_SETTING])
    names = ("model", "sampler", "steps", "scale", "seed")
    return make_record("novelai", join_prompts([base, *map(to_text, captions)]), fields | {"model": model}, names)


def join_prompts(texts: list[str]) -> str:
    """Join texts to one prompt with commas; equal texts appear once."""
    parts = dict.fromkeys(text.strip().rstrip(" ,") for text in texts)
    return ", ".join(part for part in parts if part)
