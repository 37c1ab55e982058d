"""Saves and loads checkpoints (trained models) and training states (for `--resume`).

Each is a folder with tensors as safetensors and everything else as JSON. Nothing is ever unpickled.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_cli.errors import AigcError
from aigc_cli.storage.atomic_files import discard_folder, fill_atomic_folder, open_atomic, read_json, write_text
from aigc_cli.text import show_path, to_printable

if TYPE_CHECKING:
    from aigc_cli.storage.tensors import Array

MODEL_FORMAT = 2  # format 1 had other names of settings
WEIGHTS, DESCRIPTION, CALIBRATION = "weights.safetensors", "model.json", "calibration.safetensors"
STATE, FACTS = "state.safetensors", "state.json"
_WEIGHTS_FOLDER = Path(__file__).parents[1] / "weights"
SHIPPED_SCORERS = {name: _WEIGHTS_FOLDER / name for name in ("accurate", "fast")}  # the first is the default


@dataclass(frozen=True)
class Checkpoint:
    """A trained model, as read from disk.

    Attributes:
        tensors: weights of the heads and of the trained part of the backbone.
        description: backbone, recipe, MOS scale, metrics and versions, as JSON values.
        digest: SHA-256 of the tensors and of the heads' description. Together with the backbone's own weights it
            determines the scores.
        folder: the checkpoint folder.
        calibration: data of the prediction intervals; empty without calibration.
    """

    tensors: "dict[str, Array]"
    description: dict[str, Any]
    digest: str
    folder: Path
    calibration: "dict[str, Array]" = field(default_factory=dict)


def save_checkpoint(
    folder: Path,
    tensors: Mapping[str, Any],
    description: Mapping[str, Any],
    eight_bit: frozenset[str] = frozenset(),
    calibration: Mapping[str, Any] | None = None,
    graphs: Mapping[str, bytes] | None = None,
) -> None:
    """Write a checkpoint folder atomically, see `fill_atomic_folder`; an existing one is replaced.

    The tensors in `eight_bit` are stored as int8, see `quantise`. The arrays of the prediction intervals get a file of
    their own, so that the weights file and the digest do not depend on them. `graphs` are the files that score without
    PyTorch, by name; the description gets their SHA-256.

    Raises:
        EnvironmentProblem: the disk is full or the folder is not writable.
        ValueError: the description contains NaN or infinity.
    """
    from aigc_cli.storage.tensors import save_tensors  # with NumPy; finding a model does without

    with fill_atomic_folder(folder) as temporary:
        save_tensors(temporary / WEIGHTS, tensors, eight_bit)
        if calibration:
            save_tensors(temporary / CALIBRATION, calibration)
        for name, content in (graphs or {}).items():
            (temporary / name).write_bytes(content)
        sums = {name: sha256(content).hexdigest() for name, content in (graphs or {}).items()}
        (temporary / DESCRIPTION).write_text(_format_json({**description, "graphs": sums}), encoding="utf-8")


def add_graphs(folder: Path, graphs: Mapping[str, bytes]) -> None:
    """Write files that score without PyTorch into a checkpoint folder, and their SHA-256 into its description.

    Raises:
        EnvironmentProblem: the disk is full or the folder is not writable.
    """
    for name, content in graphs.items():
        with open_atomic(folder / name, "wb") as stream:
            stream.write(content)
    sums = {name: sha256(content).hexdigest() for name, content in graphs.items()}
    write_text(folder / DESCRIPTION, _format_json({**read_json(folder / DESCRIPTION), "graphs": sums}))


def _format_json(facts: Mapping[str, Any]) -> str:
    return json.dumps({"format_version": MODEL_FORMAT, **facts}, indent=2, allow_nan=False) + "\n"


def find_checkpoint(place: Path | None) -> Path:
    """Return the checkpoint folder of `place`: a run folder, a checkpoint folder or the name of a shipped scorer.

    None is the default scorer. A folder with a model goes before a shipped scorer of the same name.

    Raises:
        AigcError: there is no checkpoint at `place`.
    """
    if place is None:
        return SHIPPED_SCORERS["accurate"]
    for folder in (place / "checkpoint", place):
        if (folder / DESCRIPTION).is_file():
            return folder
    if str(place) in SHIPPED_SCORERS:
        return SHIPPED_SCORERS[str(place)]
    hint = "Give the folder that `aigc train -o` wrote, or leave --model out to use the shipped scorer."
    raise AigcError(f"Expected a run or a model folder with {DESCRIPTION}, found none at {place}.", hint)


def load_checkpoint(place: Path | None) -> Checkpoint:
    """Read the checkpoint at `place`, see `find_checkpoint`.

    Raises:
        AigcError: the checkpoint is missing, damaged or of another format version, or a weight is NaN or infinite.
    """
    from aigc_cli.storage.tensors import hash_tensors, load_tensors

    folder = find_checkpoint(place)
    try:
        description = read_json(folder / DESCRIPTION)
        version = description["format_version"]
        description["backbone"]["name"], description["recipe"], description["heads"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = f"{folder / DESCRIPTION}, found {error!r}"
        raise AigcError(f"Expected a model description in {found}.", "Train again.") from error
    if version != MODEL_FORMAT:
        raise AigcError(
            f"Expected a model of format {MODEL_FORMAT} in {show_path(folder)}, found {_show_version(version)}.",
            _advise_on_version(version),
        )
    tensors = load_tensors(folder / WEIGHTS)
    calibration = load_tensors(folder / CALIBRATION) if (folder / CALIBRATION).exists() else {}
    heads = json.dumps(description["heads"], sort_keys=True)
    digest = sha256(f"{hash_tensors(tensors)} {heads}".encode()).hexdigest()
    return Checkpoint(tensors, description, digest, folder, calibration)


def save_state(folder: Path, epoch: int, step: int, tensors: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write the training state after `step` steps of `epoch` into `folder`, then remove the earlier states.

    The facts are JSON values, `epoch` and `step` among them.

    Raises:
        EnvironmentProblem: the disk is full or the folder is not writable; the earlier state is kept.
    """
    from aigc_cli.storage.tensors import save_tensors

    place = folder / f"epoch-{epoch}-step-{step}"
    with fill_atomic_folder(place) as temporary:
        save_tensors(temporary / STATE, tensors)
        (temporary / FACTS).write_text(_format_json(facts), encoding="utf-8")
    for earlier in _list_states(folder):
        if earlier != place:
            discard_folder(earlier)


