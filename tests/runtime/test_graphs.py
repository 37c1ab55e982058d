"""The graphs of a model folder: which are found, and what a stranger may not put there."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from forged import forge_model, make_graph
from onnx import AttributeProto, ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper

from aigc_cli import Scorer
from aigc_cli.errors import AigcError, EnvironmentProblem
from aigc_cli.runtime.graphs import (
    GRAPH_FILES,
    IMAGE_GRAPH,
    MAX_GRAPH_BYTES,
    TEXT_GRAPH,
    check_graph,
    find_graphs,
    open_graph,
)
from aigc_cli.runtime.hints import MINI, TOKENIZER
from aigc_cli.runtime.saved import read_model
from aigc_cli.storage.checkpoints import DESCRIPTION, SHIPPED_SCORERS

LEVELS = 8


def describe(folder: Path, graphs: Any) -> None:
    """Writes another `graphs` into a model's description."""
    described = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps(described | {"graphs": graphs}))


# --- which are found


def test_the_graphs_of_a_model_are_its_own(tiny_model: Path) -> None:
    found = find_graphs(read_model(tiny_model))
    folder = tiny_model / "checkpoint"
    assert found is not None
    assert (found.image, found.text, found.tokenizer) == (folder / IMAGE_GRAPH, folder / TEXT_GRAPH, folder / TOKENIZER)
    assert not found.trusted


def test_the_shipped_scorer_shares_the_text_graph_of_its_backbone(tmp_path: Path) -> None:
    found = find_graphs(read_model(None))
    assert found is not None
    assert (found.image, found.text, found.trusted) == (
        SHIPPED_SCORERS["accurate"] / IMAGE_GRAPH,
        MINI / TEXT_GRAPH,
        True,
    )
    for name in SHIPPED_SCORERS["accurate"].iterdir():
        (tmp_path / name.name).write_bytes(name.read_bytes())
    copied = find_graphs(read_model(tmp_path))
    assert copied is not None
    assert (copied.image, copied.text, copied.trusted) == (tmp_path / IMAGE_GRAPH, MINI / TEXT_GRAPH, False)


def test_a_model_without_graphs_or_with_some_of_them_has_none(tiny_model: Path, tmp_path: Path) -> None:
    folder = forge_model(tiny_model, tmp_path, {})
    sums = json.loads((folder / DESCRIPTION).read_text())["graphs"]
    for graphs in ({}, None, {TEXT_GRAPH: sums[TEXT_GRAPH]}, {IMAGE_GRAPH: sums[IMAGE_GRAPH]}):
        describe(folder, graphs)
        assert find_graphs(read_model(folder)) is None
    describe(folder, sums)
    (folder / TOKENIZER).unlink()
    assert find_graphs(read_model(folder)) is None


@pytest.mark.parametrize(
    "graphs",
    [
        [],
        "image.onnx",
        ["image.onnx"],
        {"../image.onnx": "0"},
        {"/etc/passwd": "0"},
        {"image.onnx": "0", "model.json": "0"},
        {"image.onnx": None},
        {"image.onnx": "0" * 64},
    ],
    ids=str,
)
def test_other_names_and_other_digests_are_refused(graphs: Any, tiny_model: Path, tmp_path: Path) -> None:
    folder = forge_model(tiny_model, tmp_path, {})
    describe(folder, graphs)
    if not graphs:
        assert find_graphs(read_model(folder)) is None
        return
    with pytest.raises(AigcError, match=r"Expected (digests of image\.onnx|.* as model\.json describes it)") as caught:
        find_graphs(read_model(folder))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", GRAPH_FILES)
