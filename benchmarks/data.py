"""The images of the benchmarks: 512 x 512 JPEGs of 50 to 100 KB, generated or taken from a folder, and larger ones.

Texture decides how long an image takes to decode. Its brightness varies at all scales, as in a photograph: a PNG of
1024 x 1024 pixels has 1.5 to 1.8 MB, like one that a generator writes.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from aigc_cli.images.demo import render_demo
from aigc_cli.images.folders import list_images

SIDE, QUALITY, GRAIN = 512, 88, 9.0
PER_PROMPT = 10  # images for each prompt, as in rated sets
LARGE = 1024
TEXTURE, FALL, NOISE = 14.0, 1.4, 0.4  # contrast, how fast it falls with frequency, and noise of each channel
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    f"{LARGE} PNG": ("png", {}),
    f"{LARGE} JPEG": ("jpg", {"quality": 90}),
    f"{LARGE} lossless WebP": ("webp", {"lossless": True, "method": 0}),
}
RECORD = "{}\nSteps: 30, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 1024x1024"  # as a generator writes it into a PNG


@dataclass(frozen=True)
class Images:
    """Image files, their prompts (one for `PER_PROMPT` images), and a table with random ratings."""

    paths: list[Path]
    prompts: list[str]
    table: Path

    def first(self, n: int) -> "Images":
        """The first n images, with their own table."""
        return _write_table(self.paths[:n], self.prompts[:n], self.table.with_name(f"first-{n}.csv"))

    def link(self, n: int, folder: Path) -> "Images":
        """n hard links to the images, in their own folder."""
        paths = []
        for i in range(n):
            source = self.paths[i % len(self.paths)]
            paths.append(_make_folder(folder) / f"{i:06}{source.suffix}")
            paths[-1].hardlink_to(source)
        prompts = [self.prompts[i % len(self.prompts)] for i in range(n)]
        return _write_table(paths, prompts, folder.with_name(f"{folder.name}.csv"))

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


def make_large(images: Images, scratch: Path) -> dict[str, Images]:
    """{format: the images with 1024 x 1024 pixels and texture}, the same pixels in each lossless format."""
    random, found = np.random.default_rng(2), {name: list[Path]() for name in FORMATS}
    for number, path in enumerate(images.paths):
        with Image.open(path) as opened:
            smooth = np.asarray(opened.convert("RGB").resize((LARGE, LARGE), Image.Resampling.BICUBIC), np.float32)
        noise = random.normal(0, NOISE, smooth.shape)
        pixels = smooth + TEXTURE * _make_texture(random)[:, :, None] + noise
        picture, info = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), PngInfo()  # only PNG takes it
        info.add_text("parameters", RECORD.format(images.prompts[number]))
        for name, (suffix, options) in FORMATS.items():
            found[name].append(_make_folder(scratch / f"large-{suffix}") / f"{number:06}.{suffix}")
            picture.save(found[name][-1], pnginfo=info, **options)
    return {
        name: _write_table(paths, images.prompts, paths[0].parent.with_suffix(".csv")) for name, paths in found.items()
    }


def _make_texture(random: np.random.Generator) -> NDArray[np.float64]:
    """Noise (LARGE, LARGE) of mean 0 and deviation 1, whose amplitude is 1 / frequency ** FALL."""
    frequency = np.hypot(np.fft.fftfreq(LARGE)[:, None], np.fft.rfftfreq(LARGE)[None])
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(np.fft.rfft2(random.standard_normal((LARGE, LARGE))) / frequency**FALL, s=(LARGE, LARGE))
    return np.asarray(noise / noise.std())


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
