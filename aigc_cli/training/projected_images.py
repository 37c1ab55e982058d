"""The images of a wholly frozen tower on the heads' principal axes, in memory."""

from collections.abc import Sequence

import torch
from torch import Tensor

from aigc_cli.model.backbone import ImageFeatures
from aigc_cli.model.engines import State
from aigc_cli.model.heads import Projection
from aigc_cli.training.feature_store import EVALUATION, FrozenImages

READ_AT_ONCE = 64
MAX_BYTES = 2**30


class ProjectedImages:
    """What heads with principal axes read of images: their features are read from the store and projected only once.

    The features of an image are thousands of numbers, which a training would read again in every epoch.

    Args:
        trained: the images that are asked for in augmented views.
        validated: further images, which are only asked for as they are.
    """

    def __init__(
        self, images: FrozenImages, project: Projection, trained: Sequence[int], validated: Sequence[int] = ()
    ) -> None:
        self._images, self._project, self._trained = images, project, list(trained)
        self._all = [*self._trained, *validated]
        self._place = {row: place for place, row in enumerate(self._all)}
        self._views: dict[int, tuple[Tensor, Tensor]] = {}

    @classmethod
    def fits(cls, project: Projection, rows: int, views: int) -> bool:
        """Whether so many images in so many views fit in memory."""
        return 4 * rows * views * (2 * project.axes.shape[1]) <= MAX_BYTES  # as many axes as numbers of the embedding

    def get(self, rows: Sequence[int], views: Sequence[int]) -> State:
        """The state of images `rows`, each in its own view, see `FrozenImages.get`; with `axes` in place of levels."""
        parts = [self._read(view) for view in dict.fromkeys(views)]
        number = {view: index for index, view in enumerate(dict.fromkeys(views))}
        places = [self._place[row] for row in rows]
        picked = [(number[view], place) for view, place in zip(views, places, strict=True)]
        embedding, axes = (torch.stack([parts[n][field][place] for n, place in picked]) for field in (0, 1))
        return {"embedding": embedding, "levels": embedding.new_empty(len(rows), 0), "axes": axes}

    def _read(self, view: int) -> tuple[Tensor, Tensor]:
        """Embeddings and axes of the images in a view."""
        if view not in self._views:
            found, rows = [], self._all if view == EVALUATION else self._trained
            for start in range(0, len(rows), READ_AT_ONCE):
                part = rows[start : start + READ_AT_ONCE]
                state = self._images.get(part, [view] * len(part))
                image = ImageFeatures(state["embedding"], state["levels"])
                with torch.no_grad():
                    found.append((image.embedding, self._project.project(image)))
            self._views[view] = (torch.cat([e for e, _ in found]), torch.cat([a for _, a in found]))
        return self._views[view]
