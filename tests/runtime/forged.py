"""Model folders of strangers: any bytes as graphs, with the digests that go with them."""

import json
import shutil
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from aigc_cli.runtime.graphs import SCORE_NAMES
from aigc_cli.storage.checkpoints import DESCRIPTION

SIDE, DIM = 32, 32  # of the tiny model


def forge_model(model: Path, folder: Path, files: dict[str, bytes]) -> Path:
    """A copy of the tiny model's checkpoint with other files; model.json lists them."""
    shutil.copytree(model / "checkpoint", folder, dirs_exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    described = json.loads((folder / DESCRIPTION).read_text())
    described["graphs"] = {name: sha256((folder / name).read_bytes()).hexdigest() for name in described["graphs"]}
    (folder / DESCRIPTION).write_text(json.dumps(described))
    return folder


def make_graph(
    levels: int,
    nodes: Sequence[NodeProto] = (),
    weights: Sequence[TensorProto] = (),
    rename: tuple[str, str] = ("", ""),
    value: float = 0.5,
    count: int = 1,
) -> onnx.ModelProto:
    """An image side that gives each score as `value`, `count` times; `rename` replaces the name of an input or output.

    What `nodes` put into `x` is computed too: 0 times its sum is added.
    """

    def name(usual: str) -> str:
        return rename[1] if usual == rename[0] else usual

    tail = [
        helper.make_node("ReduceSum", ["x" if nodes else name("text")], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "value"], ["number"]),
        helper.make_node("Expand", ["number", "count"], ["score"]),
        helper.make_node("Shape", [name("pixels")], ["unused"]),
        *(helper.make_node("Identity", ["score"], [name(score)]) for score in SCORE_NAMES),
        helper.make_node("Identity", [name("text")], [name("embedding")]),
        helper.make_node("Expand", ["number", "wide"], [name("levels")]),
    ]
    held = {"zero": np.float32(0), "value": np.float32(value), "count": [count], "wide": [1, levels]}
    inputs = [("pixels", TensorProto.UINT8, ["n", SIDE, SIDE, 3]), ("text", TensorProto.FLOAT, ["n", DIM])]
    outputs = [*((score, ["m"]) for score in SCORE_NAMES), ("embedding", ["n", DIM]), ("levels", ["n", levels])]
    graph = helper.make_graph(
        [*nodes, *tail],
        "forged",
        [helper.make_tensor_value_info(name(usual), kind, shape) for usual, kind, shape in inputs],
        [helper.make_tensor_value_info(name(usual), TensorProto.FLOAT, shape) for usual, shape in outputs],
        [*weights, *(numpy_helper.from_array(np.asarray(array), key) for key, array in held.items())],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
