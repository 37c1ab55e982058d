"""Makes the graphs that ship in the package: mini's text tower, and the image side of each shipped scorer.

    python -m tools.make_graphs

The text graph holds no weights of its own: it refers to those in mini's safetensors file. An image graph stores in
eight bits what is stored in eight bits in the files of its weights and its backbone.
"""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from aigc_cli.model.export import make_graphs
from aigc_cli.model.graph_weights import compress_weights
from aigc_cli.model.loading import load_backbone
from aigc_cli.model.trained import load_model
from aigc_cli.runtime.graphs import IMAGE_GRAPH, TEXT_GRAPH, WEIGHTS_HASH
from aigc_cli.runtime.hints import MINI, SHIPPED_BACKBONES, TOKENIZER
from aigc_cli.storage.checkpoints import SHIPPED_SCORERS, add_graphs
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


def _export(name: str) -> dict[str, bytes]:
    """The graphs of a scorer by the exporter: neither those in the package nor those in the cache are templates."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["AIGC_CACHE"] = scratch
        return make_graphs(load_model(Path(name), "cpu").model)


def write_text_graph(graph: bytes, tokenizer: bytes) -> None:
    """Writes the text tower of `mini`, which serves every backbone in the package."""
    text = onnx.load_model_from_string(graph)
    compress_weights(text, find_in_safetensors(MINI / "open_clip_model.safetensors"))
    hashes = " ".join(load_backbone(name).weights_hash for name in SHIPPED_BACKBONES)
    onnx.helper.set_model_props(text, {p.key: p.value for p in text.metadata_props} | {WEIGHTS_HASH: hashes})
    (MINI / TEXT_GRAPH).write_bytes(text.SerializeToString(deterministic=True))
    (MINI / TOKENIZER).write_bytes(tokenizer)


def write_image_graph(graph: bytes, folder: Path) -> None:
    """Writes a scorer's image side, and its digest into model.json; the weights stay as they are."""
    image = onnx.load_model_from_string(graph)
    compress_weights(image)
    add_graphs(folder, {IMAGE_GRAPH: image.SerializeToString(deterministic=True)})


def main() -> None:
    for path in (MINI / TEXT_GRAPH, *(folder / IMAGE_GRAPH for folder in SHIPPED_SCORERS.values())):
        path.unlink(missing_ok=True)
    for name, folder in SHIPPED_SCORERS.items():
        made = _export(name)
        write_text_graph(made[TEXT_GRAPH], made[TOKENIZER])
        write_image_graph(made[IMAGE_GRAPH], folder)
    write_sums(MINI.parent)
    for path in (MINI / TEXT_GRAPH, MINI / TOKENIZER, *(folder / IMAGE_GRAPH for folder in SHIPPED_SCORERS.values())):
        print(f"{path.parent.name}/{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
