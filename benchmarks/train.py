"""Compares training with a plain loop, which runs the whole backbone for every image in every epoch."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from aigc_cli.model.loading import load_backbone
from aigc_cli.progress import SilentProgress
from aigc_cli.recipe import resolve_recipe
from aigc_cli.storage.atomic_files import Output
from aigc_cli.training.loop import make_model
from aigc_cli.workflows.experiment.source import Compute, Source
from aigc_cli.workflows.train.calibrate import HeldOutSource
from aigc_cli.workflows.train.train import train_model
from benchmarks.data import Images
from benchmarks.measure import Row, divide_rounds, time_in_turns
from benchmarks.models import make_open_clip_transform, save_vit_b_32

EPOCHS, BATCH = 20, 32
TRAIN_SHARE = 0.8
VIEWS = {"1 view": {"views": "1", "plain_view": "true"}, "4 views": {"views": "4"}}
SIZES = {"all": ("train", 384, 192), "partial": ("finetune", 256, 64)}  # part, images of a full run, of a short run
WHY = "{:.1f} of our {:.1f} s are spent even when all frozen features are stored; the target allows {:.1f} s in total."
TARGETS = {"all": {"1 view": 15.0, "4 views": 4.0}, "partial": {"1 view": 2.5, "4 views": 2.5}}
WARM = 100.0  # everything is frozen, one view, all frozen features are stored


class PlainDataset(Dataset[tuple[torch.Tensor, int]]):
    """A plain data set: decodes an image, crops and flips it at random, and applies the backbone's transform."""

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


def time_plain_epoch(images: Images, settings: dict[str, str]) -> float:
    """Seconds of one epoch of the plain loop: training on `TRAIN_SHARE` of the images, validation on the others.

    Model, freezing and loss are those of `aigc train`; frozen parts run without a graph. num_workers is 0, the default.
    """
    recipe = resolve_recipe(settings).recipe
    backbone = load_backbone(recipe.backbone)
    model = make_model(backbone, recipe)
    split = int(TRAIN_SHARE * len(images.paths))
    targets = torch.rand(len(images.paths), 2)
    parts = (range(split), range(split, len(images.paths)))
    transform = make_open_clip_transform(backbone)
    loaders = [
        DataLoader(PlainDataset(images, rows, transform, augmented), BATCH, shuffle=augmented, num_workers=0)
        for rows, augmented in zip(parts, (True, False), strict=True)
    ]
    trainable = [p for module in (model.heads, backbone.modules()) for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=1e-5)

    def predict_scores(pixels: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = backbone.encode_image(pixels)
        scores = model.heads(features, backbone.encode_text([images.prompts[row] for row in rows.tolist()]))
        return scores.quality, scores.consistency

    begun = time.perf_counter()
    backbone.train(model.freezing)
    model.heads.train()
    for pixels, rows in loaders[0]:
        quality, consistency = predict_scores(pixels, rows)
        loss = torch.nn.functional.mse_loss(torch.stack([quality, consistency], 1), targets[rows])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    model.eval()
    with torch.no_grad():
        for pixels, rows in loaders[1]:
            predict_scores(pixels, rows)
    return time.perf_counter() - begun


@dataclass
class AigcTraining:
    """The workflow of `aigc train` on the same images, with its own feature store.

    It makes no graphs for scoring: the plain loop has none, and their export takes longer than a short training.
    """

    images: Images
    settings: dict[str, str]
    folder: Path
    runs: int = 0

    def __call__(self) -> None:
        """Trains once, from the table of ratings to the run folder."""
        self.runs += 1
        source = Source(self.images.table, self.images.paths[0].parent)
        run = self.folder / f"run-{self.runs}"
        store = mock.patch.dict(os.environ, AIGC_CACHE=str(self.folder / "store"))
        with store, mock.patch("aigc_cli.model.export.keep_graphs", return_value={}):
            resolved = resolve_recipe(self.settings)
            train_model(resolved, source, Output(run), HeldOutSource(), Compute("cpu"), SilentProgress())

    def train_cold(self) -> None:
        """Trains once with an empty store."""
        shutil.rmtree(self.folder / "store", ignore_errors=True)
        self()


def measure_training(images: Images, scratch: Path, short: bool) -> list[Row]:
    """Rows of part `train`: the whole backbone is frozen."""
    backbone = "mini" if short else f"local-dir:{save_vit_b_32(scratch / 'backbone')}"
    return _compare_with_plain({"backbone": backbone, "freeze": "all"}, images, scratch, short)


def measure_finetuning(images: Images, scratch: Path, short: bool) -> list[Row]:
    """Rows of part `finetune`: three quarters of the backbone are frozen."""
    return _compare_with_plain(
        {"backbone": "mini", "freeze": "partial", "freeze_depth": "0.75"}, images, scratch, short
    )


def _compare_with_plain(options: dict[str, str], images: Images, scratch: Path, short: bool) -> list[Row]:
    """Rows for one and four views, each for a first and a second run, against one plain loop without views.

    A short run measures no second run: it would only measure how long the model takes to load.
    """
    part, full, brief = SIZES[options["freeze"]]
    images, rounds = images.first(brief if short else full), 1 if short else 2
    val_fraction = str(round(1 - TRAIN_SHARE, 2))
    common = {**options, "epochs": str(EPOCHS), "batch_size": str(BATCH), "val_fraction": val_fraction}
    plain: list[float] = []
    sides: dict[str, Callable[[], object]] = {"plain": lambda: plain.append(time_plain_epoch(images, common))}
    for name, views in VIEWS.items():
        settings = {**common, **views}
        warming = AigcTraining(
            images.first(2 * BATCH), {**settings, "epochs": "1"}, Path(tempfile.mkdtemp(dir=scratch))
        )
        warming()  # modules that are imported late are imported here
        ours = AigcTraining(images, settings, Path(tempfile.mkdtemp(dir=scratch)))
        sides[name] = ours.train_cold
        if not short:
            sides[f"{name}, a second run"] = ours
    seconds = time_in_turns(rounds, sides)
    whole = [EPOCHS * epoch for epoch in plain]
    backbone = "mini" if common["backbone"] == "mini" else "ViT-B-32"
    note = f"{len(images.paths)} images, {EPOCHS} epochs; plain: {median(plain):.1f} s an epoch"
    rows = []
    for name, target in TARGETS[common["freeze"]].items():
        what = f"plain loop over ours: {backbone}, {common['freeze']}, {name}"
        cold, warm = seconds[name], seconds.get(f"{name}, a second run")
        took = f"{note}; ours: {median(cold):.1f} s"
        why = WHY.format(median(warm), median(cold), median(whole) / target) if warm else ""
        rows.append(Row(part, what, divide_rounds(whole, cold), target, note=took, why=why))
        if warm:
            goal = WARM if (part, name) == ("train", "1 view") else None
            took = f"ours: {median(warm):.1f} s"
            rows.append(Row(part, f"{what}, a second run", divide_rounds(whole, warm), goal, note=took))
    return rows