def load_state(folder: Path) -> "tuple[dict[str, Array], dict[str, Any]] | None":
    """Read (tensors, facts) of the latest training state in `folder`, by epoch and step; None without a state.

    Raises:
        AigcError: the state is damaged or of another format version.
    """
    if not (states := _list_states(folder)):
        return None
    from aigc_cli.storage.tensors import load_tensors

    place = states[-1]
    try:
        facts = read_json(place / FACTS)
        version = facts.pop("format_version")
        if not all(type(facts[count]) is int for count in ("epoch", "step")):
            raise ValueError(f"epoch {facts['epoch']!r} and step {facts['step']!r}")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise AigcError(f"Expected a training state in {place / FACTS}, found {error!r}.", "Train again.") from error
    if version != MODEL_FORMAT:
        raise AigcError(
            f"Expected a state of format {MODEL_FORMAT} in {show_path(place)}, found {_show_version(version)}.",
            _advise_on_version(version),
        )
    return load_tensors(place / STATE), facts


def _show_version(version: object) -> str:
    return to_printable(repr(version), 80)


def _advise_on_version(version: object) -> str:
    newer = isinstance(version, int) and version > MODEL_FORMAT
    return "A newer version made it: pip install --upgrade aigc-cli" if newer else "Train again."


def _list_states(folder: Path) -> list[Path]:
    """Return the state folders in `folder`, earliest first."""
    found = [(re.fullmatch(r"epoch-(\d+)-step-(\d+)", path.name), path) for path in folder.glob("epoch-*")]
    places = [(int(name[1]), int(name[2]), path) for name, path in found if name]
    return [path for *_, path in sorted(places)]
