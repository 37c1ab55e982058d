"""The graphs of a model folder: finding them, refusing what a stranger may have put there, and ONNX Runtime.

A model folder holds `image.onnx` (pixels and a text embedding -> scores and features). It holds `text.onnx` (token ids
-> text embedding) and `tokenizer.json` too, unless the text tower is that of `mini` and was not trained: then those of
the package are used. `model.json` lists the SHA-256 of each file.
"""

import importlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_cli.errors import AigcError, EnvironmentProblem
from aigc_cli.regular_file import hash_file
from aigc_cli.runtime.hints import MINI, SHIPPED_BACKBONES, TOKENIZER
from aigc_cli.runtime.saved import SavedModel
from aigc_cli.storage.checkpoints import SHIPPED_SCORERS
from aigc_cli.text import to_printable

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

IMAGE_GRAPH, TEXT_GRAPH = "image.onnx", "text.onnx"
GRAPH_FILES = (IMAGE_GRAPH, TEXT_GRAPH, TOKENIZER)
SCORE_NAMES = (
    *("quality", "consistency", "quality_base", "quality_delta"),
    *("consistency_base", "consistency_delta", "cosine"),
)
WEIGHTS_HASH = "backbone_weights_hash"  # key of a graph's metadata
MAX_GRAPH_BYTES = 2**31  # protobuf's own limit
MAX_ELEMENTS = 2**28  # of one tensor inside a graph
_HINT = "Don't use this model, or write its graphs again with aigc export."
_DOMAINS = ("", "ai.onnx")
_WRITTEN = """
Abs Add And ArgMax AveragePool BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape Conv Cos CumSum Div
Einsum Elu Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool Greater
GreaterOrEqual GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization LayerNormalization LeakyRelu
Less LessOrEqual Log MatMul Max MaxPool Min Mod Mul Neg Not Or PRelu Pad Pow Range Reciprocal ReduceL2 ReduceMax
ReduceMean ReduceSum Relu Reshape Resize Shape Sigmoid Sign Sin Size Slice Softmax Softplus Split Sqrt Squeeze Sub
Tanh Tile Transpose Trilu Unsqueeze Where
"""
_OPERATORS = frozenset(_WRITTEN.split())  # of PyTorch's exporters for all kinds of backbones, and a few more
_ATTRIBUTES = ("FLOAT", "INT", "STRING", "TENSOR", "FLOATS", "INTS", "STRINGS")


@dataclass(frozen=True)
class GraphPaths:
    """The files that score with a model; `trusted` if they came with this package."""

    image: Path
    text: Path
    tokenizer: Path
    trusted: bool


def find_graphs(saved: SavedModel) -> GraphPaths | None:
    """The graphs of a model; None where it has none.

    Raises:
        AigcError: a graph is not the one that model.json describes.
    """
    folder, sums = saved.checkpoint.folder, saved.checkpoint.description.get("graphs") or {}
    if not isinstance(sums, dict) or not sums.keys() <= set(GRAPH_FILES):
        found = to_printable(str(sums), 200)
        raise AigcError(f"Expected digests of {', '.join(GRAPH_FILES)} in {folder}, found {found}.", _HINT)
    if IMAGE_GRAPH not in sums or not all((folder / name).exists() for name in sums):
        return None
    for name, digest in sums.items():
        if _hash_graph(folder / name) != digest:
            raise AigcError(f"Expected {folder / name} as model.json describes it, found another file.", _HINT)
    if sums.keys() == set(GRAPH_FILES):
        text = folder
    elif saved.backbone["name"] in SHIPPED_BACKBONES and (MINI / TEXT_GRAPH).is_file():
        text = MINI
    else:
        return None
    trusted = folder in SHIPPED_SCORERS.values()
    return GraphPaths(folder / IMAGE_GRAPH, text / TEXT_GRAPH, text / TOKENIZER, trusted)


def _hash_graph(path: Path) -> str:
    try:
        return hash_file(path)
    except OSError as error:
        raise AigcError(f"Expected a file that can be read at {path}, found none: {error.strerror}.", _HINT) from error


