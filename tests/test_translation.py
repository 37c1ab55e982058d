"""README.zh-CN.md has the sections and the commands of README.md, in the same order."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


def list_levels(text: str) -> list[int]:
    """The level of each heading; a comment in a block is none."""
    return [len(marks) for marks in re.findall(r"^(#+) ", BLOCK.sub("", text), re.M)]


def list_commands(text: str) -> list[tuple[str, list[str]]]:
    """(language, lines without comments and descriptions) of each block."""
    return [
        (language, [re.sub(r"\s{2,}\S.*$|\s+# .*$", "", line) for line in block.splitlines()])
        for language, block in BLOCK.findall(text)
    ]


def test_headings_are_the_same_in_number_order_and_level() -> None:
    assert list_levels(CHINESE) == list_levels(ENGLISH)


def test_commands_are_the_same() -> None:
    assert list_commands(CHINESE) == list_commands(ENGLISH)


def test_each_links_to_the_other() -> None:
    assert "(README.zh-CN.md)" in ENGLISH
    assert "(README.md)" in CHINESE
