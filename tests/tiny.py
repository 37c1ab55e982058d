"""Models small enough for tests: a random CLIP in open_clip's format, and a model with untrained heads on it."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from aigc_cli.model.export import keep_graphs
from aigc_cli.model.loading import load_backbone
from aigc_cli.progress import SilentProgress
from aigc_cli.recipe import Recipe
from aigc_cli.storage.checkpoints import save_checkpoint
from aigc_cli.storage.tensors import save_tensors
from aigc_cli.training.loop import make_model

TINY_VISION = {"image_size": 32, "patch_size": 8, "width": 64, "head_width": 32, "layers": 4}
TINY_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 4}
CLIP_PREPROCESSING = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def save_open_clip_folder(folder: Path, vision: dict[str, Any], seed: int = 0) -> Path:
    """A random CLIP with the image tower `vision` and a small text tower, in open_clip's local-dir format."""
    import open_clip

    size = vision["image_size"]
    model = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": TINY_TEXT}
    text = json.dumps({"model_cfg": model, "preprocess_cfg": {"size": [size, size], **CLIP_PREPROCESSING}})
    (folder / "open_clip_config.json").write_text(text)
    torch.manual_seed(seed)
    network = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_tensors(folder / "open_clip_model.safetensors", network.state_dict())
    return folder


def save_tiny_model(run: Path, backbone: Path) -> Path:
    """The run folder of an untrained model on the CLIP in `backbone`, with graphs; its scale is 0 to 5."""
    recipe = Recipe(backbone=f"local-dir:{backbone}", freeze="all")
    model = make_model(load_backbone(recipe.backbone), recipe)
    torch.manual_seed(1)
    for parameter in model.heads.parameters():  # untrained heads give every image the same score
        torch.nn.init.normal_(parameter, std=0.2)
    backbone_description = {
        "name": recipe.backbone,
        "image_size": None,
        "weights_hash": model.backbone.weights_hash,
        "preprocessing": asdict(model.backbone.preprocessing),
        "frozen_blocks": asdict(model.freezing),
    }
    description = {"backbone": backbone_description, "heads": model.heads.config.to_json(), "recipe": asdict(recipe)}
    model.eval()
    with trace_exports():
        graphs = keep_graphs(model, SilentProgress())
    save_checkpoint(run / "checkpoint", model.copy_trained(), description, graphs=graphs)
    return run


@contextlib.contextmanager
def trace_exports() -> Iterator[None]:
    """Graphs are exported by tracing: the dynamo exporter takes ten times as long."""
    export = torch.onnx.export

    def trace(*given: Any, dynamo: bool, **options: Any) -> Any:
        if dynamo:
            raise RuntimeError("a test without dynamo")
        return export(*given, dynamo=False, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", trace)
        yield
