"""Reads the objects and texts in which programs record prompt and settings.

Each form is that of the program's own writer: Fooocus (its own scheme in modules/meta_parser.py), RuinedFooocus
(modules/async_worker.py), InvokeAI (`invokeai_metadata`, and `sd-metadata` and `Dream` of earlier versions), NovelAI
(`Description` and `Comment`), SwarmUI (`sui_image_params`), Easy Diffusion (easydiffusion/utils/save_utils.py), Draw
Things (a JSON in XMP), Midjourney (`Description`).
"""

import itertools
import re
from collections.abc import Mapping
from typing import Any

from aigc_cli.prompts.clean import to_text
from aigc_cli.prompts.record import MAX_SETTING, GenerationRecord, join_prompts, make_record, parse_json_object

_WILDCARD = re.compile(r"<(?:random|wildcard|wc)\b")
_EASY_DIFFUSION = {
    "prompt": "Prompt",
    "seed": "Seed",
    "use_stable_diffusion_model": "Stable Diffusion model",
    "sampler_name": "Sampler",
    "num_inference_steps": "Steps",
    "guidance_scale": "Guidance Scale",
}
_EASY_NAMES = frozenset(_EASY_DIFFUSION.values()) | {"Negative Prompt", "Width", "Height", "Clip Skip", "VAE model"}
_JOB = re.compile(r"Job ID: [0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\s*\Z")


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
    model = re.sub(r"\s+[0-9A-F]{6,16}\Z", "", texts.get("Source", "")[:MAX_SETTING])
    names = ("model", "sampler", "steps", "scale", "seed")
    return make_record("novelai", join_prompts([base, *map(to_text, captions)]), fields | {"model": model}, names)


def read_ruined_fooocus(fields: Mapping[str, Any]) -> GenerationRecord | None:
    """Read the object of RuinedFooocus; None if another program wrote it."""
    if fields.get("software") != "RuinedFooocus":
        return None
    sampler = f"{to_text(fields.get('sampler_name'))} {to_text(fields.get('scheduler'))}"
    names = ("base_model_name", "sampler", "steps", "cfg", "seed")
    return make_record("ruinedfooocus", fields.get("Prompt"), {**fields, "sampler": sampler}, names)


def read_swarmui(fields: Mapping[str, Any]) -> GenerationRecord | None:
    """Read SwarmUI's object; None if another program wrote it. A prompt with wildcards left in it is ambiguous."""
    image = fields.get("sui_image_params")
    if not isinstance(image, dict):
        return None
    raw, fault = to_text(image.get("prompt")), None
    if _WILDCARD.search(raw):
        raw, fault = "", "ambiguous_prompt"
    sampler = f"{to_text(image.get('sampler'))} {to_text(image.get('scheduler'))}"
    names = ("model", "sampler", "steps", "cfgscale", "seed")
    return make_record("swarmui", raw, image | {"sampler": sampler}, names, fault)


def read_easy_diffusion(texts: Mapping[str, Any]) -> GenerationRecord | None:
    """Read the fields of Easy Diffusion, by their own or their shown names; None if another program wrote them."""
    fields = {name: texts.get(name, texts.get(shown)) for name, shown in _EASY_DIFFUSION.items()}
    if fields["use_stable_diffusion_model"] is None or fields["seed"] is None:
        return None
    names = ("use_stable_diffusion_model", "sampler_name", "num_inference_steps", "guidance_scale", "seed")
    return make_record("easydiffusion", fields["prompt"], fields, names)


def read_easy_diffusion_text(text: str) -> GenerationRecord | None:
    """Read the text file of Easy Diffusion, a line `Name: value` for each field; None if it is another text."""
    prompt, found = [], dict[str, str]()
    for line in text.strip().split("\n"):
        name, colon, value = line.partition(":")
        if colon and name in _EASY_NAMES:
            found.setdefault(name, value.strip())
        elif found.keys() <= {"Prompt"}:
            prompt.append(line)  # a prompt of several lines; older versions begin with a prompt that has no name
    return read_easy_diffusion(found | {"Prompt": "\n".join([found.get("Prompt", ""), *prompt])})


def read_draw_things(fields: Mapping[str, Any]) -> GenerationRecord | None:
    """Read the object of Draw Things; None if another program wrote it."""
    if not isinstance(fields.get("c"), str) or "uc" not in fields:
        return None
    return make_record("drawthings", fields["c"], fields, ("model", "sampler", "steps", "scale", "seed"))


def read_midjourney(texts: Mapping[str, str]) -> GenerationRecord | None:
    """Read Midjourney's `Description`, which ends with the number of the job; None if another program wrote it."""
    text = texts.get("Description", "")
    return make_record("midjourney", text, {}) if _JOB.search(text[-200:]) else None
