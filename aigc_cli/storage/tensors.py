"""Tensors on disk: safetensors only, small when asked to be.

A tensor may be stored in eight bits: `name` then holds int8 rows and `name.scale` one float16 factor per row.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file
from torch import Tensor

from aigc_cli.errors import AigcError
from aigc_cli.storage.files import new_file_mode, write_text

SCALE = ".scale"
SUMS = "SHA256SUMS"


def quantise(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds a matrix to int8 by row; returns (int8 of the same shape, float16 factors (rows, 1, ...))."""
    limits = tensor.abs().amax(dim=tuple(range(1, tensor.ndim)), keepdim=True).clamp(min=1e-8)
    scale = (limits / 127).half()
    return (tensor / scale.float()).round().clamp(-127, 127).to(torch.int8), scale


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file as float32 (integers that have no `.scale` keep their type).

    Raises:
        AigcError: the file is missing, is no safetensors file (a pickle is refused, never opened), is cut short, or
            holds a value that is not finite.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would wait for ever
            raise OSError("it is no regular file")
        stored = _stored(path)
    except FileNotFoundError as error:
        raise AigcError(f"Expected weights at {path}, found no file.", "Check the path.") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise AigcError(
            f"Expected a whole safetensors file, found something else at {path}: {error}",
            "Fetch or train the weights again; pickled checkpoints are never opened.",
        ) from error
    tensors = {}
    for name, tensor in stored.items():
        if name.endswith(SCALE):
            continue
        if f"{name}{SCALE}" in stored:
            tensor = tensor.float() * stored[f"{name}{SCALE}"].float()
        elif tensor.is_floating_point():
            tensor = tensor.float()
        tensors[name] = tensor
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise AigcError(
            f"Expected finite weights in {path}, found NaN or infinity in {', '.join(broken)}.", "Train again."
        )
    return tensors


def _stored(path: Path) -> dict[str, Tensor]:
    """What a safetensors file holds; its library opens no path that is not UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return load(path.read_bytes())
    return load_file(path)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], eight_bit: frozenset[str] = frozenset()) -> None:
    """Writes `tensors` to a new safetensors file; those named in `eight_bit` as int8 rows.

    Raises:
        OSError: the disk is full or the place can't be written.
    """
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if name in eight_bit:
            stored[name], stored[f"{name}{SCALE}"] = quantise(tensor)
        else:
            stored[name] = tensor.clone()
    try:
        save_file(stored, path)
    except SafetensorError as error:  # its text is all it tells of the system's error
        raise OSError(f"{error}") from error
    path.chmod(new_file_mode())  # safetensors makes files that only their owner can read


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values, whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


def write_sums(folder: Path) -> None:
    """Writes the SHA-256 of every file below `folder` into its SHA256SUMS, for `sha256sum -c` and `wrong_sums`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / SUMS)
    write_text(folder / SUMS, "".join(f"{_sum(path)}  {path.relative_to(folder).as_posix()}\n" for path in files))


def wrong_sums(folder: Path) -> list[str]:
    """The names in SHA256SUMS of `folder` whose files are missing or hold something else.

    Raises:
        AigcError: there is no SHA256SUMS.
    """
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
        expected = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError) as error:
        raise AigcError(f"Expected digests in {folder / SUMS}, found none: {error}.", "Install aigc again.") from error
    return [name for name, digest in expected.items() if _sum(folder / name) != digest]


def _sum(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None
