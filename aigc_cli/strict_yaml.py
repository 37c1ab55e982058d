"""Reads a strict subset of YAML, in which every file has exactly one meaning."""

import functools
import re
from pathlib import Path
from typing import Any

from aigc_cli.errors import AigcError
from aigc_cli.regular_file import FileTooLarge, read_regular

MAX_YAML_BYTES, MAX_DEPTH, MAX_VALUES = 2**20, 20, 2000
_CONSTANTS = {"true": True, "false": False, "null": None}
_WHOLE = r"[-+]?(?:0|[1-9][0-9]*)"
_REAL = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_FLAT_LINE = re.compile(r"(?:([A-Za-z]\w{0,99}): ([A-Za-z0-9][\w.+-]{0,99})(?: +#[ -~]*)?|#[ -~]*|)", re.ASCII)


def _read_flat(data: bytes) -> dict[str, Any]:
    """The mapping in lines `key: word` or `key: number` and comments; empty for any other text.

    Most recipes have this form. PyYAML would read the same, but it takes longer to import than a light command takes.
    """
    found: dict[str, Any] = {}
    for line in data.decode("ascii", "replace").split("\n"):
        match = _FLAT_LINE.fullmatch(line)
        if match is None or match[1] in found or match[1] in _CONSTANTS:
            return {}
        if match[1] is not None:
            found[match[1]] = _convert(match[2])
    return found


def _convert(word: str) -> Any:
    if word in _CONSTANTS:
        return _CONSTANTS[word]
    return int(word) if re.fullmatch(_WHOLE, word) else float(word) if re.fullmatch(_REAL, word) else word


@functools.cache
def _make_loader() -> Any:
    """PyYAML's loader of this subset."""
    import yaml

    class StrictLoader(yaml.SafeLoader):
        """YAML without aliases, tags and duplicate keys; `1e-4` is a number and `no` is a string."""

        depth = values = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            if self.check_event(yaml.AliasEvent):
                raise yaml.MarkedYAMLError(problem="an alias; write the value out", problem_mark=event.start_mark)
            if getattr(event, "tag", None) not in (None, "!"):
                raise yaml.MarkedYAMLError(problem=f"the tag {event.tag}", problem_mark=event.start_mark)
            self.values += 1
            if self.values > MAX_VALUES:
                raise yaml.MarkedYAMLError(problem=f"more than {MAX_VALUES} values", problem_mark=event.start_mark)
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise yaml.MarkedYAMLError(problem=f"more than {MAX_DEPTH} levels", problem_mark=event.start_mark)
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen: set[Any] = set()
            for key_node, _ in node.value:
                key = self.construct_object(key_node, deep=True)
                if not isinstance(key, str) or key in seen:
                    problem = f"the key '{key}' twice" if isinstance(key, str) else f"the key {key!r}, which is no word"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
                seen.add(key)
            return super().construct_mapping(node, deep)

    StrictLoader.yaml_implicit_resolvers = {}
    for tag, pattern, first in (
        ("bool", "true|false", "tf"),
        ("null", "null|~|", ["n", "~", ""]),
        ("int", _WHOLE, "-+0123456789"),
        ("float", _REAL, "-+.0123456789"),
    ):
        StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list(first))
    return StrictLoader


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping from a YAML file.

    Raises:
        AigcError: the file is missing, over 1 MiB, not UTF-8, nested deeper than 20 levels, has more than 2,000 values,
            tags, aliases or duplicate keys, or is not a mapping with string keys; the message names file and line.
    """
    try:
        data = read_regular(path, MAX_YAML_BYTES)
    except FileTooLarge as error:
        found = f"{path}, found {error.size:,} bytes"
        raise AigcError(f"Expected at most 1 MiB in {found}.", "Check that this is a recipe file.") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        problem = getattr(error, "strerror", None) or error
        raise AigcError(f"Expected a recipe file at {path}: {problem}.", "Check the path.") from error
    if flat := _read_flat(data):
        return flat
    import yaml

    try:
        value = yaml.load(data.decode("utf-8-sig"), _make_loader())  # noqa: S506  (a subclass of SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or error
        place = f"{path}, line {mark.line + 1}" if mark else path
        raise AigcError(f"Expected plain YAML in {place}, found {problem}.", "Write `key: value` lines.") from error
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise AigcError(f"Expected `key: value` lines in {path}, found {kind}.", "See recipes/medium.yaml.")
    return value
