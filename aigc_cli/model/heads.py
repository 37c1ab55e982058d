"""The residual model: a base score that can be read off directly, plus a bounded correction."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from aigc_cli.model.backbone import ImageFeatures
from aigc_cli.model.hints import HeadInput


@dataclass(frozen=True)
class HeadConfig:
    """Everything that fixes the heads' shape.

    Attributes:
        embed_dim: D, the size of the backbone's embeddings.
        level_dim: L, the number of pooled level features.
        quality_input, consistency_input: `embedding` for the literal formulas, `multilevel` to read the levels too.
        residual: base + bounded correction; False is the traditional model, score = f(features).
        scale_q, scale_c: the largest correction, in units of the score range [0, 1].
        hidden_q, hidden_c: widths of the first hidden layers.
        dropout: before each head's last layer.
        offset_c, share_q: consistency is read as c + offset_c + share_q * q, in units of the score range. Both are 0
            while a model is trained; see `core.recalibration`.
    """

    embed_dim: int
    level_dim: int
    quality_input: HeadInput
    consistency_input: HeadInput
    residual: bool
    scale_q: float
    scale_c: float
    hidden_q: int
    hidden_c: int
    dropout: float
    offset_c: float = 0.0
    share_q: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The same fields as plain values."""
        return asdict(self)


class Scores(NamedTuple):
    """Both scores and their parts, each (B,), on the scale where [0, 1] is [mos_min, mos_max]; not clipped."""

    quality: Tensor
    consistency: Tensor
    quality_base: Tensor
    quality_delta: Tensor
    consistency_base: Tensor
    consistency_delta: Tensor
    cosine: Tensor


class Standardise(nn.Module):
    """Shifts and scales every feature by its mean and spread over the training images; the identity until `fit`."""

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def fit(self, features: Tensor) -> None:
        """Takes mean and standard deviation (dim,) from `features` (N, dim)."""
        self.mean.copy_(features.mean(0))
        self.std.copy_(features.std(0, correction=0).clamp(min=1e-4))

    def forward(self, features: Tensor) -> Tensor:
        """Standardised features of the same shape, held to +-8 so that a stray value can't rule a head."""
        return ((features - self.mean) / self.std).clamp(-8, 8)


class ResidualHeads(nn.Module):
    """Quality and consistency from image features and a text embedding.

        q = q_base + scale_q * dq     q_base = sigmoid(Linear(h))       dq = tanh(MLP(h))
        c = c_base + scale_c * dc     c_base = a * (s + 1) / 2 + b      dc = tanh(MLP(g))

    with v and t the image and text embeddings and s = v.t. In the literal formulas h = v and g = LayerNorm[v, t, s];
    with `multilevel`, h = [v, levels] and g = [v, t, v * t, s, levels], standardised over the training images. a = 1
    and b = 0 at the start. Nothing is clipped here: a clipped score has no gradient.

    Where models of folds told how consistency should be read on new prompts, c_base also has offset_c + share_q * q.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        dim, levels = config.embed_dim, config.level_dim
        many_q, many_c = config.quality_input == "multilevel", config.consistency_input == "multilevel"
        width_q = dim + levels if many_q else dim
        width_c = 3 * dim + 1 + levels if many_c else 2 * dim + 1
        self.input_q = Standardise(width_q) if many_q else nn.Identity()
        self.input_c = Standardise(width_c) if many_c else nn.LayerNorm(width_c)
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
            self.a = nn.Parameter(torch.ones(()))
            self.b = nn.Parameter(torch.zeros(()))
            for layer in (self.mlp_q[-1], self.mlp_c[-1], self.base_q):  # at first there is no correction
                nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def inputs(self, image: ImageFeatures, text: Tensor) -> tuple[Tensor, Tensor]:
        """What the two heads read, before standardisation: (B, width_q) and (B, width_c)."""
        v, levels = image
        s = (v * text).sum(1, keepdim=True)
        many_q, many_c = self.config.quality_input == "multilevel", self.config.consistency_input == "multilevel"
        h = torch.cat([v, levels], dim=1) if many_q else v
        g = torch.cat([v, text, v * text, s, levels] if many_c else [v, text, s], dim=1)
        return h, g

    def fit_inputs(self, image: ImageFeatures, text: Tensor, quality: float = 0.5) -> None:
        """Sets where training starts: the standardisation from the training images' features (the literal inputs have
        none), and the base of quality at `quality`, their mean score on [0, 1]."""
        for layer, features in zip((self.input_q, self.input_c), self.inputs(image, text), strict=True):
            if isinstance(layer, Standardise):
                layer.fit(features)
        if self.config.residual:
            nn.init.constant_(self.base_q.bias, math.log(quality / (1 - quality)))

    def recalibrate(self, offset: float, share: float) -> None:
        """Sets how consistency is read from now on, see `HeadConfig`."""
        self.config = replace(self.config, offset_c=offset, share_q=share)

    def forward(self, image: ImageFeatures, text: Tensor) -> Scores:
        """Scores of B images with their prompts' embeddings `text` (B, D)."""
        h, g = self.inputs(image, text)
        h, g = self.input_q(h), self.input_c(g)
        cosine = (image.embedding * text).sum(1)
        raw_q, raw_c = self.mlp_q(h).squeeze(1), self.mlp_c(g).squeeze(1)
        if not self.config.residual:
            quality, consistency = raw_q.sigmoid(), raw_c.sigmoid()
            zero, consistency = torch.zeros_like(quality), self._recalibrated(consistency, quality)
            return Scores(quality, consistency, quality, zero, consistency, zero, cosine)
        base_q = self.base_q(h).squeeze(1).sigmoid()
        base_c = self.a * (cosine + 1) / 2 + self.b
        delta_q, delta_c = raw_q.tanh(), raw_c.tanh()
        quality = base_q + self.config.scale_q * delta_q
        return Scores(
            quality,
            self._recalibrated(base_c + self.config.scale_c * delta_c, quality),
            base_q,
            delta_q,
            self._recalibrated(base_c, quality),
            delta_c,
            cosine,
        )

    def _recalibrated(self, consistency: Tensor, quality: Tensor) -> Tensor:
        """Consistency (B,) as new prompts want it read, see `HeadConfig`; as it is while a model is trained."""
        return consistency + self.config.offset_c + self.config.share_q * quality.detach()
