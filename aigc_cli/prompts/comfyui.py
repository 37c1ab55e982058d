"""ComfyUI's graphs: which prompt made the saved image.

A graph is `{id: {"class_type": ..., "inputs": {name: value or [id, output]}}}`, what ComfyUI writes as `prompt`. From
each node that saves images the way leads back to the samplers that feed it, and from those over their positive
conditioning to texts. Nothing is guessed: where samplers disagree about the prompt, or a way ends at a node that is
not understood, the graph is ambiguous.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from aigc_cli.prompts.clean import MAX_PROMPT, as_text
from aigc_cli.prompts.programs import Recorded, joined, recorded

MAX_NODES = 20_000
MAX_STEPS = 50_000  # nodes visited for one image
Node = Mapping[str, Any]
Graph = Mapping[str, Node]

# Inputs that hold a prompt, by how one would read them aloud: conditioning nodes first, then nodes of plain text.
_TEXTS = ("text", "text_g", "text_l", "clip_l", "clip_g", "t5xxl", "llama", "bert", "mt5xl", "prompt", "user_prompt")
_STRINGS = (*_TEXTS, "value", "string", "String", "positive", "populated_text", "multiline_text")
_CONDITIONINGS = ("conditioning", "positive", "cond", "conditioning_1", "conditioning_2", "cond1", "cond2")
_NAMED = re.compile(r"conditioning_?(?:to|from|[0-9]{1,3}|[a-z])")
_PART = re.compile(r"(?:text|string|prompt|input|str)(?:_?[0-9]{1,3}|_[a-z])?")
# Nodes of text with more inputs than the text that they give.
_KNOWN = frozenset(
    ["StringTrim", "ShowText|pysssss", "ImpactWildcardProcessor", "Power Prompt (rgthree)", "easy positive"]
)
# What leads away from an image: everything else that is linked may be an image or a latent one.
_CONDITIONS = ("positive", "negative", "conditioning", "control_net", "style_model", "clip_vision_output")
_TOOLS = ("model", "clip", "vae", "clip_vision", "upscale_model", "ipadapter", "lora_stack", "pipe")
_SAMPLING = ("noise", "guider", "sampler", "sigmas", "mask", "text", "prompt", "seed", "steps", "cfg")
_NO_PIXELS = frozenset([*_CONDITIONS, *_TOOLS, *_SAMPLING])
_PASSES = ("Reroute", "Bypassed")  # nodes that hand on their only input


class _Unclear(Exception):
    """The graph does not say."""


def read_graph(graph: Mapping[str, Any]) -> Recorded:
    """The prompt and settings of the image that a graph saved.

    Several encoders' texts of one node, combined and concatenated conditionings are one prompt, joined by commas.
    Settings are those of the sampler that begins from noise; they are left out where several images were saved with
    different ones.

    Returns:
        fault ambiguous_prompt: several prompts, or none that could be followed.
    """
    nodes = {str(key): node for key, node in graph.items() if _is_node(node)}
    if not nodes or len(nodes) > MAX_NODES:
        return Recorded("comfyui", fault="bad_metadata")
    reader = _Reader(nodes)
    try:
        chains = [reader.samplers(end) for end in _ends(nodes)]
    except _Unclear:
        return Recorded("comfyui", fault="ambiguous_prompt")
    samplers = dict.fromkeys(sampler for chain in chains for sampler in chain)
    if not samplers and not any(name in node["inputs"] for node in nodes.values() for name in _TEXTS):
        return Recorded("comfyui")  # such as an image that was only made larger
    settings = _agreed([reader.settings(chain[-1]) for chain in chains if chain])
    try:
        prompts = dict.fromkeys(reader.prompt(sampler) for sampler in samplers)
    except _Unclear:
        prompts = {}
    if len(prompts) != 1:
        return recorded("comfyui", "", settings, "ambiguous_prompt")
    return recorded("comfyui", next(iter(prompts)), settings)


def _is_node(node: Any) -> bool:
    return isinstance(node, Mapping) and isinstance(node.get("inputs"), Mapping) and _kind(node) != ""


def _kind(node: Node) -> str:
    return as_text(node.get("class_type"))


def _ends(nodes: Graph) -> list[str]:
    """The nodes that may have saved the image: those that save; without any, those that preview or lead nowhere."""
    saving = [key for key, node in nodes.items() if "save" in _kind(node).lower() and _links(node)]
    if saving:
        return saving
    used = {link[0] for node in nodes.values() for link in _links(node).values()}
    previews = [key for key, node in nodes.items() if "preview" in _kind(node).lower() and _links(node)]
    return previews or [key for key in nodes if key not in used]


def _links(node: Node) -> dict[str, tuple[str, int]]:
    """{input: (node, which of its outputs)} of the inputs that are linked."""
    return {name: link for name, value in node["inputs"].items() if (link := _link(value)) is not None}


def _link(value: Any) -> tuple[str, int] | None:
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int):
        slot = value[1]
        return (str(value[0]), slot) if isinstance(slot, int) and not isinstance(slot, bool) else None
    return None


def _agreed(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all have in common."""
    first = dict(settings[0]) if settings else {}
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in settings)}


