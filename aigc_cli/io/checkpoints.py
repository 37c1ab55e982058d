"""Checkpoints: a folder with weights as safetensors and everything else as JSON. Nothing is ever unpickled."""

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from aigc_cli.errors import AigcError, EnvironmentProblem
from aigc_cli.io.weights import load_tensors, save_tensors, tensors_digest

FORMAT_VERSION = 1
WEIGHTS, DESCRIPTION = "weights.safetensors", "model.json"
SHIPPED = Path(__file__).parents[1] / "weights" / "scorer"


@dataclass(frozen=True)
class Checkpoint:
    """A trained model as it lies on disk.

    Attributes:
        tensors: the heads, and what of the backbone was trained.
        description: backbone identity, recipe, MOS range, metrics, versions: plain JSON values.
        digest: SHA-256 over the tensors.
        folder: where it was read.
    """

    tensors: dict[str, Tensor]
    description: dict[str, Any]
    digest: str
    folder: Path


def save_checkpoint(
    folder: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any], eight_bit: frozenset[str] = frozenset()
) -> None:
    """Writes a checkpoint folder: all of it appears at once, or nothing does and the old one stays.

    Raises:
        EnvironmentProblem: the disk is full or the place can't be written.
    """
    temporary = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir(parents=True)
        save_tensors(temporary / WEIGHTS, tensors, eight_bit)
        body = {"format_version": FORMAT_VERSION, **description}
        (temporary / DESCRIPTION).write_text(json.dumps(body, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        for path in (temporary / WEIGHTS, temporary / DESCRIPTION):
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        if folder.exists():
            old = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
            folder.rename(old)
            try:
                temporary.rename(folder)
            except OSError:
                old.rename(folder)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.rename(folder)
    except OSError as error:
        raise EnvironmentProblem(
            f"The checkpoint {folder} could not be written: {error.strerror or error}.", "Free some space."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        version = description["format_version"]
        description["backbone"]["name"], description["recipe"], description["heads"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise AigcError(
            f"Expected a model description in {folder / DESCRIPTION}, found {error!r}.", "Train again."
        ) from error
    if version != FORMAT_VERSION:
        raise AigcError(f"Expected a model of format {FORMAT_VERSION} in {folder}, found {version!r}.", "Train again.")
    tensors = load_tensors(folder / WEIGHTS)
    return Checkpoint(tensors, description, tensors_digest(tensors), folder)
