"""A backbone: it embeds images and texts, in one step or in two steps, before and after the freeze boundary."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aigc_cli.errors import AigcError
from aigc_cli.images.preprocess import Picture, Preprocessing
from aigc_cli.model.towers import Tower
from aigc_cli.recipe import Recipe
from aigc_cli.runtime.hints import Hints
from aigc_cli.runtime.saved import UNFROZEN, Freezing
from aigc_cli.storage.tensors import hash_tensors


class ImageFeatures(NamedTuple):
    """The image features that the heads read: the L2-normalised embedding (B, D) and the pooled levels (B, L).

    `axes` (B, k) are both on the heads' principal axes, where that was computed before; the heads then read no levels.
    """

    embedding: Tensor
    levels: Tensor
    axes: Tensor | None = None


@dataclass
class Backbone:
    """A CLIP-like model, split into an image tower and a text tower.

    Attributes:
        name: as the user wrote it, for example `ViT-L-14/openai` or `mini`.
        image, text: the towers; their modules own all parameters.
        tokenize: from texts to int64 token ids (B, L).
        truncates: whether a text is longer than the text tower's window.
        describe_tokenizer: the text of a `tokenizer.json` that gives the same tokens.
        embed_dim: D, the size of both embeddings.
        weights_hash: SHA-256 of the loaded weights.
        state_hash: the same after `load_trained`.
        levels: which blocks' outputs are pooled, see `set_levels`.
        autocast: the type of all computations after the freeze boundary; None for float32. Embeddings and levels are
            float32 in any case.
    """

    name: str
    image: Tower
    text: Tower
    tokenize: Callable[[Sequence[str]], Tensor]
    truncates: Callable[[str], bool]
    describe_tokenizer: Callable[[], str]
    preprocessing: Preprocessing
    embed_dim: int
    hints: Hints
    weights_hash: str = field(init=False)
    state_hash: str = field(init=False)
    levels: str = field(init=False, default="few")
    autocast: torch.dtype | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.weights_hash = self.state_hash = hash_tensors(self.modules().state_dict())
        self.modules().eval().requires_grad_(False)
        self.image.module.to(memory_format=torch.channels_last)

    def load_trained(self, tensors: Mapping[str, Tensor]) -> None:
        """Replaces weights by those of a model that was trained on this backbone, by name."""
        if tensors:
            self.modules().load_state_dict(tensors, strict=False)
            self.state_hash = hash_tensors(self.modules().state_dict())

    def set_levels(self, levels: str) -> None:
        """Sets whose outputs are pooled as levels.

        Args:
            levels: `few` for the blocks that the hints name, `all` for every block, `inner` for every block and the
                tower's inner layers, each after its block.

        Raises:
            AigcError: `inner`, and the tower has no such layers.
        """
        if levels == "inner":
            self.image.watch_inner_layers(self.name)
        self.levels = levels

    def describe_levels(self) -> tuple[int | str, ...]:
        """What is pooled, for the keys of stored features and graphs."""
        return (*self._list_level_blocks(), *(("inner",) if self.levels == "inner" else ()))

    def _list_level_blocks(self) -> tuple[int, ...]:
        return self.hints.few_levels if self.levels == "few" else tuple(range(len(self.image.blocks)))

    def transform(self, image: Picture) -> Tensor:
        """Preprocessed float32 pixels (3, H, W) of an RGB image."""
        return self.normalise(torch.from_numpy(self.preprocessing.fit_size(image))[None])[0]

    def normalise(self, fitted: Tensor) -> Tensor:
        """Normalised float32 pixels (B, 3, H, W), from uint8 images (B, H, W, 3) at the tower's size."""
        mean, std = (torch.tensor(v, device=fitted.device) for v in (self.preprocessing.mean, self.preprocessing.std))
        return (fitted.permute(0, 3, 1, 2) * (1 / (255 * std)).view(3, 1, 1)) + (-mean / std).view(3, 1, 1)

    def modules(self) -> nn.ModuleDict:
        """The modules of both towers, named `image` and `text`."""
        return nn.ModuleDict({"image": self.image.module, "text": self.text.module})

    def find_boundaries(self, recipe: Recipe) -> Freezing:
        """The freeze boundary of each tower for a recipe.

        Raises:
            AigcError: `freeze_layers` exceeds the number of the image tower's blocks.
        """
        blocks, depth = len(self.image.blocks), recipe.freeze_depth
        if recipe.freeze_layers is not None:
            if recipe.freeze_layers > blocks:
                raise AigcError(
                    f"Expected freeze_layers of 0 to {blocks}, the blocks of {self.name}'s image tower, "
                    f"found {recipe.freeze_layers}.",
                    "Use freeze_depth for a share instead.",
                )
            depth = recipe.freeze_layers / blocks
        return Freezing(
            _find_boundary(self.image, recipe.freeze, depth),
            _find_boundary(self.text, recipe.freeze_text or recipe.freeze, depth),
        )

    def freeze(self, freezing: Freezing) -> list[nn.Parameter]:
        """Freezes each tower up to its boundary and returns the trainable parameters."""
        self.image.freeze(freezing.image)
        self.text.freeze(freezing.text)
        return [p for p in self.modules().parameters() if p.requires_grad]

    def train(self, freezing: Freezing) -> None:
        """Sets training mode after the freeze boundary and eval mode before it."""
        self.image.train(freezing.image)
        self.text.train(freezing.text)

    def eval(self) -> None:
        """Sets eval mode for both towers."""
        self.modules().eval()

    def run_image_to_boundary(self, pixels: Tensor, boundary: int) -> dict[str, Tensor]:
        """Runs the image tower up to the freeze boundary (see `Freezing`), on preprocessed pixels (B, 3, H, W).

        Returns:
            {"pixels"} when nothing is frozen, {"embedding" (B, D), "levels" (B, L)} when everything is, else
            {"hidden": the input of block `boundary`, "levels": the levels of the frozen blocks}.
        """
        if boundary == UNFROZEN:
            return {"pixels": pixels}
        count = len(self.image.blocks)
        hidden, levels = self._run_blocks(self.image.run_stem(_to_channels_last(pixels)), 0, min(boundary, count))
        if boundary <= count:
            return {"hidden": hidden, "levels": levels}
        return {"embedding": F.normalize(self.image.run_tail(hidden, None), dim=-1), "levels": levels}

    def run_image_from_boundary(self, state: Mapping[str, Tensor], boundary: int) -> ImageFeatures:
        """Runs the image tower after the freeze boundary, on what `run_image_to_boundary` returned."""
        if "embedding" in state:
            return ImageFeatures(state["embedding"], state["levels"], state.get("axes"))
        if "pixels" in state:
            state, boundary = self.run_image_to_boundary(state["pixels"], 0), 0
        with self._use_autocast(self.image):
            hidden, levels = self._run_blocks(_to_channels_last(state["hidden"]), boundary, len(self.image.blocks))
            embedding = self.image.run_tail(hidden, None)
        return ImageFeatures(F.normalize(embedding.float(), dim=-1), torch.cat([state["levels"], levels], dim=1))

    def _use_autocast(self, tower: Tower) -> torch.autocast:
        device = next(tower.module.parameters()).device.type
        return torch.autocast(device, self.autocast, enabled=self.autocast is not None)

    def _run_blocks(self, hidden: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """The output of block `stop` - 1 and the levels (B, L) of the blocks from `start`; L may be 0."""
        pooled, chosen = [], self._list_level_blocks()
        for index in range(start, stop):
            hidden = self.image.run_block(self.image.blocks[index], hidden, None)
            if index in chosen:
                pooled.append(self.image.pool(hidden))
            if self.levels == "inner" and (wide := self.image.take_inner(index)) is not None:
                pooled.append(self.image.pool(wide))
        return hidden, torch.cat(pooled, dim=1) if pooled else hidden.new_empty(hidden.shape[0], 0)

    def run_text_to_boundary(self, tokens: Tensor, boundary: int) -> dict[str, Tensor]:
        """Runs the text tower up to the freeze boundary, on token ids (B, L).

        Returns:
            {"tokens"} when nothing is frozen, {"embedding" (B, D)} when everything is, else {"hidden", "tokens"}.
        """
        if boundary == UNFROZEN:
            return {"tokens": tokens}
        hidden = self.text.run_stem(tokens)
        for block in self.text.blocks[:boundary]:
            hidden = self.text.run_block(block, hidden, tokens)
        if boundary <= len(self.text.blocks):
            return {"hidden": hidden, "tokens": tokens}
        return {"embedding": F.normalize(self.text.run_tail(hidden, tokens), dim=-1)}

    def run_text_from_boundary(self, state: Mapping[str, Tensor], boundary: int) -> Tensor:
        """L2-normalised text embeddings (B, D), from what `run_text_to_boundary` returned."""
        if "embedding" in state:
            return state["embedding"]
        tokens = state["tokens"]
        with self._use_autocast(self.text):
            hidden = state["hidden"] if "hidden" in state else self.text.run_stem(tokens)
            for block in self.text.blocks[max(boundary, 0) :]:
                hidden = self.text.run_block(block, hidden, tokens)
            embedding = self.text.run_tail(hidden, tokens)
        return F.normalize(embedding.float(), dim=-1)

    def encode_image(self, pixels: Tensor) -> ImageFeatures:
        """Embedding (B, D) and levels (B, L) of preprocessed pixels (B, 3, H, W)."""
        return ImageFeatures(**self.run_image_to_boundary(pixels, len(self.image.blocks) + 1))

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """L2-normalised embeddings (B, D) of B texts."""
        tokens = self.tokenize(texts).to(next(self.text.module.parameters()).device)
        return self.run_text_from_boundary(self.run_text_to_boundary(tokens, 0), 0)

    def count_levels(self) -> int:
        """L, the number of pooled level features."""
        height, width = self.preprocessing.size
        device = next(self.image.module.parameters()).device
        with torch.inference_mode():
            return self.encode_image(torch.zeros(1, 3, height, width, device=device)).levels.shape[1]


def average_text_parts(embeddings: Tensor, counts: Sequence[int]) -> Tensor:
    """The embeddings (B, D) of texts from those of their parts (sum(counts), D), L2-normalised; `counts` are by text.

    A text of several parts has their normalised mean; a text of one part has exactly its embedding.
    """
    if len(embeddings) == len(counts):
        return embeddings
    groups = torch.split(embeddings, list(counts))
    return torch.stack([group[0] if len(group) == 1 else F.normalize(group.mean(0), dim=0) for group in groups])


def _find_boundary(tower: Tower, mode: str, depth: float) -> int:
    blocks = len(tower.blocks)
    return {"none": UNFROZEN, "partial": int(depth * blocks + 0.5), "all": blocks + 1}[mode]


def _to_channels_last(maps: Tensor) -> Tensor:
    """Feature maps (B, C, H, W) in channels-last memory order, which is faster; tokens (B, L, C) stay as they are."""
    return maps.contiguous(memory_format=torch.channels_last) if maps.ndim == 4 else maps
