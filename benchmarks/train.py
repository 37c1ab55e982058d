"""Training against the loop that published code uses, which runs the whole backbone for every image in every epoch."""

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from aigc_cli.core.backbones import load_backbone
from aigc_cli.core.training import new_judge
from aigc_cli.io.weights import save_tensors
from aigc_cli.progress import Silent
from aigc_cli.recipe import resolve
from aigc_cli.workflows.ratings import Source
from aigc_cli.workflows.train import train as train_workflow
from benchmarks.data import Images
from benchmarks.measure import Row, ratios, turns

EPOCHS, BATCH = 20, 32
TRAIN_SHARE = 0.8
TARGETS = {"1 view": 15.0, "4 views": 4.0, "warm": 100.0, "partial": 2.5}


class Decoded(Dataset[tuple[torch.Tensor, int]]):
    """What a plain data set does for an image: decode, a random crop and flip, the backbone's transform."""

    def __init__(self, images: Images, rows: range, transform: Any, augmented: bool) -> None:
        self.images, self.rows, self.transform, self.augmented = images, rows, transform, augmented

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        row = self.rows[index]
        with Image.open(self.images.paths[row]) as opened:
            image = opened.convert("RGB")
        if self.augmented:
            side = float(torch.empty(1).uniform_(0.8, 1).sqrt())
            width, height = round(image.width * side), round(image.height * side)
            left = int(torch.randint(image.width - width + 1, (1,)))
            top = int(torch.randint(image.height - height + 1, (1,)))
            image = image.crop((left, top, left + width, top + height))
            if torch.rand(1) < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return self.transform(image), row


def plain_epoch(images: Images, settings: dict[str, str]) -> float:
    """Seconds of one epoch of the plain loop: training on `TRAIN_SHARE` of the images, validation on the others.

    The model, its freezing and its loss are ours; frozen parts run without a graph. num_workers is 0, the default.
    """
    recipe = resolve(settings).recipe
    backbone = load_backbone(recipe.backbone)
    judge = new_judge(backbone, recipe)
    split = int(TRAIN_SHARE * len(images.paths))
    targets = torch.rand(len(images.paths), 2)
    parts = (range(split), range(split, len(images.paths)))
    loaders = [
        DataLoader(Decoded(images, rows, backbone.transform, augmented), BATCH, shuffle=augmented, num_workers=0)
        for rows, augmented in zip(parts, (True, False), strict=True)
    ]
    learnt = [p for module in (judge.heads, backbone.modules()) for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learnt, lr=1e-5)

    def predicted(pixels: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = backbone.encode_image(pixels)
        scores = judge.heads(features, backbone.encode_text([images.prompts[row] for row in rows.tolist()]))
        return scores.quality, scores.consistency

    begun = time.perf_counter()
    backbone.train(judge.freezing)
    judge.heads.train()
    for pixels, rows in loaders[0]:
        quality, consistency = predicted(pixels, rows)
        loss = torch.nn.functional.mse_loss(torch.stack([quality, consistency], 1), targets[rows])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    judge.eval()
    with torch.no_grad():
        for pixels, rows in loaders[1]:
            predicted(pixels, rows)
    return time.perf_counter() - begun


@dataclass
class Ours:
    """`aigc train`'s workflow over the same images, on a feature store of its own."""

    images: Images
    settings: dict[str, str]
    folder: Path
    runs: int = 0

    def __call__(self, cache: Path) -> None:
        """One training run, from the table of ratings to the run folder."""
        self.runs += 1
        os.environ["AIGC_CACHE"] = str(cache)
        source = Source(self.images.table, self.images.paths[0].parent)
        run = self.folder / f"run-{self.runs}"
        train_workflow(resolve(self.settings), source, run, progress=Silent(), device="cpu")

    def cold(self) -> None:
        """With an empty store."""
        with tempfile.TemporaryDirectory(dir=self.folder) as cache:
            self(Path(cache))


def train(images: Images, rounds: int, scratch: Path, short: bool) -> list[Row]:
    """Rows of part `train`."""
    frozen = "mini" if short else f"local-dir:{_random_backbone(scratch / 'backbone')}"
    common = {"epochs": str(EPOCHS), "batch_size": str(BATCH), "val_fraction": str(round(1 - TRAIN_SHARE, 2))}
    cases = {
        "1 view": {**common, "backbone": frozen, "freeze": "all", "views": "1"},
        "4 views": {**common, "backbone": frozen, "freeze": "all", "views": "4"},
        "partial": {**common, "backbone": "mini", "freeze": "partial", "freeze_depth": "0.75"},
    }
    before = os.environ.get("AIGC_CACHE")
    try:
        rows = [row for name, settings in cases.items() for row in _case(name, settings, images, rounds, scratch)]
        # a short run is over before the model is loaded twice: its second runs say nothing
        return [replace(row, target=None) if short and "second run" in row.what else row for row in rows]
    finally:
        os.environ.pop("AIGC_CACHE") if before is None else os.environ.__setitem__("AIGC_CACHE", before)


def _case(name: str, settings: dict[str, str], images: Images, rounds: int, scratch: Path) -> Iterator[Row]:
    folder = Path(tempfile.mkdtemp(dir=scratch))
    ours, warm = Ours(images, settings, folder), folder / "warm"
    ours(warm)  # fills the store that the warm runs read
    plain: list[float] = []
    sides = {
        "plain": lambda: plain.append(plain_epoch(images, settings)),
        "cold": ours.cold,
        "warm": lambda: ours(warm),
    }
    seconds = turns(rounds, sides)
    whole = [EPOCHS * epoch for epoch in plain]
    what = settings["backbone"].split("/")[-1].split(":")[0].replace("local-dir", "ViT-B-32")
    what += f", {settings['freeze']}" + ("" if name == "partial" else f", {name}")
    note = f"{len(images.paths)} images, {EPOCHS} epochs; plain: {sorted(plain)[len(plain) // 2]:.1f} s an epoch"
    yield Row("train", f"plain loop over ours: {what}", ratios(whole, seconds["cold"]), TARGETS[name], note=note)
    target = TARGETS["warm"] if name == "1 view" else None
    yield Row("train", f"plain loop over ours: {what}, a second run", ratios(whole, seconds["warm"]), target)


def _random_backbone(folder: Path) -> Path:
    """ViT-B/32 with random weights, as a folder."""
    import json

    import open_clip

    folder.mkdir(parents=True)
    config = open_clip.get_model_config("ViT-B-32")
    torch.manual_seed(0)
    network = open_clip.create_model("ViT-B-32", load_weights=False)
    save_tensors(folder / "open_clip_model.safetensors", network.state_dict())
    preprocessing = {"size": [224, 224], "mean": [0.5] * 3, "std": [0.5] * 3}
    preprocessing |= {"interpolation": "bicubic", "resize_mode": "shortest"}
    text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocessing})
    (folder / "open_clip_config.json").write_text(text)
    return folder
