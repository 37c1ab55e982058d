"""Finds the prompt of the saved image in a graph of ComfyUI.

A graph is `{id: {"class_type": ..., "inputs": {name: value or [id, output]}}}`; ComfyUI stores it as `prompt`. The
search starts at the nodes that save images, goes back to the samplers that feed them, and from there along their
positive conditioning to the texts. It never guesses: if samplers have different prompts, or a path ends at an unknown
node, the graph is ambiguous.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aigc_cli.prompts.clean import MAX_PROMPT, to_text
from aigc_cli.prompts.programs import GenerationRecord, join_prompts, make_record

MAX_NODES = 20_000
MAX_STEPS = 50_000  # visits of nodes for one image
Node = Mapping[str, Any]
Graph = Mapping[str, Node]

# Inputs that hold a prompt: of nodes that encode texts, in the order of the joined prompt; of nodes of plain text.
_TEXTS = ("text", "text_g", "text_l", "clip_l", "clip_g", "t5xxl", "llama", "bert", "mt5xl", "prompt", "user_prompt")
_STRINGS = (*_TEXTS, "value", "string", "String", "positive", "populated_text", "multiline_text")
_CONDITIONINGS = ("conditioning", "positive", "cond", "conditioning_1", "conditioning_2", "cond1", "cond2")
_NAMED = re.compile(r"conditioning_?(?:to|from|[0-9]{1,3}|[a-z])")
_PART = re.compile(r"(?:text|string|prompt|input|str)(?:_?[0-9]{1,3}|_[a-z])?")  # of nodes that join texts
# Nodes of plain text that may have more inputs than the text.
_KNOWN = ("StringTrim", "ShowText|pysssss", "ImpactWildcardProcessor", "Power Prompt (rgthree)", "easy positive")
# Inputs that are neither images nor latents; any other linked input may be one of these.
_CONDITIONS = ("positive", "negative", "conditioning", "control_net", "style_model", "clip_vision_output")
_TOOLS = ("model", "clip", "vae", "clip_vision", "upscale_model", "ipadapter", "lora_stack", "pipe")
_SAMPLING = ("noise", "guider", "sampler", "sigmas", "mask", "text", "prompt", "seed", "steps", "cfg")
_NO_PIXELS = frozenset([*_CONDITIONS, *_TOOLS, *_SAMPLING])
_PASSES = ("Reroute", "Bypassed")  # nodes that pass on their only input


class _Ambiguous(Exception):
    """The graph does not determine the prompt."""


def read_graph(graph: Mapping[str, Any]) -> GenerationRecord:
    """Read the prompt and settings of the image that a graph saved.

    The texts of a node with several encoders, and of combined or concatenated conditionings, are joined with commas to
    one prompt. The settings are those of the sampler that starts from noise; if the graph saves several images, only
    the settings on which all agree. The fault is ambiguous_prompt if there are several prompts or the prompt cannot be
    determined, and bad_metadata if `graph` is not a graph or has more than MAX_NODES nodes.
    """
    nodes = {
        str(key): node
        for key, node in graph.items()
        if isinstance(node, Mapping) and isinstance(node.get("inputs"), Mapping) and _get_class(node)
    }
    if not nodes or len(nodes) > MAX_NODES:
        return GenerationRecord("comfyui", fault="bad_metadata")
    reader = _GraphReader(nodes)
    try:
        chains = [reader.find_samplers(end) for end in _find_ends(nodes)]
    except _Ambiguous:
        return GenerationRecord("comfyui", fault="ambiguous_prompt")
    samplers = dict.fromkeys(sampler for chain in chains for sampler in chain)
    if not samplers and not any(name in node["inputs"] for node in nodes.values() for name in _TEXTS):
        return GenerationRecord("comfyui")  # such as a graph that only enlarges an image
    first, *others = [reader.read_settings(chain[-1]) for chain in chains if chain] or [{}]
    settings = {name: value for name, value in first.items() if all(other[name] == value for other in others)}
    try:
        prompts = dict.fromkeys(reader.read_prompt(sampler) for sampler in samplers)
    except _Ambiguous:
        prompts = {}
    if len(prompts) != 1:
        return make_record("comfyui", "", settings, fault="ambiguous_prompt")
    return make_record("comfyui", next(iter(prompts)), settings)


def _get_class(node: Node) -> str:
    return to_text(node.get("class_type"))


def _find_ends(nodes: Graph) -> list[str]:
    """The nodes that save images; without any, those that show previews; without any, those with unused outputs."""
    for word in ("save", "preview"):
        showing = [key for key, node in nodes.items() if word in _get_class(node).lower() and _get_links(node)]
        if showing:
            return showing
    used = {link[0] for node in nodes.values() for link in _get_links(node).values()}
    return [key for key in nodes if key not in used]


def _get_links(node: Node) -> dict[str, tuple[str, int]]:
    """The linked inputs of a node: {input: (id of the other node, number of its output)}."""
    return {name: link for name, value in node["inputs"].items() if (link := _parse_link(value)) is not None}


def _parse_link(value: Any) -> tuple[str, int] | None:
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int) and type(value[1]) is int:
        return str(value[0]), value[1]
    return None


class _GraphReader:
    """Searches one graph, with at most MAX_STEPS visits of nodes in all searches together."""

    def __init__(self, nodes: Graph) -> None:
        self.nodes = nodes
        self.steps = 0

    def visit(self, key: str) -> Node:
        """Get a node and count the visit. Raises _Ambiguous if it is missing or the visits are used up."""
        self.steps += 1
        if key not in self.nodes or self.steps > MAX_STEPS:
            raise _Ambiguous
        return self.nodes[key]

    def find_samplers(self, end: str) -> list[str]:
        """The samplers that made the image of the node `end`, the nearest first."""
        found, seen, waiting = [], {end}, [end]
        while waiting:
            key = waiting.pop(0)
            node = self.visit(key)
            if key != end and _is_sampler(node):
                found.append(key)
                if self._begins_from_noise(node):
                    continue
            for name, (other, _) in _get_links(node).items():
                if name not in _NO_PIXELS and other in self.nodes and other not in seen:
                    seen.add(other)
                    waiting.append(other)
        return found

    def _begins_from_noise(self, node: Node) -> bool:
        """Whether a sampler replaces its input by noise, so that earlier samplers do not affect the image."""
        inputs = node["inputs"]
        if "sampler_name" in inputs and "latent_image" in inputs:
            if "start_at_step" in inputs:
                return _get_number(inputs["start_at_step"]) == 0 and inputs.get("add_noise") == "enable"
            return _get_number(inputs.get("denoise", 1)) == 1
        sigmas = _parse_link(inputs.get("sigmas"))
        if sigmas is None or sigmas[0] not in self.nodes:
            return False
        schedule = self.visit(sigmas[0])
        return "sigmas" not in _get_links(schedule) and _get_number(schedule["inputs"].get("denoise", 1)) == 1

    def read_prompt(self, key: str) -> str:
        """The positive prompt of a sampler."""
        inputs = self.visit(key)["inputs"]
        if guider := _parse_link(inputs.get("guider")):
            inputs = self._follow(guider)[1]["inputs"]
        names = [name for name in ("positive", "conditioning", "cond1", "cond2") if _parse_link(inputs.get(name))]
        texts = [join_prompts(self._read_conditioning(_parse_link(inputs[name]), frozenset())) for name in names]
        if not names or len(set(filter(None, texts))) > 1:  # a second condition may be a negative one
            raise _Ambiguous
        return join_prompts(texts)

    def _follow(self, link: tuple[str, int]) -> tuple[tuple[str, int], Node]:
        """The link and its node, after skipping nodes that only pass on their input."""
        node = self.visit(link[0])
        while _get_class(node) in _PASSES:
            onward = list(_get_links(node).values())
            if len(onward) != 1:
                raise _Ambiguous
            link, node = onward[0], self.visit(onward[0][0])
        return link, node

    def _read_conditioning(self, link: tuple[str, int] | None, visited: frozenset[str]) -> list[str]:
        """The texts of a conditioning in their order. `visited` are the nodes on the path so far, to detect cycles."""
        if link is None or link[0] in visited or len(visited) > 200:
            raise _Ambiguous
        link, node = self._follow(link)
        kind, inputs, links = _get_class(node), node["inputs"], _get_links(node)
        visited |= {link[0]}
        if kind == "ConditioningZeroOut":
            return []
        if kind == "ConditioningAverage" and (share := _get_number(inputs.get("conditioning_to_strength"))) in (0, 1):
            return self._read_conditioning(links.get("conditioning_to" if share else "conditioning_from"), visited)
        if "positive" in links and "negative" in links:  # its outputs are in the same order
            names = {0: ["positive"], 1: ["negative"]}.get(link[1], [])
        else:
            names = [name for name in links if name in _CONDITIONINGS or _NAMED.fullmatch(name)]
            names.sort(key=lambda name: (name == "conditioning_from", len(name), name))
        texts = [text for name in names for text in self._read_conditioning(links[name], visited)]
        own = [name for name in _TEXTS if name in inputs]
        if not names and not own and isinstance(inputs.get("positive"), str):  # loaders with their own prompts
            own = ["positive"]
        texts += [self._read_string(inputs[name], visited) for name in own]
        if not names and not own:
            raise _Ambiguous
        return texts

    def _read_string(self, value: Any, visited: frozenset[str]) -> str:
        """A text value, or the text that linked nodes of known types make."""
        link = _parse_link(value)
        if link is None:
            if not isinstance(value, str):
                raise _Ambiguous
            return to_text(value)
        if link[0] in visited or len(visited) > 200:
            raise _Ambiguous
        link, node = self._follow(link)
        inputs, kind = node["inputs"], _get_class(node)
        visited |= {link[0]}
        if "concat" in kind.lower() or "join" in kind.lower():
            names = [name for name in inputs if _PART.fullmatch(name.lower())]
            names.sort(key=lambda name: (len(name), name))  # text2 before text10
            texts = [self._read_string(inputs[name], visited) for name in names]
            delimiter = next((inputs[name] for name in ("delimiter", "separator", "sep") if name in inputs), " ")
            if not isinstance(delimiter, str) or sum(map(len, texts)) > MAX_PROMPT:
                raise _Ambiguous
            return to_text(delimiter).replace("\\n", "\n").join(filter(None, texts))
        if kind == "StringReplace":
            text, find, new = (self._read_string(inputs.get(key, ""), visited) for key in ("string", "find", "replace"))
            if len(text) + len(new) * (text.count(find) + 1) > MAX_PROMPT:
                raise _Ambiguous
            return text.replace(find, new)
        holding = [name for name in _STRINGS if isinstance(inputs.get(name), str) or _parse_link(inputs.get(name))]
        if len(holding) != 1 or (len(inputs) > 1 and kind not in _KNOWN):
            raise _Ambiguous  # such as a language model: its answer is not in the graph
        return self._read_string(inputs[holding[0]], visited)

    def read_settings(self, key: str) -> dict[str, Any]:
        """The settings of a sampler and of its linked nodes."""
        node = self.nodes[key]
        parts = [node, *self._list_linked(node, ("guider", "noise", "sampler", "sigmas"))]
        sampler, schedule = self._find_value(parts, "sampler_name"), self._find_value(parts, "scheduler")
        if isinstance(sampler, str) and isinstance(schedule, str) and schedule != "normal":
            sampler += f" {schedule}"
        settings = {"model": self._find_model(parts), "sampler": sampler, "steps": self._find_value(parts, "steps")}
        return settings | {"cfg": self._find_value(parts, "cfg"), "seed": self._find_value(parts, "noise_seed", "seed")}

    def _list_linked(self, node: Node, names: Sequence[str]) -> Iterator[Node]:
        for name in names:
            here = node
            for _ in range(8):  # other nodes may split a schedule
                key = _get_links(here).get(name, ("", 0))[0]
                if key not in self.nodes:
                    break
                here = self.nodes[key]
                yield here

    def _find_value(self, nodes: Sequence[Node], *names: str) -> Any:
        for node in nodes:
            for name in names:
                value = node["inputs"].get(name)
                link = _parse_link(value)
                if link is not None and link[0] in self.nodes:  # a node of one value that several nodes share
                    inside = self.nodes[link[0]]["inputs"]
                    value = next((inside[n] for n in (*names, "value", "int", "float", "Number") if n in inside), None)
                if isinstance(value, str | int | float):
                    return value
        return None

    def _find_model(self, parts: Sequence[Node]) -> str | None:
        key = next((links["model"][0] for node in parts if "model" in (links := _get_links(node))), "")
        for _ in range(200):
            if key not in self.nodes:
                return None
            inputs = self.nodes[key]["inputs"]
            names = ("ckpt_name", "unet_name", "model_name", "gguf_name", "base_ckpt_name")
            if files := [inputs[name] for name in names if isinstance(inputs.get(name), str)]:
                return str(files[0])
            links = _get_links(self.nodes[key])
            key = links.get("model", next(iter(links.values()), ("", 0)))[0]
        return None


def _is_sampler(node: Node) -> bool:
    """Whether a node makes an image from a prompt."""
    links = _get_links(node)
    if "guider" in links:
        return True
    makes = "sampler_name" in node["inputs"] or "sampler" in links or "noise_seed" in node["inputs"]
    return "positive" in links and (makes or "ksampler" in _get_class(node).lower())


def _get_number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and abs(value) < 1e9 else None
