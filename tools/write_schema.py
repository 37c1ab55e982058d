"""Writes recipes/schema.json from the settings in recipe.py. Editors use it to complete and check recipe files.

    python tools/write_schema.py

The schema is as strict as the recipe reader, with two exceptions: the reader also accepts numbers in quotes, and only
the reader checks combinations of settings, such as mos_min below mos_max.
"""

import json
from pathlib import Path
from typing import Any

from aigc_cli.recipe import FIELDS, LOSS_NAMES, get_field_type

TARGET = Path(__file__).parents[1] / "recipes" / "schema.json"
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def make_schema() -> dict[str, Any]:
    """Return the JSON Schema of a recipe file, in draft 7, which all editors support."""
    parent = {"type": "string", "description": "the recipe to extend: a name, or a path relative to this file"}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A recipe of aigc",
        "type": "object",
        "additionalProperties": False,
        "properties": {"extends": parent, **{key: _describe_field(key) for key in FIELDS}},
    }


def _describe_field(key: str) -> dict[str, Any]:
    meta, (kind, optional) = FIELDS[key].metadata, get_field_type(key)
    span = "; sensible: {:g} to {:g}".format(*meta["sensible"]) if meta["sensible"] else ""
    found: dict[str, Any] = {
        "description": meta["help"] + span,
        "type": [TYPES[kind], "null"] if optional else TYPES[kind],
        "default": FIELDS[key].default,
    }
    if meta["choices"]:
        found["enum"] = [*meta["choices"], *([None] if optional else [])]
    found |= {name: meta[end] for name, end in (("minimum", "low"), ("maximum", "high")) if meta[end] is not None}
    if key == "loss":
        names = "|".join(LOSS_NAMES)
        found["pattern"] = rf"^\s*({names})\s*(\+\s*({names})\s*)*$"
    return found


if __name__ == "__main__":
    TARGET.write_text(json.dumps(make_schema(), indent=2) + "\n", encoding="utf-8")
