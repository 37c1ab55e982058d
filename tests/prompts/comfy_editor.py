"""Writes a graph of ComfyUI as its editor saves it."""

from collections.abc import Mapping
from typing import Any

from written import Graph

_CONDITION, _IMAGE, _LATENT, _TEXT = "CONDITIONING", "IMAGE", "LATENT", "STRING"
_BOTH = [("positive", _CONDITION), ("negative", _CONDITION)]
OUTPUTS: dict[str, list[tuple[str, str]]] = {
    "CheckpointLoaderSimple": [("MODEL", "MODEL"), ("CLIP", "CLIP"), ("VAE", "VAE")],
    "LoadImage": [("IMAGE", _IMAGE), ("MASK", "MASK")],
    "ApplyInstantID": [("MODEL", "MODEL"), *_BOTH],
    "ApplyUnknownID": [("model", "MODEL"), *_BOTH],
    "BrushNet": [("model", "MODEL"), *_BOTH, ("latent", _LATENT)],
    "ControlNetApplyAdvanced": _BOTH,
    "InpaintModelConditioning": [*_BOTH, ("latent", _LATENT)],
    "InstructPixToPixConditioning": [*_BOTH, ("latent", _LATENT)],
    "SUPIR_conditioner": _BOTH,
    "KSampler (Efficient)": [
        *(("MODEL", "MODEL"), ("CONDITIONING+", _CONDITION), ("CONDITIONING-", _CONDITION)),
        *(("LATENT", _LATENT), ("VAE", "VAE"), ("IMAGE", _IMAGE)),
    ],
    "Efficient Loader": [
        *(("MODEL", "MODEL"), ("CONDITIONING+", _CONDITION), ("CONDITIONING-", _CONDITION), ("LATENT", _LATENT)),
    ],
    "Context (rgthree)": [
        *(("CONTEXT", "RGTHREE_CONTEXT"), ("MODEL", "MODEL"), ("CLIP", "CLIP"), ("VAE", "VAE")),
        *(("POSITIVE", _CONDITION), ("NEGATIVE", _CONDITION), ("LATENT", _LATENT)),
    ],
    "FromBasicPipe": [("model", "MODEL"), ("clip", "CLIP"), ("vae", "VAE"), *_BOTH],
    "ToBasicPipe": [("basic_pipe", "BASIC_PIPE")],
    "ToDetailerPipe": [("detailer_pipe", "DETAILER_PIPE")],
    "ImpactWildcardEncode": [("model", "MODEL"), ("clip", "CLIP"), ("conditioning", _CONDITION), ("text", _TEXT)],
    "StableCascade_EmptyLatentImage": [("stage_c", _LATENT), ("stage_b", _LATENT)],
    "easy fullLoader": [("pipe", "PIPE_LINE"), ("model", "MODEL"), ("vae", "VAE")],
    "easy preSampling": [("pipe", "PIPE_LINE")],
    "easy pipeEditPrompt": [("pipe", "PIPE_LINE")],
    "easy kSampler": [("pipe", "PIPE_LINE"), ("image", _IMAGE)],
    "CR Text Overlay": [("IMAGE", _IMAGE)],
    "VAEEncodeForInpaint": [("LATENT", _LATENT)],
    "WanVideoTextEncode": [("text_embeds", "WANVIDEOTEXTEMBEDS")],
}
_KINDS = ("Text", "String", "Styler", "ShowText")


def _name_outputs(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    kind = entry["class_type"]
    if kind in OUTPUTS:
        return OUTPUTS[kind]
    if "conditioning" in entry["inputs"] and not kind.endswith("Guider"):
        return [(_CONDITION, _CONDITION)]
    if kind.endswith("Guider"):
        return [("GUIDER", "GUIDER")]
    if {"positive", "negative"} <= set(entry["inputs"]) and "Sampler" not in kind:
        return [*_BOTH, ("latent", _LATENT)]
    if "Encode" in kind or "Condition" in kind or "BatchPrompt" in kind:
        return [(_CONDITION, _CONDITION)]
    if "Switch" in kind or "Reroute" in kind:
        return [("*", "*")]
    if any(word in kind for word in _KINDS):
        return [(_TEXT, _TEXT)]
    return [(_LATENT, _LATENT)] if "Sampler" in kind or "Latent" in kind else [(_IMAGE, _IMAGE)]


def edit(graph: Graph) -> dict[str, Any]:
    """The editor's workflow of a graph, as recent versions write it: the inputs list the widgets by name."""
    nodes: list[dict[str, Any]] = []
    links: list[list[Any]] = []
    for key, entry in graph.items():
        inputs: list[dict[str, Any]] = []
        values: list[Any] = []
        for name, value in entry["inputs"].items():
            if isinstance(value, list):
                outputs = _name_outputs(graph[value[0]]) if value[0] in graph else []
                kind = outputs[value[1]][1] if value[1] < len(outputs) else "*"
                links.append([len(links) + 1, value[0], value[1], key, len(inputs), kind])
                inputs.append({"name": name, "type": kind, "link": len(links)})
            else:
                kind = _TEXT if isinstance(value, str) else "INT"
                inputs.append({"name": name, "type": kind, "widget": {"name": name}, "link": None})
                values += [value, "fixed"] if name in ("seed", "noise_seed") else [value]
        outputs = _name_outputs(entry)
        nodes.append(
            {
                "id": int(key) if key.isdigit() else key,
                "type": entry["class_type"],
                "mode": 0,
                "inputs": inputs,
                "outputs": [{"name": name, "type": kind} for name, kind in outputs],
                "widgets_values": values,
            }
        )
    return {"nodes": nodes, "links": links, "version": 0.4}


def find_node(workflow: Mapping[str, Any], key: int) -> dict[str, Any]:
    """A node of a workflow, to change it."""
    return next(node for node in workflow["nodes"] if node["id"] == key)
