"""Trained models: loading a checkpoint for scoring."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aigc_cli.errors import AigcError
from aigc_cli.images.sample import TARGETS
from aigc_cli.model.backbone import Freezing
from aigc_cli.model.devices import pick_device
from aigc_cli.model.heads import HeadConfig, ResidualHeads
from aigc_cli.model.loading import load_backbone
from aigc_cli.model.model import Model
from aigc_cli.model.towers import UNFROZEN
from aigc_cli.recipe import FIELDS, Recipe, check_setting
from aigc_cli.storage.checkpoints import CALIBRATION, Checkpoint, load_checkpoint
from aigc_cli.storage.tensors import hash_tensors
from aigc_cli.text import to_printable
from aigc_cli.uncertainty.calibration import Calibration

RETRAIN = "Was the folder put together by hand? Train again."


@dataclass(frozen=True)
class TrainedModel:
    """A trained model with everything that was saved with it.

    Attributes:
        model: in eval mode on its device.
        recipe: the recipe of its training; `recipe.scale` is the scale of the scores.
        calibration: the basis of intervals and percentiles; None where the model has none.
    """

    model: Model
    recipe: Recipe
    checkpoint: Checkpoint
    calibration: Calibration | None = None

    @property
    def targets(self) -> list[str]:
        """The targets of its training; it has scores for these only."""
        return list(self.checkpoint.description.get("targets", TARGETS))

    @property
    def name(self) -> str:
        """The name of its run, or of its folder where it is not in a run."""
        folder = self.checkpoint.folder
        return folder.parent.name if folder.name == "checkpoint" else folder.name

    def make_metadata(self) -> dict[str, str]:
        """The metadata about this model in a result table."""
        backbone = self.checkpoint.description["backbone"]
        return {
            "model": self.name,
            "model_hash": self.checkpoint.digest,
            "backbone": backbone["name"],
            "backbone_hash": backbone["weights_hash"],
            "preprocessing": str(backbone["preprocessing"]),
            "mos_min": str(self.recipe.mos_min),
            "mos_max": str(self.recipe.mos_max),
            "calibration": hash_tensors(self.checkpoint.calibration) if self.calibration else "none",
        }


def load_model(place: Path | None, device: str = "auto") -> TrainedModel:
    """Loads the model of a run or a model folder; None for the shipped scorer.

    Raises:
        AigcError: there is no model, or its tensors don't fit its description; the message names them.
        EnvironmentProblem: the backbone's weights can't be fetched, or the machine has no such device.
    """
    checkpoint = load_checkpoint(place)
    description, where = checkpoint.description, str(checkpoint.folder)
    try:
        settings = description["recipe"].items()
        recipe = Recipe(**{key: check_setting(key, value, where) for key, value in settings})
        config = _parse_head_config(description["heads"], where)
        freezing, name, size, weights = _parse_backbone(description["backbone"], where)
        _check_training_record(description)
        with torch.device("meta"):  # a wrong description may ask for heads of any size
            empty = ResidualHeads(config).state_dict(prefix="heads.")
        _check_tensors(empty, checkpoint, ignore="backbone.")
        heads = ResidualHeads(config)
    except (TypeError, KeyError, ValueError, RuntimeError, AttributeError, OverflowError) as error:
        what = to_printable(str(error), 300)
        raise AigcError(f"Expected a model of this version in {where}, found {what}.", "Train again.") from error
    backbone = load_backbone(name, size)
    if backbone.weights_hash != weights:
        raise AigcError(
            f"Expected the backbone {backbone.name} with weights {weights[:12]}, as when this "
            f"model was trained, found {backbone.weights_hash[:12]}.",
            "Use the same backbone weights, or train again.",
        )
    blocks = len(backbone.image.blocks), len(backbone.text.blocks)
    sizes_fit = (config.embed_dim, config.level_dim) == (backbone.embed_dim, backbone.count_levels())
    boundaries = zip((freezing.image, freezing.text), blocks, strict=True)
    if not sizes_fit or not all(UNFROZEN <= boundary <= count + 1 for boundary, count in boundaries):
        raise AigcError(
            f"Expected heads and a freeze boundary that fit {backbone.name} in {where}, found others.", RETRAIN
        )
    model = Model(backbone, heads, freezing)
    _check_tensors(model.copy_trained(), checkpoint)
    model.load_trained({name: torch.from_numpy(array) for name, array in checkpoint.tensors.items()})
    backbone.modules().to(pick_device(device))
    heads.to(pick_device(device))
    model.eval()
    return TrainedModel(model, recipe, checkpoint, _load_calibration(checkpoint, config))


def _parse_backbone(description: Mapping[str, Any], where: str) -> tuple[Freezing, str, int | None, str]:
    """(freeze boundary, name, image size, weights hash) of a description's `backbone`."""
    freezing = Freezing(**description["frozen_blocks"])
    name, weights, _ = (description[key] for key in ("name", "weights_hash", "preprocessing"))
    size = check_setting("image_size", description["image_size"], where)
    kinds = ((name, str), (weights, str), (freezing.image, int), (freezing.text, int))
    if not all(isinstance(value, kind) for value, kind in kinds):
        raise TypeError(f"a backbone {description}")
    return freezing, name, size, weights


def _load_calibration(checkpoint: Checkpoint, config: HeadConfig) -> Calibration | None:
    if not checkpoint.calibration:
        return None
    width = config.embed_dim + config.level_dim
    try:
        found = Calibration.from_tensors(checkpoint.calibration)
        if (shape := (*found.domain.mean.shape, *found.domain.std.shape)) != (width, width):
            raise ValueError(f"features of {shape}, not of {width}")
        found.describe_scores(np.zeros((1, width)), {target: np.zeros(1) for target in TARGETS})
    except (KeyError, ValueError, RuntimeError) as error:
        raise AigcError(
            f"Expected a calibration that fits the model in {checkpoint.folder}, found {error}.",
            f"Remove {CALIBRATION} to score without intervals, or train again.",
        ) from error
    return found


def _parse_head_config(description: Mapping[str, Any], where: str) -> HeadConfig:
    """The heads' configuration in a description; settings that recipes have too must be in the same ranges."""
    values = {key: check_setting(key, value, where) if key in FIELDS else value for key, value in description.items()}
    config = HeadConfig(**values)
    sizes, correction = (config.embed_dim, config.level_dim), (config.correction_offset, config.correction_weight)
    numbers = all(type(size) is int for size in sizes) and all(type(number) in (int, float) for number in correction)
    if None in values.values() or not numbers or not all(map(math.isfinite, correction)):
        raise TypeError(f"heads {values}")
    return config


def _check_training_record(description: Mapping[str, Any]) -> None:
    """Raises TypeError unless the rated targets and the digests of the prompts are lists of strings."""
    targets, prompts = description.get("targets", []), description.get("prompts", {})
    lists = [targets, *prompts.values()]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
        raise TypeError("targets or prompts that are not lists of strings")


def _check_tensors(expected: Mapping[str, torch.Tensor], checkpoint: Checkpoint, ignore: str = "-") -> None:
    """Checks the names and shapes of a checkpoint's tensors, except of those whose name starts with `ignore`."""
    wanted = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    found = {name: t.shape for name, t in checkpoint.tensors.items() if not name.startswith(ignore)}
    if wrong := sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)):
        raise AigcError(
            f"Expected tensors that fit the model in {checkpoint.folder}; these don't: "
            f"{to_printable(', '.join(wrong[:5]), 400)}.",
            RETRAIN,
        )
