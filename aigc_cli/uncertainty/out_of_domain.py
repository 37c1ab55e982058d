"""How far an image lies from those that a model was trained on, in the features that its heads read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aigc_cli.metrics.splits import grouped_folds
from aigc_cli.model.backbone import ImageFeatures
from aigc_cli.model.devices import one_thread

AXES = 16  # 16, 32 and 64 were tried on AGIQA-3K: with more, smooth and flat images look at home
IMAGES_PER_AXIS = 8
SPARE = 8  # axes that are looked for beside those that are kept, for their precision
KEPT = 1024  # sorted distances
FOLDS = 5
FLAT = 1e-4  # the least standard deviation of a feature

Column = NDArray[np.float64]


def joined(image: ImageFeatures) -> Tensor:
    """Embedding and levels side by side, (B, F) float64 on the CPU."""
    return torch.cat([image.embedding, image.levels], dim=1).cpu().double()


@dataclass(frozen=True)
class Domain:
    """The images that a model knows, as a Gaussian: its main axes exactly, all others alike.

    The distance of an image is the sum of two terms, each 1 on average over the known images: its squared Mahalanobis
    distance along the main axes divided by their number, and the squared length that is left across them divided by
    its mean (the two parts of probabilistic PCA, Tipping & Bishop 1999).

    Attributes:
        mean, std: (F,) of each feature.
        axes: (F, k) main axes of the standardised features, orthonormal.
        deviations: (k,) standard deviations along them.
        across: () mean squared length across them.
        known: (m,) sorted distances of known images, each from the images of other prompts.
    """

    mean: Tensor
    std: Tensor  # `.scale` behind a name is taken, see io.weights
    axes: Tensor
    deviations: Tensor
    across: Tensor
    known: Tensor

    @classmethod
    def fit(cls, features: Tensor, prompts: Sequence[str]) -> tuple["Domain", Column]:
        """The domain of features (N, F) of images with these prompts.

        Returns:
            (the domain, the share (N,) of the images that lie nearer than each one, all distances taken from the images
            of other prompts).

        Raises:
            AigcError: there are fewer than `FOLDS` different prompts.
        """
        apart = np.empty(len(features))
        for held_out in grouped_folds(prompts, FOLDS, 0):
            rest = np.setdiff1d(np.arange(len(features)), held_out)
            apart[held_out] = _gaussian(features[rest]).distance(features[held_out])
        known = np.sort(apart)
        if len(known) > KEPT:
            known = np.quantile(known, np.linspace(0, 1, KEPT))
        found = _gaussian(features, known)
        return found, found.share(apart)

    def distance(self, features: Tensor) -> Column:
        """The distance (B,) of features (B, F)."""
        with one_thread():
            standard = (features - self.mean) / self.std
            along = standard @ self.axes
            across = (standard.square().sum(1) - along.square().sum(1)).clamp(min=0) / self.across
            found: Column = ((along / self.deviations).square().mean(1) + across).numpy()
        return found

    def share(self, distances: Column) -> Column:
        """The share (B,) of the known images that lie nearer than these distances (B,): 0.5 on average, at most 1."""
        return np.searchsorted(self.known.numpy(), distances) / len(self.known)

    def tensors(self) -> dict[str, Tensor]:
        """All arrays as they are kept: the axes, nearly all of their bytes, as float16, the others as float32."""
        return {f.name: getattr(self, f.name).to(_kept(f.name)) for f in fields(self)}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Domain":
        """From what `tensors` returned; KeyError where one is missing."""
        return cls(*[tensors[f.name].double() for f in fields(cls)])


def _kept(name: str) -> torch.dtype:
    return torch.float16 if name == "axes" else torch.float32


def _gaussian(features: Tensor, known: Column | None = None) -> Domain:
    """The Gaussian of features (N, F), rounded to what is kept of it, so that it is the same once it was read again."""
    x = features.double()
    mean, std = x.mean(0), x.std(0, correction=0).clamp(min=FLAT)
    x = (x - mean) / std
    count = min(AXES, max(1, len(x) // IMAGES_PER_AXIS), x.shape[1])
    with torch.random.fork_rng(devices=[]):  # randomised, so that thousands of features take no minutes
        torch.manual_seed(0)
        main = torch.svd_lowrank(x, min(count + SPARE, *x.shape), niter=4)[2]
    axes = main[:, :count].half().double()
    along = x @ axes
    across = (x.square().sum() - along.square().sum()) / len(x)
    made = Domain(
        mean,
        std,
        axes,
        along.square().mean(0).sqrt().clamp(min=FLAT),
        across.clamp(min=FLAT),
        torch.from_numpy(np.empty(0) if known is None else known),
    )
    return Domain.of(made.tensors())
