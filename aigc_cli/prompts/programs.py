"""What image generators record about an image: its prompt and settings, read from the texts that they write.

Formats: Automatic1111 and Forge (`parameters`, modules/infotext_utils.py of stable-diffusion-webui), Fooocus (both
schemes of modules/meta_parser.py), InvokeAI (`invokeai_metadata`, and `sd-metadata` and `Dream` of its earlier
versions), NovelAI (`Description` and `Comment`). ComfyUI's graphs are read in `comfy`.
"""

import contextlib
import itertools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from aigc_cli.prompts.clean import MAX_PROMPT, as_text, cleaned, one_line

SETTINGS = ("model", "sampler", "steps", "cfg", "seed")
MAX_TEXT = 8 << 20  # characters of one text; the largest graphs of ComfyUI have a few million
_SHOWN = 200  # characters of a setting
_WEIGHTS = (".safetensors", ".ckpt", ".gguf", ".sft", ".pth", ".pt", ".bin")
_PAIR = re.compile(r'\s*(\w[\w \-/]{0,60}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|\Z)')
_SAID = frozenset({"Steps", "Sampler", "CFG scale", "Seed", "Size", "Model", "Model hash"})
_LINES = 64  # from the end, in which the settings stand; extensions write a few behind them


@dataclass(frozen=True)
class Recorded:
    """What an image says of its making.

    Attributes:
        source: the program: a1111, comfyui, invokeai, novelai or fooocus; None when none of them is recognised.
        prompt: the positive prompt as a text tower reads it (see `cleaned`), or None.
        raw: the positive prompt as it was recorded, or None.
        model: the checkpoint's name, without folder and ending.
        sampler: its name as the program writes it, with the schedule where it names one.
        steps, cfg: sampling steps and the scale of classifier-free guidance.
        seed: decimal digits; it may be larger than any integer of a table.
        fault: ambiguous_prompt or bad_metadata, where that is why there is no prompt.
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

    def settings(self) -> dict[str, Any]:
        """Columns of the scores table, None where nothing is recorded."""
        return {name: getattr(self, name) for name in SETTINGS}


def recorded(source: str, raw: Any, settings: Mapping[str, Any], fault: str | None = None) -> Recorded:
    """A `Recorded` out of values of any type: what is not as it should be is left out."""
    text = as_text(raw).strip()
    if len(text) > MAX_PROMPT:
        text, fault = "", "bad_metadata"
    return Recorded(
        source=source,
        prompt=cleaned(text, source) or None,
        raw=text or None,
        model=_model(settings.get("model")),
        sampler=_word(settings.get("sampler")),
        steps=_whole(settings.get("steps")),
        cfg=_real(settings.get("cfg")),
        seed=_digits(settings.get("seed")),
        fault=None if text else fault,
    )


# --- values


def _word(value: Any) -> str | None:
    return one_line(as_text(value))[:_SHOWN] or None


def _model(value: Any) -> str | None:
    name = PurePosixPath(as_text(value).replace("\\", "/")).name
    end = next((end for end in _WEIGHTS if name.lower().endswith(end)), "")
    return _word(name[: len(name) - len(end)])


def _real(value: Any) -> float | None:
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
        return number if math.isfinite(number) else None
    return None


def _whole(value: Any) -> int | None:
    number = _real(value)
    return int(number) if number is not None and number.is_integer() and abs(number) < 2**31 else None


def _digits(value: Any) -> str | None:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**70 else value
    return text if isinstance(text, str) and re.fullmatch(r"-?[0-9]{1,22}", text) else None


def json_object(text: Any) -> dict[str, Any] | None:
    """The object that a JSON text holds, or None; never an error, whatever the text."""
    if isinstance(text, str) and len(text) <= MAX_TEXT and text.lstrip()[:1] == "{":
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(text)
            return value if isinstance(value, dict) else None
    return None


# --- Automatic1111, Forge and those that write as they do


def is_infotext(text: str) -> bool:
    """Whether a text is what Automatic1111 writes: it has a line of settings, or one of what is not wanted."""
    return _settings_line(text.split("\n")) is not None or "\nNegative prompt:" in f"\n{text}"


def read_infotext(text: str, source: str = "a1111") -> Recorded:
    """The positive prompt and the settings of a text of `parameters`.

    The prompt's lines come first, then those of the negative prompt, then one of settings `Name: value, ...`, then
    whatever extensions add.
    """
    lines = as_text(text).strip().split("\n")
    where = _settings_line(lines)
    said = {} if where is None else _pairs(lines[where])
    prompt = []
    for line in lines[:where]:
        if line.strip().startswith("Negative prompt:"):
            break
        prompt.append(line)
    raw = "\n".join(prompt)
    if said.get("Version", "").startswith("Fooocus"):
        source, raw = "fooocus", said.get("Raw prompt") or raw
    schedule = said.get("Schedule type", "Automatic")
    sampler = said.get("Sampler", "")
    if schedule != "Automatic" and not sampler.endswith(schedule):
        sampler = f"{sampler} {schedule}"
    settings = {"model": said.get("Model"), "sampler": sampler, "steps": said.get("Steps")}
    return recorded(source, raw, settings | {"cfg": said.get("CFG scale"), "seed": said.get("Seed")})


def _settings_line(lines: list[str]) -> int | None:
    """Where the settings stand: the last line that begins with the steps, else the last that looks like settings."""
    likely = None
    for index in range(len(lines) - 1, max(-1, len(lines) - 1 - _LINES), -1):
        said = {} if lines[index].startswith("Negative prompt:") else _pairs(lines[index])
        if len(said) >= 3 and len(said.keys() & _SAID) >= 2:
            if lines[index].lstrip().startswith("Steps:"):
                return index
            likely = index if likely is None else likely
    return likely


def _pairs(line: str) -> dict[str, str]:
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


# --- the others


def read_fooocus(said: Mapping[str, Any]) -> Recorded:
    """Fooocus's own scheme: one JSON object. The prompt is the user's, without the styles that were added to it."""
    sampler = " ".join(part for part in (as_text(said.get("sampler")), as_text(said.get("scheduler"))) if part)
    settings = {"model": said.get("base_model"), "sampler": sampler, "steps": said.get("steps")}
    return recorded(
        "fooocus", said.get("prompt"), settings | {"cfg": said.get("guidance_scale"), "seed": said.get("seed")}
    )


def is_fooocus(said: Mapping[str, Any]) -> bool:
    """Whether a JSON object is what Fooocus writes; other programs also write objects with a `prompt`."""
    return "prompt" in said and ("base_model" in said or as_text(said.get("version")).startswith("Fooocus"))


def read_invokeai(texts: Mapping[str, str]) -> Recorded | None:
    """InvokeAI's metadata of any version; None where there is none.

    SDXL's second prompt, of style, is added where it says something else.
    """
    if "invokeai_metadata" in texts:
        said = json_object(texts["invokeai_metadata"])
        if said is None:
            return Recorded("invokeai", fault="bad_metadata")
        raw = joined([as_text(said.get("positive_prompt")), as_text(said.get("positive_style_prompt"))])
        model = said.get("model")
        name = (model.get("name") or model.get("model_name")) if isinstance(model, dict) else model
        settings = {"model": name, "sampler": said.get("scheduler"), "cfg": said.get("cfg_scale")}
        return recorded("invokeai", raw, settings | {"steps": said.get("steps"), "seed": said.get("seed")})
    if "sd-metadata" in texts:
        said = json_object(texts["sd-metadata"])
        image = said.get("image") if said else None
        if said is None or not isinstance(image, dict):
            return Recorded("invokeai", fault="bad_metadata")
        prompts = image.get("prompt")
        parts = prompts if isinstance(prompts, list) else [{"prompt": prompts}]
        raw = joined([as_text(part.get("prompt")) for part in parts if isinstance(part, dict)])
        settings = {"model": said.get("model_weights"), "sampler": image.get("sampler"), "cfg": image.get("cfg_scale")}
        settings |= {"steps": image.get("steps"), "seed": image.get("seed")}
        return recorded("invokeai", _without_unwanted(raw), settings)
    return _dream(texts["Dream"]) if "Dream" in texts else None


def _dream(text: str) -> Recorded:
    """The command line of InvokeAI 1: `"prompt [not wanted]" -s 50 -S 42 -C 7.5 -A k_lms`."""
    text = text.strip()
    last = text.rfind('"')
    if not text.startswith('"') or last == 0:
        return Recorded("invokeai", fault="bad_metadata")
    words = text[last + 1 :].split()
    flags = {flag: value for flag, value in itertools.pairwise(words) if flag.startswith("-")}
    names = {"sampler": "-A", "steps": "-s", "cfg": "-C", "seed": "-S"}
    settings = {name: flags.get(flag) for name, flag in names.items()}
    return recorded("invokeai", _without_unwanted(text[1:last]), settings)


def _without_unwanted(prompt: str) -> str:
    """InvokeAI before version 3 wrote what was not wanted in brackets into the prompt."""
    return re.sub(r"\[[^\[\]]{0,20000}\]", " ", prompt)


def read_novelai(texts: Mapping[str, str]) -> Recorded | None:
    """NovelAI's `Description` and `Comment`, the prompts of single characters added; None where it did not write them.

    The model is named by `Source`, which ends in a hash.
    """
    if texts.get("Software") != "NovelAI" and "NovelAI" not in texts.get("Title", "") + texts.get("Source", ""):
        return None
    said = json_object(texts.get("Comment"))
    if said is None and not texts.get("Description"):
        return Recorded("novelai", fault="bad_metadata")
    said = said or {}
    form = said.get("v4_prompt")
    caption = form.get("caption") if isinstance(form, dict) else None
    caption = caption if isinstance(caption, dict) else {}
    people = caption.get("char_captions")
    texts_of = [p.get("char_caption") for p in people if isinstance(p, dict)] if isinstance(people, list) else []
    base = as_text(caption.get("base_caption")) or as_text(said.get("prompt")) or texts.get("Description", "")
    model = re.sub(r"\s+[0-9A-F]{6,16}\Z", "", texts.get("Source", "")[:_SHOWN])
    settings = {"model": model, "sampler": said.get("sampler"), "steps": said.get("steps")}
    settings |= {"cfg": said.get("scale"), "seed": said.get("seed")}
    return recorded("novelai", joined([base, *map(as_text, texts_of)]), settings)


def joined(texts: list[str]) -> str:
    """Texts that are one prompt together, each of them once."""
    parts = dict.fromkeys(text.strip().rstrip(" ,") for text in texts)
    return ", ".join(part for part in parts if part)
