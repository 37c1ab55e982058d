"""Engines: what runs the image tower while images are scored, and the frozen part of it in training.

PyTorch's eager mode is always there. ONNX Runtime and OpenVINO run the same network, exported from the weights at hand,
two to three times as fast on a CPU; both in float32, since bfloat16 moves scores by 0.05 MOS.

On a CPU every image runs by itself, on one thread, in the thread that has decoded it: that leaves no thread waiting for
another, and makes a score, or what the feature store holds, depend on no other image. On other devices images run in
batches.
"""

import contextlib
import importlib
import io
import itertools
import json
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aigc_cli import __version__
from aigc_cli.errors import AigcError, EnvironmentProblem
from aigc_cli.model.backbone import Backbone
from aigc_cli.model.towers import UNFROZEN
from aigc_cli.progress import Progress, Silent
from aigc_cli.storage.feature_bank import cache_folder
from aigc_cli.storage.files import whole_file
from aigc_cli.storage.tensors import tensors_digest

TOLERANCE = 1e-3  # of the largest feature: an engine that differs by more is not the same network

State = dict[str, Tensor]  # what `Backbone.image_boundary` returns

_Run = Callable[[Tensor], State]  # of one fitted image
_Maker = Callable[[Path | bytes], _Run]  # of an exported graph


@dataclass(frozen=True)
class Engine:
    """The image tower up to a freeze boundary, run in two steps.

    Attributes:
        name: eager, onnx or openvino.
        each: what the decoding threads do with one fitted image, uint8 (H, W, 3).
        together: the state at the boundary of the B images that `each` returned, on the backbone's device.
    """

    name: str
    each: Callable[[Tensor], Any]
    together: Callable[[Sequence[Any]], State]


def chosen(
    backbone: Backbone, name: str = "auto", progress: Progress | None = None, boundary: int | None = None
) -> Engine:
    """The engine of a backbone that is on its device, with the weights that it will keep before the boundary.

    It does not hang on how many images there are, since a score's last bits would hang on that too.

    Args:
        name: one of `ENGINES`; `auto` is ONNX Runtime on a CPU where it can run this backbone, else eager.
        progress: is told when `auto` finds that it can't.
        boundary: how many blocks of the image tower are run, see `Freezing`; None for the whole tower.

    Raises:
        AigcError: another name, or an engine that does not run on the backbone's device.
        EnvironmentProblem: the engine that was asked for can't run this backbone here.
    """
    if name not in ENGINES:
        raise AigcError(f"Expected an engine out of {', '.join(ENGINES)}, found '{name}'.", "Use --engine auto.")
    boundary, on_cpu = len(backbone.image.blocks) + 1 if boundary is None else boundary, _on_cpu(backbone)
    if name in _COMPILED and not on_cpu:
        raise AigcError(f"Expected --device cpu beside --engine {name}, found another.", "Use --engine auto.")
    if name in _COMPILED:
        return compiled(backbone, name, boundary)
    if name == "auto" and automatic(backbone, boundary) == "onnx":
        try:
            return compiled(backbone, "onnx", boundary)
        except EnvironmentProblem as problem:
            (progress or Silent()).say(f"{problem.message} PyTorch's eager mode takes its place.")
    return _each_alone("eager", _eager(backbone, boundary)) if on_cpu else _batched(backbone, boundary)


def automatic(backbone: Backbone, boundary: int) -> str:
    """The name of the engine that `auto` tries first; pixels need none."""
    return "onnx" if _on_cpu(backbone) and boundary != UNFROZEN else "eager"


def _on_cpu(backbone: Backbone) -> bool:
    return bool(next(backbone.image.module.parameters()).device.type == "cpu")


def compiled(backbone: Backbone, name: str, boundary: int) -> Engine:
    """ONNX Runtime or OpenVINO with the image tower, up to a boundary, exported from the backbone's present weights.

    The exported graph is kept in the cache folder, and its output is compared with eager mode's before it is used.

    Raises:
        EnvironmentProblem: no such package, the tower can't be exported, or the output differs.
    """
    place = cache_folder() / "engines" / f"{_key(backbone, boundary)}.onnx"
    try:
        run = None
        if place.is_file():
            try:
                run = _checked(_COMPILED[name](place), backbone, boundary)
                os.utime(place)  # when it was last used
            except Exception:  # whatever is wrong with a kept graph: a new one is made
                place.unlink(missing_ok=True)
        return _each_alone(name, run or _exported(backbone, boundary, _COMPILED[name], place))
    except Exception as error:  # an exporter fails in as many ways as there are networks
        reason = next(iter(f"{error}".strip().splitlines()), "") or type(error).__name__
        hint = f"pip install 'aigc[{name}]', or use --engine eager" if isinstance(error, ImportError) else ""
        raise EnvironmentProblem(
            f"The image tower of {backbone.name} can't run with engine {name}: {reason[:200].rstrip('.')}.",
            hint or "Use --engine eager.",
        ) from error


def _key(backbone: Backbone, boundary: int) -> str:
    """Names an exported graph by everything that it depends on; what lies beyond the boundary may be trained."""
    later = {id(tensor) for part in backbone.image.trainable_parts(boundary) for tensor in _tensors(part)}
    state = backbone.image.module.state_dict(keep_vars=True)
    parts = (
        __version__,
        torch.__version__,
        backbone.name,
        backbone.preprocessing.size,
        backbone.hints.levels,
        boundary,
        tensors_digest({name: tensor.detach() for name, tensor in state.items() if id(tensor) not in later}),
    )
    return sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _tensors(part: nn.Module | nn.Parameter) -> Iterable[Tensor]:
    return itertools.chain(part.parameters(), part.buffers()) if isinstance(part, nn.Module) else [part]


