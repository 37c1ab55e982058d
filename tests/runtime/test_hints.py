"""The hints of a backbone, read without its weights."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from aigc_cli.model.backbone import Backbone
from aigc_cli.runtime.hints import (
    CONFIG_NAME,
    MINI,
    PUBLISHED,
    SHIPPED_BACKBONES,
    Hints,
    find_folder,
    parse_hints,
    read_hints,
)


def test_hints_of_a_backbone_without_any(tiny: Backbone, tiny_folder: Path) -> None:
    assert tiny.hints == Hints((0, 1, 2, 3))
    assert read_hints(f"local-dir:{tiny_folder}") == read_hints("ViT-L-14/openai") == Hints(())
    assert parse_hints(None, 24).few_levels == (5, 11, 17, 23)


def test_hints_are_read_from_the_folder(tmp_path: Path) -> None:
    said = {"few_levels": [1, 3], "settings": {"loss": "l1", "feature_axes": 64}, "finetune_lr_factor": 10.0}
    (tmp_path / CONFIG_NAME).write_text(json.dumps({"aigc_cfg": said}))
    settings = {**PUBLISHED, "loss": "l1", "feature_axes": 64}
    assert read_hints(f"local-dir:{tmp_path}") == Hints((1, 3), settings, {}, 10.0, 1.0)
    assert find_folder(f"local-dir:{tmp_path}") == tmp_path
    assert (find_folder("mini"), find_folder("ViT-B-32/openai")) == (MINI, None)
    assert all(find_folder(name) == folder for name, folder in SHIPPED_BACKBONES.items())


@pytest.mark.parametrize(
    "changes",
    [
        {"few_levels": None},
        {"few_levels": [1.5]},
        {"few_levels": [True]},
        {"settings": {"quality_input": "pixels"}},
        {"settings": {"loss": None}},
        {"settings": {"feature_axes": -1}},
        {"settings": {"epochs": 5}},
        {"settings": [1]},
        {"frozen_settings": {"epochs": 5}},
        {"finetune_lr_factor": 0},
        {"finetune_backbone_lr_factor": math.inf},
        {"finetune_lr_factor": "fast"},
        {"learning_rate": 1},
    ],
    ids=str,
)
def test_hints_of_another_kind_are_refused_and_left_out(changes: dict[str, Any], tmp_path: Path) -> None:
    said = {"few_levels": [1]} | changes
    with pytest.raises(ValueError, match="aigc_cfg"):
        parse_hints(said, 4)
    (tmp_path / CONFIG_NAME).write_text(json.dumps({"aigc_cfg": said}))
    assert read_hints(f"local-dir:{tmp_path}") == Hints(())
