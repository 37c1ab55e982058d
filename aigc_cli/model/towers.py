"""Towers: networks of all families, split into a stem, a list of blocks and a tail.

Freezing and the forward pass up to the freeze boundary need these three parts of every network. Each `_split_*`
function finds them in one family; all other code is the same for all families.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from aigc_cli.errors import AigcError
from aigc_cli.model.sentence_encoder import SentenceEncoder
from aigc_cli.runtime.saved import UNFROZEN
from aigc_cli.runtime.tokenizer import PAD

Part = nn.Module | nn.Parameter


@dataclass(frozen=True, eq=False)
class Tower:
    """A network, split into stem -> blocks -> tail.

    Attributes:
        module: the network itself, which owns all parameters.
        blocks: its blocks in the order of the forward pass; freezing counts them.
        run_stem: the input of the first block, from pixels (B, 3, H, W) or token ids (B, L).
        run_tail: the embeddings (B, D), not normalised, from the last block's output and the token ids (B, L); None
            for images.
        list_tail_parts: the modules and parameters that only the tail uses; None for one that this network lacks.
        run_block: the output of a block, from the block, its input and the token ids.
        class_tokens: the number of tokens before those of image positions.
        inner_layers: for each block the layer within it that has most channels, after its activation. None where there
            is none, or where its features add nothing: in EfficientNets only the first block of a stage has one.
    """

    module: Any
    blocks: Sequence[Any]
    run_stem: Callable[[Tensor], Tensor]
    run_tail: Callable[[Tensor, Any], Tensor]
    list_tail_parts: Callable[[], Sequence[Part | None]]
    run_block: Callable[[nn.Module, Tensor, Any], Tensor] = lambda block, hidden, tokens: block(hidden)
    class_tokens: int = 0
    inner_layers: Sequence[nn.Module | None] = ()
    _seen: threading.local = field(default_factory=threading.local, init=False)

    def pool(self, hidden: Tensor) -> Tensor:
        """Mean and standard deviation over positions (B, 2C), from a block's output (B, C, H, W) or (B, L, C)."""
        positions = hidden.flatten(2) if hidden.ndim == 4 else hidden[:, self.class_tokens :].transpose(1, 2)
        variance, mean = torch.var_mean(positions.float(), dim=2, correction=0)
        return torch.cat([mean, (variance + 1e-6).sqrt()], dim=1)

    def watch_inner_layers(self, name: str) -> None:
        """Makes the outputs of the inner layers available to `take_inner`; AigcError where there are none."""
        if not self.inner_layers:
            raise AigcError(f"Expected levels few or all with {name}, found inner.", "Its blocks have no inner layer.")

        def keep(layer: nn.Module, inputs: Any, output: Tensor) -> None:
            self._seen.output = output

        for layer in self.inner_layers:
            if layer is not None:
                layer.register_forward_hook(keep)

    def take_inner(self, index: int) -> Tensor | None:
        """The output of the inner layer of block `index`, which this thread has just run; None where it has none."""
        if self.inner_layers[index] is None:
            return None
        output: Tensor = self._seen.output
        del self._seen.output
        return output

    def list_trainable_parts(self, n_blocks: int) -> list[Part]:
        """The parts that stay trainable when the stem and the first `n_blocks` blocks are frozen.

        `UNFROZEN` freezes nothing; len(blocks) leaves the tail trainable; more freezes everything.
        """
        if n_blocks == UNFROZEN:
            return [self.module]
        if n_blocks > len(self.blocks):
            return []
        return [*self.blocks[n_blocks:], *(part for part in self.list_tail_parts() if part is not None)]

    def find_trainable_ids(self, n_blocks: int) -> set[int]:
        """The `id` of every parameter and buffer in `list_trainable_parts(n_blocks)`."""
        found: set[int] = set()
        for part in self.list_trainable_parts(n_blocks):
            tensors = [*part.parameters(), *part.buffers()] if isinstance(part, nn.Module) else [part]
            found |= {id(tensor) for tensor in tensors}
        return found

    def measure_distances(self) -> list[tuple[nn.Parameter, int]]:
        """Every parameter with its distance from the tail: 0 in the tail, 1 in the last block, most in the stem."""
        n = len(self.blocks)
        distances = {id(p): n - index for index, block in enumerate(self.blocks) for p in block.parameters()}
        distances |= dict.fromkeys(self.find_trainable_ids(n), 0)
        return [(p, distances.get(id(p), n + 1)) for p in self.module.parameters()]

    def freeze(self, n_blocks: int) -> None:
        """Makes only `list_trainable_parts(n_blocks)` trainable."""
        self.module.requires_grad_(False)
        for part in self.list_trainable_parts(n_blocks):
            part.requires_grad_(True)

    def train(self, n_blocks: int) -> None:
        """Sets training mode for `list_trainable_parts(n_blocks)` and eval mode for the rest, BatchNorm included."""
        self.module.eval()
        for part in self.list_trainable_parts(n_blocks):
            if isinstance(part, nn.Module):
                part.train()