class _Reader:
    """Walks one graph; every walk remembers where it was, and all of them together take a bounded number of steps."""

    def __init__(self, nodes: Graph) -> None:
        self.nodes = nodes
        self.steps = 0

    def node(self, key: str) -> Node:
        self.steps += 1
        if key not in self.nodes or self.steps > MAX_STEPS:
            raise _Unclear
        return self.nodes[key]

    # --- from a saved image to its samplers

    def samplers(self, end: str) -> list[str]:
        """The samplers that a node's image comes from, the nearest first."""
        found: dict[str, None] = {}
        seen, waiting = {end}, [end]
        while waiting:
            key = waiting.pop(0)
            node = self.node(key)
            if key != end and _is_sampler(node):
                found[key] = None
                if self._begins_from_noise(node):
                    continue
            for name, (other, _) in _links(node).items():
                if name not in _NO_PIXELS and other in self.nodes and other not in seen:
                    seen.add(other)
                    waiting.append(other)
        return list(found)

    def _begins_from_noise(self, node: Node) -> bool:
        """Whether what enters a sampler is overwritten by noise, so that nothing before it shows in the image."""
        inputs = node["inputs"]
        if "sampler_name" in inputs and "latent_image" in inputs:
            if "start_at_step" in inputs:
                return _number(inputs["start_at_step"]) == 0 and inputs.get("add_noise") == "enable"
            return _number(inputs.get("denoise", 1)) == 1
        sigmas = _link(inputs.get("sigmas"))
        if sigmas is None or sigmas[0] not in self.nodes:
            return False
        schedule = self.node(sigmas[0])
        return "sigmas" not in _links(schedule) and _number(schedule["inputs"].get("denoise", 1)) == 1

    # --- from a sampler to its prompt

    def prompt(self, key: str) -> str:
        """The positive prompt of a sampler."""
        inputs = self.node(key)["inputs"]
        guider = _link(inputs.get("guider"))
        if guider is not None:
            inputs = self._through(guider)[1]["inputs"]
        names = [name for name in ("positive", "conditioning", "cond1", "cond2") if _link(inputs.get(name))]
        texts = [joined(self._conditioning(_link(inputs[name]), frozenset())) for name in names]
        if not names or len(set(filter(None, texts))) > 1:  # a second condition may be what is led away from
            raise _Unclear
        return joined(texts)

    def _through(self, link: tuple[str, int]) -> tuple[tuple[str, int], Node]:
        """The link and the node that it leads to, behind nodes that only hand on."""
        node = self.node(link[0])
        while _kind(node) in _PASSES:
            onward = list(_links(node).values())
            if len(onward) != 1:
                raise _Unclear
            link, node = onward[0], self.node(onward[0][0])
        return link, node

    def _conditioning(self, link: tuple[str, int] | None, above: frozenset[str]) -> list[str]:
        """The texts in a conditioning, in their order."""
        if link is None or link[0] in above or len(above) > 200:
            raise _Unclear
        link, node = self._through(link)
        kind, inputs, links = _kind(node), node["inputs"], _links(node)
        above |= {link[0]}
        if kind == "ConditioningZeroOut":
            return []
        if kind == "ConditioningAverage" and (share := _number(inputs.get("conditioning_to_strength"))) in (0, 1):
            return self._conditioning(links.get("conditioning_to" if share else "conditioning_from"), above)
        if "positive" in links and "negative" in links:  # outputs of such a node come in the same order
            names = ["positive", "negative"][link[1] : link[1] + 1] if link[1] in (0, 1) else []
        else:
            names = [name for name in links if name in _CONDITIONINGS or _NAMED.fullmatch(name)]
            names.sort(key=lambda name: (name == "conditioning_from", *_natural(name)))
        texts = [text for name in names for text in self._conditioning(links[name], above)]
        own = [name for name in _TEXTS if name in inputs]
        if not names and not own and isinstance(inputs.get("positive"), str):  # loaders with prompts of their own
            own = ["positive"]
        texts += [self._string(inputs[name], above) for name in own]
        if not names and not own:
            raise _Unclear
        return texts

    def _string(self, value: Any, above: frozenset[str]) -> str:
        """A text that is written there, or made by a node that is understood."""
        link = _link(value)
        if link is None:
            if not isinstance(value, str):
                raise _Unclear
            return as_text(value)
        if link[0] in above or len(above) > 200:
            raise _Unclear
        link, node = self._through(link)
        inputs, kind = node["inputs"], _kind(node)
        above |= {link[0]}
        if "concat" in kind.lower() or "join" in kind.lower():
            names = sorted((name for name in inputs if _is_part(name)), key=_natural)
            texts = [text for name in names if (text := self._string(inputs[name], above))]
            return _short(texts, _delimiter(inputs).join)
        if kind == "StringReplace":
            text, find, new = (self._string(inputs.get(name, ""), above) for name in ("string", "find", "replace"))
            return _short([text, new * (text.count(find) + 1)], lambda _: text.replace(find, new))
        holding = [name for name in _STRINGS if isinstance(inputs.get(name), str) or _link(inputs.get(name))]
        if len(holding) != 1 or (len(inputs) > 1 and kind not in _KNOWN):
            raise _Unclear  # such as a language model, whose answer is not in the graph
        return self._string(inputs[holding[0]], above)

    # --- settings

    def settings(self, key: str) -> dict[str, Any]:
        """What a sampler and the nodes that it refers to say of themselves."""
        node = self.nodes[key]
        parts = [node, *self._referred(node, ("guider", "noise", "sampler", "sigmas"))]
        said = {
            "sampler": self._first(parts, "sampler_name"),
            "steps": self._first(parts, "steps"),
            "cfg": self._first(parts, "cfg"),
            "seed": self._first(parts, "noise_seed", "seed"),
            "model": self._model(parts),
        }
        schedule = self._first(parts, "scheduler")
        if isinstance(said["sampler"], str) and isinstance(schedule, str) and schedule != "normal":
            said["sampler"] += f" {schedule}"
        return said

    def _referred(self, node: Node, names: Sequence[str]) -> Iterator[Node]:
        links = _links(node)
        for name in names:
            key = links.get(name, ("", 0))[0]
            for _ in range(8):  # a schedule may be cut in parts by other nodes
                if key not in self.nodes:
                    break
                yield self.nodes[key]
                key = _links(self.nodes[key]).get(name, ("", 0))[0]

    def _first(self, nodes: Sequence[Node], *names: str) -> Any:
        for node in nodes:
            for name in names:
                value = node["inputs"].get(name)
                link = _link(value)
                if link is not None and link[0] in self.nodes:  # a primitive that several nodes share
                    inside = self.nodes[link[0]]["inputs"]
                    value = next((inside[n] for n in (*names, "value", "int", "float", "Number") if n in inside), None)
                if isinstance(value, str | int | float):
                    return value
        return None

    def _model(self, parts: Sequence[Node]) -> str | None:
        key = next((links["model"][0] for node in parts if "model" in (links := _links(node))), "")
        for _ in range(200):
            if key not in self.nodes:
                return None
            inputs = self.nodes[key]["inputs"]
            for name in ("ckpt_name", "unet_name", "model_name", "gguf_name", "base_ckpt_name"):
                if isinstance(inputs.get(name), str):
                    return str(inputs[name])
            links = _links(self.nodes[key])
            key = links.get("model", next(iter(links.values()), ("", 0)))[0]
        return None


def _is_sampler(node: Node) -> bool:
    """Whether a node makes an image out of a prompt."""
    links = _links(node)
    if "guider" in links:
        return True
    makes = "sampler_name" in node["inputs"] or "sampler" in links or "noise_seed" in node["inputs"]
    return "positive" in links and (makes or "ksampler" in _kind(node).lower())


def _is_part(name: str) -> bool:
    """Whether an input of a node that joins texts is one of them: text_a, text1, string_b, prompt, ..."""
    return _PART.fullmatch(name.lower()) is not None


def _natural(name: str) -> tuple[int, str]:
    """Sorts text2 before text10."""
    return len(name), name


def _short(texts: Sequence[str], make: Callable[[Sequence[str]], str]) -> str:
    """What `make` makes of texts that are short enough together."""
    if sum(map(len, texts)) > MAX_PROMPT:
        raise _Unclear
    return make(texts)


def _delimiter(inputs: Mapping[str, Any]) -> str:
    value = next((inputs[name] for name in ("delimiter", "separator", "sep") if name in inputs), " ")
    if not isinstance(value, str):
        raise _Unclear
    return as_text(value).replace("\\n", "\n")


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and abs(value) < 1e9 else None
