"""Converts ComfyUI's `workflow`, the graph of its editor, to the graph that it runs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from aigc_cli.prompts.comfyui_graph import MAX_NODES, is_prose
from aigc_cli.prompts.comfyui_nodes import WIDGETS

_MUTED, _BYPASSED = 2, 4
_AFTER_RUN = ("fixed", "increment", "decrement", "randomize")  # how a seed changes; the value after the seed
_NO_NODES = ("Note", "MarkdownNote", "SetNode", "GetNode", "easy setNode", "easy getNode")
_MAX_DEPTH = 50  # of subgraphs in subgraphs
_MAX_PARTS = 10 * MAX_NODES  # nodes, links and inputs of all uses of subgraphs
_OWN_VALUE = "own"  # an input of a subgraph that is not linked: the inner node's widget keeps its value
Origin = tuple[str, int]  # id of a node, number of its output


@dataclass
class _Scope:
    """The nodes and links of the workflow, or of one use of a subgraph."""

    nodes: dict[str, Mapping[str, Any]]
    origins: dict[Any, Origin]
    prefix: str = ""
    depth: int = 0
    parent: "_Scope | None" = None
    input_id: str = ""
    input_names: list[str] = field(default_factory=list)
    output_links: dict[int, Any] = field(default_factory=dict)
    host_links: Mapping[str, Any] = field(default_factory=dict)
    host_values: Mapping[str, Any] = field(default_factory=dict)
    setters: dict[str, str | None] = field(default_factory=dict)
    children: dict[str, "_Scope"] = field(default_factory=dict)
    found: dict[Any, Any] = field(default_factory=dict)  # origins behind virtual nodes
    bypasses: dict[str, "_Bypass"] = field(default_factory=dict)


@dataclass
class _Bypass:
    """The links that a bypassed node passes on: to an output goes the input beside it or the first of its type."""

    outputs: list[list[str]]
    inputs: list[Mapping[str, Any]]
    firsts: dict[str, Any]

    def find_link(self, slot: int) -> Any:
        """The link of the input that is passed on to an output."""
        if not 0 <= slot < len(self.outputs):
            return None
        kind = self.outputs[slot][1]
        if slot < len(self.inputs) and (self.inputs[slot].get("type") == kind or kind == "*"):
            return self.inputs[slot].get("link")
        return self.firsts.get(kind, self.firsts.get("*"))


def convert_workflow(workflow: Mapping[str, Any]) -> dict[str, Any] | None:
    """Convert a `workflow` to a graph; None if it is not a workflow. Some programs write only the workflow.

    A workflow lists the values of a node's widgets without their names. Values are kept if the file names the widgets
    or the node's type is in `WIDGETS`; other texts are kept as `loose`. Subgraphs are unfolded: their nodes have ids
    such as 57:27. Muted nodes are left out. Bypassed nodes and those that name a link (SetNode, GetNode) give way to
    the links that they stand for. `types` and `outputs` tell the types of a node's inputs and outputs.
    """
    nodes, links = workflow.get("nodes"), workflow.get("links")
    if not isinstance(nodes, list) or not isinstance(links, list):
        return None
    definitions = workflow.get("definitions")
    listed = definitions.get("subgraphs") if isinstance(definitions, dict) else None
    subgraphs = {str(one.get("id")): one for one in listed if isinstance(one, dict)} if isinstance(listed, list) else {}
    graph: dict[str, Any] = {}
    scopes = _open_scopes(nodes, links, subgraphs)
    for scope in scopes or ():
        for key, node in scope.nodes.items():
            kept = node.get("mode") not in (_MUTED, _BYPASSED) and node["type"] not in _NO_NODES
            if kept and key not in scope.children:
                graph[scope.prefix + key] = _convert_node(node, scope)
    return graph or None


def _open_scopes(nodes: Any, links: Any, subgraphs: Mapping[str, Mapping[str, Any]]) -> list[_Scope] | None:
    """The workflow and all uses of subgraphs in it; None if these are too many."""
    sizes = {key: _count_parts(one.get("nodes"), one.get("links"), one.get("inputs")) for key, one in subgraphs.items()}
    waiting, size = [_open_scope(nodes, links)], len(nodes)
    scopes = []
    while waiting:
        scope = waiting.pop()
        scopes.append(scope)
        for key, node in scope.nodes.items():
            kind = str(node["type"])
            if kind in subgraphs and node.get("mode") not in (_MUTED, _BYPASSED) and scope.depth < _MAX_DEPTH:
                size += sizes[kind]
                if size > _MAX_PARTS:
                    return None
                scope.children[key] = _open_subgraph(scope, key, node, subgraphs[kind])
        waiting.extend(reversed(scope.children.values()))
    return scopes if sum(len(scope.nodes) for scope in scopes) <= MAX_NODES else None


def _count_parts(*parts: Any) -> int:
    return 1 + sum(len(part) for part in parts if isinstance(part, list))


def _open_scope(nodes: Any, links: Any) -> _Scope:
    listed = nodes if isinstance(nodes, list) else []
    scope = _Scope(
        {str(node.get("id")): node for node in listed if isinstance(node, dict) and isinstance(node.get("type"), str)},
        {},
    )
    for link, (origin, slot), _ in _parse_links(links):
        scope.origins[link] = (origin, slot)
    for key, node in scope.nodes.items():
        if node["type"] in ("SetNode", "easy setNode") and node.get("mode") != _MUTED:
            name = _name_link(node)
            scope.setters[name] = None if name in scope.setters else key
    return scope


def _parse_links(links: Any) -> Iterator[tuple[int, Origin, Origin]]:
    """Each link's id, origin and target."""
    for link in links if isinstance(links, list) else ():
        if isinstance(link, dict):
            names = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
            link = [link.get(name) for name in names]
        if isinstance(link, list) and len(link) >= 5 and all(type(link[i]) is int for i in (0, 2, 4)):
            yield link[0], (str(link[1]), link[2]), (str(link[3]), link[4])


