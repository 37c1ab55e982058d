"""What a recipe leaves to the backbone: its hints, read without torch, and the learning rates they make."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from aigc_cli.recipe import Recipe
from aigc_cli.storage.files import read_json

MINI = Path(__file__).parents[1] / "weights" / "mini"
CONFIG_NAME = "open_clip_config.json"
HeadInput = Literal["embedding", "multilevel"]


@dataclass(frozen=True)
class Hints:
    """What a recipe leaves to the backbone.

    Attributes:
        levels: indices of the image tower's blocks whose pooled outputs `multilevel` heads read.
        head_input: what the heads read unless the recipe says so.
        finetune_lr_factor: multiplies the heads' learning rate when a part of the backbone is trained: the recipes'
            3e-5 suits a ViT with hundreds of millions of parameters, a small CNN wants more.
        finetune_backbone_lr_factor: the same for the backbone's own parameters.
    """

    levels: tuple[int, ...]
    head_input: HeadInput = "embedding"
    finetune_lr_factor: float = 1.0
    finetune_backbone_lr_factor: float = 1.0


def hints_of(name: str) -> Hints:
    """The hints of a backbone without loading its weights; neutral ones where it carries none (levels unknown)."""
    folder = MINI if name == "mini" else Path(name.removeprefix("local-dir:"))
    try:
        cfg = read_json(folder / CONFIG_NAME).get("aigc_cfg")
        return hints_from(cfg, 0) if cfg else Hints(())
    except (OSError, ValueError, AttributeError):
        return Hints(())  # whoever loads it says what is wrong


def hints_from(cfg: Mapping[str, Any] | None, n_blocks: int) -> Hints:
    """The hints that a configuration carries, else pooled features after each quarter of the `n_blocks` blocks.

    Raises:
        ValueError: they are none.
    """
    if cfg is None:
        return Hints(tuple(sorted({max(n_blocks * quarter // 4 - 1, 0) for quarter in (1, 2, 3, 4)})))
    try:
        hints = Hints(**{**cfg, "levels": tuple(cfg["levels"])})
        factors = (hints.finetune_lr_factor, hints.finetune_backbone_lr_factor)
        whole = all(type(level) is int for level in hints.levels)
        if not whole or hints.head_input not in get_args(HeadInput) or not all(map(_positive, factors)):
            raise ValueError("hints of another kind")
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise ValueError(f"aigc_cfg: {error}") from error
    return hints


def _positive(number: float) -> bool:
    return math.isfinite(number) and number > 0


class Rates(NamedTuple):
    """Full learning rates, before the schedule; 0 for a tower that is frozen as a whole."""

    heads: float
    image: float
    text: float


def learning_rates(recipe: Recipe, hints: Hints) -> Rates:
    """The rates of a recipe, with the backbone's own factors where a part of it is trained."""
    image = recipe.lr if recipe.lr_backbone is None else recipe.lr_backbone
    text = image if recipe.lr_text is None else recipe.lr_text
    image = 0.0 if recipe.freeze == "all" else image * hints.finetune_backbone_lr_factor
    text = 0.0 if (recipe.freeze_text or recipe.freeze) == "all" else text * hints.finetune_backbone_lr_factor
    return Rates(recipe.lr * (hints.finetune_lr_factor if image or text else 1.0), image, text)


def factor_notes(recipe: Recipe) -> dict[str, str]:
    """What the backbone makes of the recipe's learning rates, for `--print-config`."""
    hints = hints_of(recipe.backbone)
    rates = learning_rates(recipe, hints)
    if not (rates.image or rates.text) or (hints.finetune_lr_factor, hints.finetune_backbone_lr_factor) == (1.0, 1.0):
        return {}
    notes = {"lr": f"times {recipe.backbone}'s own factor for fine-tuning: heads learn at {rates.heads:.3g}"}
    if rates.image:
        notes["lr_backbone"] = f"times {recipe.backbone}'s own factor: the image tower learns at {rates.image:.3g}"
    if rates.text:
        notes["lr_text"] = f"times {recipe.backbone}'s own factor: the text tower learns at {rates.text:.3g}"
    return notes
