"""From a checkpoint back to a judge."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aigc_cli.errors import AigcError
from aigc_cli.model.backbone import Freezing
from aigc_cli.model.devices import pick_device
from aigc_cli.model.heads import HeadConfig, ResidualHeads
from aigc_cli.model.loading import load_backbone
from aigc_cli.model.model import Judge
from aigc_cli.model.towers import UNFROZEN
from aigc_cli.recipe import FIELDS, Recipe, checked
from aigc_cli.storage.checkpoints import CALIBRATION, Checkpoint, load_checkpoint
from aigc_cli.storage.tensors import tensors_digest
from aigc_cli.text import printable
from aigc_cli.uncertainty.intervals import TARGETS, Calibration


@dataclass(frozen=True)
class Model:
    """A trained model ready to judge.

    Attributes:
        judge: in eval mode on its device.
        recipe: the recipe it was trained with; its MOS range is the scale of the scores.
        checkpoint: what was on disk.
        calibration: what its error bars are computed from; None where it has none.
    """

    judge: Judge
    recipe: Recipe
    checkpoint: Checkpoint
    calibration: Calibration | None = None

    @property
    def targets(self) -> list[str]:
        """The targets that it was trained on, and so has scores of."""
        return list(self.checkpoint.description.get("targets", TARGETS))

    def metadata(self) -> dict[str, str]:
        """What a result table says about the model that made it."""
        backbone = self.checkpoint.description["backbone"]
        return {
            "model": self.checkpoint.folder.parent.name
            if self.checkpoint.folder.name == "checkpoint"
            else self.checkpoint.folder.name,
            "model_hash": self.checkpoint.digest,
            "backbone": backbone["name"],
            "backbone_hash": backbone["weights_hash"],
            "preprocessing": str(backbone["preprocessing"]),
            "mos_min": str(self.recipe.mos_min),
            "mos_max": str(self.recipe.mos_max),
            "calibration": tensors_digest(self.checkpoint.calibration) if self.calibration else "none",
        }


def load_model(place: Path | None, device: str = "auto") -> Model:
    """Reads a run or a model folder (None: the shipped scorer) and puts its tensors on its backbone.

    Raises:
        AigcError: no model there, or its tensors don't fit; the message names them.
        EnvironmentProblem: the backbone's weights can't be had, or no such device.
    """
    checkpoint = load_checkpoint(place)
    said: dict[str, Any] = checkpoint.description
    try:
        recipe = Recipe(**{key: checked(key, value, str(checkpoint.folder)) for key, value in said["recipe"].items()})
        config = _head_config(said["heads"], str(checkpoint.folder))
        freezing = Freezing(**said["backbone"]["frozen_blocks"])
        name, size, weights = (said["backbone"][key] for key in ("name", "image_size", "weights_hash"))
        said["backbone"]["preprocessing"]
        size = checked("image_size", size, str(checkpoint.folder))
        wanted = ((name, str), (weights, str), (freezing.image, int), (freezing.text, int))
        if not all(isinstance(value, kind) for value, kind in wanted):
            raise TypeError(f"a backbone {said['backbone']}")
        _check_memory(said)
        heads = _heads(config, checkpoint)
    except (TypeError, KeyError, ValueError, RuntimeError, AttributeError, OverflowError) as error:
        what = printable(str(error), 300)
        raise AigcError(
            f"Expected a model of this version in {checkpoint.folder}, found {what}.", "Train again."
        ) from (error)
    backbone = load_backbone(name, size)
    if backbone.weights_hash != weights:
        raise AigcError(
            f"Expected the backbone {backbone.name} with weights {weights[:12]}, as when this "
            f"model was trained, found {backbone.weights_hash[:12]}.",
            "Use the same backbone weights, or train again.",
        )
    blocks = len(backbone.image.blocks), len(backbone.text.blocks)
    fits = (config.embed_dim, config.level_dim) == (backbone.embed_dim, backbone.level_dim())
    judge = Judge(backbone, heads, freezing)
    cut = zip((freezing.image, freezing.text), blocks, strict=True)
    if not fits or not all(UNFROZEN <= boundary <= count + 1 for boundary, count in cut):
        raise AigcError(
            f"Expected heads and a freeze boundary that fit {backbone.name} in {checkpoint.folder}, found others.",
            "Was the folder put together by hand? Train again.",
        )
    _check_tensors(judge.state(), checkpoint)
    judge.load(checkpoint.tensors)
    backbone.modules().to(pick_device(device))
    heads.to(pick_device(device))
    judge.eval()
    return Model(judge, recipe, checkpoint, _calibration(checkpoint, judge))


def _calibration(checkpoint: Checkpoint, judge: Judge) -> Calibration | None:
    if not checkpoint.calibration:
        return None
    config = judge.heads.config
    width = config.embed_dim + config.level_dim
    try:
        found = Calibration.of(checkpoint.calibration)
        if (shape := (*found.domain.mean.shape, *found.domain.std.shape)) != (width, width):
            raise ValueError(f"features of {shape}, not of {width}")
        found.columns(torch.zeros(1, width).double(), {target: torch.zeros(1) for target in TARGETS})
    except (KeyError, ValueError, RuntimeError) as error:
        raise AigcError(
            f"Expected a calibration that fits the model in {checkpoint.folder}, found {error}.",
            f"Remove {CALIBRATION} to score without error bars, or train again.",
        ) from error
    return found


def _head_config(said: Mapping[str, Any], where: str) -> HeadConfig:
    """What a description says of the heads; the fields that a recipe has too are held to the same ranges."""
    values = {key: checked(key, value, where) if key in FIELDS else value for key, value in said.items()}
    config = HeadConfig(**values)
    sizes, reading = (config.embed_dim, config.level_dim), (config.offset_c, config.share_q)
    numbers = all(type(size) is int for size in sizes) and all(type(number) in (int, float) for number in reading)
    if None in values.values() or not numbers or not all(map(math.isfinite, reading)):
        raise TypeError(f"heads {values}")
    return config


def _check_memory(said: Mapping[str, Any]) -> None:
    """What a model remembers of its training: which targets were rated, and digests of the prompts."""
    targets, prompts = said.get("targets", []), said.get("prompts", {})
    lists = [targets, *prompts.values()]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
        raise TypeError("targets or prompts that are no lists of words")


def _heads(config: HeadConfig, checkpoint: Checkpoint) -> ResidualHeads:
    """Heads of that shape, made only when the tensors at hand fill them: a description may ask for any size."""
    with torch.device("meta"):
        empty = ResidualHeads(config).state_dict(prefix="heads.")
    _check_tensors(empty, checkpoint, but="backbone.")
    return ResidualHeads(config)


def _check_tensors(expected: Mapping[str, Tensor], checkpoint: Checkpoint, but: str = "-") -> None:
    """Refuses tensors of other names or shapes and names them; those whose names begin with `but` are not looked at."""
    wanted = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    found = {name: tuple(t.shape) for name, t in checkpoint.tensors.items() if not name.startswith(but)}
    if wrong := sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)):
        raise AigcError(
            f"Expected tensors that fit the model in {checkpoint.folder}; these don't: "
            f"{printable(', '.join(wrong[:5]), 400)}.",
            "Was the folder put together by hand? Train again.",
        )