def _split_vision_transformer(vit: Any) -> Tower:
    """open_clip's own ViT."""

    def run_tail(hidden: Tensor, tokens: None) -> Tensor:
        pooled: Tensor = vit._pool(hidden)[0]
        return pooled if vit.proj is None else pooled @ vit.proj

    blocks = list(vit.transformer.resblocks)
    return Tower(
        vit,
        blocks,
        vit._embeds,
        run_tail,
        lambda: [vit.ln_post, vit.attn_pool, vit.proj],
        class_tokens=1,
        inner_layers=[block.mlp.gelu for block in blocks],
    )


def _split_resnet(resnet: Any) -> Tower:
    """open_clip's CLIP ResNet."""
    blocks = [b for layer in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4) for b in layer]
    return Tower(resnet, blocks, resnet.stem, lambda hidden, _: resnet.attnpool(hidden), lambda: [resnet.attnpool])


def fold_batch_norm(network: nn.Module) -> None:
    """Merges every BatchNorm, with its present statistics, into the convolution before it; its activation stays.

    In inference the outputs are the same up to rounding. In fine-tuning the statistics stay those of pretraining (those
    of small batches are noisy), and a step takes less memory and time.
    """
    for parent in list(network.modules()):
        for (name, convolution), (norm_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(convolution.eval(), norm.eval()))
                setattr(parent, norm_name, getattr(norm, "act", nn.Identity()))


def _split_efficientnet(module: Any) -> Tower:
    """timm's EfficientNet and MobileNet families: stem, stages of blocks, head convolution; BatchNorm is merged."""
    trunk, head = module.trunk, module.head
    fold_batch_norm(trunk)
    return Tower(
        module,
        [block for stage in trunk.blocks for block in stage],
        lambda pixels: trunk.bn1(trunk.conv_stem(pixels)),
        lambda hidden, _: head(trunk.forward_head(trunk.bn2(trunk.conv_head(hidden)))),
        lambda: [trunk.conv_head, trunk.bn2, trunk.global_pool, trunk.classifier, head],
        inner_layers=_find_expanding_layers(trunk.blocks),
    )


def _find_expanding_layers(stages: Iterable[Iterable[Any]]) -> list[nn.Module | None]:
    """The depthwise layer of each stage's first block, for all blocks; empty where such a block has another structure.

    The layers of the other blocks were measured on AGIQA-3K: with them, quality agrees no better with people.
    """
    found: list[nn.Module | None] = []
    for first, *rest in stages:
        norm = "bn2" if hasattr(first, "conv_pwl") else "bn1"  # an inverted bottleneck, or a separable convolution
        if not hasattr(first, "conv_dw") or not hasattr(first, norm):
            return []
        found += [getattr(first, norm), *(None for _ in rest)]
    return found


def _split_timm_transformer(module: Any) -> Tower:
    """timm's plain vision transformers."""
    trunk, head = module.trunk, module.head
    return Tower(
        module,
        list(trunk.blocks),
        lambda pixels: trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(pixels)))),
        lambda hidden, _: head(trunk.forward_head(trunk.norm(hidden))),
        lambda: [trunk.norm, trunk.attn_pool, trunk.fc_norm, trunk.head, head],
        class_tokens=trunk.num_prefix_tokens,
        inner_layers=[block.mlp.act for block in trunk.blocks] if hasattr(trunk.blocks[0].mlp, "act") else (),
    )


