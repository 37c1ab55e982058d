"""Text for people: safe display of foreign strings, counts and sizes."""

import unicodedata

# Unicode categories: control, format (such as right-to-left overrides), surrogate, line and paragraph separator.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"  # zero-width (non-)joiners are part of emoji and of several scripts


def to_printable(text: str, limit: int | None = None) -> str:
    """Return `text` as one line that is safe to show in a terminal, a log or a message.

    Control characters become escapes: ESC is `\\x1b`, a new line is `\\n`. So do the bytes of a file name that is not
    UTF-8: `\\xff`, which Python stores as U+DCFF. A longer text is cut to `limit` characters and `...`.

    Example:
        >>> to_printable("a\\tb")
        'a\\\\tb'
        >>> to_printable("a long name", 6)
        'a long...'
    """
    if limit is not None and len(text) > limit:
        text = text[:limit] + "..."
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_escape, text))


def show_path(path: object) -> str:
    """Return a path, at most 200 characters of it, as `to_printable` does."""
    return to_printable(str(path), 200)


def format_count(number: int, what: str) -> str:
    """Return a number with its noun, in the plural with s.

    Example:
        >>> format_count(1, "image"), format_count(2000, "image")
        ('1 image', '2,000 images')
    """
    return f"{number:,} {what}{'s' * (number != 1)}"


def format_size(count: float) -> str:
    """Return a number of bytes in kB, MB or GB (powers of 1000).

    Example:
        >>> format_size(8000), format_size(35e6), format_size(1.2e9)
        ('8 kB', '35 MB', '1.2 GB')
    """
    unit = next((unit for unit in ((1e9, "GB"), (1e6, "MB")) if count >= unit[0]), (1e3, "kB"))
    return f"{count / unit[0]:.2g} {unit[1]}" if count < 100 * unit[0] else f"{count / unit[0]:,.0f} {unit[1]}"


def _escape(char: str) -> str:
    if char in _JOINERS or unicodedata.category(char) not in _HIDDEN:
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # os.fsdecode maps an undecodable byte B to U+DC00 + B
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")
