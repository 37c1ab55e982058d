"""Perturbations of an image: the distortions of the demonstration set, and those of the stress test.

Some lower the quality that people see; others, such as an opaque alpha channel, leave the picture as it is.
"""

import io
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageFilter

Perturbation = Callable[[Image.Image, np.random.Generator], Image.Image]


def distort(image: Image.Image, severities: Mapping[str, float], rng: np.random.Generator) -> Image.Image:
    """Degrade an RGB image; `severities` in [0, 1] by name: contrast, blur, noise, jpeg, applied in this order."""
    if s := severities.get("contrast", 0.0):
        image = Image.blend(image, Image.new("RGB", image.size, (128, 128, 128)), 0.9 * s)
    if s := severities.get("blur", 0.0):
        image = image.filter(ImageFilter.GaussianBlur(0.025 * s * image.width))
    if s := severities.get("noise", 0.0):
        grain = 80 * s * rng.standard_normal((image.height, image.width, 3))
        image = Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))
    if s := severities.get("jpeg", 0.0):
        packed = io.BytesIO()
        image.save(packed, "JPEG", quality=max(1, round(50 * 0.04**s)))
        image = Image.open(packed).convert("RGB")
    return image


def resize_and_restore(image: Image.Image, share: float) -> Image.Image:
    """Shrink an image to `share` of its side lengths and enlarge it to its old size."""
    small = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    return image.resize(small, Image.Resampling.BICUBIC).resize(image.size, Image.Resampling.BICUBIC)


def crop_middle(image: Image.Image, share: float) -> Image.Image:
    """Crop to the middle `share` of each side."""
    left, top = (round(side * (1 - share) / 2) for side in image.size)
    return image.crop((left, top, image.width - left, image.height - top))


def add_opaque_alpha(image: Image.Image) -> Image.Image:
    """Add an opaque alpha channel to an RGB image: the same picture in another mode."""
    return Image.merge("RGBA", [*image.split(), Image.new("L", image.size, 255)])


# In the order of the stress report.
PERTURBATIONS: Mapping[str, Perturbation] = {
    "JPEG, quality 22": lambda image, random: distort(image, {"jpeg": 0.25}, random),
    "JPEG, quality 4": lambda image, random: distort(image, {"jpeg": 0.75}, random),
    "resized to 1/2": lambda image, random: resize_and_restore(image, 1 / 2),
    "resized to 1/4": lambda image, random: resize_and_restore(image, 1 / 4),
    "blur, 0.3% of width": lambda image, random: distort(image, {"blur": 0.12}, random),
    "blur, 1% of width": lambda image, random: distort(image, {"blur": 0.4}, random),
    "noise, sd 8 of 255": lambda image, random: distort(image, {"noise": 0.1}, random),
    "noise, sd 32 of 255": lambda image, random: distort(image, {"noise": 0.4}, random),
    "opaque alpha": lambda image, random: add_opaque_alpha(image),
    "middle 80%": lambda image, random: crop_middle(image, 0.8),
}