def _open_subgraph(parent: _Scope, key: str, host: Mapping[str, Any], definition: Mapping[str, Any]) -> _Scope:
    scope = _open_scope(definition.get("nodes"), definition.get("links"))
    scope.prefix, scope.depth = f"{parent.prefix}{key}:", parent.depth + 1
    scope.parent = parent
    scope.host_links = {i["name"]: i.get("link") for i in _list_inputs(host)}
    ends = [(definition.get(name), number) for name, number in (("inputNode", -10), ("outputNode", -20))]
    input_id, output_id = (str(end.get("id", number) if isinstance(end, dict) else number) for end, number in ends)
    scope.input_id = input_id
    listed = definition.get("inputs")
    scope.input_names = [str(i.get("name")) for i in listed if isinstance(i, dict)] if isinstance(listed, list) else []
    promoted: set[int] = set()  # inputs that set a widget of an inner node
    for link, (origin, number), (target, slot) in _parse_links(definition.get("links")):
        if target == output_id:
            scope.output_links[slot] = link
        elif origin == input_id and slot < len(inputs := _list_inputs(scope.nodes.get(target, {}))):
            promoted |= {number} if "widget" in inputs[slot] else set()
    scope.host_values = _name_host_values(host, [n for i, n in enumerate(scope.input_names) if i in promoted])
    return scope


def _name_host_values(host: Mapping[str, Any], promoted: list[str]) -> dict[str, Any]:
    """The values of the widgets that a subgraph shows. Older files leave them to the inner nodes: then it is empty.

    A value is None if it is not known which widget it belongs to: the inner node's own value may be an older one.
    """
    values = host.get("widgets_values")
    if isinstance(values, dict):
        return {str(name): value for name, value in values.items()}
    if not isinstance(values, list) or not values:
        return {}
    shown = [i["name"] for i in _list_inputs(host) if "widget" in i]
    names = next((names for names in (promoted, shown) if len(names) == len(values)), None)
    return dict.fromkeys(promoted) if names is None else dict(zip(names, values, strict=True))


def _name_link(node: Mapping[str, Any]) -> str:
    values = node.get("widgets_values")
    return str(values[0]) if isinstance(values, list) and values else ""


