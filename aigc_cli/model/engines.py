"""Engines: they run the frozen part of the image tower in training.

PyTorch's eager mode is always available. ONNX Runtime runs the same network, exported from the backbone's present
weights, two to three times as fast on a CPU. It computes in float32: bfloat16 changes scores by 0.05 MOS.

On a CPU each image runs alone, on one thread, the thread that decoded it. So no thread waits for another, and the
result for an image does not depend on other images. On other devices images run in batches.
"""

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aigc_cli import __version__
from aigc_cli.errors import EnvironmentProblem
from aigc_cli.model.backbone import Backbone
from aigc_cli.model.export import FEATURE_TOLERANCE, export_module
from aigc_cli.progress import Progress, SilentProgress
from aigc_cli.runtime.graphs import first_line, start_session
from aigc_cli.runtime.saved import UNFROZEN
from aigc_cli.storage.atomic_files import open_atomic
from aigc_cli.storage.cache import find_cache_folder, is_own
from aigc_cli.storage.tensors import hash_tensors

State = dict[str, Tensor]  # as `Backbone.run_image_to_boundary` returns it

_Runner = Callable[[Tensor], State]  # runs one image, uint8 (H, W, 3) at the tower's size


@dataclass(frozen=True)
class Engine:
    """Runs the image tower up to a freeze boundary, in two steps.

    Attributes:
        name: `eager` or `onnx`.
        run_one: the first step; the decoding threads call it with one image at the tower's size, uint8 (H, W, 3).
        collect: the second step: from B results of `run_one` to their state at the boundary, on the backbone's device.
    """

    name: str
    run_one: Callable[[Tensor], Any]
    collect: Callable[[Sequence[Any]], State]


def choose_engine(backbone: Backbone, boundary: int, progress: Progress | None = None) -> Engine:
    """ONNX Runtime on a CPU if it can run this backbone, else PyTorch's eager mode.

    Args:
        backbone: on its device; its weights before the boundary must not change any more.
        boundary: the number of blocks of the image tower that run, see `Freezing`.
        progress: gets a message when eager mode takes the place of ONNX Runtime.
    """
    if name_first_engine(backbone, boundary) == "onnx":
        try:
            return compile_engine(backbone, boundary)
        except EnvironmentProblem as problem:
            (progress or SilentProgress()).say(f"{problem.message} PyTorch's eager mode takes its place.")
    return make_eager_engine(backbone, boundary)


def make_eager_engine(backbone: Backbone, boundary: int) -> Engine:
    """PyTorch's eager mode: image by image on a CPU, in batches on other devices."""
    if is_on_cpu(backbone):
        return Engine("eager", lambda pixels: _run_eager(backbone, boundary, pixels[None]), _join_states)
    device = next(backbone.image.module.parameters()).device
    return Engine(
        "eager", lambda pixels: pixels, lambda images: _run_eager(backbone, boundary, torch.stack([*images]).to(device))
    )


def name_first_engine(backbone: Backbone, boundary: int) -> str:
    """The engine that `choose_engine` tries first; at the boundary `UNFROZEN` there is nothing to compile."""
    return "onnx" if is_on_cpu(backbone) and boundary != UNFROZEN else "eager"


def is_on_cpu(backbone: Backbone) -> bool:
    """Whether the image tower is on the CPU."""
    return bool(next(backbone.image.module.parameters()).device.type == "cpu")


def compile_engine(backbone: Backbone, boundary: int) -> Engine:
    """ONNX Runtime with the image tower up to a boundary, exported from the backbone's present weights.

    The exported graph is stored in the cache folder. Before each use its output is compared with that of eager mode.

    Raises:
        EnvironmentProblem: the tower can't be exported, or the outputs differ.
    """
    folder, name = find_cache_folder() / "engines", _name_graph(backbone, boundary)
    try:
        run = None
        for place in folder.glob(f"{name}-*.onnx"):
            try:
                graph = _read_own_graph(place)
                run = _check_engine(_load_onnx(graph), backbone, boundary)
                os.utime(place)  # the time of its last use
            except Exception:  # a stored graph with any defect is replaced by a new one
                with contextlib.suppress(OSError):
                    place.unlink(missing_ok=True)
        return Engine("onnx", run or _export_and_store(backbone, boundary, folder / name), _join_states)
    except Exception as error:  # exporters raise errors of many types
        raise EnvironmentProblem(
            f"The image tower of {backbone.name} can't run with engine onnx: {first_line(error)}.",
            "PyTorch's eager mode can.",
        ) from error


