"""What a model folder says, read without PyTorch."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from aigc_cli.errors import AigcError
from aigc_cli.images.preprocess import Preprocessing
from aigc_cli.model.trained import load_model
from aigc_cli.runtime.saved import Freezing, parse_preprocessing, read_model
from aigc_cli.storage.checkpoints import DESCRIPTION, SHIPPED_SCORERS


def test_a_model_is_read_as_pytorch_loads_it(tiny_model: Path) -> None:
    saved, trained = read_model(tiny_model), load_model(tiny_model, "cpu")
    assert saved.recipe == trained.recipe
    assert saved.heads == trained.model.heads.config
    assert saved.freezing == trained.model.freezing == Freezing(5, 5)
    assert saved.preprocessing == trained.model.backbone.preprocessing
    assert saved.backbone["weights_hash"] == trained.model.backbone.weights_hash
    assert (saved.name, saved.calibration) == ("run", None)
    assert saved.make_metadata() == trained.saved.make_metadata()


def test_the_shipped_scorer_is_the_default() -> None:
    assert read_model(None).checkpoint.digest == read_model(Path("accurate")).checkpoint.digest


@pytest.mark.parametrize(("name", "backbone"), [("accurate", "midi"), ("fast", "mini")])
def test_the_shipped_scorers_have_names(name: str, backbone: str) -> None:
    saved = read_model(Path(name))
    assert (saved.checkpoint.folder, saved.name, saved.backbone["name"]) == (SHIPPED_SCORERS[name], name, backbone)
    assert saved.calibration is not None
    assert (saved.heads.quality_input, saved.heads.consistency_input) == ("multilevel", "scores")


def test_a_folder_goes_before_a_shipped_scorer(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model / "checkpoint", tmp_path / "fast")
    assert read_model(Path("fast")).backbone["name"].endswith("tiny")


def test_a_copy_of_a_checkpoint_has_the_name_of_its_folder(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model / "checkpoint", tmp_path / "mine")
    assert read_model(folder).name == "mine"


GOOD = Preprocessing((32, 48), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), "bicubic", "longest", 7)


def test_a_preprocessing_comes_back() -> None:
    assert parse_preprocessing(json.loads(json.dumps(asdict(GOOD)))) == GOOD
    assert parse_preprocessing(asdict(GOOD) | {"size": 32}).size == (32, 32)


@pytest.mark.parametrize(
    "changes",
    [
        {"size": [32]},
        {"size": [0, 32]},
        {"size": [32.5, 32]},
        {"size": "32"},
        {"mean": [0.5, 0.5]},
        {"mean": [0.5, 0.5, float("nan")]},
        {"std": [0.2, 0.2, 0]},
        {"std": None},
        {"interpolation": "nearest"},
        {"resize_mode": "crop"},
        {"fill_color": 256},
        {"fill_color": 0.5},
    ],
    ids=str,
)
def test_another_preprocessing_is_refused(changes: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        parse_preprocessing(asdict(GOOD) | changes)
    folder = shutil.copytree(tiny_model / "checkpoint", tmp_path / "c")
    described = json.loads((folder / DESCRIPTION).read_text())
    described["backbone"]["preprocessing"] |= changes
    (folder / DESCRIPTION).write_text(json.dumps(described))
    with pytest.raises(AigcError, match="Expected a model of this version"):
        read_model(folder)


@pytest.mark.parametrize("size", [[10**9, 10**9], [4097, 10], [0, 5], 10**9, [True, 5]])
def test_sizes_of_an_input_that_no_tower_has(size: Any) -> None:
    cfg = {"size": size, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    with pytest.raises(ValueError, match="no valid preprocessing"):
        parse_preprocessing(cfg)
