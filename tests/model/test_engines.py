"""Engines: the same features whatever runs the image tower, from the weights at hand, or a clear answer."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from aigc_cli.errors import AigcError, EnvironmentProblem
from aigc_cli.model import engines
from aigc_cli.model.backbone import Backbone, ImageFeatures
from aigc_cli.model.engines import ENGINES, chosen, compiled
from aigc_cli.model.towers import UNFROZEN
from aigc_cli.progress import Silent

ALL = 5  # boundary of the tiny tower's four blocks


class Listener(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("AIGC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _pixels(backbone: Backbone, n: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    size = (*backbone.preprocessing.size, 3)
    return [torch.randint(256, size, dtype=torch.uint8, generator=generator) for _ in range(n)]


def _features(engine: engines.Engine, pixels: list[torch.Tensor]) -> ImageFeatures:
    return ImageFeatures(**engine.together([engine.each(image) for image in pixels]))


def _gap(one: ImageFeatures, other: ImageFeatures) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_has_the_features_of_a_plain_batch(name: str, tiny: Backbone) -> None:
    if name == "openvino":
        pytest.importorskip("openvino")
    pixels = _pixels(tiny)
    with torch.inference_mode():
        expected = tiny.encode_image(tiny.preprocessing.scaled(torch.stack(pixels)))
    found = _features(chosen(tiny, name), pixels)
    assert found.embedding.shape == (3, tiny.embed_dim)
    assert found.levels.shape == (3, tiny.level_dim())
    assert _gap(found, expected) < 1e-4


def test_an_exported_engine_has_the_weights_at_hand(cache: Path, tiny: Backbone) -> None:
    """A fine-tuned tower is not the one that its name stands for."""
    pixels = _pixels(tiny)
    before = _features(compiled(tiny, "onnx", ALL), pixels)
    with torch.no_grad():
        tiny.image.module.proj.add_(0.1 * torch.randn(tiny.image.module.proj.shape))
    after = _features(compiled(tiny, "onnx", ALL), pixels)
    assert _gap(before, after) > 0.01
    assert _gap(after, _features(chosen(tiny, "eager"), pixels)) < 1e-4
    assert len(list((cache / "engines").iterdir())) == 2


def test_a_graph_is_exported_once_and_again_when_it_is_damaged(
    cache: Path, tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports = []
    export = engines._export
    monkeypatch.setattr(
        engines, "_export", lambda *given, dynamo: (exports.append(dynamo), export(*given, dynamo=dynamo))[1]
    )
    compiled(tiny, "onnx", ALL)
    compiled(tiny, "onnx", ALL)
    assert len(exports) == 1
    (kept,) = (cache / "engines").iterdir()
    kept.write_bytes(kept.read_bytes()[:1000])
    compiled(tiny, "onnx", ALL)
    assert len(exports) == 2


def test_a_cache_that_cannot_be_written_is_no_obstacle(cache: Path, tiny: Backbone) -> None:
    cache.write_text("a file where the folder should be")
    pixels = _pixels(tiny)
    assert _gap(_features(compiled(tiny, "onnx", ALL), pixels), _features(chosen(tiny, "eager"), pixels)) < 1e-4


def test_auto_is_onnx_runtime_on_a_cpu(cache: Path, tiny: Backbone) -> None:
    assert chosen(tiny).name == "onnx"


@pytest.mark.parametrize("name", ["onnx", "openvino"])
@pytest.mark.parametrize("boundary", [0, 3, 4, ALL])
def test_a_part_of_the_tower_is_that_of_eager_mode(name: str, boundary: int, tiny: Backbone) -> None:
    if name == "openvino":
        pytest.importorskip("openvino")
    pixels = _pixels(tiny)
    engine, eager = (chosen(tiny, which, boundary=boundary) for which in (name, "eager"))
    found, expected = (e.together([e.each(image) for image in pixels]) for e in (engine, eager))
    assert engine.name == name
    assert set(found) == set(expected) == ({"embedding", "levels"} if boundary == ALL else {"hidden", "levels"})
    for part, wanted in expected.items():
        torch.testing.assert_close(found[part], wanted, atol=1e-4, rtol=1e-4)
        assert wanted.numel() == 0 or not torch.equal(wanted[0], wanted[1])


def test_what_lies_beyond_the_boundary_may_be_trained(cache: Path, tiny: Backbone) -> None:
    first = compiled(tiny, "onnx", 3).each(_pixels(tiny)[0])
    with torch.no_grad():
        for parameter in tiny.image.blocks[3].parameters():
            parameter.add_(1)
    second = compiled(tiny, "onnx", 3).each(_pixels(tiny)[0])
    assert len(list((cache / "engines").iterdir())) == 1
    assert torch.equal(first["hidden"], second["hidden"])
    with torch.no_grad():
        for parameter in tiny.image.blocks[2].parameters():
            parameter.add_(1)
    third = compiled(tiny, "onnx", 3).each(_pixels(tiny)[0])
    assert len(list((cache / "engines").iterdir())) == 2
    assert not torch.allclose(first["hidden"], third["hidden"], atol=0.01)


def test_pixels_need_no_engine(cache: Path, tiny: Backbone) -> None:
    engine, pixels = chosen(tiny, boundary=UNFROZEN), _pixels(tiny)
    assert engine.name == "eager"
    found = engine.together([engine.each(image) for image in pixels])
    assert torch.equal(found["pixels"], tiny.preprocessing.scaled(torch.stack(pixels)))
    assert not (cache / "engines").exists()


@pytest.mark.usefixtures("cache")
class TestAnEngineThatCannot:
    @pytest.fixture(autouse=True)
    def _no_exporter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(*_: Any, **__: Any) -> None:
            raise RuntimeError("no such operator\nand a page more")

        monkeypatch.setattr(torch.onnx, "export", fails)

    def test_is_an_error_when_it_was_asked_for(self, tiny: Backbone) -> None:
        with pytest.raises(EnvironmentProblem, match="can't run with engine onnx: no such operator") as raised:
            chosen(tiny, "onnx")
        assert raised.value.exit_code == 4
        assert "a page more" not in raised.value.message
        assert "--engine eager" in raised.value.hint

    def test_gives_way_to_eager_with_one_line(self, tiny: Backbone) -> None:
        listener = Listener()
        assert chosen(tiny, progress=listener).name == "eager"
        (line,) = listener.said
        assert "no such operator" in line
        assert "eager mode takes its place" in line


def test_a_missing_package_is_named(cache: Path, tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(engines, "_export", lambda *_, dynamo: b"")
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(EnvironmentProblem, match="No module named 'openvino'") as raised:
        compiled(tiny, "openvino", ALL)
    assert "aigc[openvino]" in raised.value.hint


def test_features_that_differ_are_not_used(cache: Path, tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    make = engines._COMPILED["onnx"]

    def wrong(graph: Any) -> Any:
        run = make(graph)
        return lambda pixels: run(pixels) | {"embedding": run(pixels)["embedding"] + 0.01}

    monkeypatch.setitem(engines._COMPILED, "onnx", wrong)
    with pytest.raises(EnvironmentProblem, match=r"features differ by 0\.01"):
        compiled(tiny, "onnx", ALL)


def test_an_unknown_engine_or_another_device_is_refused(tiny: Backbone) -> None:
    with pytest.raises(AigcError, match="an engine out of auto, eager, onnx, openvino, found 'tensorrt'"):
        chosen(tiny, "tensorrt")
    tiny.modules().to("meta")
    with pytest.raises(AigcError, match="--device cpu beside --engine onnx"):
        chosen(tiny, "onnx")
    assert chosen(tiny).name == "eager"


def test_a_network_that_cannot_be_traced_is_analysed(
    cache: Path, tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    export, tried = torch.onnx.export, []

    def only_dynamo(*given: Any, **named: Any) -> Any:
        tried.append(named["dynamo"])
        if not named["dynamo"]:
            raise RuntimeError("no such operator")
        return export(*given, **named)

    monkeypatch.setattr(torch.onnx, "export", only_dynamo)
    pixels = _pixels(tiny)
    assert _gap(_features(compiled(tiny, "onnx", ALL), pixels), _features(chosen(tiny, "eager"), pixels)) < 1e-4
    assert tried == [False, True]


def test_onnx_runtime_tells_nobody_what_it_does(tiny_folder: Path, tmp_path: Path) -> None:
    """Left to itself it reports to its maker, and keeps what it could not send in the folder for temporary files."""
    script = (
        "import sys; from aigc_cli.model.loading import load_backbone; from aigc_cli.model.engines import chosen; "
        "assert chosen(load_backbone(sys.argv[1]), 'onnx').name == 'onnx'"
    )
    hidden = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    home = tmp_path / "home"
    home.mkdir()
    environment = hidden | {"TMPDIR": str(tmp_path), "HOME": str(home), "AIGC_CACHE": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", script, f"local-dir:{tiny_folder}"], env=environment, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "home"]
    assert not list(home.rglob("*onnx*"))
