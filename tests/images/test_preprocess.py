"""Preprocessing: the same pixels as open_clip's own transform."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from aigc_cli.images.preprocess import Preprocessing

MEAN, STD = (0.48, 0.45, 0.40), (0.27, 0.26, 0.28)
SIZES = [(512, 512), (224, 224), (97, 61), (61, 97), (500, 90), (31, 33), (32, 48), (48, 32), (100, 500)]


def picture(width: int, height: int) -> Image.Image:
    """Noise over a gradient: edges, flat parts, black and white."""
    random = np.random.default_rng([width, height])
    ramp = np.linspace(-80, 335, width * height * 3).reshape(height, width, 3)
    return Image.fromarray((ramp + random.normal(0, 40, ramp.shape)).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"interpolation": "bilinear"},
        {"resize_mode": "squash", "size": (40, 24)},
        {"resize_mode": "longest", "fill_color": 7},
        {"resize_mode": "longest", "size": (24, 41), "interpolation": "bilinear"},
        {"size": (40, 24)},
        {"size": (24, 40), "interpolation": "bilinear"},
    ],
    ids=str,
)
def test_pixels_are_those_of_open_clip(size: tuple[int, int], changes: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"size": (32, 32), "interpolation": "bicubic", "resize_mode": "shortest"} | changes
    ours = Preprocessing(mean=MEAN, std=STD, **fields)
    image = picture(*size)
    transform = image_transform_v2(PreprocessCfg(**asdict(ours)), is_train=False)
    expected = transform(image).permute(1, 2, 0).double().numpy() * STD + MEAN
    found = ours.fit_size(image)
    assert (found.dtype, found.flags.c_contiguous) == (np.uint8, True)
    assert np.array_equal(found, np.rint(255 * expected))


def test_an_array_and_its_picture_give_the_same_and_stay_unchanged() -> None:
    ours = Preprocessing((32, 32), MEAN, STD, "bicubic", "shortest")
    image = picture(70, 50)
    array = np.array(image)
    fitted = ours.fit_size(array)
    assert np.array_equal(fitted, ours.fit_size(image))
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert np.array_equal(ours.fit_size(array[:, ::-1]), ours.fit_size(mirrored))


def test_an_image_of_the_right_size_stays_as_it_is() -> None:
    ours = Preprocessing((50, 70), MEAN, STD, "bicubic", "squash")
    image = picture(70, 50)
    array = np.array(image)
    fitted = ours.fit_size(array)
    assert np.array_equal(fitted, array)
    fitted[:] = 0  # a new array
    assert np.array_equal(array, np.asarray(image))
