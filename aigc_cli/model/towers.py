"""One view of every tower: a stem, a list of blocks, a tail.

Freezing and the boundary forward need the same three parts of a ViT, a ResNet, a timm network or a text transformer.
Each class below says where they are in one family; nothing else knows the families apart.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from aigc_cli.errors import AigcError
from aigc_cli.model.sentence_encoder import PAD, SentenceEncoder

UNFROZEN = -1


class Tower(ABC):
    """A network cut into stem -> blocks -> tail.

    Attributes:
        module: the network itself, which owns all parameters.
        blocks: what freezing counts, in the order of the forward pass.
    """

    module: Any
    blocks: Sequence[Any]

    @abstractmethod
    def stem(self, inputs: Tensor) -> Tensor:
        """What enters the first block, from pixels (B, 3, H, W) or token ids (B, L)."""

    @abstractmethod
    def tail(self, hidden: Tensor, inputs: Tensor | None) -> Tensor:
        """The embedding (B, D), not normalised, from the last block's output; text towers also need the token ids."""

    @abstractmethod
    def tail_parts(self) -> Iterable[nn.Module | nn.Parameter | None]:
        """The modules and bare parameters that only `tail` uses; None for one that this network lacks."""

    def call_block(self, block: nn.Module, hidden: Tensor, inputs: Tensor | None) -> Tensor:
        """One block's output."""
        return block(hidden)

    def pool(self, hidden: Tensor) -> Tensor:
        """Mean and standard deviation over positions, (B, 2C), of a block's output (B, C, H, W) or (B, L, C)."""
        positions = hidden.flatten(2) if hidden.ndim == 4 else self.spatial_tokens(hidden).transpose(1, 2)
        variance, mean = torch.var_mean(positions.float(), dim=2, correction=0)
        return torch.cat([mean, (variance + 1e-6).sqrt()], dim=1)

    def spatial_tokens(self, hidden: Tensor) -> Tensor:
        """The tokens that stand for places in the image, without class tokens; (B, L', C)."""
        return hidden

    def trainable_parts(self, n_blocks: int) -> list[nn.Module | nn.Parameter]:
        """What stays trainable when the stem and the first `n_blocks` blocks are frozen.

        Args:
            n_blocks: `UNFROZEN` freezes nothing; len(blocks) leaves the tail; more than that freezes everything.
        """
        if n_blocks == UNFROZEN:
            return [self.module]
        if n_blocks > len(self.blocks):
            return []
        return [*self.blocks[n_blocks:], *(part for part in self.tail_parts() if part is not None)]

    def distances(self) -> list[tuple[nn.Parameter, int]]:
        """Every parameter with its distance from the tail: 0 for the tail's own, 1 for the last block's, the most for
        the stem's."""
        far = {id(p): len(self.blocks) - index for index, block in enumerate(self.blocks) for p in block.parameters()}
        for part in self.tail_parts():
            if part is not None:
                far |= {id(p): 0 for p in (part.parameters() if isinstance(part, nn.Module) else [part])}
        return [(p, far.get(id(p), len(self.blocks) + 1)) for p in self.module.parameters()]

    def freeze(self, n_blocks: int) -> None:
        """Lets gradients reach `trainable_parts(n_blocks)` and nothing else."""
        self.module.requires_grad_(False)
        for part in self.trainable_parts(n_blocks):
            part.requires_grad_(True)

    def train(self, n_blocks: int) -> None:
        """Training mode for `trainable_parts(n_blocks)`; the rest in eval mode, BatchNorm statistics included."""
        self.module.eval()
        for part in self.trainable_parts(n_blocks):
            if isinstance(part, nn.Module):
                part.train()


