"""Writes tables for tests, and looks at the errors of reading them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import strategies as st

from aigc_cli.errors import AigcError

Write = Callable[[str | bytes], Path]


def error_of(call: Callable[[], object]) -> AigcError:
    with pytest.raises(AigcError) as caught:
        call()
    assert caught.value.exit_code == 2
    return caught.value


def check(error: AigcError, message: str, hint: str) -> None:
    assert error.message == message
    assert error.hint == hint


# --- tables of any bytes

WORDS = [b"name", b"prompt", b"a", b"../", b"1", b" ", b",", b";", b'"']
PIECES = st.sampled_from([*WORDS, b"\n", b"\r", b"\0", b"\xff", b"\xe2", b"\xef\xbb\xbf"])
CONTENT = st.one_of(
    st.binary(max_size=80),
    st.lists(PIECES, max_size=30).map(b"".join),
    st.lists(PIECES, max_size=20).map(lambda pieces: b"name,prompt,mos_align\na,b,1\n" + b"".join(pieces)),
)
