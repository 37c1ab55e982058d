"""Backbones with random weights, as folders: timing and memory do not ask what a model has learnt."""

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
from aigc_cli.progress import Silent
from aigc_cli.recipe import resolve
from aigc_cli.storage.tensors import save_tensors
from aigc_cli.workflows.experiment.source import Source
from aigc_cli.workflows.train.train import train
from benchmarks.data import Images

TINY: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def open_clip_transform(backbone: Backbone) -> Any:
    """What open_clip itself would preprocess this backbone's images with, on Pillow."""
    return image_transform_v2(PreprocessCfg(**asdict(backbone.preprocessing)), is_train=False)


def vit_b_32(folder: Path) -> Path:
    """ViT-B/32."""
    return _random(folder, open_clip.get_model_config("ViT-B-32"), 224)


def tiny_run(folder: Path, images: Images) -> Path:
    """The run folder of a model that costs next to nothing, trained for one epoch."""
    backbone = _random(folder / "tiny", TINY, 64)
    settings = {"backbone": f"local-dir:{backbone}", "freeze": "all", "epochs": "1", "views": "1", "val_fraction": "0"}
    source = Source(images.table, images.paths[0].parent)
    return train(resolve(settings), source, folder / "run", progress=Silent(), device="cpu").run


def _random(folder: Path, config: Mapping[str, Any], side: int) -> Path:
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    network = CustomTextCLIP(**config)
    save_tensors(folder / "open_clip_model.safetensors", network.state_dict())
    preprocessing = {"size": [side, side], "mean": [0.5] * 3, "std": [0.5] * 3}
    preprocessing |= {"interpolation": "bicubic", "resize_mode": "shortest"}
    text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocessing})
    (folder / "open_clip_config.json").write_text(text)
    return folder
