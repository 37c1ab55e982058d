"""ComfyUI's `workflow`: a graph as its editor draws it, turned into the one that it runs."""

from collections.abc import Mapping
from typing import Any

from aigc_cli.prompts.comfyui import MAX_NODES


def graph_of_workflow(workflow: Mapping[str, Any]) -> dict[str, Any] | None:
    """The graph of a `workflow`, which some programs write alone; None where it is none.

    Values of a node's widgets come without their names. They are taken where the file names them, or the node is one
    of a few whose widgets are known; a node that is switched off is left out, one that is bypassed hands on.
    """
    nodes, links = workflow.get("nodes"), workflow.get("links")
    if not isinstance(nodes, list) or not isinstance(links, list) or len(nodes) > MAX_NODES:
        return None
    origin: dict[Any, tuple[str, int]] = {}
    for link in links:
        if isinstance(link, list) and len(link) >= 5 and isinstance(link[0], int) and isinstance(link[2], int):
            origin[link[0]] = (str(link[1]), link[2])
    graph: dict[str, Any] = {}
    for node in nodes:
        if isinstance(node, dict) and node.get("mode") != 2 and isinstance(node.get("type"), str):
            graph[str(node.get("id"))] = _graph_node(node, origin)
    return graph or None


# Widgets in their order, for files that don't name them; a seed is followed by what is done to it after a run.
_WIDGETS = {
    "CLIPTextEncode": ("text",),
    "KSampler": ("seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": ("add_noise", "noise_seed", "", "steps", "cfg", "sampler_name", "scheduler", "start_at_step"),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "UNETLoader": ("unet_name",),
    "PrimitiveNode": ("value",),
    "FluxGuidance": ("guidance",),
    "CLIPTextEncodeFlux": ("clip_l", "t5xxl", "guidance"),
    "KSamplerSelect": ("sampler_name",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "RandomNoise": ("noise_seed", ""),
    "CFGGuider": ("cfg",),
}


def _graph_node(node: Mapping[str, Any], origin: Mapping[Any, tuple[str, int]]) -> dict[str, Any]:
    listed = node.get("inputs")
    listed = [i for i in listed if isinstance(i, dict) and isinstance(i.get("name"), str)] if listed else []
    values = node.get("widgets_values")
    inputs: dict[str, Any] = {}
    if isinstance(values, dict):
        inputs |= values
    elif isinstance(values, list):
        names = _WIDGETS.get(str(node["type"])) or [n for i in listed if "widget" in i for n in _widget(i["name"])]
        inputs |= {name: value for name, value in zip(names, values, strict=False) if name}
    bypassed = node.get("mode") == 4
    outputs = node.get("outputs")
    kinds = {out.get("type") for out in outputs if isinstance(out, dict)} if isinstance(outputs, list) else set()
    for entry in listed:
        link = entry.get("link")
        known = isinstance(link, int) and link in origin
        if known and (not bypassed or entry.get("type") in kinds):
            inputs[entry["name"]] = list(origin[link])
    return {"class_type": "Bypassed" if bypassed else node["type"], "inputs": inputs}


def _widget(name: str) -> tuple[str, ...]:
    return (name, "") if name in ("seed", "noise_seed") else (name,)
