"""The nodes of a ComfyUI graph and its links, with the nodes that only pass on or choose one of their inputs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aigc_cli.prompts import comfyui_nodes as known
from aigc_cli.prompts.clean import to_text

MAX_NODES = 20_000
Link = tuple[str, int]  # id of a node, number of its output
_BOOLEANS = ("switch", "boolean", "condition", "cond", "boolean_value", "toggle", "on")
_INDICES = ("Input", "input", "select", "index", "selected_index", "selected", "choice", "switch")
_PAIRS = (("on_true", "on_false"), ("true", "false"), ("if_true", "if_false"), ("tt_value", "ff_value"))
_VALUES = ("value", "int", "float", "Number", "number", "boolean", "seed", "noise_seed", "choice")
_WORD = re.compile(r"[^\W\d_]+")


class AmbiguousGraphError(Exception):
    """The graph does not determine the prompt."""


@dataclass(frozen=True)
class Node:
    """A node of a graph.

    Attributes:
        inputs: values and links by name, as recorded.
        links: the linked inputs.
        types: types of the inputs, if the editor's graph is known.
        outputs: (name, type) of each output, if the editor's graph is known.
        loose: texts of widgets whose names are not known.
    """

    kind: str
    inputs: Mapping[str, Any]
    links: Mapping[str, Link] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[tuple[str, str], ...] = ()
    loose: tuple[str, ...] = ()

    def name_output(self, number: int) -> str:
        """The name of an output in lower case; "" if it is not known."""
        return self.outputs[number][0].lower() if 0 <= number < len(self.outputs) else ""

    def has_text(self, name: str) -> bool:
        """Whether an input is linked or holds a text that is not empty."""
        value = self.inputs.get(name)
        return name in self.links or (isinstance(value, str) and bool(value.strip()))


def parse_link(value: Any) -> Link | None:
    """The link that an input's value describes; None if it is a plain value."""
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int) and type(value[1]) is int:
        return str(value[0]), value[1]
    return None


def shorten(name: str) -> str:
    """The name of an input in lower case, without the name of the input that it belongs to: model.prompt is prompt."""
    return name.rpartition(".")[2].lower()


def is_prose(text: Any, words: int = 3) -> bool:
    """Whether a value is a text of at least some words, as prompts are and names of files and options are not."""
    if not isinstance(text, str) or text.startswith(("/", "#version")):
        return False
    start = text[:2000]
    spaced = len(start) >= 6 and " " in start.strip() and len(_WORD.findall(start)) >= words
    return spaced or sum(char > "\u2e7f" for char in start) >= 2 * words  # such as Chinese, which has no spaces


def parse_nodes(graph: Mapping[str, Any], hints: Mapping[str, Any] | None = None) -> dict[str, Node]:
    """The nodes of a graph by id. `hints` is the editor's graph, converted: it tells types and outputs."""
    nodes = {}
    for key, entry in graph.items():
        if not isinstance(entry, Mapping) or not isinstance(entry.get("inputs"), Mapping):
            continue
        kind, inputs = to_text(entry.get("class_type")), entry["inputs"]
        if not kind:
            continue
        hint = (hints or {}).get(str(key), {})
        told = hint if hint.get("class_type") == kind else entry
        types, outputs, loose = told.get("types"), told.get("outputs"), entry.get("loose")
        nodes[str(key)] = Node(
            kind,
            {str(name): value for name, value in inputs.items()},
            {str(name): link for name, value in inputs.items() if (link := parse_link(value)) is not None},
            {str(a): str(b) for a, b in types.items()} if isinstance(types, Mapping) else {},
            _parse_outputs(outputs),
            tuple(text for text in loose if isinstance(text, str)) if isinstance(loose, list) else (),
        )
    return nodes


