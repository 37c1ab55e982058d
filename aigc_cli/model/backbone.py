"""What every backbone can do: embed images and texts, in two steps that meet at the freeze boundary."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aigc_cli.model.hints import Hints
from aigc_cli.model.preprocess import Picture, Preprocessing
from aigc_cli.model.towers import UNFROZEN, Tower
from aigc_cli.recipe import Recipe
from aigc_cli.storage.tensors import tensors_digest


class ImageFeatures(NamedTuple):
    """What the heads read of an image: the L2-normalised embedding (B, D) and the pooled levels (B, L)."""

    embedding: Tensor
    levels: Tensor


@dataclass(frozen=True)
class Freezing:
    """The freeze boundary of both towers: blocks below it are frozen, with everything before them.

    -1 (`UNFROZEN`) trains the whole tower; one more than the number of blocks freezes all of it, tail included.
    """

    image: int
    text: int


@dataclass
class Backbone:
    """A CLIP-like model cut into image and text towers.

    Attributes:
        name: as the user wrote it, for example `ViT-L-14/openai` or `mini`.
        image, text: the towers; their modules own all parameters.
        tokenize: texts to int64 token ids (B, L).
        truncates: whether a text is longer than the text tower's window.
        preprocessing: how an image becomes pixels.
        embed_dim: D, the size of both embeddings.
        hints: choices that a recipe leaves to the backbone.
        weights_hash: SHA-256 of the loaded weights.
        autocast: the type that everything after the freeze boundary computes in; None for float32. Embeddings and
            levels are float32 all the same.
        drop_path: in training, the chance that an image skips the last block of the image tower.
    """

    name: str
    image: Tower
    text: Tower
    tokenize: Callable[[Sequence[str]], Tensor]
    truncates: Callable[[str], bool]
    preprocessing: Preprocessing
    embed_dim: int
    hints: Hints
    weights_hash: str = field(init=False)
    autocast: torch.dtype | None = field(init=False, default=None)
    drop_path: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.weights_hash = tensors_digest(self.modules().state_dict())
        self.modules().eval().requires_grad_(False)
        self.image.module.to(memory_format=torch.channels_last)

    def transform(self, image: Picture) -> Tensor:
        """Float32 pixels (3, H, W) of an RGB image."""
        return self.preprocessing.scaled(self.preprocessing.fitted(image)[None])[0]

    def modules(self) -> nn.ModuleDict:
        """Both networks under the names `image` and `text`."""
        return nn.ModuleDict({"image": self.image.module, "text": self.text.module})

    def boundaries(self, recipe: Recipe) -> Freezing:
        """The freeze boundary of each tower, as `recipe` wants it."""
        depth = recipe.freeze_depth if recipe.freeze_text_depth is None else recipe.freeze_text_depth
        return Freezing(
            _boundary(self.image, recipe.freeze, recipe.freeze_depth),
            _boundary(self.text, recipe.freeze_text or recipe.freeze, depth),
        )

    def freeze(self, freezing: Freezing) -> list[nn.Parameter]:
        """Freezes up to the boundary of each tower and returns what stays trainable."""
        self.image.freeze(freezing.image)
        self.text.freeze(freezing.text)
        return [p for p in self.modules().parameters() if p.requires_grad]

    def train(self, freezing: Freezing) -> None:
        """Training mode beyond the freeze boundary, eval mode before it."""
        self.image.train(freezing.image)
        self.text.train(freezing.text)

    def eval(self) -> None:
        """Eval mode throughout."""
        self.modules().eval()

    def image_boundary(self, pixels: Tensor, boundary: int) -> dict[str, Tensor]:
        """Everything before the freeze boundary: the part that is computed once.

        Args:
            pixels: (B, 3, H, W), preprocessed.
            boundary: the number of frozen blocks, see `Freezing`.

        Returns:
            {"pixels"} when nothing is frozen, {"embedding" (B, D), "levels" (B, L)} when everything is, else
            {"hidden": what enters block `boundary`, "levels": the levels pooled so far}.
        """
        if boundary == UNFROZEN:
            return {"pixels": pixels}
        tower = self.image
        hidden, pooled = self._blocks(tower.stem(_channels_last(pixels)), 0, min(boundary, len(tower.blocks)))
        levels = _joined(pooled, hidden)
        if boundary <= len(tower.blocks):
            return {"hidden": hidden, "levels": levels}
        return {"embedding": F.normalize(tower.tail(hidden, None), dim=-1), "levels": levels}

    def image_from_boundary(self, state: Mapping[str, Tensor], boundary: int) -> ImageFeatures:
        """Everything after the freeze boundary, from what `image_boundary` returned."""
        if "embedding" in state:
            return ImageFeatures(state["embedding"], state["levels"])
        if "pixels" in state:
            state = self.image_boundary(state["pixels"], 0)
            boundary = 0
        with self._mixed(self.image):
            hidden, pooled = self._blocks(_channels_last(state["hidden"]), boundary, len(self.image.blocks))
            embedding = self.image.tail(hidden, None)
        return ImageFeatures(F.normalize(embedding.float(), dim=-1), torch.cat([state["levels"], *pooled], dim=1))

    def _mixed(self, tower: Tower) -> torch.autocast:
        device = next(tower.module.parameters()).device.type
        return torch.autocast(device, self.autocast, enabled=self.autocast is not None)

    def _blocks(self, hidden: Tensor, start: int, stop: int) -> tuple[Tensor, list[Tensor]]:
        pooled = []
        for index in range(start, stop):
            before, block = hidden, self.image.blocks[index]
            hidden = self.image.call_block(block, before, None)
            if self.drop_path and _in_training(block) and hidden.shape == before.shape:
                hidden = _skipped(before, hidden, self.drop_path * (index + 1) / len(self.image.blocks))
            if index in self.hints.levels:
                pooled.append(self.image.pool(hidden))
        return hidden, pooled

    def text_boundary(self, tokens: Tensor, boundary: int) -> dict[str, Tensor]:
        """As `image_boundary`, for token ids (B, L): {"tokens"}, {"hidden", "tokens"} or {"embedding"}."""
        if boundary == UNFROZEN:
            return {"tokens": tokens}
        hidden = self.text.stem(tokens)
        for block in self.text.blocks[:boundary]:
            hidden = self.text.call_block(block, hidden, tokens)
        if boundary <= len(self.text.blocks):
            return {"hidden": hidden, "tokens": tokens}
        return {"embedding": F.normalize(self.text.tail(hidden, tokens), dim=-1)}

    def text_from_boundary(self, state: Mapping[str, Tensor], boundary: int) -> Tensor:
        """L2-normalised text embeddings (B, D) from what `text_boundary` returned."""
        if "embedding" in state:
            return state["embedding"]
        tokens = state["tokens"]
        with self._mixed(self.text):
            hidden = state["hidden"] if "hidden" in state else self.text.stem(tokens)
            for block in self.text.blocks[max(boundary, 0) :]:
                hidden = self.text.call_block(block, hidden, tokens)
            embedding = self.text.tail(hidden, tokens)
        return F.normalize(embedding.float(), dim=-1)

    def encode_image(self, pixels: Tensor) -> ImageFeatures:
        """Embedding (B, D) and levels (B, L) of preprocessed pixels (B, 3, H, W)."""
        hidden, pooled = self._blocks(self.image.stem(_channels_last(pixels)), 0, len(self.image.blocks))
        return ImageFeatures(F.normalize(self.image.tail(hidden, None), dim=-1), _joined(pooled, hidden))

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """L2-normalised embeddings (len(texts), D)."""
        tokens = self.tokenize(texts).to(next(self.text.module.parameters()).device)
        return self.text_from_boundary(self.text_boundary(tokens, 0), 0)

    def level_dim(self) -> int:
        """L, the number of pooled level features."""
        height, width = self.preprocessing.size
        device = next(self.image.module.parameters()).device
        with torch.inference_mode():
            return self.encode_image(torch.zeros(1, 3, height, width, device=device)).levels.shape[1]


def _boundary(tower: Tower, mode: str, depth: float) -> int:
    blocks = len(tower.blocks)
    return {"none": UNFROZEN, "partial": int(depth * blocks + 0.5), "all": blocks + 1}[mode]


def _in_training(block: nn.Module) -> bool:
    """Whether all of a block is in training mode; one that ConvNeXt's tower made stands outside the network, so that
    `eval` reaches its parts alone."""
    return all(part.training for part in block.modules())


def _skipped(before: Tensor, after: Tensor, chance: float) -> Tensor:
    """Stochastic depth (Huang et al. 2016, arXiv:1603.09382) of a residual block, drawn for each image.

    What the block adds is scaled up where it is kept, so that its mean is that of scoring.
    """
    keep = torch.rand(len(after), *[1] * (after.ndim - 1), device=after.device, dtype=after.dtype) >= chance
    return before + (after - before) * keep / (1 - chance)


def _joined(pooled: Sequence[Tensor], hidden: Tensor) -> Tensor:
    """Pooled levels side by side, (B, L); (B, 0) where there are none. No length of a batch enters a traced graph."""
    return torch.cat([*pooled], dim=1) if pooled else hidden.new_empty(len(hidden), 0)


def _channels_last(maps: Tensor) -> Tensor:
    """Feature maps (B, C, H, W) in the memory order that convolutions are fast in; tokens (B, L, C) as they are."""
    return maps.contiguous(memory_format=torch.channels_last) if maps.ndim == 4 else maps
