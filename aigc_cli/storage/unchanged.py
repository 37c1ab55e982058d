"""Compares a continued run with its first start, and refuses changes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aigc_cli.errors import AigcError
from aigc_cli.text import to_printable


def list_changes(then: Mapping[str, Any], now: Mapping[str, Any], of: str = "") -> list[str]:
    """Return a text for each value of `now` that differs from `then`; keys that only `then` has are ignored.

    Example:
        >>> list_changes({"lr": 0.001, "epochs": 3}, {"lr": 0.1, "epochs": 3}, " of the recipe")
        ['lr of the recipe (0.001 then, 0.1 now)']
    """
    changed = [key for key in now if then.get(key) != now[key]]
    return [f"{key.replace('_', ' ')}{of} ({_show(then.get(key))} then, {_show(now[key])} now)" for key in changed]


def refuse_changes(what: str, place: Path | str, changes: Sequence[str], hint: str) -> None:
    """Raise an AigcError if there are changes, texts as from `list_changes`, since `what` in `place` was started."""
    if changes:
        started = f"{what} in {to_printable(str(place))} was started"
        raise AigcError(f"Expected no changes since {started}, found changes in {'; '.join(changes)}.", hint)


def _show(value: Any) -> str:
    return to_printable(str(value), 60)
