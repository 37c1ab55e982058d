"""Text for people: foreign strings become one harmless line."""

from hypothesis import given, settings
from hypothesis import strategies as st

from aigc_cli.errors import AigcError
from aigc_cli.text import to_printable


@settings(deadline=None, max_examples=60)
@given(st.text())
def test_printable_text_is_one_harmless_line(text: str) -> None:
    shown = to_printable(text)
    assert "\x1b" not in shown
    assert "\x85" not in shown
    assert len(shown.splitlines()) <= 1
    shown.encode("utf-8")


def test_ordinary_text_is_unchanged_and_the_rest_is_escaped() -> None:
    assert to_printable("a photo of é 犬 👩‍🚀\u3000[/] \\n") == "a photo of é 犬 👩‍🚀\u3000[/] \\n"
    assert to_printable("a\x1b\n\t\u202e\udcff\ud800\u2028") == "a\\x1b\\n\\t\\u202e\\xff\\ud800\\u2028"
    assert to_printable("abcdef", limit=3) == "abc..."
    assert to_printable("abc", limit=3) == "abc"


def test_errors_hold_nothing_that_a_terminal_obeys() -> None:
    error = AigcError("found 'a\x1b]8;;x\x07b\u202e\x9b'", "Try\x1b[31m this.")
    assert str(error) == "found 'a\\x1b]8;;x\\x07b\\u202e\\x9b'\nTry\\x1b[31m this."
    assert error.args == (error.message,)
