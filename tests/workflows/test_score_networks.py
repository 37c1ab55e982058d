"""What computes the scores: graphs or PyTorch, by device, engine and model; both give the same table."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from listening import Listener
from PIL import Image
from scored import score as score_table

from aigc_cli import Scorer
from aigc_cli.errors import AigcError, EnvironmentProblem
from aigc_cli.images.sample import Sample
from aigc_cli.runtime.graphs import GRAPH_FILES
from aigc_cli.storage.checkpoints import DESCRIPTION
from aigc_cli.storage.results import read_parquet_rows
from aigc_cli.workflows.score import networks
from aigc_cli.workflows.score.networks import check_engine

SCORES = ("quality", "consistency", "quality_base", "quality_delta", "consistency_base", "consistency_delta")


@pytest.fixture
def bare_model(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model as an earlier version saved it: without graphs."""
    run = shutil.copytree(tiny_model, tmp_path / "bare" / "run")
    for name in GRAPH_FILES:
        (run / "checkpoint" / name).unlink()
    described = json.loads((run / "checkpoint" / DESCRIPTION).read_text())
    del described["graphs"]
    (run / "checkpoint" / DESCRIPTION).write_text(json.dumps(described))
    return run


@pytest.mark.parametrize(
    ("device", "engine", "message"),
    [
        ("tpu", "auto", "a device out of auto, cpu, cuda, mps, found 'tpu'"),
        ("cpu", "tensorrt", "an engine out of auto, onnx, eager, found 'tensorrt'"),
        ("cuda", "onnx", "Expected --device cpu beside --engine onnx"),
        ("mps", "onnx", "Expected --device cpu beside --engine onnx"),
    ],
)
def test_an_unknown_device_or_engine_is_refused(device: str, engine: str, message: str, tiny_model: Path) -> None:
    for call in (lambda: check_engine(device, engine), lambda: Scorer.load(tiny_model, device, engine)):
        with pytest.raises(AigcError, match=message) as caught:
            call()
        assert caught.value.exit_code == 2


def test_others_are_accepted() -> None:
    for device in ("auto", "cpu", "cuda", "mps"):
        for engine in ("auto", "eager"):
            check_engine(device, engine)
    check_engine("auto", "onnx")


@pytest.mark.parametrize(
    ("device", "engine", "accelerator", "expected"),
    [
        ("cpu", "auto", None, "onnx"),
        ("cpu", "auto", "cuda", "onnx"),
        ("auto", "auto", None, "onnx"),
        ("auto", "auto", "mps", "onnx"),
        ("auto", "auto", "cuda", "eager"),
        ("auto", "onnx", "cuda", "onnx"),
        ("cpu", "eager", None, "eager"),
    ],
)
def test_graphs_score_on_a_cpu_and_pytorch_on_a_gpu(
    device: str, engine: str, accelerator: str | None, expected: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "find_accelerator", lambda: accelerator)
    listener = Listener()
    network = Scorer.load(tiny_model, device, engine, listener).network
    assert (network.engine, network.device, listener.said) == (expected, "cpu", [])


def test_a_model_without_graphs_gives_the_same_table_and_says_how_to_add_them(
    tiny_model: Path, bare_model: Path, demo: list[Sample], tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for sample in demo[:6]:
        (folder / sample.name).write_bytes(sample.path.read_bytes())
    tables = []
    for model in (tiny_model, bare_model):
        score_table(folder, tmp_path / "t.parquet", model, prompt="a red fox", overwrite=True)
        tables.append(read_parquet_rows(tmp_path / "t.parquet"))
    for one, other in zip(*tables, strict=True):
        assert {k: v for k, v in one.items() if k not in (*SCORES, "clip_cosine")} == {
            k: v for k, v in other.items() if k not in (*SCORES, "clip_cosine")
        }
        for name in (*SCORES, "clip_cosine"):
            assert one[name] == pytest.approx(other[name], abs=1e-3)
    listener = Listener()
    assert Scorer.load(bare_model, "cpu", progress=listener).network.engine == "eager"
    (line,) = listener.said
    assert f"`aigc export {bare_model / 'checkpoint'}` adds them" in line


def test_graphs_can_be_asked_for(bare_model: Path) -> None:
    with pytest.raises(AigcError, match="Expected a model with graphs for --engine onnx, found none") as caught:
        Scorer.load(bare_model, engine="onnx")
    assert "`aigc export" in caught.value.hint


def test_graphs_that_do_not_fit_are_no_reason_to_take_pytorch(tiny_model: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_model, tmp_path / "run")
    (run / "checkpoint" / "image.onnx").write_bytes(b"another file")
    with pytest.raises(AigcError, match=r"as model\.json describes it, found another file"):
        Scorer.load(run, "cpu")


def test_a_missing_pytorch_is_named(bare_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aigc_cli.model.eager", None)
    with pytest.raises(EnvironmentProblem, match="PyTorch is needed to score with this model") as caught:
        Scorer.load(bare_model, "cpu")
    assert caught.value.exit_code == 4


def test_images_of_every_mode_and_shape_have_the_same_scores(tmp_path: Path) -> None:
    """The shipped scorer; files where a format holds the mode, and images from Python."""
    draw = np.random.default_rng(0)
    plain = Image.fromarray(draw.integers(0, 256, (90, 140, 3), dtype=np.uint8)).resize((420, 270))
    clear = plain.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(plain.size))
    made = {mode: plain.convert(mode) for mode in ("1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "LAB", "I")}
    made |= {"RGBA": clear, "LA": clear.convert("LA"), "PA": clear.convert("P")}
    made["I;16"] = plain.convert("I").convert("I;16")
    made |= {"tall": plain.resize((20, 700)), "tiny": plain.resize((3, 2)), "square": plain.resize((224, 224))}
    images = list[Path | Image.Image](made.values())
    saved = {"RGBA": "a.png", "P": "b.gif", "CMYK": "c.jpg", "I;16": "d.png", "RGB": "e.webp", "LA": "f.png"}
    for mode, name in saved.items():
        made[mode].save(tmp_path / name)
        images.append(tmp_path / name)
    prompts = [("a red fox", None, "word " * 200)[i % 3] for i in range(len(images))]
    scorers = [Scorer.load(device="cpu", engine=engine) for engine in ("onnx", "eager")]
    graphs, eager = (scorer.score(images=images, prompts=prompts) for scorer in scorers)
    assert set(graphs["status"]) == {"ok"}, graphs[["name", "reason"]]
    pd.testing.assert_frame_equal(graphs, eager, rtol=0, atol=1e-4)
    assert graphs["quality"].round(6).nunique() > len(made) // 2
