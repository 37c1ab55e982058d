"""What all tests share: a cache folder of their own, no network, one tiny CLIP and a small rated set."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

os.environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads it once, when it is imported

from tiny import TINY_VISION, save_open_clip_folder, save_tiny_model, trace_exports

from aigc_cli.images.demo import render_demo
from aigc_cli.images.reader import hash_image_file
from aigc_cli.images.sample import Sample
from aigc_cli.metrics import by_name
from aigc_cli.model.backbone import Backbone
from aigc_cli.model.export import keep_graphs
from aigc_cli.model.loading import load_backbone
from aigc_cli.model.model import Model
from aigc_cli.progress import Progress, SilentProgress
from aigc_cli.recipe import Recipe
from aigc_cli.runtime.network import Network
from aigc_cli.runtime.saved import SavedModel
from aigc_cli.training.batches import TrainingData
from aigc_cli.training.feature_store import EVALUATION, list_views
from aigc_cli.training.loop import make_model
from aigc_cli.workflows.experiment.rated import RatedImages, freeze_images, make_training_data
from aigc_cli.workflows.score.networks import load_network

torch.set_num_threads(1)  # the models are tiny: a second thread makes them slower


KEEPER = "aigc_cli.model.export.keep_graphs"


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all worker processes of this run share; what is made there is made once, under a lock."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Iterator[None]:
    """No test reads the user's settings or touches the user's cache; the workers share exported graphs."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AIGC_")]:
            patch.delenv(name)
        cache = tmp_path_factory.mktemp("cache")
        (shared / "engines").mkdir(exist_ok=True)
        (cache / "engines").symlink_to(shared / "engines")
        patch.setenv("AIGC_CACHE", str(cache))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_graphs() -> Iterator[None]:
    """Trainings leave no graphs: the first export in a process takes seconds, and few tests are about them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KEEPER, lambda model, progress: {})
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_network(shared: Path) -> Iterator[None]:
    """The graphs of the shared tiny model are loaded once in a process: it takes longer than scoring with them."""
    loaded: dict[tuple[str, str, str], Network] = {}

    def load(saved: SavedModel, device: str, engine: str, progress: Progress) -> Network:
        if saved.checkpoint.folder.parent.parent != shared or device == "auto" or engine == "eager":
            return load_network(saved, device, engine, progress)
        key = (saved.checkpoint.digest, device, engine)
        if key not in loaded:
            loaded[key] = load_network(saved, device, engine, progress)
        return loaded[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aigc_cli.workflows.score.scorer.load_network", load)
        yield


@pytest.fixture
def kept_graphs(_no_graphs: None) -> Iterator[None]:
    """Trainings leave graphs, as they do outside of tests."""
    with pytest.MonkeyPatch.context() as patch, trace_exports():
        patch.setattr(KEEPER, keep_graphs)
        yield


@pytest.fixture(scope="session")
def open_clip_folder() -> Callable[..., Path]:
    """`save_open_clip_folder`, for tests that need an image tower other than the tiny ViT."""
    return save_open_clip_folder


@pytest.fixture(scope="session")
def tiny_folder(shared: Path) -> Path:
    """A random CLIP with four small blocks in each tower; images are 32 pixels wide, embeddings have 32 numbers."""
    return _make_once(shared / "tiny", lambda folder: save_open_clip_folder(folder, TINY_VISION))


def _make_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """Makes a folder unless another worker has made it."""
    with FileLock(f"{folder}.lock"):
        if not (done := folder.with_suffix(".done")).exists():
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


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
def tiny_model(tiny_folder: Path, shared: Path) -> Path:
    """The run folder of an untrained model on the tiny CLIP, with graphs; its scale is 0 to 5. Copy it to change it."""
    return _make_once(shared / "run", lambda run: save_tiny_model(run, tiny_folder))


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
