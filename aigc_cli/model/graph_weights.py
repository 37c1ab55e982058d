"""The weights inside a graph: replacing them, and storing them in eight bits where that changes nothing.

A weight in eight bits is stored as codes and scales, with two nodes in front that turn them back into float32: ONNX
Runtime computes constants like this once, when it loads a graph.
"""

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from aigc_cli.storage.tensors import SCALE, quantise

CODES, FLOAT = ".codes", ".float"  # SCALE is the third
MIN_SIZE = 1024  # smaller weights stay as they are


def fill_weights(model: onnx.ModelProto, values: Mapping[str, NDArray[np.generic]]) -> None:
    """Puts values into the initializers of their names.

    Raises:
        ValueError: a shape or a type differs, or no initializer has the name of real numbers: then the graph holds what
            an exporter made of earlier ones.
    """
    stored = {initializer.name: initializer for initializer in model.graph.initializer}
    for name, value in values.items():
        if (initializer := stored.get(name)) is None:
            if value.dtype.kind == "f":
                raise ValueError(f"{name} is missing")
            continue
        type_ = helper.tensor_dtype_to_np_dtype(initializer.data_type)
        if (tuple(initializer.dims), type_) != (value.shape, value.dtype):
            raise ValueError(f"{name} has another shape or type")
        initializer.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name))


def compress_weights(
    model: onnx.ModelProto, find_stored: Callable[[NDArray[np.int8]], TensorProto | None] = lambda codes: None
) -> None:
    """Stores float32 weights in eight bits where codes times scales give exactly the same values.

    Args:
        find_stored: a tensor that refers to these codes in another file, without its name; None to store them here.
    """
    kept, first = [], []
    for initializer in model.graph.initializer:
        packed = (
            _pack_weight(numpy_helper.to_array(initializer)) if initializer.data_type == TensorProto.FLOAT else None
        )
        if packed is None:
            kept.append(initializer)
            continue
        codes, scale, turned = packed
        name = initializer.name
        stored = find_stored(codes) or numpy_helper.from_array(codes)
        stored.name = f"{name}{CODES}"
        kept += [stored, numpy_helper.from_array(scale.astype(np.float32), f"{name}{SCALE}")]
        if not turned and _look_up_rows(model, name):
            continue
        first.append(helper.make_node("Cast", [stored.name], [f"{name}{FLOAT}"], to=TensorProto.FLOAT))
        product = f"{name}{FLOAT}.turned" if turned else name
        first.append(helper.make_node("Mul", [f"{name}{FLOAT}", f"{name}{SCALE}"], [product]))
        if turned:
            first.append(helper.make_node("Transpose", [product], [name], perm=[1, 0]))
    nodes = [*first, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes)


def _look_up_rows(model: onnx.ModelProto, name: str) -> bool:
    """Where a weight is an embedding table: looks up rows of codes, so that the table never becomes float32."""
    users = [node for node in model.graph.node if name in node.input]
    axis = {attribute.name: attribute.i for node in users for attribute in node.attribute}.get("axis", 0)
    if len(users) != 1 or users[0].op_type != "Gather" or users[0].input[0] != name or axis != 0:
        return False
    place, (rows, out) = list(model.graph.node).index(users[0]), (users[0].input[1], users[0].output[0])
    model.graph.node.remove(users[0])
    for node in (
        helper.make_node("Mul", [f"{out}{FLOAT}", f"{out}{SCALE}"], [out]),
        helper.make_node("Gather", [f"{name}{SCALE}", rows], [f"{out}{SCALE}"]),
        helper.make_node("Cast", [f"{out}{CODES}"], [f"{out}{FLOAT}"], to=TensorProto.FLOAT),
        helper.make_node("Gather", [f"{name}{CODES}", rows], [f"{out}{CODES}"]),
    ):
        model.graph.node.insert(place, node)
    return True


def _pack_weight(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float16], bool] | None:
    """(codes, scales, whether they are those of the transposed matrix), or None where bits would be lost."""
    if weight.ndim < 2 or weight.size < MIN_SIZE:
        return None
    for turned in (False, True) if weight.ndim == 2 else (False,):
        rows = np.ascontiguousarray(weight.T if turned else weight)
        codes, scale = quantise(rows)
        if np.array_equal(codes * scale.astype(np.float32), rows):
            return codes, scale, turned
    return None


def expand_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turns compressed weights back into float32 initializers, in place, and returns the model.

    Raises:
        ValueError: a table's rows are looked up in eight bits, or codes lie in another file.
    """
    stored = {initializer.name: initializer for initializer in model.graph.initializer}
    names = [name.removesuffix(CODES) for name in stored if name.endswith(CODES)]
    made = set[str]()
    ready = {output for node in model.graph.node for output in node.output}
    if any(name not in ready or stored[f"{name}{CODES}"].external_data for name in names):
        raise ValueError("weights that can't be expanded")
    for name in names:
        weight = numpy_helper.to_array(stored[f"{name}{CODES}"]).astype(np.float32)
        weight = weight * numpy_helper.to_array(stored[f"{name}{SCALE}"])
        turned = any(node.op_type == "Transpose" and list(node.output) == [name] for node in model.graph.node)
        stored[name] = numpy_helper.from_array(np.ascontiguousarray(weight.T if turned else weight), name)
        made |= {f"{name}{FLOAT}", f"{name}{FLOAT}.turned", name}
        del stored[f"{name}{CODES}"], stored[f"{name}{SCALE}"]
    nodes = [node for node in model.graph.node if not made.intersection(node.output)]
    kept = list(stored.values())
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes)
    return model
