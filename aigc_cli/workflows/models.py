"""From a checkpoint back to a judge."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aigc_cli.core.backbone import Freezing
from aigc_cli.core.backbones import load_backbone
from aigc_cli.core.calibration import TARGETS, Calibration
from aigc_cli.core.devices import pick_device
from aigc_cli.core.judge import Judge
from aigc_cli.core.model import HeadConfig, ResidualHeads
from aigc_cli.errors import AigcError
from aigc_cli.io.checkpoints import CALIBRATION, Checkpoint, load_checkpoint
from aigc_cli.io.weights import tensors_digest
from aigc_cli.recipe import Recipe, checked


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
        heads = ResidualHeads(HeadConfig(**said["heads"]))
        freezing = Freezing(**said["backbone"]["frozen_blocks"])
        name, size, weights = (said["backbone"][key] for key in ("name", "image_size", "weights_hash"))
        said["backbone"]["preprocessing"]
        size = checked("image_size", size, str(checkpoint.folder))
        wanted = ((name, str), (weights, str), (freezing.image, int), (freezing.text, int))
        if not all(isinstance(value, kind) for value, kind in wanted):
            raise TypeError(f"a backbone {said['backbone']}")
    except (TypeError, KeyError, ValueError, RuntimeError, AttributeError) as error:
        raise AigcError(
            f"Expected a model of this version in {checkpoint.folder}, found {error}.", "Train again."
        ) from error
    backbone = load_backbone(name, size)
    if backbone.weights_hash != weights:
        raise AigcError(
            f"Expected the backbone {backbone.name} with weights {weights[:12]}, as when this "
            f"model was trained, found {backbone.weights_hash[:12]}.",
            "Use the same backbone weights, or train again.",
        )
    judge = Judge(backbone, heads, freezing)
    expected = {name: tuple(tensor.shape) for name, tensor in judge.state().items()}
    found = {name: tuple(tensor.shape) for name, tensor in checkpoint.tensors.items()}
    if expected != found:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise AigcError(
            f"Expected tensors that fit the model in {checkpoint.folder}; these don't: {', '.join(wrong[:5])}.",
            "Was the folder put together by hand? Train again.",
        )
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
