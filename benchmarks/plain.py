"""The usual way to run a model over images, here or in a process: `python -m benchmarks.plain TABLE FOLDER`."""

import csv
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional as F

from aigc_cli.model.trained import load_model
from benchmarks.data import Images
from benchmarks.models import make_open_clip_transform

BATCH = 32
LAST = "channels-last"


class PlainLoop:
    """Decode, transform, both towers for every row; batches of 32, float32, all cores, no gradients.

    Args:
        memory_format: None for the one that is faster on this machine with `sample`.
        model: the shipped scorer whose backbone it runs.
    """

    def __init__(
        self, sample: Images, memory_format: torch.memory_format | None = None, model: str = "accurate"
    ) -> None:
        self.backbone = load_model(Path(model), "cpu").model.backbone
        self.transform = make_open_clip_transform(self.backbone)
        self.format = memory_format or torch.contiguous_format
        self._use(self.format)
        if memory_format is None:
            formats = (torch.contiguous_format, torch.channels_last)
            self._use(min(formats, key=lambda tried: self._time(tried, sample.first(BATCH))))

    def _time(self, memory_format: torch.memory_format, images: Images) -> float:
        self._use(memory_format)
        self(images.paths, images.prompts)
        begun = time.perf_counter()
        self(images.paths, images.prompts)
        return time.perf_counter() - begun

    def _use(self, memory_format: torch.memory_format) -> None:
        self.format = memory_format
        self.backbone.image.module.to(memory_format=memory_format)

    @torch.inference_mode()
    def __call__(self, paths: Sequence[Path], prompts: Sequence[str]) -> list[float]:
        """The cosine of each image and its prompt."""
        scores: list[float] = []
        for start in range(0, len(paths), BATCH):
            rows = slice(start, start + BATCH)
            pixels = []
            for path in paths[rows]:
                with Image.open(path) as image:
                    pixels.append(self.transform(image.convert("RGB")))
            batch = torch.stack(pixels).contiguous(memory_format=self.format)
            image_features = F.normalize(self.backbone.image.module(batch), dim=-1)
            text_features = F.normalize(self.backbone.text.module(self.backbone.tokenize(prompts[rows])), dim=-1)
            scores += (image_features * text_features).sum(1).tolist()
        return scores


def main(table: str, folder: str, memory_format: str = "") -> None:
    """Scores the images of a table and prints how many."""
    with Path(table).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    paths, prompts = [Path(folder) / row["name"] for row in rows], [row["prompt"] for row in rows]
    chosen = torch.channels_last if memory_format == LAST else torch.contiguous_format
    print(len(PlainLoop(Images(paths, prompts, Path(table)), chosen)(paths, prompts)))


if __name__ == "__main__":
    main(*sys.argv[1:])
