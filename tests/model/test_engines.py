"""Engines: the same features as a plain batch, exported from the present weights, or a clear error."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from listening import Listener

from aigc_cli.errors import EnvironmentProblem
from aigc_cli.model import engines
from aigc_cli.model.backbone import Backbone, ImageFeatures
from aigc_cli.model.engines import Engine, choose_engine, compile_engine, make_eager_engine
from aigc_cli.model.export import export_module
from aigc_cli.runtime.saved import UNFROZEN

ALL = 5  # boundary of the tiny tower's four blocks


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("AIGC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _pixels(backbone: Backbone, n: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    size = (*backbone.preprocessing.size, 3)
    return [torch.randint(256, size, dtype=torch.uint8, generator=generator) for _ in range(n)]


def _features(engine: Engine, pixels: list[torch.Tensor]) -> ImageFeatures:
    return ImageFeatures(**engine.collect([engine.run_one(image) for image in pixels]))


def _gap(one: ImageFeatures, other: ImageFeatures) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one[:2], other[:2], strict=True))


@pytest.mark.parametrize("make", [choose_engine, compile_engine, make_eager_engine])
def test_every_engine_has_the_features_of_a_plain_batch(make: Callable[..., Engine], tiny: Backbone) -> None:
    pixels = _pixels(tiny)
    with torch.inference_mode():
        expected = tiny.encode_image(tiny.normalise(torch.stack(pixels)))
    found = _features(make(tiny, ALL), pixels)
    assert found.embedding.shape == (3, tiny.embed_dim)
    assert found.levels.shape == (3, tiny.count_levels())
    assert _gap(found, expected) < 1e-4


def test_an_exported_engine_has_the_present_weights(cache: Path, tiny: Backbone) -> None:
    """A fine-tuned tower differs from the named backbone."""
    pixels = _pixels(tiny)
    before = _features(compile_engine(tiny, ALL), pixels)
    with torch.no_grad():
        tiny.image.module.proj.add_(0.1 * torch.randn(tiny.image.module.proj.shape))
    after = _features(compile_engine(tiny, ALL), pixels)
    assert _gap(before, after) > 0.01
    assert _gap(after, _features(make_eager_engine(tiny, ALL), pixels)) < 1e-4
    assert len(list((cache / "engines").iterdir())) == 2


def test_a_graph_is_exported_once_and_again_when_it_is_damaged(
    cache: Path, tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    export, exports = torch.onnx.export, []
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **options: (exports.append(1), export(*args, **options))[1])
    compile_engine(tiny, ALL)
    compile_engine(tiny, ALL)
    assert len(exports) == 1
    (kept,) = (cache / "engines").iterdir()
    kept.write_bytes(kept.read_bytes()[:1000])
    compile_engine(tiny, ALL)
    assert len(exports) == 2


@pytest.mark.parametrize("how", ["another content", "another user", "a link"])
def test_a_planted_graph_is_not_run(
    how: str, cache: Path, tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a shared cache anybody can plant one; it would run with this process's rights."""
    compile_engine(tiny, ALL)
    (kept,) = (cache / "engines").iterdir()
    if how == "another content":  # a valid graph: one byte of its weights differs
        data = bytearray(kept.read_bytes())
        data[len(data) // 2] ^= 1
        kept.write_bytes(data)
    elif how == "a link":
        kept.rename(tmp_path / "planted.onnx")
        kept.symlink_to(tmp_path / "planted.onnx")
    elif os.getuid() == 0:
        os.chown(kept, 54321, 54321)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 54321)
    loaded: list[Any] = []
    start = engines.start_session
    monkeypatch.setattr(engines, "start_session", lambda graph: (loaded.append(graph), start(graph))[1])
    planted = kept.read_bytes()
    compile_engine(tiny, ALL)
    assert len(loaded) == 1  # the new one, which the program exported itself
    assert how != "another content" or loaded[0] != planted


def test_a_cache_that_cannot_be_written_is_ignored(cache: Path, tiny: Backbone) -> None:
    cache.write_text("a file where the folder should be")
    pixels = _pixels(tiny)
    assert _gap(_features(compile_engine(tiny, ALL), pixels), _features(make_eager_engine(tiny, ALL), pixels)) < 1e-4


def test_auto_is_onnx_runtime_on_a_cpu(cache: Path, tiny: Backbone) -> None:
    assert choose_engine(tiny, ALL).name == "onnx"


