"""The heads of the residual model: a base score plus a bounded correction."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from aigc_cli.model.backbone import ImageFeatures
from aigc_cli.runtime.saved import HeadConfig


class Scores(NamedTuple):
    """Both scores and their parts, each (B,), not clipped; 0 is `mos_min` and 1 is `mos_max`."""

    quality: Tensor
    consistency: Tensor
    quality_base: Tensor
    quality_delta: Tensor
    consistency_base: Tensor
    consistency_delta: Tensor
    cosine: Tensor


class Standardiser(nn.Module):
    """Standardises every feature by its mean and standard deviation over the training images: 0 and 1 before `fit`."""

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def fit(self, features: Tensor) -> None:
        """Sets mean and standard deviation (dim,) to those of `features` (N, dim)."""
        self.mean.copy_(features.mean(0))
        self.std.copy_(features.std(0, correction=0).clamp(min=1e-4))

    def forward(self, features: Tensor) -> Tensor:
        """Standardised features of the same shape, clipped to [-8, 8]: an outlier can't dominate a head."""
        return ((features - self.mean) / self.std).clamp(-8, 8)


class Projection(nn.Module):
    """Standardised features on the principal axes of the training images: all 0 before `fit`.

    Neighbouring blocks say nearly the same, in thousands of features. An optimiser whose steps are of one size for each
    weight, such as Adam, then learns mostly from directions that are noise. On the axes, a direction counts as much as
    the images differ along it.
    """

    axes: Tensor

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.standardise = Standardiser(dim)
        self.register_buffer("axes", torch.zeros(dim, count))

    def fit(self, features: Tensor) -> None:
        """Sets the axes to those of `features` (N, dim); N - 1 images have no more than N - 1 axes, others stay 0.

        Along the axes the mean of the variances is 1.
        """
        self.standardise.fit(features)
        x = self.standardise(features).double()
        x = x - x.mean(0)
        values, vectors = torch.linalg.eigh(x @ x.T)  # N is smaller than dim, or not much larger
        count = min(self.axes.shape[1], len(x) - 1, x.shape[1])
        values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
        axes = x.T @ (vectors / values.clamp(min=1e-9).sqrt())
        axes = axes * axes.sum(0).sign()  # an axis has no sign of its own; this one does not depend on the library
        self.axes.zero_()
        self.axes[:, :count] = axes / (values.mean() / len(x)).sqrt().clamp(min=1e-6)

    def project(self, image: ImageFeatures) -> Tensor:
        """Embedding and levels along the axes, (B, count)."""
        return self(torch.cat(image[:2], dim=1)) if image.axes is None else image.axes

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, dim) along the axes, (B, count)."""
        projected: Tensor = self.standardise(features) @ self.axes
        return projected


class ResidualHeads(nn.Module):
    """Quality and consistency from image features and a text embedding.

        q = q_base + residual_scale_q * dq     q_base = sigmoid(Linear(h))       dq = tanh(MLP(h))
        c = c_base + residual_scale_c * dc     c_base = a * (s + 1) / 2 + b      dc = tanh(MLP(g))

    v and t are the image and text embeddings, s = v.t. In the literal formulas h = v and g = LayerNorm[v, t, s]; with
    `multilevel`, h = [v, levels] and g = [v, t, v * t, s, levels], standardised over the training images. With
    `feature_axes`, h is projected on so many principal axes and g = [h, t, v * t, s]. With `scores`, g = [s, q] without
    a gradient to q: a few hundred prompts are too few to learn more about them, and people find better images more
    consistent. At the start a = 1 and b = 0. Scores are not clipped here, because a clipped score has no gradient.

    With `taste`, two linear layers add what one rater, or a group, sees otherwise than those of the start model:
    Linear(h) inside the sigmoid of q_base, Linear[h, s, q] to c_base. They are 0 at first. The q that consistency
    reads is without taste: what somebody likes does not change what an image shows.
    """

    numbers: Tensor

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        scales = torch.tensor([config.residual_scale_q, config.residual_scale_c], dtype=torch.float32)
        self.register_buffer("numbers", scales, persistent=False)  # `config` stores them
        dim, levels = config.embed_dim, config.level_dim
        self.many_q, self.many_c = config.quality_input == "multilevel", config.consistency_input == "multilevel"
        self.scores_c = config.consistency_input == "scores"
        axes = config.feature_axes if self.many_q or self.many_c else 0
        features = axes or dim + levels
        width_q = features if self.many_q else dim
        width_c = 2 if self.scores_c else 2 * dim + 1 + (features if self.many_c else 0)
        self.projection = Projection(dim + levels, axes) if axes else None
        self.input_q = Standardiser(width_q) if self.many_q and not axes else nn.Identity()
        fitted = 1 if self.scores_c else width_c - axes if self.many_c else 0
        self.input_c = Standardiser(fitted) if fitted else nn.LayerNorm(width_c)
        self.mlp_q = nn.Sequential(
            nn.Linear(width_q, config.hidden_q), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(config.hidden_q, 1)
        )
        self.mlp_c = nn.Sequential(
            nn.Linear(width_c, config.hidden_c),
            nn.GELU(),
            nn.Linear(config.hidden_c, 64),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(64, 1),
        )
        self.taste_q = self._make_taste(width_q) if config.taste else None
        self.taste_c = self._make_taste(width_q + 2) if config.taste else None
        if config.residual:
            self.base_q = nn.Linear(width_q, 1)
            self.a, self.b = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))
            for layer in (self.mlp_q[-1], self.mlp_c[-1], self.base_q):  # the correction starts at 0
                nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    @staticmethod
    def _make_taste(width: int) -> nn.Linear:
        layer = nn.Linear(width, 1)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        return layer

    def make_inputs(self, image: ImageFeatures, text: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs of both heads before standardisation; without the image features where these are projected.

        Returns:
            (B, D) or (B, D + L) of quality, and (B, 1), (B, 2D + 1) or (B, 3D + 1 + L) of consistency.
        """
        v, levels = image[:2]
        s = (v * text).sum(1, keepdim=True)
        joins = self.projection is None
        h = torch.cat([v, levels], dim=1) if self.many_q and joins else v
        if self.scores_c:
            return h, s
        if not self.many_c:
            return h, torch.cat([v, text, s], dim=1)
        return h, torch.cat([v, text, v * text, s, levels] if joins else [text, v * text, s], dim=1)

    def read_inputs(self, image: ImageFeatures, text: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs of both heads, (B, width_q) and (B, width_c), the latter without the score of quality."""
        h, g = self.make_inputs(image, text)
        h, g = self.input_q(h), self.input_c(g)
        if self.projection is None:
            return h, g
        projected = self.projection.project(image)
        return projected if self.many_q else h, torch.cat([projected, g], dim=1) if self.many_c else g

    def read_features(self, image: ImageFeatures) -> Tensor:
        """What describes an image beside its scores, (B, F): the first principal axes, or else embedding and levels."""
        if self.projection is None:
            return torch.cat(image[:2], dim=1)
        return self.projection.project(image)[:, : self.config.feature_width]

    def fit_inputs(self, image: ImageFeatures, text: Tensor, quality: float = 0.5) -> None:
        """Initialises the heads from the training images.

        Args:
            image, text: features and prompt embeddings of training images, to standardise `multilevel` inputs.
            quality: the mean human quality on (0, 1); the base of quality starts there.
        """
        if self.projection is not None:
            self.projection.fit(torch.cat(image[:2], dim=1))
        for layer, features in zip((self.input_q, self.input_c), self.make_inputs(image, text), strict=True):
            if isinstance(layer, Standardiser):
                layer.fit(features)
        if self.config.residual:
            nn.init.constant_(self.base_q.bias, math.log(quality / (1 - quality)))

    def forward(self, image: ImageFeatures, text: Tensor) -> Scores:
        """Scores of B images and the embeddings `text` (B, D) of their prompts."""
        h, g = self.read_inputs(image, text)
        cosine = (image.embedding * text).sum(1)
        raw_q, residual = self.mlp_q(h).squeeze(1), self.config.residual
        logit_q = self.base_q(h).squeeze(1) if residual else raw_q
        delta_q = raw_q.tanh() if residual else torch.zeros_like(raw_q)
        base_q = logit_q.sigmoid()
        quality = base_q + self.numbers[0] * delta_q
        read_q = quality.detach()[:, None]
        if self.scores_c:
            g = torch.cat([g, 4 * read_q - 2], dim=1)  # on [-2, 2], as wide as the cosine
        raw_c = self.mlp_c(g).squeeze(1)
        taste_c: Tensor | float = 0.0
        if self.taste_q is not None and self.taste_c is not None:
            base_q = (logit_q + self.taste_q(h).squeeze(1)).sigmoid()
            quality = base_q + self.numbers[0] * delta_q
            taste_c = self.taste_c(torch.cat([h, cosine[:, None], read_q], dim=1)).squeeze(1)
        base_c = self.a * (cosine + 1) / 2 + self.b + taste_c if residual else (raw_c + taste_c).sigmoid()
        delta_c = raw_c.tanh() if residual else torch.zeros_like(raw_c)
        consistency = base_c + self.numbers[1] * delta_c
        return Scores(quality, consistency, base_q, delta_q, base_c, delta_c, cosine)
