"""Reads the values of options: text, numbers, paths, and lists of them.

Typer reads them with Pydantic, which takes longer to import than a light command takes altogether.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

from aigc_cli.errors import AigcError
from aigc_cli.text import to_printable

if TYPE_CHECKING:
    from typer._click import Context
    from typer._click.core import Parameter
    from typer.core import TyperArgument, TyperOption

KINDS: dict[type, tuple[Callable[[str], Any], str]] = {
    str: (str, "text"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    Path: (Path, "a path"),
    bool: ({"true": True, "false": False}.__getitem__, "true or false"),  # a flag has no text
}


@dataclass(frozen=True)
class ValueReader:
    """Reads the values of one parameter; Typer calls `coerce`.

    Attributes:
        kind: a key of `KINDS`.
        many: whether the parameter can be given several times; its value is then a list.
    """

    kind: type
    many: bool

    def coerce(self, value: Any, param: "TyperOption | TyperArgument", ctx: "Context") -> Any:
        """The value of the parameter from its text or its default; AigcError for a text of another kind."""
        if self.many:
            return [self._read(item, param, ctx) for item in value or ()] or None
        return None if value is None else self._read(value, param, ctx)

    def _read(self, value: Any, param: "TyperOption | TyperArgument", ctx: "Context") -> Any:
        read, wanted = KINDS[self.kind]
        try:
            return value if isinstance(value, self.kind) else read(value)
        except (ValueError, KeyError) as error:
            name = max(param.opts, key=len) if param.param_type_name == "option" else str(param.metavar)
            raise AigcError(
                f"Expected {wanted} for {name}, found '{to_printable(str(value), 80)}'.",
                f"See `{ctx.command_path} --help`.",
            ) from error


def read_without_pydantic(parameters: "list[Parameter]") -> "list[Parameter]":
    """The same parameters; those of a known kind get a `ValueReader`, and Typer reads the others."""
    for parameter in parameters:
        annotation = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
        many = get_origin(annotation) is list
        kind = get_args(annotation)[0] if many else annotation
        if kind in KINDS:
            reader = ValueReader(kind, many)
            parameter.get_runtime_param = lambda reader=reader: reader  # type: ignore[attr-defined]
    return parameters
