"""Reads the settings of a sampler in a ComfyUI graph."""

from collections.abc import Iterator, Sequence
from typing import Any

from aigc_cli.prompts import comfyui_nodes as known
from aigc_cli.prompts.comfyui_graph import Node, NodeGraph

_PARTS = ("guider", "noise", "sampler", "sigmas", "pipe", "basic_pipe", "detailer_pipe", "sdxl_tuple")
_MODELS = ("ckpt_name", "unet_name", "model_name", "gguf_name", "base_ckpt_name")


def read_settings(graph: NodeGraph, key: str) -> dict[str, Any]:
    """The settings of a sampler and of its linked nodes; None for those that are not known."""
    node = graph.nodes[key]
    parts = [node, *_list_linked(graph, node)]
    sampler, schedule = _find_value(graph, parts, "sampler_name"), _find_value(graph, parts, "scheduler")
    if isinstance(sampler, str) and isinstance(schedule, str) and schedule != "normal":
        sampler += f" {schedule}"
    return {
        "model": _find_model(graph, parts),
        "sampler": sampler,
        "steps": _find_value(graph, parts, "steps"),
        "cfg": _find_value(graph, parts, "cfg"),
        "seed": _find_value(graph, parts, "noise_seed", "seed"),
    }


def _list_linked(graph: NodeGraph, node: Node) -> Iterator[Node]:
    for name in _PARTS:
        here = node
        for _ in range(8):  # other nodes may split a schedule
            link = here.links.get(name)
            behind = None if link is None else graph.nodes.get(graph.settle(link)[0])
            if behind is None:
                break
            here = behind
            yield here


def _find_value(graph: NodeGraph, nodes: Sequence[Node], *names: str) -> Any:
    for node in nodes:
        for name in names:
            value = graph.find_constant(node.inputs.get(name))
            if isinstance(value, str | int | float) and not isinstance(value, bool):
                return value
    return None


def _find_model(graph: NodeGraph, parts: Sequence[Node]) -> str | None:
    link = next((node.links["model"] for node in parts if "model" in node.links), None)
    node = None if link is None else graph.nodes.get(graph.settle(link)[0])
    for _ in range(200):
        if node is None:
            break
        if name := _name_model(node):
            return name
        onward = node.links.get("model", next(iter(node.links.values()), None))
        node = None if onward is None else graph.nodes.get(graph.settle(onward)[0])
    return next(filter(None, map(_name_model, parts)), None)  # a pipe has no input for the model


def _name_model(node: Node) -> str | None:
    names = [name for name in _MODELS if isinstance(node.inputs.get(name), str)]
    if names:
        return str(node.inputs[names[0]])
    model = node.inputs.get("model")
    is_choice = isinstance(model, str) and (known.PARTNERS.fits(node.kind) or "loader" in node.kind.lower())
    return str(model) if is_choice else None
