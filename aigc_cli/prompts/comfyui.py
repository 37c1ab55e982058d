"""Finds the prompt of the saved image in a graph of ComfyUI.

A graph is `{id: {"class_type": ..., "inputs": {name: value or [id, output]}}}`; ComfyUI stores it as `prompt`. The
search starts at the nodes that save images and goes back to the nodes that made the pixels: samplers, and partner nodes
that send a prompt to a service. From there it goes along the positive conditioning to the texts. It never guesses: if
these nodes have different prompts, or a path ends at an unknown node, the graph is ambiguous.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any

from aigc_cli.prompts import comfyui_nodes as known
from aigc_cli.prompts.clean import collapse_spaces
from aigc_cli.prompts.comfyui_graph import (
    MAX_NODES,
    AmbiguousGraphError,
    Link,
    Node,
    NodeGraph,
    is_prose,
    parse_link,
    parse_nodes,
    shorten,
)
from aigc_cli.prompts.comfyui_settings import read_settings
from aigc_cli.prompts.comfyui_texts import Request, TextReader, drop_instruction, join_pieces
from aigc_cli.prompts.comfyui_workflow import convert_workflow
from aigc_cli.prompts.record import GenerationRecord, make_record

_MAX_STEPS = 200_000  # nodes and inputs that are looked at in the search for the nodes that made the pixels
_AMBIGUOUS = "ambiguous_prompt"


def read_workflow(workflow: Mapping[str, Any]) -> GenerationRecord | None:
    """Read the editor's graph, as `read_graph` does; None if `workflow` is none.

    A text with wildcards such as {red|blue} is ambiguous: the editor keeps the template, not what was chosen.
    """
    graph = convert_workflow(workflow)
    return None if graph is None else read_graph(graph, template=True)


def read_graph(
    graph: Mapping[str, Any], *, template: bool = False, workflow: Mapping[str, Any] | None = None
) -> GenerationRecord:
    """Read the prompt and settings of the image that a graph saved.

    The texts of a node with several encoders, and of combined or concatenated conditionings, are joined with commas to
    one prompt. The settings are those of the pass that made the content: the sampler that starts from noise, and stage
    C of Stable Cascade. If the graph saves several images, only the settings on which all agree. The fault is
    ambiguous_prompt if there are several prompts or the prompt cannot be determined, and bad_metadata if `graph` is not
    a graph or has more than MAX_NODES nodes.

    Args:
        graph: the graph that ran.
        template: whether wildcards in texts are not filled in yet.
        workflow: the editor's graph of the same image; it tells outputs of unknown nodes apart.
    """
    if len(graph) > MAX_NODES:
        return GenerationRecord("comfyui", fault="bad_metadata")
    nodes = parse_nodes(graph, convert_workflow(workflow) if workflow else None)
    if not nodes:
        return GenerationRecord("comfyui", fault="bad_metadata")
    search = _Search(NodeGraph(nodes), template)
    unclear = _AMBIGUOUS if _holds_text(nodes) else None
    try:
        chains = [search.find_makers(start) for start in _find_starts(nodes)]
    except AmbiguousGraphError:
        return GenerationRecord("comfyui", fault=unclear)
    makers = dict.fromkeys(maker for chain in chains for maker in chain)
    if not makers:  # such as a graph that only enlarges an image
        return GenerationRecord("comfyui", fault=unclear)
    first, *others = [read_settings(search.graph, key) for key in dict.fromkeys(chain[-1] for chain in chains if chain)]
    settings = {name: value for name, value in first.items() if all(other[name] == value for other in others)}
    try:
        found = dict.fromkeys(search.read_prompt(maker) for maker in makers)
    except AmbiguousGraphError:
        found = {}
    prompts = {collapse_spaces(prompt): prompt for prompt in reversed(found)}
    if len(prompts) != 1 or not all(chains):  # an image that is saved without a prompt may be the one
        return make_record("comfyui", "", settings, fault=unclear)
    return make_record("comfyui", next(iter(prompts.values())), settings)


def _holds_text(nodes: Mapping[str, Node]) -> bool:
    """Whether a text in the graph may be a prompt."""
    for node in nodes.values():
        if any(map(is_prose, node.loose)):
            return True
        for name, value in node.inputs.items():
            if shorten(name) in (*known.TEXTS, *known.WORDS) and node.has_text(name):
                return True
            if is_prose(value, 2) and not known.OTHER_TEXT.fits(shorten(name)):
                return True
    return False


def _find_starts(nodes: Mapping[str, Node]) -> list[list[Link]]:
    """For each saved image, the links to it. Without any, the shown images; without any, unused outputs."""
    savers = [key for key, node in nodes.items() if _saves_images(node)]
    if not savers:
        savers = [key for key, node in nodes.items() if known.SAVERS.fits(node.kind) and node.links]
    if not savers:
        savers = [key for key, node in nodes.items() if "preview" in node.kind.lower() and node.links]
    if not savers:
        used = {link[0] for node in nodes.values() for link in node.links.values()}
        savers = [key for key in nodes if key not in used]
    return [
        [(key, 0)]
        if _is_sampler(nodes[key]) or not nodes[key].links
        else [nodes[key].links[name] for name in _name_pictures(nodes[key])]
        for key in savers
    ]


def _saves_images(node: Node) -> bool:
    if "save" in str(node.inputs.get("image_output", "")).lower():  # samplers that save their image
        return True
    named = known.SAVERS.fits(node.kind) and not known.OTHER_SAVERS.fits(node.kind)
    return bool(named and _name_pictures(node))


def _name_pictures(node: Node) -> list[str]:
    """The linked inputs that may be images or latents."""
    names = []
    for name in node.links:
        short = shorten(name)
        conditions = (known.POSITIVE, known.NEGATIVE, known.CONDITIONING, known.EMBEDS, known.NO_PICTURE)
        if node.types.get(name) in known.NO_PICTURE_TYPES or any(pattern.fits(short) for pattern in conditions):
            continue
        names.append(name)
    return names


def _name_sources(node: Node) -> list[str]:
    """The linked inputs with the prompt of a sampler or guider: conditionings, or else what carries them."""
    patterns = (known.POSITIVE, known.CONDITIONING, known.EMBEDS)
    direct = [name for name in node.links if any(pattern.fits(shorten(name)) for pattern in patterns)]
    direct = [name for name in direct if not known.NEGATIVE.fits(name) and not name.startswith("empty")]
    return direct or [name for name in node.links if known.BUNDLE.fits(shorten(name))]


def _is_sampler(node: Node) -> bool:
    """Whether a node makes an image from a conditioning."""
    if "guider" in node.links:
        return True
    inputs = node.inputs
    makes = "sampler_name" in inputs or "sampler" in node.links or "noise_seed" in inputs
    makes = makes or ("seed" in inputs and "steps" in inputs) or known.DETAILERS.fits(node.kind)
    if not _name_sources(node) and (
        known.UNFINISHED.fits(node.kind) or ("sampler_name" in inputs and "steps" in inputs)
    ):
        raise AmbiguousGraphError  # its prompt comes over links that the file does not hold
    return makes and bool(_name_sources(node))


class _Search:
    """Searches one graph for the nodes that made the pixels, and reads their prompts."""

    def __init__(self, graph: NodeGraph, template: bool) -> None:
        self.graph = graph
        self.texts = TextReader(graph, template)
        self._steps = 0
        self._masked: dict[str, bool] = {}
        self._joined: dict[Any, str] = {}

    def find_makers(self, start: list[Link]) -> list[str]:
        """The nodes that made an image, the nearest first."""
        found: dict[str, None] = {}
        seen: set[str] = set()
        waiting = deque((link, False) for link in start)
        while waiting:
            place, carried = waiting.popleft()
            link = self.graph.settle(place)
            self._steps += 1
            if self._steps > _MAX_STEPS:
                raise AmbiguousGraphError
            node = self.graph.get(link)
            if link[0] in seen or known.MAKES_NUMBERS.fits(node.kind):
                continue
            seen.add(link[0])
            self._steps += len(node.inputs)
            chosen = self.graph.choose(node)
            if chosen is not None:
                links = map(parse_link, chosen)
                waiting.extend((onward, carried) for onward in links if onward is not None)
                continue
            if _is_sampler(node):
                found[link[0]] = None
                waiting.extend((stage, False) for stage in self._list_stages(node))
                if self._begins_from_noise(node):
                    continue
            elif not carried and self._makes_of_words(node):
                found[link[0]] = None
                continue
            for name in _name_pictures(node):
                waiting.append((node.links[name], known.BUNDLE.fits(shorten(name))))
        return list(found)

    def _list_stages(self, node: Node) -> list[Link]:
        """The latents behind a conditioning that made the content, such as stage C of Stable Cascade."""
        stages = []
        for name in _name_sources(node):
            behind = self.graph.get(self.graph.settle(node.links[name]))
            stages += [behind.links["stage_c"]] if "stage_c" in behind.links else []
        return stages

    def _makes_of_words(self, node: Node) -> bool:
        """Whether a node makes an image out of its own words. Raises if that is not known."""
        words = self._name_words(node)
        if known.UPSCALERS.fits(node.kind) and (words or "positive" in node.links):
            raise AmbiguousGraphError
        if known.PARTNERS.fits(node.kind):
            if words or self._find_loose(node):
                return True
            if node.loose or not known.KEEPING.fits(node.kind):
                raise AmbiguousGraphError  # it makes a new image without words, or with words that are not known
            return False
        if known.NOT_MAKING.fits(node.kind) or any(known.POSITIVE.fits(name) for name in node.links):
            return False
        remote = isinstance(node.inputs.get("model"), str) or ("seed" in node.inputs and "model" not in node.links)
        if words and (remote or not _name_pictures(node)):
            return True
        others = any(is_prose(text) and not known.OTHER_TEXT.fits(name) for name, text in node.inputs.items())
        if words or others or any(is_prose(text, 4) for text in node.loose):
            raise AmbiguousGraphError
        return False

    def _name_words(self, node: Node) -> list[str]:
        return [name for name in node.inputs if shorten(name) in known.WORDS and node.has_text(name)]

    def _find_loose(self, node: Node) -> list[str]:
        """Texts that may be the prompt: not names of models, of which each word has a capital or a digit."""
        return [text for text in node.loose if any(word[0].islower() for word in text.split()) or not text.isascii()]

    def _begins_from_noise(self, node: Node) -> bool:
        """Whether a sampler replaces its whole input by noise, so that earlier samplers do not affect the image."""
        inputs, constant = node.inputs, self.graph.find_constant
        if "latent_image" in node.links and self._is_masked(node.links["latent_image"]):
            return False
        if "sampler_name" in inputs and "latent_image" in inputs:
            if "start_at_step" in inputs:
                return bool(constant(inputs["start_at_step"]) == 0 and constant(inputs.get("add_noise")) == "enable")
            return bool(constant(inputs.get("denoise", 1)) == 1)
        if "sigmas" not in node.links or inputs.get("add_noise") is False:
            return False
        noise = self.graph.nodes.get(self.graph.settle(node.links["noise"])[0]) if "noise" in node.links else None
        schedule = self.graph.get(self.graph.settle(node.links["sigmas"]))
        if "sigmas" in schedule.inputs or (noise is not None and noise.kind == "DisableNoise"):
            return False
        return bool(constant(schedule.inputs.get("denoise", 1)) == 1) and schedule.kind != "ManualSigmas"

    def _is_masked(self, link: Link) -> bool:
        """Whether a latent has a mask, so that a part of it stays as it is."""
        way: list[str] = []
        masked = False
        while True:
            key = self.graph.settle(link)[0]
            node = self.graph.nodes.get(key)
            if key in self._masked or node is None:
                masked = self._masked.get(key, False)
                break
            way.append(key)
            self._masked[key] = False  # for circles
            if known.MASKS.fits(node.kind) or any(known.MASK.fits(name) for name in node.links):
                masked = True
                break
            onward = [name for name in ("samples", "latent_image", "latent", "latents") if name in node.links]
            if not onward:
                break
            link = node.links[onward[0]]
        self._masked.update(dict.fromkeys(way, masked))
        return masked

    def read_prompt(self, key: str) -> str:
        """The positive prompt of a node that made an image."""
        node = self.graph.nodes[key]
        if not _is_sampler(node):
            return self._read_words(node)
        if isinstance(node.inputs.get("wildcard"), str) and node.inputs["wildcard"].strip():
            raise AmbiguousGraphError  # the prompt of a detailer
        if "guider" in node.links:
            node = self.graph.get(self.graph.settle(node.links["guider"]))
        names = [name for name in _name_sources(node) if not self._is_negative(node.links[name])]
        rival = next((link for name, link in node.links.items() if known.NEGATIVE.fits(name)), None)
        rival = None if rival is None else self.graph.settle(rival)
        texts = []
        for name in names:
            short = shorten(name)
            way = "bundle" if known.BUNDLE.fits(short) or known.EMBEDS.fits(short) else "conditioning"
            pieces = self.texts.read(Request(way, node.links[name], rival))
            if pieces not in self._joined:
                self._joined[pieces] = join_pieces(pieces)
            texts.append(self._joined[pieces])
        distinct = set(filter(None, texts))
        if len(distinct) > 1 and rival is not None:  # guiders may take the negative condition as the second, too
            distinct.discard(join_pieces(self.texts.read(Request("conditioning", rival))))
        if not names or len(distinct) > 1:
            raise AmbiguousGraphError
        return distinct.pop() if distinct else ""

    def _is_negative(self, link: Link) -> bool:
        """Whether an output is known as the negative one; guiders with two conditions may take it as the second."""
        key, number = self.graph.settle(link)
        node = self.graph.get((key, number))
        name = node.name_output(number)
        return known.NEGATIVE.fits(name) or (not name and (node.kind, number - 1) in known.POSITIVE_OUTPUTS)

    def _read_words(self, node: Node) -> str:
        names = self._name_words(node)
        loose = self._find_loose(node)
        if names:
            texts = {self.texts.read_words(node, node.inputs[name]) for name in names}
        else:
            texts = {drop_instruction(text) for text in loose}
        if len(texts) != 1:
            raise AmbiguousGraphError
        return texts.pop()
