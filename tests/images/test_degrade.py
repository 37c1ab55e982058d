"""Perturbations have the strength in their names and repeat with the same seed."""

import numpy as np
import pytest
from PIL import Image

from aigc_cli.images.degrade import PERTURBATIONS, add_opaque_alpha, crop_middle, resize_and_restore
from aigc_cli.images.reader import convert_pil


@pytest.fixture
def picture() -> Image.Image:
    """A smooth picture with an edge, 96 x 64."""
    y, x = np.mgrid[0:64, 0:96]
    return Image.fromarray(np.stack([2 * x, 3 * y, np.where(x > 48, 200, 50)], -1).astype(np.uint8))


def distance(a: Image.Image, b: Image.Image) -> float:
    return float(np.abs(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).mean())


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_perturbation_repeats_and_keeps_the_original(name: str, picture: Image.Image) -> None:
    before = picture.tobytes()
    first, again = (PERTURBATIONS[name](picture, np.random.default_rng(3)) for _ in range(2))
    assert first.tobytes() == again.tobytes()
    assert picture.tobytes() == before
    if name.startswith("noise"):
        assert PERTURBATIONS[name](picture, np.random.default_rng(4)).tobytes() != first.tobytes()


@pytest.mark.parametrize(
    ("mild", "strong"),
    [
        ("JPEG, quality 22", "JPEG, quality 4"),
        ("resized to 1/2", "resized to 1/4"),
        ("blur, 0.3% of width", "blur, 1% of width"),
        ("noise, sd 8 of 255", "noise, sd 32 of 255"),
    ],
)
def test_the_second_level_is_the_stronger_one(mild: str, strong: str, picture: Image.Image) -> None:
    little, much = (
        distance(PERTURBATIONS[name](picture, np.random.default_rng(0)), picture) for name in (mild, strong)
    )
    assert 0 < little < much


def test_noise_has_the_standard_deviation_in_its_name() -> None:
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    for name, sd in (("noise, sd 8 of 255", 8), ("noise, sd 32 of 255", 32)):
        changed = np.asarray(PERTURBATIONS[name](grey, np.random.default_rng(0)), dtype=float)
        assert changed.std() == pytest.approx(sd, rel=0.05)


def test_sizes(picture: Image.Image) -> None:
    assert resize_and_restore(picture, 0.25).size == picture.size
    assert crop_middle(picture, 0.8).size == (76, 52)
    assert crop_middle(picture, 0.8).getpixel((0, 0)) == picture.getpixel((10, 6))


def test_opaque_alpha_is_the_same_picture(picture: Image.Image) -> None:
    changed = add_opaque_alpha(picture)
    assert changed.mode == "RGBA"
    assert convert_pil(changed).image.tobytes() == picture.tobytes()