class _ImageTower(nn.Module):
    """The image tower as the exporter wants it: uint8 pixels (1, H, W, 3) to the tensors of the boundary's state."""

    def __init__(self, backbone: Backbone, boundary: int) -> None:
        super().__init__()
        self.module, self._boundary = backbone.image.module, boundary
        self._before, self._scaled = backbone.image_boundary, backbone.preprocessing.scaled

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._before(self._scaled(pixels), self._boundary).values())


def _exported(backbone: Backbone, boundary: int, engine: _Maker, place: Path) -> _Run:
    """The engine of a graph that is exported now, and kept.

    The exporter that traces the network takes a tenth of the time of the one that analyses it, but PyTorch means to
    drop it, and it does not know every network: what it can't do goes the long way.
    """
    try:
        graph = _export(backbone, boundary, dynamo=False)
        run = _checked(engine(graph), backbone, boundary)
    except ImportError:
        raise
    except Exception:
        graph = _export(backbone, boundary, dynamo=True)
        run = _checked(engine(graph), backbone, boundary)
    _keep(graph, place)
    return run


def _export(backbone: Backbone, boundary: int, dynamo: bool) -> bytes:
    """The image tower up to a boundary as ONNX, for one image at a time."""
    tower, stream = _ImageTower(backbone, boundary).eval(), io.BytesIO()
    first = "embedding" if boundary > len(backbone.image.blocks) else "hidden"
    with torch.no_grad(), warnings.catch_warnings(), _plain_attention():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            tower,
            (torch.zeros(1, *backbone.preprocessing.size, 3, dtype=torch.uint8),),
            None if dynamo else stream,  # type: ignore[arg-type]  # the tracing exporter writes into streams
            input_names=["pixels"],
            output_names=[first, "levels"],
            dynamo=dynamo,
            verbose=False,
        )
    return bytes(program.model_proto.SerializeToString()) if program is not None else stream.getvalue()


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention out of operators that ONNX has, not PyTorch's fused one."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _keep(graph: bytes, place: Path) -> None:
    """Keeps the graph for the next time where that is possible."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(place, "wb") as stream:
            stream.write(graph)
    except (OSError, EnvironmentProblem):
        pass  # a full or read-only cache costs the next run its export, no more


def _checked(run: _Run, backbone: Backbone, boundary: int) -> _Run:
    """`run`, when it makes of noise what eager mode makes of it."""
    noise = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (*backbone.preprocessing.size, 3), dtype=torch.uint8, generator=noise)
    state = run(pixels)
    for name, wanted in _eager(backbone, boundary)(pixels).items():
        found = state[name]
        gap = float((found - wanted).abs().max()) if wanted.numel() else 0.0
        if found.shape != wanted.shape or not gap <= TOLERANCE * float(wanted.abs().max() if wanted.numel() else 1):
            raise ValueError(f"its features differ by {gap:.2g}")
    return run


def _onnx(graph: Path | bytes) -> _Run:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # from 1.29 on it reports to its maker unless told so
    onnxruntime = importlib.import_module("onnxruntime")
    onnxruntime.disable_telemetry_events()  # the same where that is not heeded: Windows
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    names = [output.name for output in session.get_outputs()]

    def run(pixels: Tensor) -> State:
        found = session.run(names, {"pixels": pixels[None].numpy()})
        return {name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)}

    return run


def _openvino(graph: Path | bytes) -> _Run:
    core = importlib.import_module("openvino").Core()
    streams = torch.get_num_threads()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": streams, "NUM_STREAMS": streams}
    network = core.compile_model(core.read_model(graph), "CPU", settings)
    names = [output.any_name for output in network.outputs]
    own = threading.local()  # a request serves one thread

    def run(pixels: Tensor) -> State:
        if not hasattr(own, "request"):
            own.request = network.create_infer_request()
        found = own.request.infer({0: pixels[None].numpy()})
        return {name: torch.from_numpy(found[name].copy()) for name in names}

    return run


_COMPILED: dict[str, _Maker] = {
    "onnx": _onnx,
    "openvino": _openvino,
}
ENGINES = ("auto", "eager", *_COMPILED)


def _eager(backbone: Backbone, boundary: int) -> _Run:
    def run(pixels: Tensor) -> State:
        with torch.no_grad():  # not inference mode: training goes on from here
            return backbone.image_boundary(backbone.preprocessing.scaled(pixels[None]), boundary)

    return run


def _each_alone(name: str, run: _Run) -> Engine:
    def together(found: Sequence[State]) -> State:
        return {part: torch.cat([state[part] for state in found]) for part in found[0]}

    return Engine(name, run, together)


def _batched(backbone: Backbone, boundary: int) -> Engine:
    device = next(backbone.image.module.parameters()).device

    def together(pixels: Sequence[Tensor]) -> State:
        with torch.no_grad():
            fitted = torch.stack([*pixels]).to(device)
            return backbone.image_boundary(backbone.preprocessing.scaled(fitted), boundary)

    return Engine("eager", lambda pixels: pixels, together)
