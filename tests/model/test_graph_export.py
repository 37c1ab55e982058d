"""Graphs of a model: checked against PyTorch, the same from a template as from the exporter, or a clear message."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from listening import Listener
from onnx import numpy_helper
from tiny import trace_exports

from aigc_cli.errors import EnvironmentProblem
from aigc_cli.model import export as module
from aigc_cli.model.backbone import Backbone
from aigc_cli.model.export import compress_graph, keep_graphs, make_graphs, shares_text
from aigc_cli.model.loading import load_backbone
from aigc_cli.model.model import Model
from aigc_cli.model.trained import load_model
from aigc_cli.progress import SilentProgress
from aigc_cli.recipe import Recipe
from aigc_cli.runtime.graphs import GRAPH_FILES, IMAGE_GRAPH, SCORE_NAMES, TEXT_GRAPH, check_graph, start_session
from aigc_cli.runtime.hints import TOKENIZER
from aigc_cli.storage.checkpoints import SHIPPED_SCORERS
from aigc_cli.training.loop import make_model

PROMPTS = ["a red fox in deep snow", "two dogs", "x"]


@pytest.fixture(autouse=True)
def _traced(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fast tests don't use dynamo."""
    with contextlib.nullcontext() if request.node.get_closest_marker("slow") else trace_exports():
        yield


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Takes the cache folder of a name; each begins empty."""

    def use(name: str) -> None:
        monkeypatch.setenv("AIGC_CACHE", str(tmp_path / name))

    use("first")
    return use


@pytest.fixture
def model(tiny: Backbone) -> Model:
    """An untrained model: many of its weights are equal, all ones or zeros."""
    made = make_model(tiny, Recipe(freeze="none"))
    made.eval()
    return made


def shake(model: Model, size: float, seed: int = 0) -> None:
    """Changes every weight a little."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (*model.backbone.modules().parameters(), *model.heads.parameters()):
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def count_exports(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    export, exports = torch.onnx.export, list[Any]()
    monkeypatch.setattr(torch.onnx, "export", lambda *given, **named: (exports.append(1), export(*given, **named))[1])
    return exports


def expect_pytorch(model: Model, graphs: dict[str, bytes]) -> None:
    """Checks the outputs of both graphs on three images and prompts."""
    backbone, draw = model.backbone, torch.Generator().manual_seed(3)
    pixels = torch.randint(256, (3, *backbone.preprocessing.size, 3), dtype=torch.uint8, generator=draw)
    with torch.inference_mode():
        text = backbone.encode_text(PROMPTS)
        image = backbone.encode_image(backbone.normalise(pixels))
        wanted = {**model.heads(image, text)._asdict(), "features": model.heads.read_features(image)}
    session = start_session(graphs[IMAGE_GRAPH])
    found = session.run(list(wanted), {"pixels": pixels.numpy(), "text": text.numpy()})
    for name, array in zip(wanted, found, strict=True):
        scale = 1 if name in SCORE_NAMES else float(wanted[name].abs().max())
        np.testing.assert_allclose(array, wanted[name].numpy(), rtol=0, atol=2e-5 * scale, err_msg=name)
    if TEXT_GRAPH in graphs:
        (array,) = start_session(graphs[TEXT_GRAPH]).run(None, {"tokens": backbone.tokenize(PROMPTS).numpy()})
        np.testing.assert_allclose(array, text.numpy(), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("cache")
def test_a_model_becomes_two_graphs_and_a_tokenizer(model: Model, tmp_path: Path) -> None:
    shake(model, 0.1)
    model.backbone.autocast = torch.bfloat16  # as after a training; scores are computed in float32
    graphs = make_graphs(model)
    assert model.backbone.autocast is torch.bfloat16
    model.backbone.autocast = None
    assert graphs.keys() == set(GRAPH_FILES)
    expect_pytorch(model, graphs)
    for name in (IMAGE_GRAPH, TEXT_GRAPH):
        (tmp_path / name).write_bytes(graphs[name])
        check_graph(tmp_path / name)  # as it will be when somebody scores with it
        assert str(Path.cwd()).encode() not in graphs[name]


@pytest.fixture(scope="module")
def scorer() -> Model:
    """The shipped scorer, shaken: its graph in the package is a template with other weights."""
    made = load_model(Path("fast"), "cpu").model
    shake(made, 1e-3)
    made.heads.numbers.add_(0.01)
    return made


def test_minis_template_is_the_shipped_scorer(scorer: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training of the default recipe needs no exporter, and its text tower is the shipped one."""
    exports = count_exports(monkeypatch)
    assert shares_text(scorer)
    graphs = keep_graphs(scorer, SilentProgress())
    assert exports == []
    assert graphs.keys() == {IMAGE_GRAPH}
    expect_pytorch(scorer, graphs)


def test_the_shipped_graph_is_that_of_the_shipped_model() -> None:
    """To the bit, though its weights and those of a compressed graph lie in eight bits."""
    (graph,) = make_graphs(load_model(Path("fast"), "cpu").model, with_text=False).values()
    small, shipped = compress_graph(graph), (SHIPPED_SCORERS["fast"] / IMAGE_GRAPH).read_bytes()
    assert max(len(small), len(shipped)) < 0.5 * len(graph)
    inputs = {"pixels": np.full((1, 256, 256, 3), 99, np.uint8), "text": np.full((1, 384), 0.05, np.float32)}
    expected, *others = (start_session(data).run(None, inputs) for data in (graph, small, shipped))
    for outputs in others:
        assert all(np.array_equal(one, other) for one, other in zip(outputs, expected, strict=True))


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("damage", ["cut", "nodes differ"])
def test_a_template_that_does_not_fit_is_passed_over(
    damage: str, scorer: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = onnx.load_model(SHIPPED_SCORERS["fast"] / IMAGE_GRAPH)
    if damage == "nodes differ":
        next(node for node in graph.graph.node if node.op_type == "Sigmoid").op_type = "Tanh"
    data = graph.SerializeToString()
    (tmp_path / IMAGE_GRAPH).write_bytes(data[: len(data) // 2] if damage == "cut" else data)
    monkeypatch.setattr(module, "SHIPPED_SCORERS", {"fast": tmp_path})
    exports = count_exports(monkeypatch)
    expect_pytorch(scorer, make_graphs(scorer, with_text=False))
    assert len(exports) > 0


@pytest.mark.usefixtures("cache")
def test_another_structure_is_another_template(model: Model, tiny_folder: Path) -> None:
    plain = make_graphs(model, with_text=False)
    traditional = make_model(load_backbone(f"local-dir:{tiny_folder}"), Recipe(freeze="none", residual=False))
    traditional.eval()
    shake(traditional, 0.1)
    found = make_graphs(traditional, with_text=False)
    expect_pytorch(traditional, found)
    assert found != plain


# --- what can't be exported


def test_a_large_model_keeps_no_graphs_and_says_how_to_add_them(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT_BYTES", 1000)
    listener = Listener()
    assert keep_graphs(model, listener) == {}
    (line,) = listener.said
    assert "`aigc export` adds them" in line


@pytest.mark.usefixtures("cache")
def test_an_exporter_that_fails_is_one_message(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such operator\nmore lines")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(EnvironmentProblem, match="can't be exported to a graph: no such operator") as caught:
        make_graphs(model)
    assert caught.value.exit_code == 4
    listener = Listener()
    assert keep_graphs(model, listener) == {}
    (line,) = listener.said
    assert "no such operator" in line
    assert "more lines" not in line
    assert line.endswith("PyTorch will score with this model.")


def test_graphs_that_differ_from_pytorch_are_not_kept(
    model: Model, tmp_path: Path, cache: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    shake(model, 0.1)

    class Wrong:
        def __init__(self, graph: bytes) -> None:
            self._session = start_session(graph)

        def run(self, *given: Any) -> Any:
            return [output + 3e-5 for output in self._session.run(*given)]

    monkeypatch.setattr(module, "start_session", Wrong)
    with pytest.raises(EnvironmentProblem, match=r"its quality differs from PyTorch's by 3e-05"):
        make_graphs(model)
    assert not (tmp_path / "first" / "engines").exists()


@pytest.mark.usefixtures("cache")
def test_without_a_cache_graphs_are_made_all_the_same(model: Model, tmp_path: Path) -> None:
    (tmp_path / "first").write_text("a file where the folder should be")
    expect_pytorch(model, make_graphs(model, with_text=False))


# --- with the exporter that PyTorch keeps


@pytest.mark.slow
def test_a_template_gives_the_bits_of_a_new_export(
    model: Model, cache: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself dynamo joins equal weights and turns some into others; a template must hold each by its name."""
    make_graphs(model)
    exports = count_exports(monkeypatch)
    shake(model, 1e-7)  # so little that the check against PyTorch does not see it
    small = make_graphs(model)
    shake(model, 0.1)
    model.heads.numbers.add_(0.01)
    large = make_graphs(model)
    assert exports == []
    assert read_weights(small) != read_weights(large)
    assert read_weights(large)["heads.b"] == float(model.heads.b.detach())
    expect_pytorch(model, large)
    cache("second")
    assert make_graphs(model) == large
    assert len(exports) == 2


def read_weights(graphs: dict[str, bytes]) -> dict[str, Any]:
    tensors = onnx.load_model_from_string(graphs[IMAGE_GRAPH]).graph.initializer
    return {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in tensors}


@pytest.mark.slow
@pytest.mark.usefixtures("cache")
def test_a_clip_of_real_size_is_exported(tmp_path: Path) -> None:
    model = make_model(load_backbone("ViT-B-32/random"), Recipe(freeze="all"))
    model.eval()
    shake(model, 1e-3)
    listener = Listener()
    assert keep_graphs(model, listener) == {}
    graphs = make_graphs(model)
    expect_pytorch(model, graphs)
    (tmp_path / TOKENIZER).write_bytes(graphs[TOKENIZER])
    for name in (IMAGE_GRAPH, TEXT_GRAPH):
        (tmp_path / name).write_bytes(graphs[name])
        check_graph(tmp_path / name)