@pytest.mark.parametrize("boundary", [0, 3, 4, ALL])
def test_a_part_of_the_tower_gives_the_same_as_eager_mode(boundary: int, tiny: Backbone) -> None:
    pixels = _pixels(tiny)
    engine, eager = compile_engine(tiny, boundary), make_eager_engine(tiny, boundary)
    found, expected = (e.collect([e.run_one(image) for image in pixels]) for e in (engine, eager))
    assert engine.name == "onnx"
    assert set(found) == set(expected) == ({"embedding", "levels"} if boundary == ALL else {"hidden", "levels"})
    for part, wanted in expected.items():
        torch.testing.assert_close(found[part], wanted, atol=1e-4, rtol=1e-4)
        assert wanted.numel() == 0 or not torch.equal(wanted[0], wanted[1])


def test_parts_after_the_boundary_may_be_trained(cache: Path, tiny: Backbone) -> None:
    first = compile_engine(tiny, 3).run_one(_pixels(tiny)[0])
    with torch.no_grad():
        for parameter in tiny.image.blocks[3].parameters():
            parameter.add_(1)
    second = compile_engine(tiny, 3).run_one(_pixels(tiny)[0])
    assert len(list((cache / "engines").iterdir())) == 1
    assert torch.equal(first["hidden"], second["hidden"])
    with torch.no_grad():
        for parameter in tiny.image.blocks[2].parameters():
            parameter.add_(1)
    third = compile_engine(tiny, 3).run_one(_pixels(tiny)[0])
    assert len(list((cache / "engines").iterdir())) == 2
    assert not torch.allclose(first["hidden"], third["hidden"], atol=0.01)


def test_pixels_need_no_engine(cache: Path, tiny: Backbone) -> None:
    engine, pixels = choose_engine(tiny, UNFROZEN), _pixels(tiny)
    assert engine.name == "eager"
    found = engine.collect([engine.run_one(image) for image in pixels])
    assert torch.equal(found["pixels"], tiny.normalise(torch.stack(pixels)))
    assert not (cache / "engines").exists()


@pytest.mark.usefixtures("cache")
class TestAnEngineThatFails:
    @pytest.fixture(autouse=True)
    def _no_exporter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(*_: Any, **__: Any) -> None:
            raise RuntimeError("no such operator\nmore lines")

        monkeypatch.setattr(torch.onnx, "export", fails)

    def test_is_an_error_when_it_was_named(self, tiny: Backbone) -> None:
        with pytest.raises(EnvironmentProblem, match="can't run with engine onnx: no such operator") as raised:
            compile_engine(tiny, ALL)
        assert raised.value.exit_code == 4
        assert "more lines" not in raised.value.message
        assert "eager mode" in raised.value.hint

    def test_is_replaced_by_eager_with_one_message(self, tiny: Backbone) -> None:
        listener = Listener()
        assert choose_engine(tiny, ALL, listener).name == "eager"
        (line,) = listener.said
        assert "no such operator" in line
        assert "eager mode takes its place" in line


def test_a_missing_package_is_named(cache: Path, tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EnvironmentProblem, match=r"can't run with engine onnx: .*onnxruntime") as raised:
        compile_engine(tiny, ALL)
    assert raised.value.hint == "PyTorch's eager mode can."


def test_features_that_differ_are_not_used(cache: Path, tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second exporter is replaced by the first one, which is faster."""
    session = onnxruntime.InferenceSession

    class WrongSession(session):  # type: ignore[misc, valid-type]
        def run(self, *args: Any) -> Any:
            return [output + 0.01 for output in super().run(*args)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", WrongSession)
    monkeypatch.setattr(engines, "export_module", lambda *args: export_module(*args[:3], dynamo=False))
    with pytest.raises(EnvironmentProblem, match=r"features differ by 0\.01"):
        compile_engine(tiny, ALL)
    assert not (cache / "engines").exists()


def test_other_devices_are_eager(tiny: Backbone) -> None:
    tiny.modules().to("meta")
    assert choose_engine(tiny, ALL).name == "eager"


@pytest.mark.slow
def test_a_network_that_cannot_be_traced_is_exported_otherwise(
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
    assert _gap(_features(compile_engine(tiny, ALL), pixels), _features(make_eager_engine(tiny, ALL), pixels)) < 1e-4
    assert tried == [False, True]


@pytest.mark.slow
def test_onnx_runtime_sends_no_usage_data(tiny_folder: Path, tmp_path: Path) -> None:
    """By default it sends some, and stores what it could not send in the folder for temporary files."""
    script = (
        "import sys; from aigc_cli.model.loading import load_backbone; "
        "from aigc_cli.model.engines import compile_engine; "
        "assert compile_engine(load_backbone(sys.argv[1]), 5).name == 'onnx'"
    )
    hidden = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    home = tmp_path / "home"
    home.mkdir()
    environment = hidden | {"TMPDIR": str(tmp_path), "HOME": str(home), "AIGC_CACHE": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", script, f"local-dir:{tiny_folder}"], env=environment, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "home"]
    assert not list(home.rglob("*onnx*"))
