"""`aigc export`: files that score without this package, graphs for a model without, and what is refused."""

import hashlib
import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from tiny import trace_exports

from aigc_cli import Scorer
from aigc_cli.errors import AigcError
from aigc_cli.runtime.graphs import GRAPH_FILES, IMAGE_GRAPH, TEXT_GRAPH
from aigc_cli.storage.checkpoints import DESCRIPTION
from aigc_cli.storage.tensors import SUMS
from aigc_cli.workflows.export import CARD, EXPORTED, PREPROCESSING, export_model

EXAMPLES = Path(__file__).parents[2] / "examples"
PROMPTS = ["a red fox", "two dogs, it's late", "“quoted” café 🦊"]


@pytest.fixture(scope="module")
def exported(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "made"
    with trace_exports():
        sizes = export_model(tiny_model, folder)
    assert sizes == {path.name: path.stat().st_size for path in folder.iterdir()}
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """A wide RGB image, one with transparency, and one that EXIF turns upright."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 4), dtype=np.uint8)
    Image.fromarray(noise[..., :3]).save(tmp_path / "wide.png")
    Image.fromarray(noise).save(tmp_path / "clear.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(noise[..., :3]).save(tmp_path / "turned.jpg", exif=turned)
    return [tmp_path / name for name in ("wide.png", "clear.png", "turned.jpg")]


def score_with_example(folder: Path, pictures: list[Path], prompts: list[str]) -> list[tuple[float, float]]:
    scorer: Any = runpy.run_path(str(EXAMPLES / "score_with_onnxruntime.py"))["Scorer"](folder)
    return [scorer.score(picture, prompt) for picture, prompt in zip(pictures, prompts, strict=True)]


def test_an_export_holds_what_a_stranger_needs(exported: Path) -> None:
    assert {path.name for path in exported.iterdir()} == EXPORTED
    sums = dict(line.split("  ")[::-1] for line in (exported / SUMS).read_text().splitlines())
    assert sums == {name: hashlib.sha256((exported / name).read_bytes()).hexdigest() for name in EXPORTED - {SUMS}}
    said = json.loads((exported / PREPROCESSING).read_text())
    assert (said["size"], said["mos_min"], said["mos_max"]) == ([32, 32], 0.0, 5.0)
    card = (exported / CARD).read_text()
    assert "0 to 5 MOS" in card
    assert "{" not in card  # every place was filled


def test_both_graphs_take_any_number_of_rows(exported: Path) -> None:
    text, image = (onnxruntime.InferenceSession(exported / name) for name in (TEXT_GRAPH, IMAGE_GRAPH))
    for count in (1, 3):
        (vectors,) = text.run(["text"], {"tokens": np.ones((count, 77), np.int64)})
        pixels = np.zeros((count, 32, 32, 3), np.uint8)
        (quality,) = image.run(["quality"], {"pixels": pixels, "text": vectors})
        assert (vectors.shape, quality.shape) == ((count, 32), (count,))


def test_the_example_agrees_with_the_scorer(exported: Path, tiny_model: Path, pictures: list[Path]) -> None:
    table = Scorer.load(tiny_model, "cpu").score(images=pictures, prompts=PROMPTS)
    found = np.array(score_with_example(exported, pictures, PROMPTS))
    assert np.abs(found - table[["quality", "consistency"]].to_numpy(float)).max() < 1e-3
    assert np.ptp(found, axis=0).min() > 1e-3  # there was something to agree on


@pytest.mark.slow
def test_the_example_agrees_on_the_shipped_scorer(tmp_path: Path) -> None:
    export_model(None, tmp_path / "made")
    pictures = sorted(EXAMPLES.glob("*.jpg"))
    prompts = [picture.stem.replace("-", " ") for picture in pictures]
    table = Scorer.load(None, "cpu").score(images=pictures, prompts=prompts)
    found = np.array(score_with_example(tmp_path / "made", pictures, prompts))
    assert np.abs(found - table[["quality", "consistency"]].to_numpy(float)).max() < 1e-3


def test_a_model_without_graphs_gets_them(tiny_model: Path, tmp_path: Path, pictures: list[Path]) -> None:
    run = shutil.copytree(tiny_model, tmp_path / "run")
    for name in GRAPH_FILES:
        (run / "checkpoint" / name).unlink()
    said = json.loads((run / "checkpoint" / DESCRIPTION).read_text())
    (run / "checkpoint" / DESCRIPTION).write_text(json.dumps({**said, "graphs": {}}))
    assert Scorer.load(run, "cpu").network.engine == "eager"
    with trace_exports():
        export_model(run, None)
    now = Scorer.load(run, "cpu")
    assert now.network.engine == "onnx"
    before = Scorer.load(tiny_model, "cpu")
    assert now.score(images=pictures, prompts=PROMPTS).equals(before.score(images=pictures, prompts=PROMPTS))
    with pytest.raises(AigcError, match="Expected a model without graphs"):
        export_model(run, None)


def test_nothing_else_is_replaced(tiny_model: Path, exported: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "photo.jpg").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(taken)
    for place in (taken, tmp_path / "link", tmp_path / "taken" / "photo.jpg"):
        for overwrite in (False, True):
            with pytest.raises(AigcError, match="Expected a"):
                export_model(tiny_model, place, overwrite)
    assert (taken / "photo.jpg").read_bytes() == b"mine"
    with pytest.raises(AigcError, match="Expected a new folder") as caught:
        export_model(tiny_model, exported)
    assert "--overwrite" in caught.value.hint
    again = shutil.copytree(exported, tmp_path / "again")
    (again / CARD).write_text("old")
    with trace_exports():
        export_model(tiny_model, again, overwrite=True)
    assert (again / CARD).read_text() == (exported / CARD).read_text()