def _list_inputs(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    inputs = node.get("inputs")
    listed = inputs if isinstance(inputs, list) else []
    return [i for i in listed if isinstance(i, dict) and isinstance(i.get("name"), str)]


def _list_outputs(node: Mapping[str, Any]) -> list[list[str]]:
    outputs = node.get("outputs")
    listed = outputs if isinstance(outputs, list) else []
    return [[str(o.get("name", "")), str(o.get("type", ""))] if isinstance(o, dict) else ["", ""] for o in listed]


def _find_origin(scope: _Scope, link: Any) -> Any:
    """What a link stands for: [id, output], a value (in a tuple), _OWN_VALUE, or None if it leads nowhere.

    Follows links through subgraphs, bypassed nodes and nodes that name a link.
    """
    trail: list[tuple[_Scope, Any]] = []
    answer: Any = None
    while True:
        if link in scope.found:
            answer = scope.found[link]
            break
        if link not in scope.origins:
            break
        trail.append((scope, link))
        scope.found[link] = None  # for circles
        step = _take_step(scope, *scope.origins[link])
        if not isinstance(step, _Step):
            answer = step
            break
        scope, link = step.scope, step.link
    for where, one in trail:
        where.found[one] = answer
    return answer


@dataclass(frozen=True)
class _Step:
    """The next link on the way to an origin."""

    scope: _Scope
    link: Any


def _take_step(scope: _Scope, key: str, slot: int) -> Any:
    """The next link behind an output, or what the output stands for (see `_find_origin`)."""
    if scope.parent is not None and key == scope.input_id:
        name = scope.input_names[slot] if 0 <= slot < len(scope.input_names) else ""
        if type(scope.host_links.get(name)) is int:
            return _Step(scope.parent, scope.host_links[name])
        return (scope.host_values[name],) if name in scope.host_values else _OWN_VALUE
    node = scope.nodes.get(key)
    if node is None or node.get("mode") == _MUTED:
        return None
    if node.get("mode") == _BYPASSED:
        if key not in scope.bypasses:
            inputs = _list_inputs(node)
            firsts = {str(i.get("type")): i.get("link") for i in reversed(inputs)}
            scope.bypasses[key] = _Bypass(_list_outputs(node), inputs, firsts)
        return _Step(scope, scope.bypasses[key].find_link(slot))
    if key in scope.children:
        child = scope.children[key]
        return _Step(child, child.output_links.get(slot))
    if node["type"] in ("GetNode", "easy getNode"):
        name, place = _name_link(node), scope
        while name not in place.setters and place.parent is not None:
            place = place.parent
        setter = place.nodes.get(place.setters.get(name) or "", {})
        return _Step(place, next((i.get("link") for i in _list_inputs(setter)), None))
    if node["type"] in ("SetNode", "easy setNode"):
        return _Step(scope, next((i.get("link") for i in _list_inputs(node)), None))
    return [scope.prefix + key, slot]


def _name_values(node: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The values of a node's widgets by name, and the texts of those whose names are not known."""
    values = node.get("widgets_values")
    if isinstance(values, dict):
        return {str(name): value for name, value in values.items()}, []
    if not isinstance(values, list):
        return {}, []
    named = [i["name"] for i in _list_inputs(node) if "widget" in i]
    for names in (named, WIDGETS.get(str(node["type"]), ())):
        found, rest = _zip_values(names, values)
        if names and len(found) == len(names) and (names is not named or not any(map(_is_told, rest))):
            return {name: value for name, value in found.items() if name}, []
        if names is not named and names:
            return {name: value for name, value in found.items() if name}, []
    loose = [value for value in values if is_prose(value)]
    texts = [i for i in _list_inputs(node) if "widget" in i and i.get("type") == "STRING"]
    if len(loose) == 1 and len(texts) == 1:
        return {texts[0]["name"]: loose[0]}, []
    replaced = len(loose) <= len(texts) and all(type(i.get("link")) is int for i in texts)
    return {}, [] if replaced else loose


def _zip_values(names: Any, values: list[Any]) -> tuple[dict[str, Any], list[Any]]:
    found: dict[str, Any] = {}
    position = 0
    for number, name in enumerate(names):
        if position >= len(values):
            break
        found[name or f"?{number}"] = values[position]
        position += 1
        if isinstance(found.get(name), int) and "seed" in str(name) and values[position : position + 1]:
            position += values[position] in _AFTER_RUN
    return found, values[position:]


def _is_told(value: Any) -> bool:
    """Whether a value beyond the named ones shows that these are not all."""
    return value not in (None, "image", *_AFTER_RUN)


def _convert_node(node: Mapping[str, Any], scope: _Scope) -> dict[str, Any]:
    inputs, loose = _name_values(node)
    listed = _list_inputs(node)
    for entry in listed:
        link = entry.get("link")
        origin = _find_origin(scope, link) if type(link) is int else None
        if isinstance(origin, tuple):
            inputs[entry["name"]] = origin[0]
        elif isinstance(origin, list):
            inputs[entry["name"]] = list(origin)
        elif (
            type(link) is int and origin != _OWN_VALUE
        ):  # the widget's value is replaced by something that is not in the file
            inputs.pop(entry["name"], None)
    return {
        "class_type": node["type"],
        "inputs": inputs,
        "types": {entry["name"]: str(entry.get("type", "")) for entry in listed},
        "outputs": _list_outputs(node),
        "loose": loose,
    }
