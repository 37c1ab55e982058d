"""How far an image lies from those trained on: interpretable at home, 1 far away, and never by its own prompt."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from aigc_cli.errors import AigcError
from aigc_cli.images.demo import demo_samples
from aigc_cli.images.reader import decode
from aigc_cli.model.backbone import Backbone
from aigc_cli.uncertainty.out_of_domain import AXES, KEPT, Domain, joined

SIDE = 256


def cloud(n: int, width: int = 40, seed: int = 0) -> Tensor:
    """Features of which a few directions hold most of the spread."""
    random = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(9))).Q
    return (torch.randn(n, width, generator=random) * torch.linspace(3, 0.1, width) @ turn).double() + 5


def prompts_of(n: int, each: int = 5) -> list[str]:
    return [f"prompt {i // each}" for i in range(n)]


def test_new_images_of_the_same_kind_are_at_home() -> None:
    domain, shares = Domain.fit(cloud(400), prompts_of(400))
    new = domain.share(domain.distance(cloud(400, seed=1)))
    assert new.mean() == pytest.approx(0.5, abs=0.06)
    assert shares.mean() == pytest.approx(0.5, abs=0.01)
    assert 0 <= new.min() <= new.max() <= 1


def test_the_share_rises_with_the_distance_until_it_is_one() -> None:
    domain, _ = Domain.fit(cloud(400), prompts_of(400))
    away = torch.stack([5 + step * torch.ones(40, dtype=torch.float64) for step in range(0, 30, 3)])
    shares = domain.share(domain.distance(away))
    assert (np.diff(shares) >= 0).all()
    assert shares[0] < 0.1
    assert shares[-1] == 1


def test_an_image_is_unusual_across_the_main_axes_too() -> None:
    features = cloud(400)
    domain, _ = Domain.fit(features, prompts_of(400))
    standard = (features - domain.mean) / domain.std
    least = torch.linalg.eigh(standard.T @ standard).eigenvectors[:, 0]
    assert float((least @ domain.axes).square().sum()) < 1e-3
    odd = (domain.mean + 20 * least * domain.std)[None]
    assert domain.share(domain.distance(odd))[0] == 1


def test_distances_of_known_images_are_taken_from_other_prompts() -> None:
    """Each prompt has a direction of its own: seen from the others, every image is far."""
    width, count = 60, 12
    features = torch.zeros(count * 10, width, dtype=torch.float64)
    for row in range(len(features)):
        features[row, row // 10] = 1
    features += 0.01 * torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    domain, _ = Domain.fit(features, prompts_of(len(features), 10))
    mixed, _ = Domain.fit(features, [str(row) for row in range(len(features))])
    assert domain.known.median() > 2 * mixed.known.median()


def test_it_is_small_and_the_same_once_it_was_read_again() -> None:
    domain, _ = Domain.fit(cloud(1500), prompts_of(1500))
    kept = domain.tensors()
    assert kept["axes"].shape == (40, AXES)
    assert len(kept["known"]) == KEPT
    other = cloud(50, seed=2)
    np.testing.assert_array_equal(Domain.of(kept).distance(other), Domain.of(domain.tensors()).distance(other))
    np.testing.assert_allclose(Domain.of(kept).distance(other), domain.distance(other), rtol=1e-5)


def test_features_that_never_change_do_no_harm() -> None:
    features = cloud(100)
    features[:, 3] = 7
    domain, shares = Domain.fit(features, prompts_of(100))
    assert np.isfinite(domain.distance(features)).all()
    assert shares.mean() == pytest.approx(0.5, abs=0.02)


def test_too_few_prompts_are_an_error() -> None:
    with pytest.raises(AigcError, match="found 4"):
        Domain.fit(cloud(40), prompts_of(40, 10))


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
def home(mini: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Domain:
    """What a model on the shipped backbone knows after 200 images of the demonstration set."""
    samples = demo_samples(tmp_path_factory.mktemp("home"), n=200, size=128)
    features = features_of(mini, [decode(sample.path.read_bytes()).image for sample in samples])
    return Domain.fit(features, [sample.prompt or "" for sample in samples])[0]


def features_of(backbone: Backbone, images: list[Image.Image]) -> Tensor:
    with torch.inference_mode():
        return torch.cat([joined(backbone.encode_image(backbone.transform(image)[None])) for image in images])


@pytest.mark.parametrize("kind", STRANGE)
def test_images_of_another_kind_raise_it(kind: str, mini: Backbone, home: Domain) -> None:
    found = home.share(home.distance(features_of(mini, [STRANGE[kind](seed) for seed in range(4)])))
    assert found.mean() > 0.9
    assert found.min() > 0.7
