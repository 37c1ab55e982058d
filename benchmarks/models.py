"""Writes backbones with random weights: timing and memory do not depend on the values of weights."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import CustomTextCLIP
from open_clip.transform import PreprocessCfg, image_transform_v2

from aigc_cli.model.backbone import Backbone
from aigc_cli.progress import SilentProgress
from aigc_cli.recipe import resolve_recipe
from aigc_cli.storage.atomic_files import Output
from aigc_cli.storage.tensors import save_tensors
from aigc_cli.workflows.experiment.source import Compute, Source
from aigc_cli.workflows.train.calibrate import HeldOutSource
from aigc_cli.workflows.train.train import train_model
from benchmarks.data import Images

TINY: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def make_open_clip_transform(backbone: Backbone) -> Any:
    """open_clip's own preprocessing for this backbone, with Pillow."""
    return image_transform_v2(PreprocessCfg(**asdict(backbone.preprocessing)), is_train=False)


def save_vit_b_32(folder: Path) -> Path:
    """Writes a ViT-B/32 to `folder`."""
    return _save_random(folder, open_clip.get_model_config("ViT-B-32"), 224)


def train_tiny(folder: Path, images: Images) -> Path:
    """Trains a very small model for one epoch and returns its run folder."""
    backbone = _save_random(folder / "tiny", TINY, 64)
    settings = {"backbone": f"local-dir:{backbone}", "freeze": "all", "epochs": "1", "views": "1", "val_fraction": "0"}
    source = Source(images.table, images.paths[0].parent)
    resolved, run = resolve_recipe(settings), Output(folder / "run")
    return train_model(resolved, source, run, HeldOutSource(), Compute("cpu"), SilentProgress()).run


def _save_random(folder: Path, config: Mapping[str, Any], side: int) -> Path:
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    network = CustomTextCLIP(**config)
    save_tensors(folder / "open_clip_model.safetensors", network.state_dict())
    preprocessing = {"size": [side, side], "mean": [0.5] * 3, "std": [0.5] * 3}
    preprocessing |= {"interpolation": "bicubic", "resize_mode": "shortest"}
    text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocessing})
    (folder / "open_clip_config.json").write_text(text)
    return folder
