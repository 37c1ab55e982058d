"""Reads the texts of a positive conditioning in a ComfyUI graph.

A reader is a generator: it yields the links whose texts it needs, and gets their texts. `TextReader.read` runs readers
on a stack of its own, each link once. So long chains need no deep recursion, and circles are seen.
"""

import re
from collections.abc import Generator, Iterable, Sequence
from typing import Any, NamedTuple

from aigc_cli.prompts import comfyui_nodes as known
from aigc_cli.prompts.clean import MAX_PROMPT, to_text
from aigc_cli.prompts.comfyui_graph import AmbiguousGraphError, Link, Node, NodeGraph, is_prose, parse_link, shorten
from aigc_cli.prompts.record import join_prompts

_MAX_TEXTS = 200  # of one prompt
_MAX_STEPS = 300_000  # inputs that are looked at
_MAX_TOTAL = 1 << 22  # characters of all texts that are joined in a graph
_WILDCARD = re.compile(r"\{[^{}|]{0,2000}\|[^{}]{0,2000}\}|__[\w*./-]{1,80}?__")
_FRAMES = re.compile(r"""\s*["']?\d{1,6}["']?\s*:\s*["'(]""")  # a text for each frame
_NO_STYLE = ("", "none", "no style", "base", "default", "disabled")


class Request(NamedTuple):
    """What is read: `way` is conditioning, bundle or string. `rival` is the link that the asker uses as negative."""

    way: str
    link: Link
    rival: Link | None = None


class Piece(NamedTuple):
    """A text of a conditioning, and whether it is used for some of the steps only."""

    text: str
    timed: bool = False


Pieces = tuple[Piece, ...]
Reading = Generator[Request, Any, Any]