def test_any_changed_file_is_refused(name: str, tiny_model: Path, tmp_path: Path) -> None:
    folder = forge_model(tiny_model, tmp_path, {})
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(AigcError, match=rf"{name} as model\.json describes it, found another file"):
        find_graphs(read_model(folder))


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_refused(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    folder = forge_model(tiny_model, tmp_path, {})
    (folder / IMAGE_GRAPH).unlink()
    (folder / IMAGE_GRAPH).mkdir() if kind == "folder" else os.mkfifo(folder / IMAGE_GRAPH)
    with pytest.raises(AigcError) as caught:
        Scorer.load(folder, "cpu")
    assert caught.value.exit_code == 2


# --- what may not be in one


def _weight(dims: list[int], **external: str) -> TensorProto:
    """A tensor of float32 without values, or with values in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims)
    if external:
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in external.items():
            tensor.external_data.add(key=key, value=value)
    return tensor


def _add_attribute(kind: str) -> ModelProto:
    """A constant that holds no plain tensor."""
    node = helper.make_node("Constant", [], ["x"])
    attribute = node.attribute.add(name="value", type=getattr(AttributeProto, kind))
    if kind == "GRAPH":
        attribute.g.CopyFrom(make_graph(LEVELS).graph)
    else:
        place = _weight([1], location="/etc/passwd")
        index = numpy_helper.from_array(np.zeros(1, np.int64))
        attribute.sparse_tensor.CopyFrom(SparseTensorProto(values=place, indices=index, dims=[1]))
    return make_graph(LEVELS, [node])


def _use(weight: TensorProto) -> ModelProto:
    return make_graph(LEVELS, [helper.make_node("Identity", ["w"], ["x"])], [weight])


def _operate(kind: str, domain: str = "", **attributes: Any) -> ModelProto:
    graph = make_graph(LEVELS, [helper.make_node(kind, ["text"], ["x"], domain=domain, **attributes)])
    if domain:
        graph.opset_import.append(helper.make_opsetid(domain, 1))
    return graph


def _enlarge(kind: str, size: int, *more: TensorProto) -> ModelProto:
    """A node whose second or only input is a shape of `size` elements."""
    inputs = ["zero", "w"] if kind == "Expand" else ["w"]
    return make_graph(LEVELS, [helper.make_node(kind, inputs, ["x"])], [numpy_helper.from_array(np.array([size]), "w")])


def _add_function() -> ModelProto:
    graph = _operate("Twice", "own")
    node = helper.make_node("Add", ["a", "a"], ["b"])
    graph.functions.append(helper.make_function("own", "Twice", ["a"], ["b"], [node], graph.opset_import[:1]))
    return graph


def _change(**fields: Any) -> ModelProto:
    graph = make_graph(LEVELS)
    for name, value in fields.items():
        getattr(graph.graph, name).extend(value)
    return graph


HOSTILE: dict[str, tuple[Callable[[], ModelProto], str]] = {
    "data in /etc": (lambda: _use(_weight([4], location="/etc/passwd")), "data in another file"),
    "data above": (lambda: _use(_weight([4], location="../run.json", offset="0")), "data in another file"),
    "data beside": (lambda: _use(_weight([4], location="weights.safetensors", length="16")), "data in another file"),
    "a sparse constant": (lambda: _add_attribute("SPARSE_TENSOR"), "the operator Constant"),
    "a graph in a constant": (lambda: _add_attribute("GRAPH"), "the operator Constant"),
    "a sparse weight": (
        lambda: _change(sparse_initializer=[SparseTensorProto(values=_weight([1]), dims=[1 << 40])]),
        "sparse tensors",
    ),
    "another domain": (lambda: _operate("Run\x1b[31m", "evil"), r"operator Run\\x1b\[31m of the domain evil"),
    "an operator of ONNX Runtime": (lambda: _operate("FusedMatMul", "com.microsoft"), "of the domain com.microsoft"),
    "a function": (_add_function, "functions of its own"),
    "a loop": (lambda: _operate("Loop"), "the operator Loop"),
    "a branch": (lambda: _operate("If"), "the operator If"),
    "a scan": (lambda: _operate("Scan"), "the operator Scan"),
    "regular expressions": (lambda: _operate("RegexFullMatch", pattern="(a*)*"), "the operator RegexFullMatch"),
    "no values": (lambda: _use(_weight([1000, 1000])), r"shape \[1000, 1000\] without its values"),
    "a negative size": (lambda: _use(_weight([-1])), r"shape \[-1\]"),
    "an absurd size": (lambda: _use(_weight([1 << 20, 1 << 20])), r"shape \[1048576, 1048576\]"),
    "an absurd product": (lambda: _use(_weight([1 << 32, 1 << 32])), r"shape \[4294967296, 4294967296\]"),
    "a huge constant": (lambda: _enlarge("ConstantOfShape", 1 << 40), r"shape \[1099511627776\]"),
    "a huge expansion": (lambda: _enlarge("Expand", 1 << 34), r"shape \[17179869184\]"),
    "no inputs": (lambda: make_graph(LEVELS, [helper.make_node("Shape", [], ["x"])]), "no valid graph"),
    "a cycle": (lambda: make_graph(LEVELS, [helper.make_node("Identity", ["x"], ["x"])]), "no valid graph"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_graph_is_refused(what: str, tmp_path: Path) -> None:
    make, message = HOSTILE[what]
    (tmp_path / IMAGE_GRAPH).write_bytes(make().SerializeToString())
    with pytest.raises(AigcError, match=message) as caught:
        open_graph(tmp_path / IMAGE_GRAPH, trusted=False)
    assert caught.value.exit_code == 2
    assert caught.value.message.isprintable()


def test_the_graph_that_the_hostile_ones_are_made_of_is_accepted(tmp_path: Path) -> None:
    (tmp_path / IMAGE_GRAPH).write_bytes(make_graph(LEVELS).SerializeToString())
    names = [value.name for value in open_graph(tmp_path / IMAGE_GRAPH, trusted=False).get_inputs()]
    assert names == ["pixels", "text"]


@pytest.mark.parametrize("data", [b"", b"no graph", b"\x08\x0a" + bytes(100), b"\xff" * 1000], ids=repr)
def test_bytes_that_are_no_graph_are_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / IMAGE_GRAPH).write_bytes(data)
    with pytest.raises(AigcError, match="Expected a graph"):
        open_graph(tmp_path / IMAGE_GRAPH, trusted=False)


def test_a_graph_that_was_cut_off_is_refused_wherever_it_ends(tiny_model: Path, tmp_path: Path) -> None:
    data = (tiny_model / "checkpoint" / IMAGE_GRAPH).read_bytes()
    for share in (0.01, 0.3, 0.6, 0.99):
        (tmp_path / IMAGE_GRAPH).write_bytes(data[: int(share * len(data))])
        with pytest.raises(AigcError, match="Expected a graph"):
            open_graph(tmp_path / IMAGE_GRAPH, trusted=False)


def test_a_file_of_two_gigabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / IMAGE_GRAPH).open("wb") as stream:
        stream.truncate(MAX_GRAPH_BYTES)
    with pytest.raises(AigcError, match="found a file of 2 GiB or more"):
        check_graph(tmp_path / IMAGE_GRAPH)


@pytest.mark.parametrize(
    ("package", "hint"), [("onnx", "pip install onnx"), ("onnxruntime", "pip install onnxruntime")]
)
def test_a_missing_package_is_named(package: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / IMAGE_GRAPH).write_bytes(make_graph(LEVELS).SerializeToString())
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EnvironmentProblem) as caught:
        open_graph(tmp_path / IMAGE_GRAPH, trusted=False)
    assert caught.value.hint == f"pip install {package}"


# --- what is loaded, but does not fit the model


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rename": ("pixels", "picture")},
        {"rename": ("quality", "goodness")},
        {"rename": ("levels", "depths")},
        {"levels": 7},
        {"count": 2},
        {"value": float("nan")},
    ],
    ids=str,
)
def test_a_graph_that_does_not_fit_the_model_is_refused(
    changes: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    graph = make_graph(**{"levels": read_model(tiny_model).heads.level_dim} | changes).SerializeToString()
    folder = forge_model(tiny_model, tmp_path, {IMAGE_GRAPH: graph})
    if not changes:
        assert Scorer.load(folder, "cpu").network.engine == "onnx"
        return
    with pytest.raises(AigcError, match="Expected graphs that") as caught:
        Scorer.load(folder, "cpu")
    assert caught.value.exit_code == 2


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux limits the memory of a process")
def test_sizes_that_are_known_only_when_it_runs_do_not_take_all_memory(tiny_model: Path, tmp_path: Path) -> None:
    levels = read_model(tiny_model).heads.level_dim
    nodes = [
        helper.make_node("ReduceSum", ["text"], ["total"]),
        helper.make_node("Cast", ["total"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["whole", "count"], ["one"]),
        helper.make_node("Mul", ["one", "none"], ["zeros"]),
        helper.make_node("Add", ["zeros", "large"], ["shape"]),
        helper.make_node("Expand", ["zero", "shape"], ["x"]),
    ]
    held = {"none": np.array([0]), "large": np.array([1 << 32])}
    graph = make_graph(levels, nodes, [numpy_helper.from_array(array, name) for name, array in held.items()])
    with pytest.raises(AigcError, match="found one that fails") as caught:
        Scorer.load(forge_model(tiny_model, tmp_path, {IMAGE_GRAPH: graph.SerializeToString()}), "cpu")
    assert caught.value.exit_code == 2


@pytest.mark.slow
def test_no_mutant_of_a_graph_ends_the_process(tiny_model: Path, tmp_path: Path) -> None:
    """Each runs in a fork, since a fault in C++ ends the process."""
    draw = np.random.default_rng(0)
    honest = onnx.load_model(tiny_model / "checkpoint" / IMAGE_GRAPH)
    endings = set[int]()
    for _ in range(100):
        mutant = ModelProto()
        mutant.CopyFrom(honest)
        for _ in range(draw.integers(1, 4)):
            _mutate(mutant, draw)
        (tmp_path / IMAGE_GRAPH).write_bytes(mutant.SerializeToString())
        if not (pid := os.fork()):
            code = 1
            try:
                open_graph(tmp_path / IMAGE_GRAPH, trusted=False).run(None, _make_inputs())
                code = 0
            except AigcError:
                code = 2
            except Exception:  # of ONNX Runtime, when it runs
                code = 3
            finally:
                os._exit(code)
        endings.add(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    assert {0, 2} <= endings <= {0, 2, 3}


def _make_inputs() -> dict[str, Any]:
    return {"pixels": np.zeros((1, 32, 32, 3), np.uint8), "text": np.zeros((1, 32), np.float32)}


def _mutate(graph: ModelProto, draw: np.random.Generator) -> None:
    node = graph.graph.node[draw.integers(len(graph.graph.node))]
    tensor = graph.graph.initializer[draw.integers(len(graph.graph.initializer))]
    kind = draw.integers(5)
    if kind == 0 and node.input:
        del node.input[draw.integers(len(node.input))]
    elif kind == 1:
        node.op_type = graph.graph.node[draw.integers(len(graph.graph.node))].op_type
    elif kind == 2 and node.attribute:
        node.attribute[0].i = int(draw.choice([-1, 0, 2**31, -(2**63)]))
    elif kind == 3 and tensor.dims:
        tensor.dims[0] = int(draw.choice([-1, 0, 1, 2**31, 2**62]))
    elif node.input:
        node.input[0] = graph.graph.node[draw.integers(len(graph.graph.node))].output[0]
