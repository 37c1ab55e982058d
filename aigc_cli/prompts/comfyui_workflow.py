"""Converts ComfyUI's `workflow`, the graph of its editor, to the graph that it runs."""

from collections.abc import Mapping
from typing import Any

from aigc_cli.prompts.comfyui import MAX_NODES

# Widgets in their order, for files that do not name them. The value after a seed says how it changes after a run.
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


def convert_workflow(workflow: Mapping[str, Any]) -> dict[str, Any] | None:
    """Convert a `workflow` to a graph; None if it is not a workflow. Some programs write only the workflow.

    A workflow lists the values of a node's widgets without their names. Values are kept if the file names the widgets
    or the node's type is in `_WIDGETS`. Muted nodes are left out; bypassed nodes pass on their inputs.
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
            graph[str(node.get("id"))] = _convert_node(node, origin)
    return graph or None


def _convert_node(node: Mapping[str, Any], origin: Mapping[Any, tuple[str, int]]) -> dict[str, Any]:
    listed = [i for i in node.get("inputs") or () if isinstance(i, dict) and isinstance(i.get("name"), str)]
    values = node.get("widgets_values")
    inputs: dict[str, Any] = {}
    if isinstance(values, dict):
        inputs |= values
    elif isinstance(values, list):
        named = [i["name"] for i in listed if "widget" in i]
        after_seed = [name for i in named for name in ((i, "") if i in ("seed", "noise_seed") else (i,))]
        names = _WIDGETS.get(node["type"], after_seed)
        inputs |= {name: value for name, value in zip(names, values, strict=False) if name}
    bypassed = node.get("mode") == 4
    outputs = node.get("outputs")
    kinds = {out.get("type") for out in outputs if isinstance(out, dict)} if isinstance(outputs, list) else set()
    for entry in listed:
        link = entry.get("link")
        if isinstance(link, int) and link in origin and (not bypassed or entry.get("type") in kinds):
            inputs[entry["name"]] = list(origin[link])
    return {"class_type": "Bypassed" if bypassed else node["type"], "inputs": inputs}
