"""From PyTorch to graphs: exports the towers with the heads, and checks the graphs against PyTorch.

PyTorch's dynamo exporter takes about ten seconds for a network. A graph's structure depends only on the network's
architecture, and its initializers have the names of the parameters. So an earlier graph of the same structure is a
template: the present weights are put into it, which takes a moment. The check against PyTorch holds for each graph.
"""

import contextlib
import io
import json
import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from aigc_cli import __version__
from aigc_cli.errors import EnvironmentProblem
from aigc_cli.model.backbone import Backbone
from aigc_cli.model.graph_weights import compress_weights, expand_weights, fill_weights
from aigc_cli.model.heads import ResidualHeads
from aigc_cli.model.model import Model
from aigc_cli.progress import Progress
from aigc_cli.runtime.graphs import IMAGE_GRAPH, SCORE_NAMES, TEXT_GRAPH, WEIGHTS_HASH, first_line, start_session
from aigc_cli.runtime.hints import MINI, SHIPPED_BACKBONES, TOKENIZER
from aigc_cli.storage.atomic_files import open_atomic
from aigc_cli.storage.cache import find_cache_folder
from aigc_cli.storage.checkpoints import SHIPPED_SCORERS

FEATURE_TOLERANCE = 1e-3  # share of the largest feature: a graph that differs by more is refused
UNIT_TOLERANCE = 2e-5  # of a score on [0, 1]; 1e-4 MOS on a scale of five points
MAX_KEPT_BYTES = 256 << 20  # graphs of a larger model are made by `aigc export` only
STRUCTURE = "structure"  # key of a graph's metadata
OPSET = 20
_BATCH = torch.export.Dim("images")

Inputs = Mapping[str, Tensor]


class _ImageSide(nn.Module):
    """From uint8 pixels (B, H, W, 3) and text embeddings (B, D) to scores, their parts and features."""

    def __init__(self, backbone: Backbone, heads: ResidualHeads) -> None:
        super().__init__()
        self.image, self.heads, self._backbone = backbone.image.module, heads, backbone

    def forward(self, pixels: Tensor, text: Tensor) -> tuple[Tensor, ...]:
        features = self._backbone.encode_image(self._backbone.normalise(pixels))
        return (*self.heads(features, text), self.heads.read_features(features))


