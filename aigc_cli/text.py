"""How text that others wrote is shown to people."""

import unicodedata

# Control, format (right-to-left overrides among them), surrogate, line and paragraph separator.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"  # zero-width joiners hold emoji and several scripts together and hide nothing


def printable(text: str, limit: int | None = None) -> str:
    """Return `text` as one line that is safe to show in a terminal, a log or a message.

    Control characters become escapes (ESC is `\\x1b`, a new line `\\n`) and so do the bytes of a file name that is
    not UTF-8 (`\\xff`, which Python holds as the surrogate U+DCFF). All other text stays as it is.
    With `limit`, what is longer than `limit` characters is cut and ends in `...`.
    """
    if limit is not None and len(text) > limit:
        text = text[:limit] + "..."
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(char) if _is_hidden(char) else char for char in text)


def counted(number: int, what: str) -> str:
    """`1 image`, `2,000 images`: a number of things whose plural ends in s."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def _is_hidden(char: str) -> bool:
    return char not in _JOINERS and unicodedata.category(char) in _HIDDEN


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # os.fsdecode stores the undecodable byte B as U+DC00 + B
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")
