"""Images on principal axes: a training reads them once, and takes the same steps as one that projects each batch."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from aigc_cli.metrics.splits import Split
from aigc_cli.model.model import Model
from aigc_cli.progress import SilentProgress
from aigc_cli.recipe import Recipe
from aigc_cli.training.batches import TrainingData
from aigc_cli.training.feature_store import EVALUATION, FrozenImages
from aigc_cli.training.loop import fit_model
from aigc_cli.training.projected_images import ProjectedImages

RECIPE = Recipe(
    backbone="tiny", freeze="all", lr=3e-3, epochs=2, batch_size=8, views=2, quality_input="multilevel", feature_axes=6
)
Ready = Callable[..., tuple[Model, TrainingData]]


def test_every_view_of_any_rows(ready: Ready) -> None:
    model, data = ready(RECIPE)
    projection = model.heads.projection
    assert projection is not None
    projection.axes.normal_(generator=torch.Generator().manual_seed(0))
    found = ProjectedImages(data.images, projection, range(4, 20)).get([7, 19, 7], [EVALUATION, 1, 0])
    for place, (row, view) in enumerate([(7, EVALUATION), (19, 1), (7, 0)]):
        state = data.images.get([row], [view])
        image = model.backbone.run_image_from_boundary(state, model.freezing.image)
        torch.testing.assert_close(found["axes"][place], projection.project(image)[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found["embedding"][place], image.embedding[0], rtol=0, atol=0)


def test_a_training_takes_the_same_steps_and_reads_each_view_once(
    ready: Ready, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    get = FrozenImages.get

    def count(images: FrozenImages, rows: list[int], views: list[int]) -> dict[str, torch.Tensor]:
        read.extend(views)
        return get(images, rows, views)

    monkeypatch.setattr(FrozenImages, "get", count)
    losses = []
    for room in (2**30, 0):
        monkeypatch.setattr("aigc_cli.training.projected_images.MAX_BYTES", room)
        read.clear()
        model, data = ready(RECIPE)
        found = fit_model(model, data, Split(range(36), range(36, 48)), replace(RECIPE, epochs=4), SilentProgress())
        losses.append([row["loss"] for row in found.epochs])
        assert (len([view for view in read if view != EVALUATION]) <= 2 * 48) == bool(room)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
