"""How unusual an image is compared with the training images, from the features that the heads read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from aigc_cli.metrics.formulas import Values
from aigc_cli.metrics.splits import make_folds
from aigc_cli.storage.tensors import Array

AXES = 16  # with 32 or 64 (measured on AGIQA-3K), smooth and flat images look typical
IMAGES_PER_AXIS = 8
KEPT_DISTANCES = 1024  # the most distances that are stored
DOMAIN_FOLDS = 5
MIN_STD = 1e-4  # lower bound of a standard deviation, for features that never change


@dataclass(frozen=True)
class TrainingDomain:
    """A Gaussian of the training images, with one variance for all directions outside its main axes.

    The distance of an image is the sum of two terms; the mean of each over the training images is 1. The first is the
    squared Mahalanobis distance along the main axes, divided by their number. The second is the squared length
    outside the main axes, divided by its mean. These are the two parts of probabilistic PCA (Tipping and Bishop 1999).

    Attributes:
        mean, std: (F,) mean and standard deviation of each feature.
        axes: (F, k) main axes of the standardised features, orthonormal.
        deviations: (k,) standard deviations along the axes.
        across: () mean squared length outside the axes.
        known: (m,) sorted distances of training images; each is measured from the images of other prompts.
    """

    mean: Array
    std: Array
    axes: Array
    deviations: Array
    across: Array
    known: Array

    @classmethod
    def fit(cls, features: Array, prompts: Sequence[str]) -> tuple[Self, Values]:
        """Fits the domain to features (N, F) and prompts of the training images.

        Returns:
            (the domain, `out_of_domain` (N,) of the training images, measured from the images of other prompts).

        Raises:
            AigcError: there are fewer than `DOMAIN_FOLDS` different prompts.
        """
        distances = np.empty(len(features))
        for held_out in make_folds(prompts, DOMAIN_FOLDS, 0):
            rest = np.setdiff1d(np.arange(len(features)), held_out)
            distances[held_out] = cls._fit_gaussian(features[rest]).measure(features[held_out])
        known = np.sort(distances)
        if len(known) > KEPT_DISTANCES:
            known = np.quantile(known, np.linspace(0, 1, KEPT_DISTANCES))
        domain = cls._fit_gaussian(features, known)
        return domain, domain.rank(distances)

    def measure(self, features: Array) -> Values:
        """The distances (B,) of images with features (B, F)."""
        standard = (features - self.mean) / self.std
        along = standard @ self.axes
        across = (np.square(standard).sum(1) - np.square(along).sum(1)).clip(min=0) / self.across
        return np.asarray(np.square(along / self.deviations).mean(1) + across)

    def rank(self, distances: Values) -> Values:
        """`out_of_domain` (B,): the share of known distances below these (B,); on average 0.5 for training images."""
        return np.searchsorted(self.known, distances) / len(self.known)

    def to_tensors(self) -> dict[str, Array]:
        """All arrays as a checkpoint stores them: the axes, nearly all of the bytes, as float16, others as float32."""
        types = {"axes": np.float16}
        return {f.name: getattr(self, f.name).astype(types.get(f.name, np.float32)) for f in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Array]) -> Self:
        """Reads what `to_tensors` wrote; KeyError where an array is missing."""
        return cls(*[np.asarray(tensors[f.name], dtype=np.float64) for f in fields(cls)])

    @classmethod
    def _fit_gaussian(cls, features: Array, known: Values | None = None) -> Self:
        """The Gaussian of features (N, F), rounded as a checkpoint stores it: saving and loading changes nothing."""
        x = np.asarray(features, dtype=np.float64)
        mean, std = x.mean(0), x.std(0).clip(min=MIN_STD)
        x = (x - mean) / std
        axes = _find_main_axes(x).astype(np.float16).astype(np.float64)
        along = x @ axes
        across = (np.square(x).sum() - np.square(along).sum()) / len(x)
        deviations = np.sqrt(np.square(along).mean(0)).clip(min=MIN_STD)
        made = cls(mean, std, axes, deviations, np.maximum(across, MIN_STD), np.empty(0) if known is None else known)
        return cls.from_tensors(made.to_tensors())


def _find_main_axes(x: Array) -> Array:
    """The leading right singular vectors (F, k) of standardised features (N, F)."""
    count = min(AXES, max(1, len(x) // IMAGES_PER_AXIS), x.shape[1])
    if count >= min(x.shape):
        return np.asarray(np.linalg.svd(x, full_matrices=False)[2][:count].T)
    from scipy.sparse.linalg import svds  # computes only a few axes; imported here because scoring does not need SciPy

    return np.asarray(svds(x, k=count, v0=np.ones(min(x.shape)))[2][::-1].T)
