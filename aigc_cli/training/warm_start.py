"""Warm starts: training goes on from a trained model, whose architecture it keeps. Imports no PyTorch."""

from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aigc_cli.errors import AigcError
from aigc_cli.recipe import FIELDS, Recipe

if TYPE_CHECKING:
    from aigc_cli.runtime.saved import SavedModel

LEVEL: Literal["level"] = "level"
Penalty = float | Literal["level"] | None  # of a taste, see `fit_taste`
GIVEN = ("aigc.yaml", "environment", "flag")  # sources of settings that the user chose for this training


def read_start(recipe: Recipe) -> "SavedModel | None":
    """The model from which the training of `recipe` goes on; None where it begins from nothing.

    Raises:
        AigcError: there is no such model.
    """
    if recipe.start_from is None:
        return None
    from aigc_cli.runtime.saved import read_model  # with NumPy; `aigc recommend` does without

    return read_model(Path(recipe.start_from))


def adopt_architecture(recipe: Recipe, start: "SavedModel", sources: Mapping[str, str] | None = None) -> Recipe:
    """The recipe with the backbone and the heads of the start model; its residual scales are those in effect there.

    Args:
        sources: where each setting comes from, see `ResolvedRecipe`. Without them, a setting that is not the default
            counts as the user's.

    Raises:
        AigcError: the user's settings ask for another architecture.
    """
    heads, own = start.heads, ("backbone", "image_size", "levels")
    wanted: dict[str, Any] = {name: getattr(start.recipe, name) for name in own}
    wanted |= {name: getattr(heads, name) for name in FIELDS if hasattr(heads, name) and name != "dropout"}
    for name, value in wanted.items():
        found = getattr(recipe, name)
        scale = name.startswith("residual_scale")  # every recipe has one of its own
        chosen = sources[name] in GIVEN if sources else found != FIELDS[name].default and not scale
        if chosen and found != value:
            size = "the backbone's own" if value is None else value
            raise AigcError(
                f"Expected {name} {size}, as in the start model {start.name}, found {found}.",
                f"Leave {name} out, or train from nothing, without start_from.",
            )
    return replace(recipe, **wanted)


def describe_start(recipe: Recipe, start: "SavedModel") -> str:
    """What a training goes on from, in a sentence."""
    said = f"Training goes on from {start.name} ({start.backbone['name']})."
    if recipe.learns_taste:
        said += " It stays as it is, and a linear shift is fitted to your ratings: lr, epochs and loss do not count."
    if start.recipe.scale == recipe.scale:
        return said
    then, now = (f"{scale.low:g} to {scale.high:g}" for scale in (start.recipe.scale, recipe.scale))
    return f"{said} Its scores of {then} become {now}."


def hash_start(weights: str, start: "SavedModel | None") -> str:
    """A digest of all weights that a training begins with; that of the backbone, `weights`, without a start model."""
    return sha256(f"{weights} {start.checkpoint.digest}".encode()).hexdigest() if start else weights


def describe_taste(penalties: Mapping[str, Penalty]) -> str:
    """What the fit of a taste found, in words."""
    said = {
        "follow your ratings: held-out prompts gain by it": [t for t, p in penalties.items() if p not in (None, LEVEL)],
        "keep the start model's order, at the level of your ratings": [t for t, p in penalties.items() if p == LEVEL],
        "stay as they were: held-out prompts show no clear gain": [t for t, p in penalties.items() if p is None],
    }
    found = [f"The scores of {' and '.join(targets)} {what}." for what, targets in said.items() if targets]
    return " ".join(found) or "The scores stay as they were: too few prompts to tell a gain."
