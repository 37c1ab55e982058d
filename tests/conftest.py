"""What all tests share: a cache folder of their own, no network, one tiny CLIP and a small rated set."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

os.environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads it once, when it is imported

from tiny import TINY_VISION, save_open_clip_folder, save_tiny_model

from aigc_cli.images.demo import render_demo
from aigc_cli.images.reader import hash_image_file
from aigc_cli.images.sample import Sample
from aigc_cli.metrics import by_name
from aigc_cli.model.backbone import Backbone
from aigc_cli.model.loading import load_backbone
from aigc_cli.model.model import Model
from aigc_cli.progress import SilentProgress
from aigc_cli.recipe import Recipe
from aigc_cli.training.feature_store import EVALUATION, list_views
from aigc_cli.training.loop import TrainingData, make_model
from aigc_cli.workflows.experiment.rated import RatedImages, freeze_images, make_training_data

torch.set_num_threads(1)  # the models are tiny: a second thread makes them slower


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
    """`save_open_clip_folder`, for tests that need an image tower other than the tiny ViT."""
    return save_open_clip_folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP with four small blocks in each tower; images are 32 pixels wide, embeddings have 32 numbers."""
    return save_open_clip_folder(tmp_path_factory.mktemp("tiny"), TINY_VISION)


@pytest.fixture
def tiny(tiny_folder: Path) -> Backbone:
    """The tiny CLIP, loaded for this test alone: the test may train it."""
    return load_backbone(f"local-dir:{tiny_folder}")


@pytest.fixture(scope="session")
def mini() -> Backbone:
    """The shipped backbone, shared: a test must leave its weights as they are."""
    return load_backbone("mini")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """48 rated images of 64 pixels."""
    return render_demo(tmp_path_factory.mktemp("demo"), n=48, size=64)


@pytest.fixture(scope="session")
def tiny_model(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an untrained model on the tiny CLIP; its scale is 0 to 5."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny-model") / "run", tiny_folder)


@pytest.fixture
def ready(tiny_folder: Path, demo: list[Sample]) -> Callable[..., tuple[Model, TrainingData]]:
    """Makes an untrained model on the tiny CLIP, and the small rated set at its freeze boundary.

    With `cache`, every view is in the feature store.
    """

    def make(recipe: Recipe, cache: bool = True) -> tuple[Model, TrainingData]:
        model = make_model(load_backbone(f"local-dir:{tiny_folder}"), recipe)
        rated = RatedImages(demo, [hash_image_file(sample.path) for sample in demo], [])
        images, kept = freeze_images(model.backbone, model.freezing.image, rated, recipe, cache, SilentProgress())
        assert kept is rated
        if images.store is not None:
            images.prepare({view: range(len(demo)) for view in {EVALUATION, *list_views(recipe)}}, SilentProgress())
        return model, make_training_data(images, model.freezing.text, rated, recipe.scale)

    return make


@pytest.fixture
def noise_image() -> Image.Image:
    """A random RGB image that is wider than high."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 61, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def few_resamples() -> Iterator[None]:
    """20 bootstrap samples instead of 1,000: most of a small run's time goes into its intervals."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_name, "RESAMPLES", 20)
        yield