class TextReader:
    """Reads the texts of a graph; `template` says that wildcards are not filled in yet."""

    def __init__(self, graph: NodeGraph, template: bool) -> None:
        self.graph = graph
        self.template = template
        self._known: dict[Request, Any] = {}
        self._total = self._steps = 0

    def read(self, request: Request) -> Any:
        """The pieces of a conditioning or bundle, or the text of a string. Raises AmbiguousGraphError."""
        request = self._simplify(request)
        stack: list[tuple[Request, Reading]] = [(request, self._start(request))]
        waiting, answer = {request}, self._known.get(request)
        if answer is not None:
            return answer
        while stack:
            key, reading = stack[-1]
            try:
                wanted = self._simplify(reading.send(answer))
            except StopIteration as stop:
                self._known[key] = answer = stop.value
                stack.pop()
                waiting.discard(key)
                continue
            if wanted in waiting:
                raise AmbiguousGraphError  # a circle
            answer = self._known.get(wanted)
            if answer is None:
                waiting.add(wanted)
                stack.append((wanted, self._start(wanted)))
        return answer

    def read_words(self, node: Node, value: Any) -> str:
        """The text of an input of a node: a value, or what linked nodes make."""
        link = parse_link(value)
        text = self._check(value, node) if link is None else self.read(Request("string", link))
        return drop_instruction(text)

    def _simplify(self, request: Request) -> Request:
        """The same request for all links that stand for one output, so that each output is read once."""
        link = self.graph.settle(request.link)
        rival = request.rival if request.rival is not None and request.rival[0] == link[0] else None
        return Request(request.way, link, rival)

    def _start(self, request: Request) -> Reading:
        link = request.link
        node = self.graph.get(link)
        self._steps += 1 + len(node.inputs)
        if self._steps > _MAX_STEPS:
            raise AmbiguousGraphError
        if known.NEGATIVE.fits(node.name_output(link[1])):
            raise AmbiguousGraphError  # a negative prompt is never taken
        chosen = self.graph.choose(node)
        if chosen is not None:
            return self._read_chosen(request, node, chosen)
        if request.way == "string":
            return self._read_string(node)
        return (
            self._read_bundle(node) if request.way == "bundle" else self._read_conditioning(node, link, request.rival)
        )

    def _read_chosen(self, request: Request, node: Node, chosen: list[Any]) -> Reading:
        """All that a switch may choose must be equal."""
        answers: list[Any] = []
        for value in chosen:
            link = parse_link(value)
            if link is not None:
                answers.append((yield Request(request.way, link, request.rival)))
            else:
                answers.append(self._check(value, node))
        if len(set(answers)) != 1:
            raise AmbiguousGraphError
        return answers[0]

    # --- conditionings

    def _read_conditioning(self, node: Node, link: Link, rival: Link | None) -> Reading:
        if "zeroout" in node.kind.lower():
            return ()
        if known.SCHEDULES.fits(node.kind) or known.STYLERS.fits(node.kind):
            raise AmbiguousGraphError
        short = {name: shorten(name) for name in node.inputs}
        positive = [name for name in short if known.POSITIVE.fits(short[name]) and node.has_text(name)]
        has_negative = any(known.NEGATIVE.fits(name) for name in short.values())
        encodes = any(name in known.TEXTS for name in short.values())
        bundles = [name for name in node.links if known.BUNDLE.fits(short[name])]
        if (has_negative and (positive or encodes)) or bundles:
            self._require_positive(node, link, rival)
        if positive or (bundles and not _name_conditionings(node)):
            return (yield from self._read_bundle(node))
        pieces = yield from self._read_parts(node)
        own = yield from self._read_own(node, has_more=bool(_name_conditionings(node) or pieces))
        if pieces and own and not known.ADDS_TEXT.fits(node.kind):
            raise AmbiguousGraphError
        return _join_pieces([pieces, own], any_kind=True)

    def _read_parts(self, node: Node) -> Reading:
        """The texts of the conditionings that a node changes or joins."""
        inputs = node.inputs
        names = _name_conditionings(node)
        if not names and len(node.links) == 1 and shorten(next(iter(node.links))) in known.ANYTHING:
            names = list(node.links)
        if node.kind == "ConditioningAverage":
            share = self.graph.find_constant(inputs.get("conditioning_to_strength"))
            if share in (0, 1):
                names = ["conditioning_to" if share else "conditioning_from"]
        answers, rival = [], self._find_rival(node)
        for name in names:
            if name not in node.links:
                raise AmbiguousGraphError
            answers.append((yield Request("conditioning", node.links[name], rival)))
        pieces = _join_pieces(answers, any_kind=known.JOINS.fits(node.kind))
        if node.kind == "ConditioningSetTimestepRange" and (inputs.get("start"), inputs.get("end")) != (0, 1):
            return tuple(Piece(piece.text, timed=True) for piece in pieces)
        return pieces

    def _require_positive(self, node: Node, link: Link, rival: Link | None) -> None:
        """Raise unless an output is the positive one of a node that has both."""
        name, number = node.name_output(link[1]), link[1]
        if name:
            if re.search(r"(?:\A|_)pos(?:itive)?(?:_|\Z)|\+\Z", name) or len(node.outputs) == 1:
                return
            kinds = [kind for _, kind in node.outputs]
            if kinds.count(kinds[number]) == 1 and kinds[number] != "*":  # such as embeddings of both texts
                return
        if (node.kind, number) in known.POSITIVE_OUTPUTS:
            return
        if node.kind in known.KNOWN_OUTPUTS or rival is None or rival[0] != link[0] or rival[1] <= number:
            raise AmbiguousGraphError

    def _find_rival(self, node: Node) -> Link | None:
        """What a node uses as negative conditioning; it tells the outputs of the nodes behind apart."""
        for name, link in node.links.items():
            if known.NEGATIVE.fits(shorten(name)):
                return self.graph.settle(link)
        return None

    def _read_own(self, node: Node, has_more: bool) -> Reading:
        """The texts that a node encodes itself."""
        inputs = node.inputs
        by_name = {shorten(name): name for name in inputs}
        own = [by_name[name] for name in known.TEXTS if name in by_name]
        if "populated_text" in by_name:
            own = [by_name["populated_text"]]
        if not own:
            if has_more:
                return ()
            raise AmbiguousGraphError
        if _has_additions(node) or any(text not in inputs.values() for text in node.loose if is_prose(text)):
            raise AmbiguousGraphError
        texts = []
        for name in own:
            link = parse_link(inputs[name])
            text = self._check(inputs[name], node) if link is None else (yield Request("string", link))
            texts.append(drop_instruction(text))
        return _join_pieces([(Piece(text),) for text in texts if text.strip()], any_kind=True)

    def _read_bundle(self, node: Node) -> Reading:
        """The positive texts of a node that carries positive and negative ones, such as a pipe or a loader."""
        inputs = node.inputs
        if isinstance(inputs.get("wildcard"), str) and inputs["wildcard"].strip():
            raise AmbiguousGraphError  # the prompt of a detailer
        names = [name for name in inputs if known.POSITIVE.fits(shorten(name)) and node.has_text(name)]
        linked = [name for name in names if name in node.links]
        carriers = [name for name in node.links if known.BUNDLE.fits(shorten(name))]
        answers: list[Pieces] = []
        rival = self._find_rival(node)
        if names and not linked:
            if len(names) > 1 or (carriers and node.kind not in known.REPLACES) or _has_additions(node):
                raise AmbiguousGraphError
            return (Piece(drop_instruction(self._check(inputs[names[0]], node))),)
        for name in linked or carriers:
            here = node.links[name]
            if name in linked and self._is_string(node, name):
                text = yield Request("string", here)
                answers.append((Piece(drop_instruction(text)),))
            elif name in linked:
                answers.append((yield Request("conditioning", here, rival)))
            else:
                answers.append((yield Request("bundle", here)))
        if answers:
            return _join_pieces(answers, any_kind=known.JOINS.fits(node.kind))
        if _name_conditionings(node) or not any(shorten(name) in known.TEXTS for name in inputs):
            raise AmbiguousGraphError
        return (yield from self._read_own(node, has_more=False))

    def _is_string(self, node: Node, name: str) -> bool:
        """Whether a linked input takes a text. The node behind tells it if the editor's graph does not."""
        if name in node.types:
            return node.types[name] == "STRING"
        link = self.graph.settle(node.links[name])
        behind = self.graph.get(link)
        if 0 <= link[1] < len(behind.outputs) and behind.outputs[link[1]][1] != "*":
            return behind.outputs[link[1]][1] == "STRING"
        holds_text = behind.kind in known.PLAIN_TEXTS or behind.kind.startswith(("Primitive", "String"))
        return holds_text or "loader" in node.kind.lower() or shorten(name).endswith(("prompt", "text"))

    # --- strings

    def _read_string(self, node: Node) -> Reading:
        kind, inputs = node.kind, node.inputs
        low = kind.lower()
        if "populated_text" in inputs:
            return (yield from self._read_value(inputs["populated_text"], node))
        if kind == "StringFunction|pysssss":
            return (yield from self._read_function(node))
        if kind == "StringReplace":
            return (yield from self._read_replacement(node, "string", "find", "replace"))
        if "concat" in low or "join" in low:
            names = [name for name in inputs if known.PART.fits(name.lower())]
            names.sort(key=lambda name: (len(name), name))  # text2 before text10
            texts = []
            for name in names:
                texts.append((yield from self._read_value(inputs[name], node)))
            delimiter = next((inputs[name] for name in ("delimiter", "separator", "sep") if name in inputs), " ")
            delimiter = self.graph.find_constant(delimiter)
            if not isinstance(delimiter, str):
                raise AmbiguousGraphError
            return self._count(to_text(delimiter).replace("\\n", "\n").join(filter(None, texts)))
        holding = [name for name in known.STRINGS if isinstance(inputs.get(name), str) or name in node.links]
        if len(holding) != 1 or (len(inputs) > 1 and kind not in known.PLAIN_TEXTS) or node.loose:
            raise AmbiguousGraphError  # such as a language model: its answer is not in the graph
        if kind.startswith("Prompt (Lora") and node.has_text("trigger_words"):
            raise AmbiguousGraphError
        return (yield from self._read_value(inputs[holding[0]], node))

    def _read_value(self, value: Any, node: Node) -> Reading:
        link = parse_link(value)
        return self._check(value, node) if link is None else (yield Request("string", link))

    def _read_function(self, node: Node) -> Reading:
        if node.inputs.get("action") == "replace":
            return (yield from self._read_replacement(node, "text_a", "text_b", "text_c"))
        texts = []
        for name in ("text_a", "text_b", "text_c"):
            texts.append((yield from self._read_value(node.inputs.get(name, ""), node)))
        return self._count((", " if node.inputs.get("tidy_tags") == "yes" else "").join(filter(None, texts)))

    def _read_replacement(self, node: Node, *names: str) -> Reading:
        texts = []
        for name in names:
            texts.append((yield from self._read_value(node.inputs.get(name, ""), node)))
        text, find, new = texts
        if len(text) + len(new) * (text.count(find) + 1) > MAX_PROMPT or (find.startswith("/") and len(find) > 2):
            raise AmbiguousGraphError
        return self._count(text.replace(find, new) if find or node.kind == "StringReplace" else text)

    def _check(self, value: Any, node: Node) -> str:
        """A literal text. Raises if it is none, or if the node takes one of several texts out of it."""
        if not isinstance(value, str):
            raise AmbiguousGraphError
        text = to_text(value)
        fills = self.template or not known.LITERAL.fits(node.kind)
        if fills and _WILDCARD.search(text[:MAX_PROMPT]):
            raise AmbiguousGraphError
        return text

    def _count(self, text: str) -> str:
        self._total += len(text)
        if len(text) > MAX_PROMPT or self._total > _MAX_TOTAL:
            raise AmbiguousGraphError
        return text


