"""Writes tables for tests, and looks at the errors of reading them."""

from collections.abc import Callable
from pathlib import Path

import pytest

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
