"""What a backbone makes of a recipe: settings, learning rates and residual scales. Imports no PyTorch."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from aigc_cli.recipe import Recipe, ResolvedRecipe
from aigc_cli.runtime.hints import Hints, read_hints
from aigc_cli.training.warm_start import adopt_architecture, read_start


class LearningRates(NamedTuple):
    """Full learning rates, before the schedule; 0 for a tower that is frozen as a whole."""

    heads: float
    image: float
    text: float


def complete_recipe(recipe: Recipe) -> Recipe:
    """The recipe with the start model's architecture, and with the backbone's values of settings that it leaves to it.

    Raises:
        AigcError: there is no such start model, or the recipe asks for another architecture.
    """
    return _complete(recipe, None)


def _complete(recipe: Recipe, sources: Mapping[str, str] | None) -> Recipe:
    if start := read_start(recipe):
        recipe = adopt_architecture(recipe, start, sources)
    hints = read_hints(recipe.backbone)
    settings = {**hints.settings, **(hints.frozen_settings if recipe.freezes_all else {})}
    return replace(recipe, **{name: value for name, value in settings.items() if getattr(recipe, name) is None})


def complete_resolved(resolved: ResolvedRecipe) -> ResolvedRecipe:
    """The same as `complete_recipe`; the source of these values is the start model or the backbone."""
    recipe, origin = _complete(resolved.recipe, resolved.sources), resolved.recipe.start_from
    filled = [name for name in resolved.sources if getattr(recipe, name) != getattr(resolved.recipe, name)]
    return replace(
        resolved, recipe=recipe, sources=dict(resolved.sources) | dict.fromkeys(filled, origin or recipe.backbone)
    )


def compute_learning_rates(recipe: Recipe, hints: Hints) -> LearningRates:
    """The rates of a recipe; the backbone's factors apply when a part of the backbone is trained."""
    rate = recipe.lr if recipe.lr_backbone is None else recipe.lr_backbone
    backbone = rate * hints.finetune_backbone_lr_factor
    image = 0.0 if recipe.freeze == "all" else backbone
    text = 0.0 if (recipe.freeze_text or recipe.freeze) == "all" else backbone
    return LearningRates(recipe.lr * (hints.finetune_lr_factor if image or text else 1.0), image, text)


def compute_residual_scales(recipe: Recipe, hints: Hints) -> tuple[float, float]:
    """The residual scales of quality and consistency in effect, at most 1; after a warm start the recipe's own."""
    factor = hints.frozen_residual_scale_factor if recipe.freezes_all and not recipe.start_from else 1.0
    return min(1.0, factor * recipe.residual_scale_q), min(1.0, factor * recipe.residual_scale_c)


def describe_hints(recipe: Recipe) -> dict[str, str]:
    """The settings that the backbone changes, in words, by the name of the setting.

    For example {"lr": "head learning rate 0.0009 (30 x lr, set by mini)"}.
    """
    hints = read_hints(recipe.backbone)
    found = _describe_rates(recipe, hints)
    scales = compute_residual_scales(recipe, hints)
    if recipe.residual and scales != (recipe.residual_scale_q, recipe.residual_scale_c):
        for letter, target, scale in zip("qc", ("quality", "consistency"), scales, strict=True):
            factor = f"{hints.frozen_residual_scale_factor:g} x, set by {recipe.backbone} for frozen features"
            found[f"residual_scale_{letter}"] = f"residual scale of {target} {scale:.3g} ({factor})"
    return found


def _describe_rates(recipe: Recipe, hints: Hints) -> dict[str, str]:
    rates = compute_learning_rates(recipe, hints)
    if not (rates.image or rates.text) or (hints.finetune_lr_factor, hints.finetune_backbone_lr_factor) == (1.0, 1.0):
        return {}
    base = "lr" if recipe.lr_backbone is None else "lr_backbone"
    factors = {"lr": hints.finetune_lr_factor, "lr_backbone": hints.finetune_backbone_lr_factor}
    heads = f"head learning rate {rates.heads:.3g} ({factors['lr']:g} x lr, set by {recipe.backbone})"
    rate = f"{rates.image or rates.text:.3g} ({factors['lr_backbone']:g} x {base}, set by {recipe.backbone})"
    return {"lr": heads, "lr_backbone": f"backbone learning rate {rate}"}


def compute_lr_factor(scheduler: str, step: int, steps: int, warmup: int) -> float:
    """The factor on the learning rate at `step` of `steps`, in [0, 1]: a linear warm-up, then the named schedule."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    courses: dict[str, Callable[[float], float]] = {
        "cosine": lambda x: 0.5 * (1 + math.cos(math.pi * x)),
        "linear": lambda x: 1 - x,
        "step": lambda x: 0.1 ** int(3 * x),
        "constant": lambda x: 1.0,
    }
    return courses[scheduler](done)
