"""README.zh-CN.md says what README.md says: the same sections, commands, tables, numbers, names and links, in order.

Prose can't be compared, so what can be is compared strictly: a change of README that touches a heading, a code block, a
table, a number, a `name` or a link fails here until the translation follows.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))
MEND = "Change README.zh-CN.md, section '{}' ({}), as README.md was changed there: {}"

FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
INDENTED = re.compile(r"(?:^ {4}.*\n)+", re.M)
NUMBER = re.compile(r"\d[\d,.]*\d|\d")
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)]+)\)")
HEADING = re.compile(r"^(#+) (.*)$", re.M)


def without_blocks(text: str) -> str:
    """The text with fenced blocks emptied, so that a comment in a command is no heading."""
    return FENCED.sub("", text)


def sections(text: str) -> list[tuple[int, str, str]]:
    """(level, heading, text up to the next heading) of each section, fenced blocks kept."""
    blocks: list[str] = []

    def keep(found: re.Match[str]) -> str:
        blocks.append(found[0])
        return f"\0{len(blocks) - 1}\0"

    hidden = FENCED.sub(keep, text)
    places = [*HEADING.finditer(hidden)]
    ends = [*(place.start() for place in places[1:]), len(hidden)]
    shown = [hidden[place.end() : end] for place, end in zip(places, ends, strict=True)]
    return [
        (len(place[1]), place[2], re.sub("\0(\\d+)\0", lambda found: blocks[int(found[1])], part))
        for place, part in zip(places, shown, strict=True)
    ]


def commands(language: str, block: str) -> list[str]:
    """What a fenced block says apart from words for people: commands without comments, a tree's names."""
    if language == "text":
        return [re.sub(r"^(\s*\S+).*$", r"\1", line) for line in block.splitlines()]
    return [re.sub(r"\s+# .*$", "", line) for line in block.splitlines()]


def tables(text: str) -> list[tuple[int, list[str], list[str]]]:
    """(cells, numbers, names) of each row of all tables."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [(row.count("|"), NUMBER.findall(CODE.sub("", row)), CODE.findall(row)) for row in rows]


def prose(text: str) -> str:
    return "\n".join(line for line in INDENTED.sub("", without_blocks(text)).splitlines() if not line.startswith("|"))


def unlike(one: list[Any], other: list[Any]) -> str:
    """What only one of two lists has, as far as one looks."""
    found = [f"{name}: {[entry for entry in a if entry not in b][:3]}" for name, a, b in (
        ("only in English", one, other), ("only in Chinese", other, one))]  # fmt: skip
    return "; ".join(found)


def test_the_headings_are_the_same_in_number_order_and_level() -> None:
    levels = [[level for level, _, _ in sections(text)] for text in (ENGLISH, CHINESE)]
    names = [heading for _, heading, _ in sections(ENGLISH)]
    assert levels[0] == levels[1], f"README.md has these headings: {names}; give README.zh-CN.md the same in this order"


PAIRS = list(zip(sections(ENGLISH), sections(CHINESE), strict=False))


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=[english[1] for english, _ in PAIRS])
def test_a_section_says_the_same(english: tuple[int, str, str], chinese: tuple[int, str, str]) -> None:
    (_, title, one), (_, other_title, other) = english, chinese

    def mend(what: str) -> str:
        return MEND.format(title, other_title, what)

    blocks = [
        [(language, commands(language, block)) for language, block in FENCED.findall(text)] for text in (one, other)
    ]
    assert blocks[1] == blocks[0], mend("the fenced blocks, but for comments and descriptions")
    one, other = (text.replace("README.zh-CN.md", "README.md") for text in (one, other))  # each links the other
    indented = [INDENTED.findall(without_blocks(text)) for text in (one, other)]
    assert indented[1] == indented[0], mend(f"indented blocks; {unlike(*indented)}")
    cells = [tables(text) for text in (one, other)]
    assert cells[1] == cells[0], mend(f"cells, numbers and names of the tables' rows; {unlike(*cells)}")
    for what, found in (("names in backquotes", CODE), ("numbers", NUMBER), ("links", LINK)):
        counts = []
        for text in (one, other):
            words = CODE.sub("", LINK.sub("", prose(text))) if found is NUMBER else prose(text)
            counts.append(Counter(found.findall(words)))
        missing, extra = counts[0] - counts[1], counts[1] - counts[0]
        assert counts[1] == counts[0], mend(f"{what}; missing {sorted(missing)}, too many {sorted(extra)}")


def test_it_is_chinese_throughout() -> None:
    """A paragraph that was left in English has hardly a Chinese character."""
    for paragraph in re.split(r"\n\s*\n", prose(CHINESE)):
        plain = LINK.sub("", CODE.sub("", re.sub(r"<!--.*?-->", "", paragraph)))
        letters, han = len(re.findall(r"[A-Za-z]", plain)), len(re.findall(r"[\u4e00-\u9fff]", plain))
        assert letters < 60 or han > letters / 3, f"still English: {paragraph[:80]}"


def test_both_point_to_each_other() -> None:
    assert "(README.zh-CN.md)" in ENGLISH
    assert "(README.md)" in CHINESE
