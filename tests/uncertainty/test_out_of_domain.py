"""The distance from the training images: `out_of_domain` is 0.5 on average for similar images and 1 far away."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from aigc_cli.errors import AigcError
from aigc_cli.images.demo import render_demo
from aigc_cli.images.reader import decode_image
from aigc_cli.model.backbone import Backbone
from aigc_cli.uncertainty.out_of_domain import AXES, KEPT_DISTANCES, TrainingDomain

SIDE = 256


Array = NDArray[np.float64]


def cloud(n: int, width: int = 40, seed: int = 0) -> Array:
    """Features (n, width) with most of their variance along a few directions."""
    turn = np.linalg.qr(np.random.default_rng(9).standard_normal((width, width))).Q
    random = np.random.default_rng(seed)
    return np.asarray(random.standard_normal((n, width)) * np.linspace(3, 0.1, width) @ turn + 5)


def prompts_of(n: int, each: int = 5) -> list[str]:
    return [f"prompt {i // each}" for i in range(n)]


def test_new_images_of_the_same_kind_are_at_one_half_on_average() -> None:
    domain, shares = TrainingDomain.fit(cloud(400), prompts_of(400))
    new = domain.rank(domain.measure(cloud(400, seed=1)))
    assert new.mean() == pytest.approx(0.5, abs=0.06)
    assert shares.mean() == pytest.approx(0.5, abs=0.01)
    assert 0 <= new.min() <= new.max() <= 1


def test_the_share_rises_with_the_distance_until_it_is_one() -> None:
    domain, _ = TrainingDomain.fit(cloud(400), prompts_of(400))
    away = np.stack([5 + step * np.ones(40) for step in range(0, 30, 3)])
    shares = domain.rank(domain.measure(away))
    assert (np.diff(shares) >= 0).all()
    assert shares[0] < 0.1
    assert shares[-1] == 1


def test_an_image_is_unusual_across_the_main_axes_too() -> None:
    features = cloud(400)
    domain, _ = TrainingDomain.fit(features, prompts_of(400))
    standard = (features - domain.mean) / domain.std
    least = np.linalg.eigh(standard.T @ standard).eigenvectors[:, 0]
    assert np.square(least @ domain.axes).sum() < 1e-3
    odd = (domain.mean + 20 * least * domain.std)[None]
    assert domain.rank(domain.measure(odd))[0] == 1


def test_distances_of_known_images_are_taken_from_other_prompts() -> None:
    """Each prompt has its own direction: measured from the other prompts, every image is far."""
    width, count = 60, 12
    features = np.zeros((count * 10, width))
    for row in range(len(features)):
        features[row, row // 10] = 1
    features += 0.01 * np.random.default_rng(0).standard_normal(features.shape)
    domain, _ = TrainingDomain.fit(features, prompts_of(len(features), 10))
    mixed, _ = TrainingDomain.fit(features, [str(row) for row in range(len(features))])
    assert np.median(domain.known) > 2 * np.median(mixed.known)


def test_the_tensors_are_small_and_read_back_unchanged() -> None:
    domain, _ = TrainingDomain.fit(cloud(1500), prompts_of(1500))
    kept = domain.to_tensors()
    assert kept["axes"].shape == (40, AXES)
    assert len(kept["known"]) == KEPT_DISTANCES
    other = cloud(50, seed=2)
    again = TrainingDomain.from_tensors(kept)
    np.testing.assert_array_equal(again.measure(other), domain.measure(other))
    np.testing.assert_allclose(again.known, domain.known, rtol=1e-6)


def test_features_that_never_change_do_no_harm() -> None:
    features = cloud(100)
    features[:, 3] = 7
    domain, shares = TrainingDomain.fit(features, prompts_of(100))
    assert np.isfinite(domain.measure(features)).all()
    assert shares.mean() == pytest.approx(0.5, abs=0.02)


def test_too_few_prompts_are_an_error() -> None:
    with pytest.raises(AigcError, match="found 4"):
        TrainingDomain.fit(cloud(40), prompts_of(40, 10))


def photograph_like(seed: int) -> Image.Image:
    """Soft light, textures of all sizes, and the noise of a sensor."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    light = sum(
        random.uniform(0, 90, 3) * np.exp(-((x - a) ** 2 + (y - b) ** 2) / c**2)[..., None]
        for a, b, c in random.uniform(0.1, 0.9, (6, 3))
    )
    waves = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE)))
    waves[0, 0] = 1
    texture = np.real(np.fft.ifft2(np.fft.fft2(random.standard_normal((SIDE, SIDE))) / waves))
    pixels = light + 25 * (texture / texture.std())[..., None] + random.normal(0, 6, (SIDE, SIDE, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def drawing(seed: int) -> Image.Image:
    """Flat shapes with black outlines."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (SIDE, SIDE), tuple(random.integers(150, 256, 3).tolist()))
    pen = ImageDraw.Draw(image)
    for _ in range(12):
        a, b, c, d = random.integers(0, SIDE, 4).tolist()
        shape = (pen.ellipse, pen.rectangle)[int(random.integers(2))]
        corners = (min(a, b), min(c, d), max(a, b) + 9, max(c, d) + 9)
        shape(corners, fill=tuple(random.integers(0, 256, 3).tolist()), outline=(0, 0, 0), width=3)
    return image


def screenshot(seed: int) -> Image.Image:
    """Lines of text under a bar."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (SIDE, SIDE), "white")
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, SIDE, 20), fill=(60, 60, 70))
    for y in range(26, SIDE - 12, 12):
        letters = random.choice(list("abcdefghij klmnop qrst uvwxyz .,;()="), int(random.integers(10, 38)))
        pen.text((8, y), "".join(letters), fill=(20, 20, 20))
    return image


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


def solid(seed: int) -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), tuple(np.random.default_rng(seed).integers(0, 256, 3).tolist()))


STRANGE = {
    "photographs": photograph_like,
    "drawings": drawing,
    "screenshots": screenshot,
    "noise": noise,
    "one colour": solid,
}


@pytest.fixture(scope="module")
def home(mini: Backbone, tmp_path_factory: pytest.TempPathFactory) -> TrainingDomain:
    """The domain of 200 images of the demonstration set on the shipped backbone."""
    samples = render_demo(tmp_path_factory.mktemp("home"), n=200, size=128)
    features = features_of(mini, [decode_image(sample.path.read_bytes()).image for sample in samples])
    return TrainingDomain.fit(features, [sample.prompt or "" for sample in samples])[0]


def features_of(backbone: Backbone, images: list[Image.Image]) -> Array:
    with torch.inference_mode():
        return np.concatenate(
            [
                torch.cat(backbone.encode_image(backbone.transform(image)[None])[:2], 1).double().numpy()
                for image in images
            ]
        )


@pytest.mark.slow
@pytest.mark.parametrize("kind", STRANGE)
def test_images_of_another_kind_are_far_away(kind: str, mini: Backbone, home: TrainingDomain) -> None:
    found = home.rank(home.measure(features_of(mini, [STRANGE[kind](seed) for seed in range(4)])))
    assert found.mean() > 0.9
    assert found.min() > 0.7