def _parse_outputs(outputs: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(outputs, list):
        return ()
    return tuple((str(o[0]), str(o[1])) if isinstance(o, list) and len(o) == 2 else ("", "") for o in outputs)


class NodeGraph:
    """The nodes of a graph, and where their links come from."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self.nodes = nodes
        self._settled: dict[Link, Link] = {}
        self._constants: dict[Link, Any] = {}
        self._choices: dict[int, list[Any] | None] = {}
        self._depth = 0  # of switches whose choice another switch determines

    def get(self, link: Link) -> Node:
        """The node of a link. Raises AmbiguousGraphError if it is missing."""
        if link[0] not in self.nodes:
            raise AmbiguousGraphError
        return self.nodes[link[0]]

    def settle(self, link: Link) -> Link:
        """The link behind the nodes that only pass on their input; each node on the way is followed once."""
        way = [link]
        trail = {link}
        while way[-1] not in self._settled:
            onward = self._pass_on(way[-1])
            if onward is None:
                self._settled[way[-1]] = way[-1]
            elif onward in trail:
                raise AmbiguousGraphError
            else:
                way.append(onward)
                trail.add(onward)
        end = self._settled[way[-1]]
        self._settled.update(dict.fromkeys(way, end))
        return end

    def _pass_on(self, link: Link) -> Link | None:
        node = self.nodes.get(link[0])
        if node is None:
            return None
        if known.PASSES.fits(node.kind):
            onward = list(dict.fromkeys(node.links.values()))
            return onward[0] if len(onward) == 1 else None
        chosen = self.choose(node)
        return parse_link(chosen[0]) if chosen is not None and len(chosen) == 1 else None

    def choose(self, node: Node) -> list[Any] | None:
        """The values of which a switch chooses: one if its choice is known; None if the node is no switch."""
        if id(node) not in self._choices:
            is_switch = known.SWITCH.fits(node.kind) and not known.PARTNERS.fits(node.kind)
            self._choices[id(node)] = self._find_choice(node) if is_switch else None
        return self._choices[id(node)]

    def _find_choice(self, node: Node) -> list[Any] | None:
        for name in _BOOLEANS:
            chosen = self.find_constant(node.inputs.get(name))
            if isinstance(chosen, bool):
                return self._choose_of_two(node, chosen)
        for name in _INDICES:
            chosen = self.find_constant(node.inputs.get(name))
            if type(chosen) is int:
                numbered = [n for n in node.inputs if re.fullmatch(rf"\D+0*{chosen}(?:_opt)?", n) and n != name]
                if any(re.search(r"\d", n) for n in node.links) or numbered:
                    if len(numbered) != 1:
                        raise AmbiguousGraphError
                    return [node.inputs[numbered[0]]]
            if isinstance(chosen, str) and (same := [n for n in node.inputs if n.lower() == chosen.lower()]):
                return [node.inputs[same[0]]]
        values = [list(link) for name, link in node.links.items() if name not in _BOOLEANS and name != "select"]
        return values or None

    def _choose_of_two(self, node: Node, chosen: bool) -> list[Any]:
        pairs = [*_PAIRS, *((n, f"{n[:-1]}b") for n in node.inputs if n.endswith("_a"))]
        for pair in pairs:
            if pair[0] in node.inputs or pair[1] in node.inputs:
                name = pair[0] if chosen else pair[1]
                if name not in node.inputs:
                    raise AmbiguousGraphError
                return [node.inputs[name]]
        raise AmbiguousGraphError

    def find_constant(self, value: Any) -> Any:
        """The number, text or truth value of an input, also of a node of one value; None if it is not known."""
        link = parse_link(value)
        if link is None:
            return value if isinstance(value, str | int | float) else None
        if link not in self._constants and self._depth < 16:
            self._constants[link] = None  # for circles
            self._depth += 1
            self._constants[link] = self._read_constant(link)
            self._depth -= 1
        return self._constants.get(link)

    def _read_constant(self, link: Link) -> Any:
        node = self.nodes.get(self.settle(link)[0])
        chosen = None if node is None else self.choose(node)
        if node is None or (chosen is not None and len(chosen) != 1):
            return None
        if chosen is not None:
            return self.find_constant(chosen[0])
        return self.find_constant(next((node.inputs[name] for name in _VALUES if name in node.inputs), None))