class VisionTransformerTower(Tower):
    """open_clip's own ViT."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.blocks = list(module.transformer.resblocks)

    def stem(self, inputs: Tensor) -> Tensor:
        return self.module._embeds(inputs)

    def tail(self, hidden: Tensor, inputs: Tensor | None) -> Tensor:
        pooled: Tensor = self.module._pool(hidden)[0]
        projection = self.module.proj
        return pooled if projection is None else pooled @ projection

    def tail_parts(self) -> Iterable[nn.Module | nn.Parameter | None]:
        return (self.module.ln_post, self.module.attn_pool, self.module.proj)

    def spatial_tokens(self, hidden: Tensor) -> Tensor:
        return hidden[:, 1:]


class ResNetTower(Tower):
    """open_clip's CLIP ResNet."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.blocks = [b for layer in (module.layer1, module.layer2, module.layer3, module.layer4) for b in layer]

    def stem(self, inputs: Tensor) -> Tensor:
        return self.module.stem(inputs)

    def tail(self, hidden: Tensor, inputs: Tensor | None) -> Tensor:
        return self.module.attnpool(hidden)

    def tail_parts(self) -> Iterable[nn.Module | nn.Parameter | None]:
        return (self.module.attnpool,)


def fold_batch_norm(network: nn.Module) -> None:
    """Puts every BatchNorm into the convolution before it, with the statistics that it has; its activation stays.

    In inference the outputs are the same to rounding. In fine-tuning the statistics stay those of pretraining, which
    small batches would only blur, and a step needs neither the memory nor the time of the separate layers.
    """
    for parent in list(network.modules()):
        for (name, convolution), (norm_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(convolution.eval(), norm.eval()))
                setattr(parent, norm_name, getattr(norm, "act", nn.Identity()))


class TimmEfficientNetTower(Tower):
    """timm's EfficientNet and MobileNet families: a stem, stages of blocks, a head convolution; BatchNorm is folded."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.trunk = module.trunk
        fold_batch_norm(module.trunk)
        self.blocks = [block for stage in module.trunk.blocks for block in stage]

    def stem(self, inputs: Tensor) -> Tensor:
        return self.trunk.bn1(self.trunk.conv_stem(inputs))

    def tail(self, hidden: Tensor, inputs: Tensor | None) -> Tensor:
        features = self.trunk.bn2(self.trunk.conv_head(hidden))
        return self.module.head(self.trunk.forward_head(features))

    def tail_parts(self) -> Iterable[nn.Module | nn.Parameter | None]:
        return (self.trunk.conv_head, self.trunk.bn2, self.trunk.global_pool, self.trunk.classifier, self.module.head)


class TimmTransformerTower(Tower):
    """timm's plain vision transformers."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.trunk = module.trunk
        self.blocks = list(module.trunk.blocks)

    def stem(self, inputs: Tensor) -> Tensor:
        trunk = self.trunk
        return trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(inputs))))

    def tail(self, hidden: Tensor, inputs: Tensor | None) -> Tensor:
        return self.module.head(self.trunk.forward_head(self.trunk.norm(hidden)))

    def tail_parts(self) -> Iterable[nn.Module | nn.Parameter | None]:
        return (self.trunk.norm, self.trunk.attn_pool, self.trunk.fc_norm, self.trunk.head, self.module.head)

    def spatial_tokens(self, hidden: Tensor) -> Tensor:
        return hidden[:, self.trunk.num_prefix_tokens :]


class TimmConvNeXtTower(Tower):
    """timm's ConvNeXt: a stem and four stages; a stage's downsampling belongs to its first block."""

    class _Downsampled(nn.Module):
        def __init__(self, downsample: nn.Module, block: nn.Module) -> None:
            super().__init__()
            self.downsample, self.block = downsample, block

        def forward(self, hidden: Tensor) -> Tensor:
            return self.block(self.downsample(hidden))

    def __init__(self, module: Any) -> None:
        self.module = module
        self.trunk = module.trunk
        self.blocks = []
        for stage in module.trunk.stages:
            first, *rest = stage.blocks
            self.blocks += [self._Downsampled(stage.downsample, first), *rest]

    def stem(self, inputs: Tensor) -> Tensor:
        return self.trunk.stem(inputs)

    def tail(self, hidden: Tensor, inputs: Tensor | None) -> Tensor:
        return self.module.head(self.trunk.forward_head(self.trunk.norm_pre(hidden)))

    def tail_parts(self) -> Iterable[nn.Module | nn.Parameter | None]:
        return (self.trunk.norm_pre, self.trunk.head, self.module.head)


