"""Reads a text in which some program wrote prompt and settings: of a comment in an image, or of a file beside it."""

import json
from collections.abc import Mapping
from typing import Any

from aigc_cli.prompts.comfyui import read_graph
from aigc_cli.prompts.infotext import is_infotext, read_infotext
from aigc_cli.prompts.programs import (
    is_fooocus,
    read_draw_things,
    read_easy_diffusion,
    read_easy_diffusion_text,
    read_fooocus,
    read_novelai,
    read_ruined_fooocus,
    read_swarmui,
)
from aigc_cli.prompts.record import GenerationRecord, make_record, parse_json_object


def read_any_program(text: str) -> GenerationRecord | None:
    """The record in a text that a known program wrote; None for any other text. The text tells which program it was."""
    fields = parse_json_object(text)
    if fields is not None:
        return read_object(fields)
    return read_infotext(text) if is_infotext(text) else read_easy_diffusion_text(text)


def read_object(fields: Mapping[str, Any]) -> GenerationRecord | None:
    """The record in a JSON object that a known program wrote; None for any other object."""
    if is_fooocus(fields):
        return read_fooocus(fields)
    for read in (read_swarmui, read_ruined_fooocus, read_easy_diffusion, read_draw_things, _read_novelai, _read_graph):
        if (record := read(fields)) is not None:
            return record
    return None


def _read_novelai(fields: Mapping[str, Any]) -> GenerationRecord | None:
    """Read what NovelAI hides in the pixels: an object of the texts that it also writes into PNG."""
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in fields.items()}
    return read_novelai(texts)


def _read_graph(fields: Mapping[str, Any]) -> GenerationRecord | None:
    """Read ComfyUI's graph, alone or as `prompt`; Civitai puts `extraMetadata` with the user's prompt beside it."""
    extra = fields.get("extraMetadata")
    extra = extra if isinstance(extra, dict) else parse_json_object(extra)
    if extra and "prompt" in extra:
        return make_record("civitai", extra["prompt"], extra, ("model", "sampler", "steps", "cfgScale", "seed"))
    graph = fields.get("prompt")
    if isinstance(graph, dict):
        workflow = fields.get("workflow")
        return read_graph(graph, workflow=workflow if isinstance(workflow, dict) else None)
    nodes = {name: node for name, node in fields.items() if isinstance(node, dict) and "class_type" in node}
    return read_graph(nodes) if nodes else None
