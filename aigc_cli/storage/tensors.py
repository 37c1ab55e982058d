"""Reads and writes tensors as safetensors files, without torch. Nothing is ever unpickled.

A matrix may be stored in eight bits: `name` holds int8 values and `name.scale` one float16 factor per row.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize
from safetensors.numpy import load, load_file, save_file

from aigc_cli.errors import AigcError
from aigc_cli.regular_file import check_regular, hash_file

SCALE = ".scale"
SUMS = "SHA256SUMS"

Array = NDArray[Any]


def quantise(tensor: Array) -> tuple[Array, Array]:
    """Round a float32 tensor of shape (rows, ...) to int8 with one factor per row.

    Returns:
        (int8 codes of the same shape in [-127, 127], float16 factors of shape (rows, 1, ...)). codes * factors differs
        from the tensor by about half a step of max(abs(row)) / 127.
    """
    limits = np.abs(tensor).max(axis=tuple(range(1, tensor.ndim)), keepdims=True)
    scale = (limits / np.float32(127)).astype(np.float16)
    factors = scale.astype(np.float32)  # 0 for rows of zeros and of values below the range of float16
    codes = np.divide(tensor, factors, out=np.zeros_like(tensor), where=factors > 0)
    return np.round(codes).clip(-127, 127).astype(np.int8), scale


def load_tensors(path: Path) -> dict[str, Array]:
    """Read all tensors of a safetensors file. Floats and eight-bit tensors become float32, integers keep their type.

    Raises:
        AigcError: the file is missing, truncated or not a safetensors file (pickles are never opened), or a value is
            NaN or infinite.
    """
    try:
        check_regular(path)
        stored = _read_stored(path)
    except FileNotFoundError as error:
        raise AigcError(f"Expected weights at {path}, found no file.", "Check the path.") from error
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        hint = "Download or train the weights again; pickled checkpoints are never opened."
        raise AigcError(f"Expected a complete safetensors file at {path}, found another file: {error}", hint) from error
    tensors = {}
    for name, tensor in stored.items():
        scale = stored.get(f"{name}{SCALE}")
        if scale is not None or tensor.dtype.kind not in "iub":  # ml_dtypes' bfloat16 is no subtype of np.floating
            tensor = tensor.astype(np.float32, copy=False)
        if not name.endswith(SCALE):
            tensors[name] = tensor if scale is None else tensor * scale.astype(np.float32)
    if broken := [name for name, tensor in tensors.items() if not np.isfinite(tensor).all()]:
        found = f"NaN or infinity in {', '.join(broken)}"
        raise AigcError(f"Expected finite weights in {path}, found {found}.", "Train again.")
    return tensors


def _read_stored(path: Path) -> dict[str, Array]:
    """Read a safetensors file. `load_file` fails for paths that are not UTF-8 and for bfloat16, which NumPy lacks."""
    try:
        str(path).encode()
        return load_file(path)
    except UnicodeEncodeError:
        return load(path.read_bytes())
    except (KeyError, TypeError, AttributeError):
        return {name: _make_array(spec) for name, spec in deserialize(path.read_bytes())}  # type: ignore[no-untyped-call]


def _make_array(spec: Mapping[str, Any]) -> Array:
    """Return the array of a safetensors entry; bfloat16 is the upper half of a float32."""
    if spec["dtype"] == "BF16":
        bits = np.frombuffer(spec["data"], dtype=np.uint16).astype(np.uint32) << 16
        return bits.view(np.float32).reshape(spec["shape"])
    kind, bits = spec["dtype"][0], spec["dtype"][1:]
    names = {"F": f"float{bits}", "I": f"int{bits}", "U": f"uint{bits}", "B": "bool"}
    return np.frombuffer(spec["data"], dtype=names[kind]).reshape(spec["shape"]).copy()


def to_array(tensor: Any) -> Array:
    """Return a PyTorch tensor (on any device) or an array as a contiguous array of the same shape."""
    return np.asarray(tensor.detach().cpu().numpy() if hasattr(tensor, "detach") else tensor, order="C")


def save_tensors(path: Path, tensors: Mapping[str, Any], eight_bit: frozenset[str] = frozenset()) -> None:
    """Write arrays or PyTorch tensors to a safetensors file, those in `eight_bit` as int8 (see `quantise`).

    Raises:
        OSError: the disk is full or the folder is not writable.
    """
    stored = {name: to_array(tensor) for name, tensor in tensors.items()}
    for name in eight_bit.intersection(stored):
        stored[name], stored[f"{name}{SCALE}"] = quantise(stored[name])
    try:
        save_file(stored, path)
    except SafetensorError as error:  # it carries the system's error as text only
        raise OSError(f"{error}") from error
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)  # safetensors creates files with permissions for the owner only


def hash_tensors(tensors: Mapping[str, Any]) -> str:
    """Return the SHA-256 of names, types, shapes and values of arrays or PyTorch tensors, in any order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = to_array(tensors[name])
        digest.update(f"{name} torch.{array.dtype} {array.shape}\n".encode())
        digest.update(array.data.cast("B") if array.size else b"")
    return digest.hexdigest()


def find_wrong_sums(folder: Path) -> list[str]:
    """Return the names in SHA256SUMS of `folder` whose files are missing or changed; AigcError without valid sums."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
        expected = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError) as error:
        raise AigcError(f"Expected digests in {folder / SUMS}, found none: {error}.", "Install aigc again.") from error

    def has_digest(name: str) -> bool:
        try:
            return hash_file(folder / name) == expected[name]
        except OSError:
            return False

    return [name for name in expected if not has_digest(name)]