class _TextSide(nn.Module):
    """From token ids (B, L) to L2-normalised text embeddings (B, D)."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.text, self._backbone = backbone.text.module, backbone

    def forward(self, tokens: Tensor) -> Tensor:
        return self._backbone.run_text_from_boundary(self._backbone.run_text_to_boundary(tokens, 0), 0)


def shares_text(model: Model) -> bool:
    """Whether the text graph of the package serves this model: one that ships, with a frozen text tower."""
    backbone = model.backbone
    return backbone.name in SHIPPED_BACKBONES and model.kept.text > len(backbone.text.blocks)


def keep_graphs(model: Model, progress: Progress) -> dict[str, bytes]:
    """The graphs that a model folder holds, by file name; empty, with a message, where they can't be made.

    A model on a GPU is moved to the CPU and back.
    """
    parameters = sum(t.numel() for t in model.backbone.modules().state_dict().values())
    if 4 * parameters > MAX_KEPT_BYTES:
        progress.say("The model is too large to keep graphs beside it; `aigc export` adds them for faster scoring.")
        return {}
    try:
        return make_graphs(model, with_text=not shares_text(model))
    except EnvironmentProblem as problem:
        progress.say(f"{problem.message} PyTorch will score with this model.")
        return {}


def make_graphs(model: Model, with_text: bool = True) -> dict[str, bytes]:
    """Exports a model: {IMAGE_GRAPH: ..., and with text TEXT_GRAPH: ..., TOKENIZER: ...}.

    Raises:
        EnvironmentProblem: the model can't be exported, or a graph's outputs differ from PyTorch's.
    """
    backbone, device = model.backbone, model.device
    autocast, backbone.autocast = backbone.autocast, None  # training may set it; scoring computes in float32
    try:
        backbone.modules().to("cpu")
        model.heads.to("cpu")
        noise = torch.Generator().manual_seed(0)
        size = (2, *backbone.preprocessing.size, 3)
        pixels = torch.randint(256, size, dtype=torch.uint8, generator=noise)
        text = nn.functional.normalize(torch.randn(2, backbone.embed_dim, generator=noise), dim=1)
        outputs = (*SCORE_NAMES, "features")
        shapes = {"pixels": {0: _BATCH}, "text": {0: _BATCH}}
        image_side = _ImageSide(backbone, model.heads).eval()
        made = {IMAGE_GRAPH: _export(image_side, {"pixels": pixels, "text": text}, outputs, shapes, backbone)}
        if with_text:
            made |= _make_text_graph(backbone)
        return made
    except EnvironmentProblem:
        raise
    except Exception as error:  # exporters raise errors of many types
        raise EnvironmentProblem(
            f"The model can't be exported to a graph: {first_line(error)}.", "Score with --engine eager."
        ) from error
    finally:
        backbone.autocast = autocast
        backbone.modules().to(device)
        model.heads.to(device)


def compress_graph(graph: bytes) -> bytes:
    """A graph whose weights are stored in eight bits where that changes nothing, see `compress_weights`."""
    model = onnx.load_model_from_string(graph)
    compress_weights(model)
    return bytes(model.SerializeToString(deterministic=True))


def _make_text_graph(backbone: Backbone) -> dict[str, bytes]:
    tokens = backbone.tokenize(["a red fox in deep snow", "two dogs"])
    shapes: dict[int, Any] = {0: _BATCH}
    if len({backbone.tokenize([text]).shape[1] for text in ("a", "a red fox in deep snow")}) > 1:
        shapes[1] = torch.export.Dim("tokens", min=2, max=backbone.text.module.position_embedding.num_embeddings)
    graph = _export(_TextSide(backbone).eval(), {"tokens": tokens}, ("text",), {"tokens": shapes}, backbone)
    return {TEXT_GRAPH: graph, TOKENIZER: backbone.describe_tokenizer().encode()}


def _export(
    module: nn.Module, inputs: Inputs, outputs: Sequence[str], shapes: Mapping[str, Any], backbone: Backbone
) -> bytes:
    """A module as a graph that was checked against PyTorch."""
    structure = _name_structure(module, inputs, outputs, backbone)
    facts = {STRUCTURE: structure, WEIGHTS_HASH: backbone.weights_hash}
    values = {name: t.detach().numpy() for name, t in (*module.named_parameters(), *module.named_buffers())}
    with torch.no_grad():
        wanted = module(*inputs.values())
    wanted = dict(zip(outputs, wanted if isinstance(wanted, tuple) else (wanted,), strict=True))
    cached = find_cache_folder() / "engines" / f"{structure}.onnx"
    for place in (
        cached,
        *(folder / name for folder in (*SHIPPED_SCORERS.values(), MINI) for name in (IMAGE_GRAPH, TEXT_GRAPH)),
    ):
        with contextlib.suppress(Exception):  # a template with any defect is passed over
            template = onnx.load_model(place)
            if {entry.key: entry.value for entry in template.metadata_props}.get(STRUCTURE) == structure:
                fill_weights(expand_weights(template), values)
                return _check(_pack(template, facts), inputs, wanted)
    made = _check(_pack(_run_exporter(module, inputs, outputs, shapes), facts), inputs, wanted)
    with contextlib.suppress(OSError, EnvironmentProblem):  # with a full or read-only cache the next run exports again
        cached.parent.mkdir(parents=True, exist_ok=True)
        with open_atomic(cached, "wb") as stream:
            stream.write(made)
    return made


def _name_structure(module: nn.Module, inputs: Inputs, outputs: Sequence[str], backbone: Backbone) -> str:
    """A digest of what a graph's nodes depend on: architecture and sizes, not the values of weights."""
    shapes = [(name, list(t.shape)) for name, t in (*module.named_parameters(), *module.named_buffers())]
    described = re.sub(r"Dropout\d?d?\(.*?\)|p=[\d.e-]+", "", repr(module))  # dropout has no effect in scoring
    sides = [list(t.shape[1:]) for t in inputs.values() if t.dtype != torch.int64]
    levels = backbone.describe_levels(), str(backbone.preprocessing)
    parts = (__version__, torch.__version__, described, shapes, sides, list(outputs), str(levels))
    return sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _run_exporter(
    module: nn.Module, inputs: Inputs, outputs: Sequence[str], shapes: Mapping[str, Any]
) -> onnx.ModelProto:
    """Exports with dynamo; with the tracing exporter, which PyTorch gives up, where dynamo fails."""
    try:
        program = export_module(module, inputs, outputs, dynamo=True, dynamic_shapes=(*shapes.values(),))
    except ImportError:
        raise
    except Exception:
        axes: dict[str, Any] = {name: {axis: str(dim) for axis, dim in found.items()} for name, found in shapes.items()}
        axes |= {name: {0: "images"} for name in outputs}
        program = export_module(module, inputs, outputs, dynamo=False, dynamic_axes=axes)
    return onnx.load_model_from_string(program)