def _split_convnext(module: Any) -> Tower:
    """timm's ConvNeXt: a stem and four stages; a stage's downsampling belongs to its first block."""
    trunk, head = module.trunk, module.head
    blocks: list[nn.Module] = []
    for stage in trunk.stages:
        first, *rest = stage.blocks
        blocks += [nn.Sequential(stage.downsample, first), *rest]
    return Tower(
        module,
        blocks,
        trunk.stem,
        lambda hidden, _: head(trunk.forward_head(trunk.norm_pre(hidden))),
        lambda: [trunk.norm_pre, trunk.head, head],
    )


def make_text_tower(text: Any) -> Tower:
    """The tower of open_clip's text transformer.

    Raises:
        AigcError: it does not pool one of the text's own tokens.
    """
    if text.cls_emb is not None:
        raise AigcError(
            "Expected a text tower that pools one of its own tokens, found an appended class token (CoCa).",
            "Use a CLIP or SigLIP backbone.",
        )

    def run_block(block: nn.Module, hidden: Tensor, tokens: Tensor) -> Tensor:
        mask = text.attn_mask
        if text.use_pad_mask:
            mask = text._build_additive_mask(tokens, hidden.shape[1], hidden.dtype)
        return block(hidden, attn_mask=mask)

    def run_tail(hidden: Tensor, tokens: Tensor) -> Tensor:
        pooled = _pool_token(text.ln_final(hidden), tokens, text.pool_type, text.eos_id)
        projection = text.text_projection
        if projection is None:
            return pooled
        return projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection

    blocks = list(text.transformer.resblocks)
    return Tower(
        text,
        blocks,
        lambda tokens: text._embeds(tokens)[0],
        run_tail,
        lambda: [text.ln_final, text.text_projection],
        run_block,
    )


def _pool_token(hidden: Tensor, tokens: Tensor, pool_type: str, eos_id: int) -> Tensor:
    """The token (B, C) that represents the text, by open_clip's `pool_type`."""
    if pool_type in ("first", "last"):
        return hidden[:, 0 if pool_type == "first" else -1]
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    if pool_type == "argmax":
        return hidden[rows, tokens.argmax(dim=-1)]
    if pool_type == "eos":
        return hidden[rows, (tokens == eos_id).int().argmax(dim=-1)]
    raise AigcError(f"Expected a text tower that pools one token, found pooling '{pool_type}'.", "Use a CLIP backbone.")


def make_sentence_tower(encoder: SentenceEncoder) -> Tower:
    """The tower of `mini`'s sentence encoder."""
    return Tower(
        encoder,
        list(encoder.blocks),
        encoder.run_stem,
        encoder.run_tail,
        lambda: [encoder.projection],
        lambda block, hidden, tokens: block(hidden, src_key_padding_mask=tokens == PAD),
    )


def make_image_tower(module: nn.Module) -> Tower:
    """The tower of open_clip's image network.

    Raises:
        AigcError: the network belongs to an unknown family.
    """
    network = getattr(module, "trunk", None) or module
    for attributes, split in _FAMILIES.items():
        if all(hasattr(network, name) for name in attributes):
            return split(module)
    raise AigcError(
        f"Expected an image tower of a known family (ViT, ResNet, EfficientNet, ConvNeXt), found "
        f"{type(network).__name__}.",
        "Choose another backbone, for example ViT-B-32/laion2b_s34b_b79k.",
    )


_FAMILIES: dict[tuple[str, ...], Callable[[Any], Tower]] = {
    ("transformer", "class_embedding", "_embeds"): _split_vision_transformer,
    ("layer4", "attnpool", "stem"): _split_resnet,
    ("conv_stem", "conv_head", "bn2", "blocks"): _split_efficientnet,
    ("patch_embed", "blocks", "norm_pre", "_pos_embed", "has_class_token"): _split_timm_transformer,
    ("stages", "stem", "norm_pre"): _split_convnext,
}
