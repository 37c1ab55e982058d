"""What every test shares: a cache of its own, no network, one tiny CLIP and a small rated set."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is imported

from tiny import TINY_VISION, save_open_clip_folder, save_tiny_model

from aigc_cli.images.demo import demo_samples
from aigc_cli.images.sample import Sample
from aigc_cli.metrics import by_name as metrics
from aigc_cli.model.backbone import Backbone
from aigc_cli.model.loading import load_backbone
from aigc_cli.model.model import Judge
from aigc_cli.progress import Silent
from aigc_cli.recipe import Recipe
from aigc_cli.training.feature_store import EVALUATION, digest_of, views_of
from aigc_cli.training.loop import Data, new_judge
from aigc_cli.workflows.experiment.rated import Rated, image_features, training_data

torch.set_num_threads(1)  # the models are tiny: a second thread costs more than it brings


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads the user's settings or touches the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AIGC_")]:
            patch.delenv(name)
        patch.setenv("AIGC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def open_clip_folder() -> Callable[..., Path]:
    """`save_open_clip_folder`, for tests that need another image tower than the tiny ViT."""
    return save_open_clip_folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP of four small blocks for each tower; images of 32 pixels, embeddings of 32 numbers."""
    return save_open_clip_folder(tmp_path_factory.mktemp("tiny"), TINY_VISION)


@pytest.fixture
def tiny(tiny_folder: Path) -> Backbone:
    """The tiny CLIP, loaded afresh: a test may train it."""
    return load_backbone(f"local-dir:{tiny_folder}")


@pytest.fixture(scope="session")
def mini() -> Backbone:
    """The shipped backbone, shared: a test must leave its weights as they are."""
    return load_backbone("mini")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """48 rated images of 64 pixels."""
    return demo_samples(tmp_path_factory.mktemp("demo"), n=48, size=64)


@pytest.fixture(scope="session")
def tiny_model(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an untrained model on the tiny CLIP; its scale is 0 to 5."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny-model") / "run", tiny_folder)


@pytest.fixture
def ready(tiny_folder: Path, demo: list[Sample]) -> Callable[..., tuple[Judge, Data]]:
    """Makes a fresh judge on the tiny CLIP and the small set at its freeze boundary, every view stored when `cache`."""

    def make(recipe: Recipe, cache: bool = True) -> tuple[Judge, Data]:
        judge = new_judge(load_backbone(f"local-dir:{tiny_folder}"), recipe)
        rated = Rated(demo, [digest_of(sample.path) for sample in demo], [])
        images, kept = image_features(judge.backbone, judge.freezing, rated, recipe, cache, Silent())
        assert kept is rated
        if images.store is not None:
            images.prepare({view: range(len(demo)) for view in {EVALUATION, *views_of(recipe)}}, Silent())
        return judge, training_data(images, judge.freezing, rated, recipe)

    return make


@pytest.fixture
def noise_image() -> Image.Image:
    """A random RGB image that is wider than high."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 61, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def few_resamples() -> Iterator[None]:
    """20 bootstrap draws: the intervals have tests of their own, and are most of a small run's time."""
    with pytest.MonkeyPatch.context() as patch:
        for function in (metrics.metric_rows, metrics.crossval_rows):
            patch.setattr(function, "__defaults__", (20,))
        yield
