"""The images of the benchmarks: 512 x 512 JPEGs of 50 to 100 KB, generated here or taken from a folder."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from aigc_cli.images.demo import render_demo
from aigc_cli.images.folders import list_images

SIDE, QUALITY, GRAIN = 512, 88, 9.0
PER_PROMPT = 10  # images for each prompt, as in rated sets


@dataclass(frozen=True)
class Images:
    """Image files, their prompts (one for `PER_PROMPT` images), and a table with random ratings."""

    paths: list[Path]
    prompts: list[str]
    table: Path

    def first(self, n: int) -> "Images":
        """The first n images, with their own table."""
        return _write_table(self.paths[:n], self.prompts[:n], self.table.with_name(f"first-{n}.csv"))

    def small(self, n: int, side: int) -> "Images":
        """The first n images at `side` x `side` pixels, in their own folder."""
        folder, paths = _make_folder(self.table.with_name(f"small-{side}")), []
        for path in self.paths[:n]:
            with Image.open(path) as opened:
                image = opened.convert("RGB").resize((side, side))
            paths.append(folder / f"{path.stem}.jpg")
            image.save(paths[-1], quality=QUALITY)
        return _write_table(paths, self.prompts[:n], folder / "ratings.csv")


def make_images(folder: Path, n: int, given: Path | None) -> Images:
    """n images from the folder `given`, or generated in `folder`."""
    prompts = [f"a photograph of {i // PER_PROMPT} red boats on a quiet lake at dawn" for i in range(n)]
    if given is not None:
        names = list_images(given)
        return _write_table([given / names[i % len(names)] for i in range(n)], prompts, folder / "ratings.csv")
    random = np.random.default_rng(0)
    small = render_demo(_make_folder(folder / "small"), n=n, size=256)
    target = _make_folder(folder / "images")
    paths: list[Path] = []
    for sample in small:
        with Image.open(sample.path) as opened:
            large = opened.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        grain = random.normal(0, GRAIN, (SIDE, SIDE, 1)).astype(np.float32)
        pixels = np.clip(np.asarray(large, dtype=np.float32) + grain, 0, 255).astype(np.uint8)
        paths.append(target / f"{len(paths):06}.jpg")
        Image.fromarray(pixels).save(paths[-1], quality=QUALITY)
    return _write_table(paths, prompts, folder / "ratings.csv")


def _make_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_table(paths: list[Path], prompts: list[str], table: Path) -> Images:
    random = np.random.default_rng(1)
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("name", "prompt", "mos_quality", "mos_align"))
        for path, prompt in zip(paths, prompts, strict=True):
            writer.writerow((path.name, prompt, *np.round(random.uniform(0, 5, 2), 3)))
    return Images(paths, prompts, table)
