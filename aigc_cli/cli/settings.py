"""An option for each setting of a recipe."""

import inspect
from collections.abc import Iterable
from typing import Any

from aigc_cli.cli.options import format_value, make_option
from aigc_cli.recipe import FIELDS, get_field_type


def describe_setting(name: str) -> str:
    """The help of a setting with its range.

    Example:
        >>> describe_setting("patience")
        'Stop after this many epochs without a gain: 3 to 10; 0 turns it off (default 0)'
    """
    meta, default = FIELDS[name].metadata, FIELDS[name].default
    text, derived, rest = str(meta["help"]).partition(" (default: ")  # of a setting whose default is None
    if not text.startswith(("mini", "mse")):
        text = text[0].upper() + text[1:]
    spans = [", ".join(meta["choices"])] if meta["choices"] else []
    if meta["sensible"]:
        spans.append(" to ".join(map(format_value, meta["sensible"])))
    if meta["off"]:
        spans.append("0 turns it off")
    shown = derived + rest if default is None else f" (default {format_value(default)})"
    return text + (f": {'; '.join(spans)}" if spans else "") + shown


def _list_setting_options() -> Iterable[inspect.Parameter]:
    """An option for each field of a recipe."""
    for name, field in FIELDS.items():
        kind, flag = get_field_type(name)[0], f"--{name.replace('_', '-')}"
        option = make_option(
            field.metadata["group"],
            describe_setting(name),
            f"{flag}/{flag.replace('--', '--no-')}" if kind is bool else flag,
            metavar={bool: "", str: "TEXT"}.get(kind, "NUMBER"),
            extra=not field.metadata["main"],
        )
        wanted = kind if kind is bool else str  # the recipe converts and checks, so all sources have the same errors
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=wanted | None)


class RecipeSettings(dict[str, Any]):
    """{setting: value} from an option for each field of a recipe; None for an option that was not given."""

    __signature__ = inspect.Signature([*_list_setting_options()])
