"""Removes the generator's commands from a prompt.

Prompts mix words with commands: `(word:1.2)` weights a word, `<lora:name:0.8>` loads a file. Only the words describe
the image, so the commands are removed before the prompt is embedded.
"""

import re
from dataclasses import dataclass, field

MAX_PROMPT = 1 << 16  # characters; a longer text is not a prompt
MAX_NESTING = 64  # of brackets

_NETWORK = re.compile(r"<[A-Za-z]\w{0,30}:[^<>]{0,500}>")  # <lora:name:0.8>, <lyco:...>, <hypernet:...>
_EMBEDDING = re.compile(r"\(?\bembedding:[^\s,()\[\]]+(?:[^\S\n]*\))?", re.IGNORECASE)  # ComfyUI's textual inversions
_WEIGHT = re.compile(r":\s{0,9}[-+]?(?:\d{1,9}\.?\d{0,9}|\.\d{1,9})\s{0,9}\Z")
_NUMBER = re.compile(r"\s{0,9}[-+]?(?:\d{1,9}\.?\d{0,9}|\.\d{1,9})\s{0,9}\Z")
_PAIRS = {"(": ")", "[": "]", "{": "}"}
_BRACKETS = {"novelai": "{[", "invokeai": "("}  # others: ( and [
_NEGATED = re.compile(r"-\d{1,3}(?:\.\d{0,6})?::[^:]*(?:::|\Z)")  # NovelAI: -1::not this::
_EMPHASIS = re.compile(r"\d{0,3}\.?\d{0,6}::")  # NovelAI: 1.3::this::
_FUNCTION = re.compile(r"\)\s{0,3}\.(?:and|blend)\([^()]{0,200}\)")  # InvokeAI: ("a", "b").blend(0.5, 0.5)
_SWAP = re.compile(r"[\w\"')]{0,200}\.swap\(([^()]{0,2000})\)")  # InvokeAI: cat.swap(dog) ends as a dog
_PLUS = re.compile(r"(?<=[\w)\"'])(?:\+{1,9}|-{1,9})(?=[\s,.;)]|\Z)|(?<=\))\d{0,3}\.?\d{1,6}(?=[\s,.;)]|\Z)")
_REGIONS = re.compile(r"\b(?:BREAK|ADDCOMM|ADDBASE|ADDCOL|ADDROW|ADDP)\b")  # the last five: Regional Prompter
_TAG = re.compile(
    r"<(\w{1,30})(?:\[[^\[\]<>]{0,200}\])?(?::([^<>]*))?>"
)  # SwarmUI: <name>, <name:data>, <name[x]:data>
_SECTIONS = frozenset({"base", "refiner", "video", "videoswap", "segment", "object", "region", "extend", "clear"})
_SHOWN_SECTIONS = frozenset({"base", "object", "region"})  # the others refine a part or make another picture
_FLAGS = re.compile(r"(?:\A|\s)(?:--|\u2014)[a-z].*|\sJob ID: .*", re.DOTALL)  # Midjourney: they end the prompt
_ADDRESS = re.compile(r"<?https?://\S+")  # Midjourney: images that a prompt refers to
_PART_WEIGHT = re.compile(r"::(-?\d{0,9}\.?\d{0,9})")  # Midjourney: hot::2 dog::-0.5
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def to_text(value: object) -> str:
    """Make text storable: no lone surrogates, no control characters but tab and newline; "" if `value` is no text."""
    text = value if isinstance(value, str) else ""
    return _CONTROL.sub("", text.encode("utf-8", "replace").decode().replace("\r\n", "\n").replace("\r", "\n"))


def collapse_spaces(text: str) -> str:
    """Replace each run of white space by one space and strip both ends."""
    return " ".join(text.split())


def clean_prompt(raw: str, source: str) -> str:
    """Remove the generator's commands from a prompt and put its words on one line.

    The commands are networks (`<lora:name:0.8>`), ComfyUI's `embedding:name`, weights with their brackets
    (`(word:1.2)`, `((word))`, `[word]`; NovelAI: `{word}`, `1.2::word::`; InvokeAI: `word++`, `(word)1.2`), the
    keywords `BREAK` and `AND`, those of Regional Prompter, SwarmUI's sections for parts and refiners, and Midjourney's
    flags. `[from:to:when]` becomes the later text, `[a|b]` becomes both, and `\\(` becomes a literal bracket. `source`
    is the program whose syntax applies: one of novelai, invokeai, comfyui, swarmui, midjourney; all others write like
    Automatic1111.
    """
    if source == "midjourney":
        return _clean_midjourney(raw)
    text = _NETWORK.sub(" ", _drop_tags(raw) if source == "swarmui" else raw)
    if source == "novelai":
        text = _EMPHASIS.sub(" ", _NEGATED.sub(" ", text)).replace("|", ", ")
    elif source == "invokeai":
        text = _PLUS.sub("", _FUNCTION.sub(")", _SWAP.sub(r"\1", text)))
    else:
        text = _EMBEDDING.sub(" ", text) if source == "comfyui" else _drop_negated(text)
        text = _REGIONS.sub(", ", text)
    text = collapse_spaces(_drop_brackets(text, _BRACKETS.get(source, "([")))
    return re.sub(r" ?,(?: ?,)*", ",", text).strip(" ,")  # removed parts leave commas behind


