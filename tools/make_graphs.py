"""Makes the graphs that ship in the package: mini's text tower, and the shipped scorer's image side.

    python -m tools.make_graphs

The text graph holds no weights of its own: it refers to those in mini's safetensors file. The image graph stores in
eight bits what the scorer's weights file stores in eight bits.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from aigc_cli.model.export import make_graphs
from aigc_cli.model.graph_weights import compress_weights
from aigc_cli.model.trained import load_model
from aigc_cli.runtime.graphs import IMAGE_GRAPH, TEXT_GRAPH
from aigc_cli.runtime.hints import MINI, TOKENIZER
from aigc_cli.storage.checkpoints import SHIPPED_SCORER, load_checkpoint, save_checkpoint
from tools.sums import write_sums


def find_in_safetensors(path: Path) -> Callable[[NDArray[np.int8]], TensorProto | None]:
    """A function that finds int8 codes in a safetensors file and refers to their place in it."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    places = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "I8":
            start, end = entry["data_offsets"]
            places[data[8 + size + start : 8 + size + end]] = (8 + size + start, end - start)

    def find(codes: NDArray[np.int8]) -> TensorProto | None:
        if (place := places.get(codes.tobytes())) is None:
            return None
        tensor = TensorProto(data_type=TensorProto.INT8, dims=codes.shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", path.name), ("offset", place[0]), ("length", place[1])):
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    return find


def _export() -> dict[str, bytes]:
    """The graphs by the exporter: neither those in the package nor those in the cache are templates."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["AIGC_CACHE"] = scratch
        for path in (MINI / TEXT_GRAPH, SHIPPED_SCORER / IMAGE_GRAPH):
            path.unlink(missing_ok=True)
        return make_graphs(load_model(None, "cpu").model)


def main() -> None:
    made = _export()
    text = onnx.load_model_from_string(made[TEXT_GRAPH])
    compress_weights(text, find_in_safetensors(MINI / "open_clip_model.safetensors"))
    (MINI / TEXT_GRAPH).write_bytes(text.SerializeToString(deterministic=True))
    (MINI / TOKENIZER).write_bytes(made[TOKENIZER])
    image = onnx.load_model_from_string(made[IMAGE_GRAPH])
    compress_weights(image)
    kept = load_checkpoint(SHIPPED_SCORER)
    graphs = {IMAGE_GRAPH: image.SerializeToString(deterministic=True)}
    with tempfile.TemporaryDirectory() as scratch:
        save_checkpoint(Path(scratch) / "made", kept.tensors, kept.description, graphs=graphs)
        for name in ("model.json", IMAGE_GRAPH):  # the weights stay as they are, in their small form
            shutil.copyfile(Path(scratch) / "made" / name, SHIPPED_SCORER / name)
    write_sums(MINI.parent)
    for path in (MINI / TEXT_GRAPH, MINI / TOKENIZER, SHIPPED_SCORER / IMAGE_GRAPH):
        print(f"{path.parent.name}/{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
