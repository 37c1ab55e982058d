"""Saved models: what a model folder says, read without PyTorch."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aigc_cli.errors import AigcError
from aigc_cli.images.preprocess import Preprocessing
from aigc_cli.images.sample import TARGETS
from aigc_cli.recipe import FIELDS, Recipe, check_setting
from aigc_cli.storage.checkpoints import CALIBRATION, Checkpoint, load_checkpoint
from aigc_cli.storage.tensors import hash_tensors
from aigc_cli.text import to_printable
from aigc_cli.uncertainty.calibration import Calibration

MAX_SIDE = 4096  # pixels of a tower's input
UNFROZEN = -1  # the boundary of a tower without frozen parts
# The first principal axes describe an image to intervals and `out_of_domain`. The later ones follow the training images
# so closely that new images look unusual: a fifth of them were called so with 256 axes, a fiftieth with 32.
DESCRIBING_AXES = 32


@dataclass(frozen=True)
class Freezing:
    """The freeze boundary of both towers, each as the number of frozen blocks; the stem is frozen with them.

    -1 (`UNFROZEN`) freezes nothing, not even the stem. The number of blocks leaves only the tail trainable; one more
    freezes the tail too.
    """

    image: int
    text: int


@dataclass(frozen=True)
class HeadConfig:
    """The configuration of the heads.

    Attributes:
        embed_dim, level_dim: D and L, the numbers of the backbone's embeddings and pooled level features.
        quality_input, consistency_input: `embedding` for the literal formulas; `multilevel` adds the levels; `scores`,
            only of consistency, is the cosine and the score of quality.
        residual: True for base + bounded correction, False for the traditional model, score = f(features).
        residual_scale_q, residual_scale_c: the largest correction of a score on [0, 1].
        hidden_q, hidden_c: widths of the first hidden layers.
        dropout: the dropout rate before each head's last layer.
        feature_axes: the number of principal axes on which `multilevel` heads read the image features; 0: all features.
        taste: whether linear layers add the taste of the raters to whom a trained model was adapted.
    """

    embed_dim: int
    level_dim: int
    quality_input: str
    consistency_input: str
    residual: bool
    residual_scale_q: float
    residual_scale_c: float
    hidden_q: int
    hidden_c: int
    dropout: float
    feature_axes: int = 0
    taste: bool = False

    @property
    def feature_width(self) -> int:
        """F, the number of features that describe an image, see `ResidualHeads.read_features`."""
        on_axes = "multilevel" in (self.quality_input, self.consistency_input) and self.feature_axes
        return min(DESCRIBING_AXES, self.feature_axes) if on_axes else self.embed_dim + self.level_dim

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class SavedModel:
    """What a model folder says about its model.

    Attributes:
        recipe: the recipe of its training; `recipe.scale` is the scale of the scores.
        heads: the configuration of the heads.
        freezing: the freeze boundary of its training.
        preprocessing: of images, before they reach the image tower.
        calibration: the basis of intervals and percentiles; None where the model has none.
    """

    checkpoint: Checkpoint
    recipe: Recipe
    heads: HeadConfig
    freezing: Freezing
    preprocessing: Preprocessing
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

    @property
    def backbone(self) -> Mapping[str, Any]:
        """The description of its backbone: name, image_size, weights_hash."""
        return dict(self.checkpoint.description["backbone"])

    def make_metadata(self) -> dict[str, str]:
        """The metadata about this model in a result table."""
        return {
            "model": self.name,
            "model_hash": self.checkpoint.digest,
            "backbone": self.backbone["name"],
            "backbone_hash": self.backbone["weights_hash"],
            "preprocessing": str({**self.backbone["preprocessing"], "resized_by": "Pillow"}),
            "mos_min": str(self.recipe.mos_min),
            "mos_max": str(self.recipe.mos_max),
            "calibration": hash_tensors(self.checkpoint.calibration) if self.calibration else "none",
        }


def read_model(place: Path | None) -> SavedModel:
    """Reads the model of a run or a model folder; None for the shipped scorer.

    Raises:
        AigcError: there is no model, or what the folder says is not a model of this version.
    """
    checkpoint = load_checkpoint(place)
    description, where = checkpoint.description, str(checkpoint.folder)
    try:
        settings = {"levels": "few"} | description["recipe"]  # earlier versions knew no others
        recipe = Recipe(**{key: check_setting(key, value, where) for key, value in settings.items()})
        heads = _parse_head_config(description["heads"], where)
        backbone = description["backbone"]
        freezing, preprocessing = _parse_backbone(backbone, where), parse_preprocessing(backbone["preprocessing"])
        _check_training_record(description)
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
        what = to_printable(str(error), 300)
        raise AigcError(f"Expected a model of this version in {where}, found {what}.", "Train again.") from error
    return SavedModel(checkpoint, recipe, heads, freezing, preprocessing, _load_calibration(checkpoint, heads))


def parse_preprocessing(cfg: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing in a configuration; ValueError, KeyError or TypeError where it is not one of RGB images."""
    size = (cfg["size"], cfg["size"]) if isinstance(cfg["size"], int) else tuple(cfg["size"])
    modes = cfg["interpolation"], cfg["resize_mode"], cfg.get("fill_color", 0)
    found = Preprocessing(size, tuple(cfg["mean"]), tuple(cfg["std"]), *modes)
    sides, colours = [*found.size, found.fill_color], [*found.mean, *found.std]
    whole = all(type(side) is int for side in sides) and min(found.size) > 0 and max(found.size) <= MAX_SIDE
    real = all(type(value) in (int, float) and math.isfinite(value) for value in colours) and min(found.std) > 0
    known = found.interpolation in ("bicubic", "bilinear") and found.resize_mode in ("shortest", "longest", "squash")
    if not (
        whole
        and real
        and known
        and found.fill_color in range(256)
        and (len(found.size), len(found.mean), len(found.std)) == (2, 3, 3)
    ):
        raise ValueError(f"no valid preprocessing: {dict(cfg)}")
    return found


def _parse_backbone(description: Mapping[str, Any], where: str) -> Freezing:
    """The freeze boundary in a description's `backbone`, whose other values are checked too."""
    freezing = Freezing(**description["frozen_blocks"])
    name, weights = description["name"], description["weights_hash"]
    check_setting("image_size", description["image_size"], where)
    kinds = ((name, str), (weights, str), (freezing.image, int), (freezing.text, int))
    if not all(isinstance(value, kind) for value, kind in kinds):
        raise TypeError(f"a backbone {dict(description)}")
    return freezing


def _load_calibration(checkpoint: Checkpoint, config: HeadConfig) -> Calibration | None:
    if not checkpoint.calibration:
        return None
    width = config.feature_width
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
    if None in values.values() or not all(type(size) is int for size in (config.embed_dim, config.level_dim)):
        raise TypeError(f"heads {values}")
    if type(config.taste) is not bool:
        raise TypeError(f"heads {values}")
    return config


def _check_training_record(description: Mapping[str, Any]) -> None:
    """Raises TypeError unless the rated targets and the digests of the prompts are lists of strings."""
    targets, prompts = description.get("targets", []), description.get("prompts", {})
    lists = [targets, *prompts.values()]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
        raise TypeError("targets or prompts that are not lists of strings")