def export_module(module: nn.Module, inputs: Inputs, outputs: Sequence[str], dynamo: bool, **options: Any) -> bytes:
    """A module as an ONNX file, made by one of PyTorch's two exporters; raises what they raise."""
    stream, fused = io.BytesIO(), torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # ONNX does not have the fused operator of attention
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                None if dynamo else stream,  # type: ignore[arg-type]  # the tracing exporter writes into streams
                input_names=list(inputs),
                output_names=list(outputs),
                dynamo=dynamo,
                optimize=False,
                do_constant_folding=False,
                verbose=False,
                opset_version=OPSET,
                **options,
            )
            if program is not None:
                _simplify(program, module)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return bytes(program.model_proto.SerializeToString()) if program is not None else stream.getvalue()


def _simplify(program: torch.onnx.ONNXProgram, module: nn.Module) -> None:
    """Removes needless nodes without a look at the weights, so that the graph holds for other weights too.

    The optimiser joins equal weights, turns some into others and leaves out the addition of zeros. Inputs of a graph,
    whose values it does not know, stay as they are.
    """
    graph, logger = program.model.graph, logging.getLogger("onnx_ir")
    names = {name for name, _ in (*module.named_parameters(), *module.named_buffers())} & graph.initializers.keys()
    weights = [graph.initializers.pop(name) for name in sorted(names)]
    numbers, level = [weight.const_value for weight in weights], logger.level
    graph.inputs.extend(weights)
    for weight in weights:
        weight.const_value = None
    logger.setLevel(logging.ERROR)  # it warns of each
    try:
        program.optimize()
    finally:
        logger.setLevel(level)
    del graph.inputs[len(graph.inputs) - len(weights) :]
    for weight, weight.const_value in zip(weights, numbers, strict=True):
        graph.register_initializer(weight)


def _pack(graph: onnx.ModelProto, facts: Mapping[str, str]) -> bytes:
    """The bytes of a graph without the exporter's notes, which hold paths of this machine."""
    graph.producer_name, graph.producer_version, graph.doc_string = "aigc", __version__, ""
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, dict(facts))
    noted = (graph.graph, *graph.graph.node, *graph.graph.initializer, *graph.graph.value_info)
    for part in (*noted, *graph.graph.input, *graph.graph.output):
        part.doc_string = ""
        del part.metadata_props[:]
    del graph.graph.value_info[:]
    return bytes(graph.SerializeToString(deterministic=True))


def _check(graph: bytes, inputs: Inputs, wanted: Mapping[str, Tensor]) -> bytes:
    """Returns `graph` if its outputs for `inputs` are those of PyTorch, else raises ValueError."""
    session = start_session(graph)
    for rows in (slice(0, 1), slice(None)):
        found = session.run(list(wanted), {name: tensor[rows].numpy() for name, tensor in inputs.items()})
        for (name, tensor), array in zip(wanted.items(), found, strict=True):
            right = tensor[rows].numpy()
            limit = UNIT_TOLERANCE if name in SCORE_NAMES else FEATURE_TOLERANCE * float(np.abs(right).max(initial=0))
            gap = float(np.abs(array - right).max(initial=0)) if array.shape == right.shape else np.inf
            if not gap <= limit:
                raise ValueError(f"its {name} differs from PyTorch's by {gap:.2g}")
    return graph
