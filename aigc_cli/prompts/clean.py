"""Prompts as generators write them, and as a text tower reads them.

A generator's prompt is half text and half commands: `(word:1.2)` weighs a word, `<lora:name:0.8>` loads a file. Only
the words say what the image shows, so the commands are taken out before a prompt is embedded.
"""

import re
from dataclasses import dataclass, field

MAX_PROMPT = 1 << 16  # characters; no prompt that a person or a program wrote is longer

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
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def as_text(value: object) -> str:
    """`value` as text that every table can hold: no lone surrogates, no control characters but tab and new line."""
    text = value if isinstance(value, str) else ""
    return _CONTROL.sub("", text.encode("utf-8", "replace").decode().replace("\r\n", "\n").replace("\r", "\n"))


def one_line(text: str) -> str:
    """Runs of white space as one space; none at either end."""
    return " ".join(text.split())


def _tidy(text: str) -> str:
    """On one line, without the commas and spaces that something left between them."""
    return re.sub(r" ?,(?: ?,)*", ",", one_line(text)).strip(" ,")


def cleaned(raw: str, source: str) -> str:
    """A prompt without what is there for the generator only: its words, on one line.

    Removed are networks (`<lora:name:0.8>`), ComfyUI's `embedding:name`, weights and their brackets (`(word:1.2)`,
    `((word))`, `[word]`; `{word}` and `1.2::word::` of NovelAI; `word++` and `(word)1.2` of InvokeAI) and the marks
    `BREAK` and `AND`. Of `[from:to:when]` the later text stays, of `[a|b]` both. `\\(` is a bracket that was meant.

    Args:
        raw: the positive prompt.
        source: whose rules hold: a1111, comfyui, fooocus, invokeai or novelai.
    """
    text = _NETWORK.sub(" ", raw)
    if source == "novelai":
        text = _EMPHASIS.sub(" ", _NEGATED.sub(" ", text)).replace("|", ", ")
    elif source == "invokeai":
        text = _PLUS.sub("", _FUNCTION.sub(")", _SWAP.sub(r"\1", text)))
    else:
        text = _EMBEDDING.sub(" ", text) if source == "comfyui" else _without_negated(text)
        text = re.sub(r"\bBREAK\b", ", ", text)
    return _tidy(_unbracketed(text, _BRACKETS.get(source, "([")))


def _without_negated(text: str) -> str:
    """Of `a AND b :1.2 AND c :-1` the parts that are asked for, without their weights."""
    parts = re.split(r"\bAND\b", text)
    if len(parts) == 1:
        return text
    kept = []
    for part in parts:
        weight = _WEIGHT.search(part.rstrip()[-32:])
        if weight is None or float(weight[0].strip(": ") or 1) > 0:
            kept.append(part.rstrip()[: len(part.rstrip()) - len(weight[0])].strip() if weight else part.strip())
    return ", ".join(kept)


@dataclass
class _Group:
    """What stands in a pair of brackets: its pieces, and the separators between them."""

    opener: str = ""
    pieces: list[list[str]] = field(default_factory=lambda: [[]])
    separators: list[str] = field(default_factory=list)

    def text(self) -> str:
        pieces = ["".join(piece) for piece in self.pieces]
        if self.opener == "[" and "|" in self.separators:
            return " ".join(pieces)
        if self.opener == "[" and len(pieces) > 1 and _NUMBER.match(pieces[-1]):
            return next((piece for piece in pieces[-2::-1] if piece.strip()), "")
        whole = "".join(a + b for a, b in zip(pieces, [*self.separators, ""], strict=True))
        return whole[: -len(found[0])] if self.opener == "(" and (found := _WEIGHT.search(whole[-32:])) else whole


def _unbracketed(text: str, openers: str) -> str:
    """One pass with a stack of its own: prompts come from others, and brackets may be nested ten thousand deep."""
    groups = [_Group()]
    position = 0
    while position < len(text):
        char = text[position]
        position += 1
        here = groups[-1]
        if char == "\\" and text[position : position + 1] in tuple("()[]{}"):
            here.pieces[-1].append(text[position])
            position += 1
        elif char in openers:
            groups.append(_Group(char))
        elif here.opener and char == _PAIRS[here.opener]:
            groups.pop()
            groups[-1].pieces[-1].append(here.text())
        elif here.opener == "[" and char in ":|":
            here.separators.append(char)
            here.pieces.append([])
        else:
            here.pieces[-1].append(char)
    while len(groups) > 1:  # brackets that nobody closed
        last = groups.pop()
        groups[-1].pieces[-1].append(last.text())
    return groups[0].text()
