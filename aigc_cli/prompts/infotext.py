"""Parses the text that Automatic1111 writes into `parameters`, and many programs like it.

See modules/infotext_utils.py of stable-diffusion-webui.
"""

import contextlib
import itertools
import json
import re

from aigc_cli.prompts.clean import MAX_PROMPT, to_text
from aigc_cli.prompts.record import GenerationRecord, make_record

_PAIR = re.compile(r'\s*(\w[\w \-/]{0,60}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|\Z)')
_SETTING_NAMES = frozenset({"Steps", "Sampler", "CFG scale", "Seed", "Size", "Model", "Model hash"})
_PIPE = " | "  # between the settings that SD.Next of 2023 writes
_LINES = 64  # searched for the settings, from the end; extensions write a few lines after the settings


def is_infotext(text: str) -> bool:
    """Whether a text has Automatic1111's form: it has a line of settings or a negative prompt."""
    return _find_settings_line(text.split("\n")) is not None or "\nNegative prompt:" in f"\n{text}"


def read_infotext(text: str, source: str = "a1111") -> GenerationRecord:
    """Parse the text of `parameters` into positive prompt and settings.

    The lines of the prompt come first, then those of the negative prompt, then one line of settings
    `Name: value, ...`, then lines that extensions add. SD.Next of 2023 begins with `prompt:` and writes `|` between the
    settings. `source`, a1111 or fooocus, is the program that wrote the text.
    """
    lines = to_text(text).strip().split("\n")
    where = _find_settings_line(lines)
    fields = {} if where is None else _parse_pairs(lines[where])
    piped = where is not None and _PIPE in lines[where]
    ends = ("Negative prompt:", "Version:") if piped else ("Negative prompt:",)
    raw = "\n".join(itertools.takewhile(lambda line: not line.strip().startswith(ends), lines[:where]))
    if piped:
        raw = raw.removeprefix("prompt:")
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
    line = line[:MAX_PROMPT]
    if line.count(_PIPE) > line.count(", "):
        parts = (part.partition(": ") for part in line.split(_PIPE))
        return {name.strip(): value.strip(" ,") for name, colon, value in parts if colon}
    found: dict[str, str] = {}
    position = 0
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
