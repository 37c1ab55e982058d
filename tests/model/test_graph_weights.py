"""Weights inside a graph: eight bits where nothing is lost, and back; new values under the old names."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from aigc_cli.model.graph_weights import MIN_SIZE, compress_weights, expand_weights, fill_weights
from aigc_cli.storage.tensors import quantise

Weights = dict[str, NDArray[np.float32]]


def draw_weights() -> Weights:
    """Weights that came from eight bits by rows or by columns, and others."""
    draw = np.random.default_rng(0)

    def store(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        codes, scale = quantise(rows)
        return np.asarray(codes * scale.astype(np.float32), np.float32)

    rows, columns = (draw.standard_normal((64, 64), np.float32) for _ in range(2))
    return {
        "rows": store(rows),
        "columns": np.ascontiguousarray(store(columns).T),
        "conv": store(draw.standard_normal((64, 4, 3, 3), np.float32)),
        "exact": draw.standard_normal((64, 64), np.float32),
        "bias": draw.standard_normal(64, np.float32),
        "small": store(draw.standard_normal((4, 4), np.float32)),
    }


def make_model(weights: Weights, table: bool = False) -> ModelProto:
    """x (N, 64) through the matrices; with `table`, rows of `rows` by the numbers x (N,)."""
    nodes = [
        helper.make_node("Gather", ["rows", "x"], ["a"]) if table else helper.make_node("MatMul", ["x", "rows"], ["a"])
    ]
    nodes += [
        helper.make_node("MatMul", ["a", "columns"], ["b"]),
        helper.make_node("MatMul", ["b", "exact"], ["c"]),
        helper.make_node("Add", ["c", "bias"], ["d"]),
        helper.make_node("ReduceSum", ["conv"], ["e"], keepdims=0),
        helper.make_node("ReduceSum", ["small"], ["f"], keepdims=0),
        helper.make_node("Sum", ["d", "e", "f"], ["y"]),
    ]
    kind, shape = (TensorProto.INT64, ["n"]) if table else (TensorProto.FLOAT, ["n", 64])
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: ModelProto, table: bool = False) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.array([3, 60, 3]) if table else np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
    return np.asarray(session.run(["y"], {"x": x})[0])


def read_weights(model: ModelProto) -> Weights:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_compressed_weights_are_smaller_give_the_same_bits_and_come_back() -> None:
    weights = draw_weights()
    model = make_model(weights)
    nodes, size, expected = [node.op_type for node in model.graph.node], model.ByteSize(), run(model)
    compress_weights(model)
    kept = read_weights(model)
    assert {name for name in kept if name.endswith(".codes")} == {"rows.codes", "columns.codes", "conv.codes"}
    assert {"exact", "bias", "small"} <= kept.keys()  # they would lose bits, or are small
    assert weights["small"].size < MIN_SIZE
    assert model.ByteSize() < 0.6 * size
    assert np.array_equal(run(model), expected)
    onnx.checker.check_model(model, full_check=True)
    assert expand_weights(model) is model
    found = read_weights(model)
    assert found.keys() == weights.keys()
    assert all(np.array_equal(found[name], weight) for name, weight in weights.items())
    assert [node.op_type for node in model.graph.node] == nodes


def test_a_table_is_looked_up_in_eight_bits_and_does_not_come_back() -> None:
    model = make_model(draw_weights(), table=True)
    expected = run(model, table=True)
    compress_weights(model)
    assert "rows.codes" in read_weights(model)
    assert not any("rows" in node.output for node in model.graph.node)  # the table never becomes float32
    assert np.array_equal(run(model, table=True), expected)
    with pytest.raises(ValueError, match="can't be expanded"):
        expand_weights(model)


def test_codes_in_another_file_are_referred_to_and_not_expanded() -> None:
    def find(codes: NDArray[np.int8]) -> TensorProto | None:
        if codes.ndim != 4:
            return None
        tensor = TensorProto(data_type=TensorProto.INT8, dims=codes.shape, data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="weights.safetensors")
        return tensor

    model = make_model(draw_weights())
    compress_weights(model, find)
    assert [t.name for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL] == ["conv.codes"]
    with pytest.raises(ValueError, match="can't be expanded"):
        expand_weights(model)


def test_new_values_take_the_place_of_the_old() -> None:
    model, weights = make_model(draw_weights()), draw_weights()
    new = {name: weight + 1 for name, weight in weights.items()}
    fill_weights(model, new | {"counter": np.array(3)})  # whole numbers may be left out
    found = read_weights(model)
    assert all(np.array_equal(found[name], weight) for name, weight in new.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights | {"bias": weights["bias"][:, None]}, "bias has another shape or type"),
        (lambda weights: weights | {"bias": weights["bias"].astype(np.float64)}, "bias has another shape or type"),
        (lambda weights: weights | {"folded": weights["bias"]}, "folded is missing"),
    ],
)
def test_values_that_do_not_fit_are_refused(change: Callable[[Weights], Weights], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fill_weights(make_model(draw_weights()), change(draw_weights()))


def test_a_single_number_keeps_its_shape() -> None:
    model = make_model(draw_weights() | {"factor": np.array(2, np.float32)})
    fill_weights(model, {"factor": np.array(5, np.float32)})
    assert read_weights(model)["factor"].shape == ()
