"""The heads of the residual model: a base score plus a bounded correction."""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from aigc_cli.model.backbone import ImageFeatures
from aigc_cli.runtime.saved import HeadConfig
from aigc_cli.uncertainty.consistency import ConsistencyCorrection


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


class ResidualHeads(nn.Module):
    """Quality and consistency from image features and a text embedding.

        q = q_base + residual_scale_q * dq     q_base = sigmoid(Linear(h))       dq = tanh(MLP(h))
        c = c_base + residual_scale_c * dc     c_base = a * (s + 1) / 2 + b      dc = tanh(MLP(g))

    v and t are the image and text embeddings, s = v.t. In the literal formulas h = v and g = LayerNorm[v, t, s]; with
    `multilevel`, h = [v, levels] and g = [v, t, v * t, s, levels], standardised over the training images. At the start
    a = 1 and b = 0. Scores are not clipped here, because a clipped score has no gradient. After training, c_base may
    include the correction of `HeadConfig`.
    """

    numbers: Tensor

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.register_buffer("numbers", torch.empty(4), persistent=False)  # of `config`, which stores them
        self.set_config(config)
        dim, levels = config.embed_dim, config.level_dim
        self.many_q, self.many_c = config.quality_input == "multilevel", config.consistency_input == "multilevel"
        width_q = dim + levels if self.many_q else dim
        width_c = 3 * dim + 1 + levels if self.many_c else 2 * dim + 1
        self.input_q = Standardiser(width_q) if self.many_q else nn.Identity()
        self.input_c = Standardiser(width_c) if self.many_c else nn.LayerNorm(width_c)
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
        if config.residual:
            self.base_q = nn.Linear(width_q, 1)
            self.a, self.b = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))
            for layer in (self.mlp_q[-1], self.mlp_c[-1], self.base_q):  # the correction starts at 0
                nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def make_inputs(self, image: ImageFeatures, text: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs of both heads before standardisation: (B, width_q) and (B, width_c)."""
        v, levels = image
        s = (v * text).sum(1, keepdim=True)
        h = torch.cat([v, levels], dim=1) if self.many_q else v
        return h, torch.cat([v, text, v * text, s, levels] if self.many_c else [v, text, s], dim=1)

    def fit_inputs(self, image: ImageFeatures, text: Tensor, quality: float = 0.5) -> None:
        """Initialises the heads from the training images.

        Args:
            image, text: features and prompt embeddings of training images, to standardise `multilevel` inputs.
            quality: the mean human quality on (0, 1); the base of quality starts there.
        """
        for layer, features in zip((self.input_q, self.input_c), self.make_inputs(image, text), strict=True):
            if isinstance(layer, Standardiser):
                layer.fit(features)
        if self.config.residual:
            nn.init.constant_(self.base_q.bias, math.log(quality / (1 - quality)))

    def set_config(self, config: HeadConfig) -> None:
        """Sets the scales of the corrections and the correction of consistency; the layers stay as they are."""
        self.config = config
        scales, correction = (config.residual_scale_q, config.residual_scale_c), config.correction_offset
        with torch.no_grad():
            self.numbers.copy_(torch.tensor([*scales, correction, config.correction_weight]))

    def set_correction(self, correction: ConsistencyCorrection) -> None:
        """Adds `correction` to consistency from now on, see `HeadConfig`."""
        corrected = replace(self.config, correction_offset=correction.offset, correction_weight=correction.weight)
        self.set_config(corrected)

    def forward(self, image: ImageFeatures, text: Tensor) -> Scores:
        """Scores of B images and the embeddings `text` (B, D) of their prompts."""
        h, g = self.make_inputs(image, text)
        h, g = self.input_q(h), self.input_c(g)
        cosine = (image.embedding * text).sum(1)
        raw_q, raw_c = self.mlp_q(h).squeeze(1), self.mlp_c(g).squeeze(1)
        if not self.config.residual:
            quality, consistency = raw_q.sigmoid(), raw_c.sigmoid()
            zero, consistency = torch.zeros_like(quality), self._correct(consistency, quality)
            return Scores(quality, consistency, quality, zero, consistency, zero, cosine)
        base_q = self.base_q(h).squeeze(1).sigmoid()
        base_c = self.a * (cosine + 1) / 2 + self.b
        delta_q, delta_c = raw_q.tanh(), raw_c.tanh()
        quality = base_q + self.numbers[0] * delta_q
        consistency = self._correct(base_c + self.numbers[1] * delta_c, quality)
        return Scores(quality, consistency, base_q, delta_q, self._correct(base_c, quality), delta_c, cosine)

    def _correct(self, consistency: Tensor, quality: Tensor) -> Tensor:
        """The corrected consistency (B,), see `HeadConfig`; in training the correction is 0."""
        return consistency + self.numbers[2] + self.numbers[3] * quality.detach()
