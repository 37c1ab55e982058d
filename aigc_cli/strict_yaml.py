"""YAML with one meaning: what a recipe file says is what its reader sees."""

import errno
import re
from pathlib import Path
from typing import Any

import yaml

from aigc_cli.errors import AigcError

MAX_BYTES, MAX_DEPTH = 2**20, 20


class _StrictLoader(yaml.SafeLoader):
    """YAML with one meaning: no aliases, no tags, no duplicate keys, `1e-4` a number, `no` a word."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="an alias; write the value out", problem_mark=event.start_mark)
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) not in (None, "!"):
            raise yaml.MarkedYAMLError(problem=f"the tag {event.tag}", problem_mark=event.start_mark)
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


_StrictLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:bool", r"^(?:true|false)$", "tf"),
    ("tag:yaml.org,2002:null", r"^(?:null|~|)$", ["n", "~", ""]),
    ("tag:yaml.org,2002:int", r"^[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789"),
    ("tag:yaml.org,2002:float", r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
):
    _StrictLoader.add_implicit_resolver(_tag, re.compile(_pattern), list(_first))


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping from a YAML file, read strictly.

    Raises:
        AigcError: no such file, over 1 MiB, not UTF-8, deeper than 20 levels, tags, aliases, duplicate keys, or not a
            mapping of words to values; the message names file and line.
    """
    try:
        if not (path.is_file() or path.is_dir() or not path.exists()):  # a pipe would wait for ever
            raise OSError(errno.EINVAL, "it is a pipe, socket or device")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        problem = getattr(error, "strerror", None) or error
        raise AigcError(f"Expected a recipe file at {path}: {problem}.", "Check the path.") from error
    if len(data) > MAX_BYTES:
        size = path.stat().st_size
        raise AigcError(f"Expected at most 1 MiB in {path}, found {size:,} bytes.", "Is it a recipe at all?")
    try:
        value = yaml.load(data.decode("utf-8-sig"), _StrictLoader)  # noqa: S506  (derives from SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or error
        line = f", line {mark.line + 1}" if mark else ""
        raise AigcError(
            f"Expected plain YAML in {path}{line}, found {problem}.", "Write `key: value` lines."
        ) from error
    if not isinstance(value, dict):
        raise AigcError(
            f"Expected `key: value` lines in {path}, found {type(value).__name__}.", "See recipes/medium.yaml."
        )
    return value
