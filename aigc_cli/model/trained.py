"""Trained models: loading a saved model into PyTorch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from aigc_cli.errors import AigcError
from aigc_cli.model.backbone import Backbone
from aigc_cli.model.devices import pick_device
from aigc_cli.model.heads import ResidualHeads
from aigc_cli.model.loading import load_backbone
from aigc_cli.model.model import Model
from aigc_cli.recipe import Recipe
from aigc_cli.runtime.saved import UNFROZEN, SavedModel, read_model
from aigc_cli.storage.checkpoints import Checkpoint
from aigc_cli.text import to_printable
from aigc_cli.uncertainty.calibration import Calibration

RETRAIN = "Was the folder put together by hand? Train again."


@dataclass(frozen=True)
class TrainedModel:
    """A trained model in PyTorch with everything that was saved with it.

    Attributes:
        model: in eval mode on its device.
        saved: what its folder says.
    """

    model: Model
    saved: SavedModel

    @property
    def recipe(self) -> Recipe:
        """The recipe of its training; `recipe.scale` is the scale of the scores."""
        return self.saved.recipe

    @property
    def calibration(self) -> Calibration | None:
        """The basis of intervals and percentiles; None where the model has none."""
        return self.saved.calibration


def load_model(place: Path | None, device: str = "auto") -> TrainedModel:
    """Loads the model of a run or a model folder; None for the shipped scorer.

    Raises:
        AigcError: there is no model, or its tensors don't fit its description; the message names them.
        EnvironmentProblem: the backbone's weights can't be fetched, or the machine has no such device.
    """
    return load_saved(read_model(place), device)


def load_saved(saved: SavedModel, device: str = "auto") -> TrainedModel:
    """Loads a saved model; raises what `load_model` raises."""
    checkpoint, config, freezing = saved.checkpoint, saved.heads, saved.freezing
    where = str(checkpoint.folder)
    try:
        with torch.device("meta"):  # a wrong description may ask for heads of any size
            empty = ResidualHeads(config).state_dict(prefix="heads.")
        _check_tensors(empty, checkpoint, ignore="backbone.")
        heads = ResidualHeads(config)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        what = to_printable(str(error), 300)
        raise AigcError(f"Expected a model of this version in {where}, found {what}.", "Train again.") from error
    backbone = load_backbone(saved.backbone["name"], saved.backbone["image_size"], saved.recipe.levels or "few")
    _check_weights(backbone, saved)
    blocks = len(backbone.image.blocks), len(backbone.text.blocks)
    sizes_fit = (config.embed_dim, config.level_dim) == (backbone.embed_dim, backbone.count_levels())
    boundaries = zip((freezing.image, freezing.text), blocks, strict=True)
    if not sizes_fit or not all(UNFROZEN <= boundary <= count + 1 for boundary, count in boundaries):
        raise AigcError(
            f"Expected heads and a freeze boundary that fit {backbone.name} in {where}, found others.", RETRAIN
        )
    model = Model(backbone, heads, freezing, freezing)
    _check_tensors(model.copy_trained(), checkpoint)
    model.load_trained({name: torch.from_numpy(array) for name, array in checkpoint.tensors.items()})
    backbone.modules().to(pick_device(device))
    heads.to(pick_device(device))
    model.eval()
    return TrainedModel(model, saved)


def load_start(backbone: Backbone, start: SavedModel | None) -> None:
    """Gives a freshly loaded backbone the weights of a start model; None changes nothing.

    Raises:
        AigcError: the start model was trained on other weights of this backbone.
    """
    if start is not None:
        _check_weights(backbone, start)
        stored = start.checkpoint.tensors.items()
        prefix = "backbone."
        backbone.load_trained({k.removeprefix(prefix): torch.from_numpy(t) for k, t in stored if k.startswith(prefix)})


def _check_weights(backbone: Backbone, saved: SavedModel) -> None:
    if backbone.weights_hash != (weights := saved.backbone["weights_hash"]):
        raise AigcError(
            f"Expected the backbone {backbone.name} with weights {weights[:12]}, as when this model was "
            f"trained, found {backbone.weights_hash[:12]}.",
            "Use the same backbone weights, or train again.",
        )


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