class ClipTextTower(Tower):
    """open_clip's text transformer."""

    def __init__(self, module: Any) -> None:
        if module.cls_emb is not None:
            raise AigcError(
                "Expected a text tower that pools one of its own tokens, found an appended class token (CoCa).",
                "Use a CLIP or SigLIP backbone.",
            )
        self.module = module
        self.blocks = list(module.transformer.resblocks)

    def stem(self, inputs: Tensor) -> Tensor:
        return self.module._embeds(inputs)[0]

    def call_block(self, block: nn.Module, hidden: Tensor, inputs: Tensor | None) -> Tensor:
        mask = self.module.attn_mask
        if self.module.use_pad_mask:
            mask = self.module._build_additive_mask(inputs, hidden.shape[1], hidden.dtype)
        return block(hidden, attn_mask=mask)

    def tail(self, hidden: Tensor, inputs: Tensor | None) -> Tensor:
        hidden = self.module.ln_final(hidden)
        pooled = _pooled_token(hidden, inputs, self.module.pool_type, self.module.eos_id)
        projection = self.module.text_projection
        if projection is None:
            return pooled
        if isinstance(projection, nn.Linear):
            return projection(pooled)
        return pooled @ projection

    def tail_parts(self) -> Iterable[nn.Module | nn.Parameter | None]:
        return (self.module.ln_final, self.module.text_projection)


def _pooled_token(hidden: Tensor, tokens: Tensor | None, pool_type: str, eos_id: int) -> Tensor:
    """The token (B, C) that stands for the text, by open_clip's `pool_type`."""
    if pool_type in ("first", "last"):
        return hidden[:, 0 if pool_type == "first" else -1]
    assert tokens is not None
    rows = torch.arange(len(hidden), device=hidden.device)
    if pool_type == "argmax":
        return hidden[rows, tokens.argmax(dim=-1)]
    if pool_type == "eos":
        return hidden[rows, (tokens == eos_id).int().argmax(dim=-1)]
    raise AigcError(f"Expected a text tower that pools one token, found pooling '{pool_type}'.", "Use a CLIP backbone.")


class SentenceTower(Tower):
    """`mini`'s sentence encoder."""

    def __init__(self, module: SentenceEncoder) -> None:
        self.module = module
        self.blocks = list(module.blocks)

    def stem(self, inputs: Tensor) -> Tensor:
        return self.module.stem(inputs)

    def call_block(self, block: nn.Module, hidden: Tensor, inputs: Tensor | None) -> Tensor:
        assert inputs is not None
        return block(hidden, src_key_padding_mask=inputs == PAD)

    def tail(self, hidden: Tensor, inputs: Tensor | None) -> Tensor:
        return self.module.tail(hidden, inputs)

    def tail_parts(self) -> Iterable[nn.Module | nn.Parameter | None]:
        return (self.module.projection,)


def image_tower(module: nn.Module) -> Tower:
    """The tower that fits open_clip's image network; AigcError for a family that is not known here."""
    trunk = getattr(module, "trunk", None)
    for attributes, tower in _IMAGE_TOWERS.items():
        if all(hasattr(module if trunk is None else trunk, name) for name in attributes):
            return tower(module)
    raise AigcError(
        f"Expected an image tower of a known family (ViT, ResNet, EfficientNet, ConvNeXt), found "
        f"{type(trunk or module).__name__}.",
        "Choose another backbone, for example ViT-B-32/laion2b_s34b_b79k.",
    )


_IMAGE_TOWERS: dict[tuple[str, ...], Any] = {
    ("transformer", "class_embedding", "_embeds"): VisionTransformerTower,
    ("layer4", "attnpool", "stem"): ResNetTower,
    ("conv_stem", "conv_head", "bn2", "blocks"): TimmEfficientNetTower,
    ("patch_embed", "blocks", "norm_pre", "_pos_embed", "has_class_token"): TimmTransformerTower,
    ("stages", "stem", "norm_pre"): TimmConvNeXtTower,
}
