"""Trained models: a saved model loads with the same tensors, and a model that does not fit is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from aigc_cli.errors import AigcError
from aigc_cli.images.sample import TARGETS
from aigc_cli.model.trained import load_model
from aigc_cli.storage.tensors import load_tensors


def test_a_saved_model_loads_unchanged(tiny_model: Path) -> None:
    trained = load_model(tiny_model, "cpu")
    assert (trained.saved.name, trained.saved.targets, trained.calibration) == ("run", list(TARGETS), None)
    assert trained.recipe.freeze == "all"
    (weights,) = (tiny_model / "checkpoint").glob("*.safetensors")
    saved, found = load_tensors(weights), trained.model.collect_trained()
    assert saved.keys() == found.keys()
    assert all(torch.equal(found[name], torch.from_numpy(saved[name])) for name in saved)
    assert not trained.model.heads.training
    metadata = trained.saved.make_metadata()
    assert (metadata["model"], metadata["mos_min"], metadata["mos_max"]) == ("run", "0.0", "5.0")
    assert metadata["calibration"] == "none"


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("backbone", "weights_hash"), "0" * 64, "with weights 000000000000, as when this model was trained"),
        (("backbone", "frozen_blocks", "image"), 6, "Expected heads and a freeze boundary that fit"),
        (("backbone", "name"), 3, "found a backbone"),
        (("heads", "embed_dim"), 31, "Expected tensors that fit the model"),
        (("heads", "embed_dim"), None, "found heads"),
        (("heads", "correction_offset"), 0.1, "Expected a model of this version"),  # of an earlier version
        (("prompts",), {"train": "a fox"}, "found targets or prompts that are not lists of strings"),
        (("recipe",), [], "Expected a model of this version"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(
    place: tuple[str, ...], value: Any, message: str, tiny_model: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "run")
    file = folder / "checkpoint" / "model.json"
    description = json.loads(file.read_text())
    inner = description
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    file.write_text(json.dumps(description))
    with pytest.raises(AigcError) as caught:
        load_model(folder, "cpu")
    assert message in caught.value.message