def drop_instruction(text: str) -> str:
    """Drop what instructs the text encoder. Raises if its end is not marked, and if there is a text for each frame."""
    if _FRAMES.match(text):
        raise AmbiguousGraphError
    _, mark, after = text.rpartition(known.INSTRUCTION)
    if not mark and text.startswith("You are an assistant designed to generate"):
        raise AmbiguousGraphError
    return after.strip() if mark else text


def join_pieces(pieces: Iterable[Piece]) -> str:
    """The prompt of a conditioning. Raises if several texts take turns during the steps."""
    pieces = list(pieces)
    if len({piece.text.strip() for piece in pieces}) > 1 and any(piece.timed for piece in pieces):
        raise AmbiguousGraphError
    return join_prompts([piece.text for piece in pieces])


def _join_pieces(answers: Sequence[Pieces], any_kind: bool) -> Pieces:
    """The pieces of several conditionings. They must be equal unless the node is known to join them."""
    full = [answer for answer in answers if answer]
    if not any_kind and len(set(full)) > 1:
        raise AmbiguousGraphError
    joined = tuple(dict.fromkeys(piece for answer in full for piece in answer))
    if len(joined) > _MAX_TEXTS:
        raise AmbiguousGraphError
    return joined


def _name_conditionings(node: Node) -> list[str]:
    """The linked inputs with conditionings, without the negative ones."""
    names = []
    for name in node.links:
        short, kind = shorten(name), node.types.get(name, "CONDITIONING")
        named = known.CONDITIONING.fits(short) and kind in ("CONDITIONING", "*")
        if (named or node.types.get(name) == "CONDITIONING") and not known.NEGATIVE.fits(short):
            names.append(name)
    return sorted(names, key=lambda name: (name == "conditioning_from", len(name), name))


def _has_additions(node: Node) -> bool:
    """Whether a style or another text that is not in the graph is added to a node's text."""
    for name, value in node.inputs.items():
        short = shorten(name)
        if known.AFFIX.fits(short) and node.has_text(name):
            return True
        if known.STYLE.fits(short) and (
            name in node.links or (isinstance(value, str) and value.strip().lower() not in _NO_STYLE)
        ):
            return True
    return False
