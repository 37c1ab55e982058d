"""Checkpoints: a folder with tensors as safetensors and everything else as JSON. Nothing is ever unpickled.

A model's checkpoint is what training leaves; a training's states are what it goes on from.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor

from aigc_cli.errors import AigcError
from aigc_cli.storage.files import discard_folder, read_json, whole_folder
from aigc_cli.storage.tensors import load_tensors, save_tensors, tensors_digest

FORMAT_VERSION = 1
WEIGHTS, DESCRIPTION, CALIBRATION = "weights.safetensors", "model.json", "calibration.safetensors"
STATE, FACTS = "state.safetensors", "state.json"
SHIPPED = Path(__file__).parents[1] / "weights" / "scorer"


@dataclass(frozen=True)
class Checkpoint:
    """A trained model as it lies on disk.

    Attributes:
        tensors: the heads, and what of the backbone was trained.
        description: backbone identity, recipe, MOS range, metrics, versions: plain JSON values.
        digest: SHA-256 over the tensors and what the description says of the heads: all that a score hangs on but the
            backbone's own weights.
        folder: where it was read.
        calibration: what its error bars are computed from; empty where it has none.
    """

    tensors: dict[str, Tensor]
    description: dict[str, Any]
    digest: str
    folder: Path
    calibration: dict[str, Tensor] = field(default_factory=dict)


def save_checkpoint(
    folder: Path,
    tensors: Mapping[str, Tensor],
    description: Mapping[str, Any],
    eight_bit: frozenset[str] = frozenset(),
    calibration: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes a checkpoint folder: all of it appears at once, or nothing does and the old one stays.

    The calibration is a file of its own: weights, and so scores, are the same with and without it.

    Raises:
        EnvironmentProblem: the disk is full or the place can't be written.
    """
    body = {"format_version": FORMAT_VERSION, **description}
    with whole_folder(folder) as temporary:
        save_tensors(temporary / WEIGHTS, tensors, eight_bit)
        if calibration:
            save_tensors(temporary / CALIBRATION, calibration)
        (temporary / DESCRIPTION).write_text(json.dumps(body, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def find_checkpoint(place: Path | None) -> Path:
    """The checkpoint folder of a run, a checkpoint folder itself, or the shipped scorer for None.

    Raises:
        AigcError: there is none at `place`.
    """
    if place is None:
        return SHIPPED
    for folder in (place / "checkpoint", place):
        if (folder / DESCRIPTION).is_file():
            return folder
    raise AigcError(
        f"Expected a run or a model folder with {DESCRIPTION}, found none at {place}.",
        "Name the folder that `aigc train -o` wrote; without --model the shipped scorer is used.",
    )


def load_checkpoint(place: Path | None) -> Checkpoint:
    """Reads a checkpoint, see `find_checkpoint`.

    Raises:
        AigcError: it is missing, damaged, of another format version, or holds NaN.
    """
    folder = find_checkpoint(place)
    try:
        description = read_json(folder / DESCRIPTION)
        version = description["format_version"]
        description["backbone"]["name"], description["recipe"], description["heads"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AigcError(
            f"Expected a model description in {folder / DESCRIPTION}, found {error!r}.", "Train again."
        ) from error
    if version != FORMAT_VERSION:
        raise AigcError(f"Expected a model of format {FORMAT_VERSION} in {folder}, found {version!r}.", "Train again.")
    tensors = load_tensors(folder / WEIGHTS)
    calibration = load_tensors(folder / CALIBRATION) if (folder / CALIBRATION).exists() else {}
    heads = json.dumps(description["heads"], sort_keys=True)
    digest = sha256(f"{tensors_digest(tensors)} {heads}".encode()).hexdigest()
    return Checkpoint(tensors, description, digest, folder, calibration)


def save_state(folder: Path, epoch: int, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Writes the state of a training at `step` of `epoch` into `folder`, then removes the earlier ones.

    Raises:
        EnvironmentProblem: the disk is full or the place can't be written; the earlier state stays.
    """
    place = folder / f"epoch-{epoch}-step-{step}"
    with whole_folder(place) as temporary:
        save_tensors(temporary / STATE, tensors)
        body = {"format_version": FORMAT_VERSION, **facts}
        (temporary / FACTS).write_text(json.dumps(body, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    for earlier in _states(folder):
        if earlier != place:
            discard_folder(earlier)


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The latest state in `folder`, by epoch and step; None when there is none yet.

    Raises:
        AigcError: it is damaged, or of another format version.
    """
    if not (states := _states(folder)):
        return None
    place = states[-1]
    try:
        facts = read_json(place / FACTS)
        version = facts.pop("format_version")
        if not all(type(facts[count]) is int for count in ("epoch", "step")):
            raise ValueError(f"epoch {facts['epoch']!r} and step {facts['step']!r}")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise AigcError(f"Expected a training's state in {place / FACTS}, found {error!r}.", "Train again.") from error
    if version != FORMAT_VERSION:
        raise AigcError(f"Expected a state of format {FORMAT_VERSION} in {place}, found {version!r}.", "Train again.")
    return load_tensors(place / STATE), facts


def _states(folder: Path) -> list[Path]:
    """The states in `folder`, the latest last."""
    found = [(re.fullmatch(r"epoch-(\d+)-step-(\d+)", path.name), path) for path in folder.glob("epoch-*")]
    places = [(int(name[1]), int(name[2]), path) for name, path in found if name]
    return [path for *_, path in sorted(places)]
