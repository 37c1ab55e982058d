"""Writes recipes/schema.json, by which editors complete and check recipe files, from the settings in recipe.py.

    python tools/write_schema.py

It is as strict as the loader, but for numbers in quotes, which only the loader takes. What two settings mean together
(mos_min below mos_max, say) is left to the loader.
"""

import json
from pathlib import Path
from typing import Any

from aigc_cli.recipe import FIELDS, LOSS_NAMES, field_type

TARGET = Path(__file__).parents[1] / "recipes" / "schema.json"
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema (draft 7, which every editor knows) of a recipe file."""
    parent = {"type": "string", "description": "the recipe beneath this one: a name, or a path from this file"}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A recipe of aigc",
        "type": "object",
        "additionalProperties": False,
        "properties": {"extends": parent, **{key: _setting(key) for key in FIELDS}},
    }


def _setting(key: str) -> dict[str, Any]:
    meta, (kind, optional) = FIELDS[key].metadata, field_type(key)
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
    TARGET.write_text(json.dumps(recipe_schema(), indent=2) + "\n", encoding="utf-8")
