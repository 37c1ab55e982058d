"""Small harms to an image that people would see, or not: what a score should answer, or not."""

from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from aigc_cli.images.demo import distort

Perturbation = Callable[[Image.Image, np.random.Generator], Image.Image]


def _distorted(**severities: float) -> Perturbation:
    return lambda image, random: distort(image, severities, random)


def resized(image: Image.Image, share: float) -> Image.Image:
    """Shrunk to `share` of its sides and enlarged again."""
    small = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    return image.resize(small, Image.Resampling.BICUBIC).resize(image.size, Image.Resampling.BICUBIC)


def cropped(image: Image.Image, share: float) -> Image.Image:
    """The middle, `share` of each side."""
    left, top = (round(side * (1 - share) / 2) for side in image.size)
    return image.crop((left, top, image.width - left, image.height - top))


def translucent(image: Image.Image) -> Image.Image:
    """With an opaque alpha channel: the same picture in another mode."""
    return Image.merge("RGBA", [*image.split(), Image.new("L", image.size, 255)])


# In the order of the report. Severities are those of `distort`, in [0, 1].
PERTURBATIONS: Mapping[str, Perturbation] = {
    "JPEG, quality 22": _distorted(jpeg=0.25),
    "JPEG, quality 4": _distorted(jpeg=0.75),
    "resized to 1/2": lambda image, random: resized(image, 1 / 2),
    "resized to 1/4": lambda image, random: resized(image, 1 / 4),
    "blur, 0.3% of width": _distorted(blur=0.12),
    "blur, 1% of width": _distorted(blur=0.4),
    "noise, sd 8 of 255": _distorted(noise=0.1),
    "noise, sd 32 of 255": _distorted(noise=0.4),
    "opaque alpha": lambda image, random: translucent(image),
    "middle 80%": lambda image, random: cropped(image, 0.8),
}