def _drop_tags(text: str) -> str:
    """Resolve SwarmUI's tags, see "Prompt Syntax" in its documentation.

    A section tag such as `<segment:face>` begins a text for a pass of its own.
    """
    kept, shown, end = [], True, 0
    for tag in _TAG.finditer(text):
        kept.append(text[end : tag.start()] if shown else "")
        name, data, end = tag[1].lower(), tag[2] or "", tag.end()
        if name in _SECTIONS:
            shown = name in _SHOWN_SECTIONS
            kept.append(", " if shown else "")
        elif shown and name in ("alternate", "alt", "fromto"):
            separator = next((mark for mark in ("||", "|") if mark in data), ",")
            parts = data.split(separator)
            kept.append(parts[-1] if name == "fromto" else " ".join(parts))
        elif shown:
            kept.append(", " if name == "break" else " ")
    return "".join([*kept, text[end:] if shown else ""])


def _clean_midjourney(text: str) -> str:
    """Keep the words of a prompt of Midjourney: no flags, no addresses of images, no parts of negative weight."""
    pieces = _PART_WEIGHT.split(_ADDRESS.sub(" ", _FLAGS.sub("", text)))
    kept = [text for text, weight in zip(pieces[::2], [*pieces[1::2], ""], strict=True) if not weight.startswith("-")]
    return ", ".join(filter(None, (collapse_spaces(piece).strip(" ,") for piece in kept)))


def _drop_negated(text: str) -> str:
    """Drop the parts of `a AND b :1.2 AND c :-1` whose weight is not positive, and the weights of the others."""
    parts = re.split(r"\bAND\b", text)
    if len(parts) == 1:
        return text
    kept = []
    for part in map(str.strip, parts):
        weight = _WEIGHT.search(part[-32:])
        if weight is None or float(weight[0].strip(": ")) > 0:
            kept.append(part.removesuffix(weight[0]).strip() if weight else part)
    return ", ".join(kept)


@dataclass
class _Group:
    """The content of a pair of brackets."""

    opener: str = ""
    pieces: list[list[str]] = field(default_factory=lambda: [[]])
    separators: list[str] = field(default_factory=list)

    def join(self) -> str:
        """The text that replaces the brackets."""
        pieces = ["".join(piece) for piece in self.pieces]
        if self.opener == "[" and "|" in self.separators:
            return " ".join(pieces)
        if self.opener == "[" and len(pieces) > 1 and _NUMBER.match(pieces[-1]):
            return next((piece for piece in pieces[-2::-1] if piece.strip()), "")
        whole = "".join(a + b for a, b in zip(pieces, [*self.separators, ""], strict=True))
        return whole[: -len(found[0])] if self.opener == "(" and (found := _WEIGHT.search(whole[-32:])) else whole


def _drop_brackets(text: str, openers: str) -> str:
    """Resolve brackets in one pass, with an explicit stack.

    Brackets that are nested deeper than MAX_NESTING are only removed: resolving each level copies the text in it.
    """
    groups, deeper = [_Group()], list[str]()
    position = 0
    while position < len(text):
        char = text[position]
        position += 1
        here = groups[-1]
        if char == "\\" and text[position : position + 1] in tuple("()[]{}"):
            here.pieces[-1].append(text[position])
            position += 1
        elif char in openers and len(groups) > MAX_NESTING:
            deeper.append(_PAIRS[char])
        elif deeper and char == deeper[-1]:
            deeper.pop()
        elif char in openers:
            groups.append(_Group(char))
        elif here.opener and char == _PAIRS[here.opener]:
            groups.pop()
            groups[-1].pieces[-1].append(here.join())
        elif here.opener == "[" and char in ":|":
            here.separators.append(char)
            here.pieces.append([])
        else:
            here.pieces[-1].append(char)
    while len(groups) > 1:  # unclosed brackets
        last = groups.pop()
        groups[-1].pieces[-1].append(last.join())
    return groups[0].join()