def open_graph(path: Path, trusted: bool) -> "InferenceSession":
    """Loads a graph into ONNX Runtime, see `start_session`.

    Raises:
        AigcError: the graph may not be run, see `check_graph`, or ONNX Runtime can't run it.
        EnvironmentProblem: ONNX Runtime is not installed.
    """
    if not trusted:
        check_graph(path)
    try:
        return start_session(path)
    except EnvironmentProblem:
        raise
    except Exception as error:  # its errors have many types
        raise AigcError(
            f"Expected a graph that ONNX Runtime can run in {path}, found {first_line(error)}.", _HINT
        ) from error


def start_session(graph: Path | bytes) -> "InferenceSession":
    """A session of ONNX Runtime on the CPU, which runs on the calling thread; raises what ONNX Runtime raises.

    Raises:
        EnvironmentProblem: ONNX Runtime is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # from version 1.29 it sends usage data by default
    try:
        onnxruntime: Any = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise EnvironmentProblem(f"ONNX Runtime can't be imported: {error}.", "pip install onnxruntime") from error
    onnxruntime.disable_telemetry_events()  # the same on Windows, where the variable has no effect
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its errors are raised as well
    source = graph if isinstance(graph, bytes) else str(graph)
    providers = ["CPUExecutionProvider"]
    session: InferenceSession = onnxruntime.InferenceSession(source, options, providers, enable_fallback=False)
    return session


def first_line(error: Exception) -> str:
    """The first line of an error's text, for a message."""
    line = next(iter(f"{error}".strip().splitlines()), "")
    return to_printable(line[:200].rstrip(".")) or type(error).__name__


def check_graph(path: Path) -> None:
    """Refuses a graph that does not look like one that this package writes.

    Raises:
        AigcError: it is no valid ONNX file; its data lie in other files; it has operators that no backbone here needs,
            sparse tensors or functions of its own; a tensor has not the bytes of its shape or is absurdly large.
        EnvironmentProblem: the package onnx is not installed.
    """
    try:
        onnx: Any = importlib.import_module("onnx")
    except ImportError as error:
        raise EnvironmentProblem(
            f"A model's graphs are checked with onnx, which fails: {error}.", "pip install onnx"
        ) from error

    if path.stat().st_size >= MAX_GRAPH_BYTES:
        raise _refuse(path, "a file of 2 GiB or more")
    try:
        model = onnx.load_model(path, load_external_data=False)
    except Exception as error:  # of protobuf and of onnx
        raise _refuse(path, f"no ONNX model ({first_line(error)})") from error
    if fault := next(_find_faults(model, onnx), None):
        raise _refuse(path, fault)
    try:
        onnx.checker.check_model(model)  # before the inference, which relies on it
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:
        raise _refuse(path, f"no valid graph ({first_line(error)})") from error
    for value in (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input):
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.HasField("dim_value")]
        if math.prod(sizes) > MAX_ELEMENTS:
            raise _refuse(path, f"a tensor of shape {sizes[:8]}")


def _refuse(path: Path, found: str) -> AigcError:
    return AigcError(f"Expected a graph of this package in {path}, found {to_printable(found, 300)}.", _HINT)


def _find_faults(model: Any, onnx: Any) -> Iterator[str]:
    if model.functions or model.training_info or model.graph.sparse_initializer:
        yield "functions of its own or sparse tensors"
    plain = {getattr(onnx.AttributeProto, kind) for kind in _ATTRIBUTES}
    for node in model.graph.node:
        if node.domain not in _DOMAINS:
            yield f"the operator {node.op_type[:60]} of the domain {node.domain[:60]}"
        if node.op_type not in _OPERATORS or not {attribute.type for attribute in node.attribute} <= plain:
            yield f"the operator {node.op_type[:60]}"
    for tensor in _list_tensors(model, onnx):
        if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield "data in another file"
        count = math.prod(tensor.dims)
        if min([*tensor.dims, 1]) < 0 or count > MAX_ELEMENTS:
            yield f"a tensor of shape {list(tensor.dims)[:8]}"
        if count > 0 and not tensor.raw_data and not _holds_values(tensor):
            yield f"a tensor of shape {list(tensor.dims)[:8]} without its values"


def _list_tensors(model: Any, onnx: Any) -> Iterator[Any]:
    """All tensors of a graph whose attributes are plain."""
    yield from model.graph.initializer
    for node in model.graph.node:
        yield from (attribute.t for attribute in node.attribute if attribute.type == onnx.AttributeProto.TENSOR)


def _holds_values(tensor: Any) -> bool:
    kinds = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
    return any(len(getattr(tensor, kind)) for kind in kinds)