def _read_own_graph(place: Path) -> bytes:
    """A stored graph; ValueError if it belongs to another user or its content is not that which its name says."""
    graph = place.read_bytes()
    own = is_own(place) and is_own(place.parent.resolve())
    if not own or place.stem.rpartition("-")[2] != _shorten_digest(graph):
        raise ValueError("another's graph, or another content")
    return graph


def _shorten_digest(graph: bytes) -> str:
    return sha256(graph).hexdigest()[:16]


def _name_graph(backbone: Backbone, boundary: int) -> str:
    """A name for an exported graph: a digest of everything that the graph depends on."""
    # Parts after the boundary may be trained; they are not in the graph.
    later, state = backbone.image.find_trainable_ids(boundary), backbone.image.module.state_dict(keep_vars=True)
    weights = hash_tensors({name: tensor.detach() for name, tensor in state.items() if id(tensor) not in later})
    versions = (__version__, torch.__version__, backbone.name)
    parts = (*versions, backbone.preprocessing.size, backbone.describe_levels(), boundary, weights)
    return sha256(json.dumps(parts).encode()).hexdigest()[:24]


class _ImageTower(nn.Module):
    """The image tower as a module for the exporter: from uint8 pixels (1, H, W, 3) to the state at the boundary."""

    def __init__(self, backbone: Backbone, boundary: int) -> None:
        super().__init__()
        self.module, self._boundary = backbone.image.module, boundary
        self._run_to_boundary, self._normalise = backbone.run_image_to_boundary, backbone.normalise

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._run_to_boundary(self._normalise(pixels), self._boundary).values())


def _export_and_store(backbone: Backbone, boundary: int, place: Path) -> _Runner:
    """Exports the tower, stores the graph at `place`, with a digest in its name, and returns what runs it.

    PyTorch has two exporters. The tracing one takes a tenth of the time, but it does not support every network and is
    deprecated: where it fails, the other one is used.
    """
    try:
        graph = _export_graph(backbone, boundary, dynamo=False)
        run = _check_engine(_load_onnx(graph), backbone, boundary)
    except (ImportError, EnvironmentProblem):  # the other exporter can't help
        raise
    except Exception:
        graph = _export_graph(backbone, boundary, dynamo=True)
        run = _check_engine(_load_onnx(graph), backbone, boundary)
    # With a full or read-only cache the next run exports again.
    with contextlib.suppress(OSError, EnvironmentProblem):
        place.parent.mkdir(parents=True, exist_ok=True)
        with open_atomic(place.with_name(f"{place.name}-{_shorten_digest(graph)}.onnx"), "wb") as stream:
            stream.write(graph)
    return run


def _export_graph(backbone: Backbone, boundary: int, dynamo: bool) -> bytes:
    """The image tower up to a boundary as an ONNX file, for one image at a time."""
    first = "embedding" if boundary > len(backbone.image.blocks) else "hidden"
    pixels = torch.zeros(1, *backbone.preprocessing.size, 3, dtype=torch.uint8)
    return export_module(_ImageTower(backbone, boundary).eval(), {"pixels": pixels}, (first, "levels"), dynamo)


def _check_engine(run: _Runner, backbone: Backbone, boundary: int) -> _Runner:
    """Returns `run` if its output for an image of noise is that of eager mode, else raises ValueError."""
    noise = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (*backbone.preprocessing.size, 3), dtype=torch.uint8, generator=noise)
    state = run(pixels)
    for name, wanted in _run_eager(backbone, boundary, pixels[None]).items():
        found = state[name]
        gap, largest = (float(side.abs().max()) if wanted.numel() else 0.0 for side in (found - wanted, wanted))
        if found.shape != wanted.shape or not gap <= FEATURE_TOLERANCE * (largest or 1.0):
            raise ValueError(f"its features differ by {gap:.2g}")
    return run


def _load_onnx(graph: Path | bytes) -> _Runner:
    session = start_session(graph)
    names = [output.name for output in session.get_outputs()]

    def run(pixels: Tensor) -> State:
        found = session.run(names, {"pixels": pixels[None].numpy()})
        return {name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)}

    return run


def _run_eager(backbone: Backbone, boundary: int, images: Tensor) -> State:
    """The state of images, uint8 (B, H, W, 3)."""
    with torch.no_grad():  # not inference mode: training needs normal tensors
        return backbone.run_image_to_boundary(backbone.normalise(images), boundary)


def _join_states(found: Sequence[State]) -> State:
    return {part: torch.cat([state[part] for state in found]) for part in found[0]}
