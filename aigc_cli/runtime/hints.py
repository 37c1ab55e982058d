"""The hints of a backbone: settings that recipes leave to it. They are read without PyTorch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aigc_cli.errors import AigcError
from aigc_cli.recipe import check_setting
from aigc_cli.storage.atomic_files import read_json

MINI = Path(__file__).parents[1] / "weights" / "mini"
SHIPPED_BACKBONES = {"mini": MINI, "midi": MINI.with_name("midi")}  # both have the text tower of `mini`
CONFIG_NAME = "open_clip_config.json"
TOKENIZER = "tokenizer.json"
# The settings that a recipe may leave to the backbone, with the values of the published model.
PUBLISHED: Mapping[str, Any] = {
    "quality_input": "embedding",
    "consistency_input": "embedding",
    "levels": "few",
    "feature_axes": 0,
    "loss": "mse",
    "warmup_ratio": 0.05,
    "max_grad_norm": 1.0,
}


@dataclass(frozen=True)
class Hints:
    """What a backbone was measured to want.

    Attributes:
        few_levels: indices of the image tower's blocks that `levels: few` means.
        settings: values of the settings in `PUBLISHED`, where a recipe gives none.
        frozen_settings: the same, where both towers are frozen as a whole; they go before `settings`.
        finetune_lr_factor: multiplies the heads' learning rate when a part of the backbone is trained. The recipes'
            3e-5 suits a ViT with hundreds of millions of parameters; a small CNN needs a higher rate.
        finetune_backbone_lr_factor: the same for the backbone's own parameters.
        frozen_residual_scale_factor: multiplies both residual scales when both towers are frozen as a whole.
    """

    few_levels: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=lambda: PUBLISHED)
    frozen_settings: Mapping[str, Any] = field(default_factory=dict)
    finetune_lr_factor: float = 1.0
    finetune_backbone_lr_factor: float = 1.0
    frozen_residual_scale_factor: float = 1.0


def find_folder(name: str) -> Path | None:
    """The folder of a backbone that ships or of `local-dir:PATH`; None for one of open_clip's."""
    if name in SHIPPED_BACKBONES:
        return SHIPPED_BACKBONES[name]
    return Path(name.removeprefix("local-dir:")) if name.startswith("local-dir:") else None


def check_backbone(name: str) -> None:
    """Refuses a backbone before anything is loaded; open_clip is not asked whether it knows the name.

    Raises:
        AigcError: the name has another form, or the folder has no configuration.
    """
    folder = find_folder(name)
    if folder is None and not all(name.partition("/")):
        raise AigcError(
            f"Expected a backbone 'mini', 'midi', 'architecture/weights' or 'local-dir:PATH', found '{name}'.",
            "For example --backbone ViT-L-14/openai.",
        )
    if folder is not None and not (folder / CONFIG_NAME).is_file():
        raise AigcError(
            f"Expected a backbone folder with {CONFIG_NAME}, found none at {folder / CONFIG_NAME}.",
            "Name a folder in open_clip's local-dir format.",
        )


def read_hints(name: str) -> Hints:
    """The hints of a backbone, without loading its weights; default ones, without levels, where it has none."""
    try:
        cfg = read_json(folder / CONFIG_NAME).get("aigc_cfg") if (folder := find_folder(name)) else None
        return parse_hints(cfg, 0) if cfg else Hints(())
    except (OSError, ValueError, AttributeError):
        return Hints(())  # loading the backbone raises an error with the cause


def parse_hints(cfg: Mapping[str, Any] | None, n_blocks: int) -> Hints:
    """The hints in a backbone's configuration; without `cfg`, levels after each quarter of the `n_blocks` blocks.

    Raises:
        ValueError: `cfg` does not hold valid hints.
    """
    if cfg is None:
        return Hints(tuple(sorted({max(n_blocks * quarter // 4 - 1, 0) for quarter in (1, 2, 3, 4)})))
    try:
        own = {part: _check_settings(cfg.get(part, {})) for part in ("settings", "frozen_settings")}
        own["settings"] = {**PUBLISHED, **own["settings"]}
        hints = Hints(**{**cfg, "few_levels": tuple(cfg["few_levels"]), **own})
        factors = (
            hints.finetune_lr_factor,
            hints.finetune_backbone_lr_factor,
            hints.frozen_residual_scale_factor,
        )
        whole = all(type(level) is int for level in hints.few_levels)
        positive = all(math.isfinite(factor) and factor > 0 for factor in factors)
        if not (whole and positive):
            raise ValueError("hints of another kind")
    except (TypeError, KeyError, ValueError, OverflowError, AttributeError, AigcError) as error:
        raise ValueError(f"aigc_cfg: {error}") from error
    return hints


def _check_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    if not given.keys() <= PUBLISHED.keys() or None in given.values():
        raise ValueError(f"settings other than {', '.join(PUBLISHED)}")
    return {name: check_setting(name, value, "aigc_cfg") for name, value in given.items()}
