"""The variants of an ablation: each differs from one recipe in some settings."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aigc_cli.errors import AigcError
from aigc_cli.recipe import Recipe, check_setting, find_recipe, read_recipe
from aigc_cli.strict_yaml import read_yaml

Variants = Mapping[str, Mapping[str, Any]]

# New heads on a frozen backbone need larger steps, as in the recipe `small`. At a fine-tuning rate they would learn
# nothing, and the ablation would compare rates instead of freezing.
FROZEN_LR = 1e-3
IDEAS: dict[str, dict[str, Any]] = {
    "traditional": {"residual": False, "freeze": "none"},
    "residual": {"residual": True, "freeze": "none"},
    "residual + partial freeze": {"residual": True, "freeze": "partial"},
    "residual + all frozen": {"residual": True, "freeze": "all", "lr": FROZEN_LR},
}
MAX_VARIANTS = 200
EXAMPLE = "Example: `deeper: {freeze_depth: 0.9}`"


def read_recipe_variants(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Whole recipes as variants, given by name or path."""
    found = {Path(name).stem: read_recipe(find_recipe(name)) for name in names}
    if len(found) < len(names):
        raise AigcError(f"Expected recipes of different names, found {', '.join(names)}.", "Rename one of the files.")
    return found


def make_grid(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The grid of settings that are written as `key=v1,v2,v3`; the first variant has the first value of every key.

    Raises:
        AigcError: an unknown setting, a wrong value, a key or a value twice, or too many variants.
    """
    axes: dict[str, list[tuple[str, Any]]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        key, parts = key.strip().replace("-", "_"), [part.strip() for part in values.split(",")]
        if not equals or not all(parts):
            raise AigcError(f"Expected --vary KEY=VALUE,VALUE, found '{text}'.", "Example: --vary lr=1e-5,3e-5")
        if key in axes or len(set(parts)) < len(parts):
            raise AigcError(f"Expected every key and value of --vary once, found '{text}'.", "Remove one.")
        axes[key] = [(f"{key}={part}", {key: check_setting(key, part, "--vary")}) for part in parts]
    grid = list(itertools.product(*axes.values()))
    if len(grid) > MAX_VARIANTS:
        raise AigcError(f"Expected at most {MAX_VARIANTS} variants, found {len(grid):,}.", "Vary less at once.")
    return {
        ", ".join(label for label, _ in point): {k: v for _, change in point for k, v in change.items()}
        for point in grid
    }


def read_variants(path: Path) -> dict[str, dict[str, Any]]:
    """Reads variants from YAML: `name: {setting: value}`; the others are compared with the first one.

    `extends: RECIPE` inside a variant starts it from another recipe.

    Raises:
        AigcError: a fault in the file; the message names the variant and the key.
    """
    variants: dict[str, dict[str, Any]] = {}
    for name, settings in read_yaml(path).items():
        where = f"{path}, variant '{name}'"
        if settings is not None and not isinstance(settings, dict):
            raise AigcError(f"Expected settings in {where}, found '{settings}'.", EXAMPLE)
        own = dict(settings or {})
        parent = own.pop("extends", None)
        start = read_recipe(find_recipe(str(parent))) if parent is not None else {}
        variants[name] = start | {key: check_setting(key, value, where) for key, value in own.items()}
    if not variants:
        raise AigcError(f"Expected at least one variant in {path}, found none.", EXAMPLE)
    return variants


def apply_variants(base: Recipe, variants: Variants) -> dict[str, Recipe]:
    """The whole recipe of every variant; raises AigcError for a variant whose settings contradict each other."""
    found = {}
    for name, changes in variants.items():
        try:
            found[name] = dataclasses.replace(base, **changes)
        except AigcError as error:
            raise AigcError(f"Variant '{name}': {error.message}", error.hint) from error
    return found
