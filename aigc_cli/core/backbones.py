"""Backbones: two towers, a tokenizer and a preprocessing, made from a name. The only place that imports open_clip."""

import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from aigc_cli.core.sentence import SentenceEncoder, SentenceTokenizer
from aigc_cli.core.towers import UNFROZEN, ClipTextTower, SentenceTower, Tower, image_tower
from aigc_cli.errors import AigcError, EnvironmentProblem
from aigc_cli.io.weights import load_tensors, tensors_digest

MINI = Path(__file__).parents[1] / "weights" / "mini"
CONFIG_NAME = "open_clip_config.json"
RANDOM = "random"

HeadInput = Literal["embedding", "multilevel"]
FreezeMode = Literal["all", "partial", "none"]


class ImageFeatures(NamedTuple):
    """What the heads read of an image: the L2-normalised embedding (B, D) and the pooled levels (B, L)."""

    embedding: Tensor
    levels: Tensor


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes pixels, as the checkpoint says (the fields of open_clip's PreprocessCfg).

    Attributes:
        size: height and width in pixels.
        mean, std: per channel, for values in [0, 1].
        interpolation: "bicubic" or "bilinear".
        resize_mode: "shortest" (then centre crop), "longest" (then pad) or "squash".
        fill_color: padding value, 0 to 255.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    resize_mode: str
    fill_color: int = 0

    def transform(self) -> Callable[[Image.Image], Tensor]:
        """open_clip's own evaluation transform: an RGB image in, float32 pixels (3, H, W) out."""
        from open_clip.transform import PreprocessCfg, image_transform_v2

        return image_transform_v2(PreprocessCfg(**asdict(self)), is_train=False)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Hints:
    """What a recipe leaves to the backbone.

    Attributes:
        levels: indices of the image tower's blocks whose pooled outputs `multilevel` heads read.
        head_input: what the heads read unless the recipe says so.
        finetune_lr_factor: multiplies the heads' learning rate when a part of the backbone is trained: the recipes'
            3e-5 suits a ViT with hundreds of millions of parameters, a small CNN wants more.
        finetune_backbone_lr_factor: the same for the backbone's own parameters.
    """

    levels: tuple[int, ...]
    head_input: HeadInput = "embedding"
    finetune_lr_factor: float = 1.0
    finetune_backbone_lr_factor: float = 1.0


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

    def __post_init__(self) -> None:
        self.weights_hash = tensors_digest(self.modules().state_dict())
        self.modules().eval().requires_grad_(False)
        self.image.module.to(memory_format=torch.channels_last)

    def modules(self) -> nn.ModuleDict:
        """Both networks under the names `image` and `text`."""
        return nn.ModuleDict({"image": self.image.module, "text": self.text.module})

    def boundaries(self, mode: FreezeMode, depth: float) -> Freezing:
        """The freeze boundary of each tower; `depth` is the frozen share of a tower's blocks (for `partial`)."""
        if mode == "none":
            return Freezing(UNFROZEN, UNFROZEN)
        image, text = len(self.image.blocks), len(self.text.blocks)
        if mode == "all":
            return Freezing(image + 1, text + 1)
        return Freezing(int(depth * image + 0.5), int(depth * text + 0.5))

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
        levels = torch.cat([hidden.new_empty(len(hidden), 0), *pooled], dim=1)
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
        hidden, pooled = self._blocks(_channels_last(state["hidden"]), boundary, len(self.image.blocks))
        embedding = F.normalize(self.image.tail(hidden, None), dim=-1)
        return ImageFeatures(embedding, torch.cat([state["levels"], *pooled], dim=1))

    def _blocks(self, hidden: Tensor, start: int, stop: int) -> tuple[Tensor, list[Tensor]]:
        pooled = []
        for index, hidden in self.image.run(hidden, start, stop, None):
            if index in self.hints.levels:
                pooled.append(self.image.pool(hidden))
        return hidden, pooled

    def text_boundary(self, tokens: Tensor, boundary: int) -> dict[str, Tensor]:
        """As `image_boundary`, for token ids (B, L): {"tokens"}, {"hidden", "tokens"} or {"embedding"}."""
        if boundary == UNFROZEN:
            return {"tokens": tokens}
        hidden = self.text.stem(tokens)
        for _, hidden in self.text.run(hidden, 0, min(boundary, len(self.text.blocks)), tokens):
            pass
        if boundary <= len(self.text.blocks):
            return {"hidden": hidden, "tokens": tokens}
        return {"embedding": F.normalize(self.text.tail(hidden, tokens), dim=-1)}

    def text_from_boundary(self, state: Mapping[str, Tensor], boundary: int) -> Tensor:
        """L2-normalised text embeddings (B, D) from what `text_boundary` returned."""
        if "embedding" in state:
            return state["embedding"]
        tokens = state["tokens"]
        hidden = state["hidden"] if "hidden" in state else self.text.stem(tokens)
        for _, hidden in self.text.run(hidden, max(boundary, 0), len(self.text.blocks), tokens):
            pass
        return F.normalize(self.text.tail(hidden, tokens), dim=-1)

    def encode_image(self, pixels: Tensor) -> ImageFeatures:
        """Embedding (B, D) and levels (B, L) of preprocessed pixels (B, 3, H, W)."""
        return self.image_from_boundary(self.image_boundary(pixels, 0), 0)

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


def _channels_last(maps: Tensor) -> Tensor:
    """Feature maps (B, C, H, W) in the memory order that convolutions are fast in; tokens (B, L, C) as they are."""
    return maps.contiguous(memory_format=torch.channels_last) if maps.ndim == 4 else maps


def load_backbone(name: str, image_size: int | None = None) -> Backbone:
    """Builds the backbone called `name` on the CPU in float32.

    Args:
        name: `mini`, `architecture/weights` as open_clip names them, `architecture/random` (untrained, for timing and
            tests) or `local-dir:PATH` (a folder in open_clip's own format, its weights as safetensors).
        image_size: pixels of the square input; None for what the checkpoint says.

    Raises:
        AigcError: the name is not one of these, or the folder's content does not fit its configuration.
        EnvironmentProblem: the weights are known but can't be had on this machine.
    """
    if name == "mini":
        return _from_folder(name, MINI, image_size)
    if name.startswith("local-dir:"):
        return _from_folder(name, Path(name.removeprefix("local-dir:")), image_size)
    architecture, slash, weights = name.partition("/")
    if not (architecture and slash and weights):
        raise AigcError(
            f"Expected a backbone 'mini', 'architecture/weights' or 'local-dir:PATH', found '{name}'.",
            "For example --backbone ViT-L-14/openai.",
        )
    return _from_hub(name, architecture, weights, image_size)


def hints_of(name: str) -> Hints:
    """The hints of a backbone without loading its weights; neutral ones where it carries none (levels unknown)."""
    folder = MINI if name == "mini" else Path(name.removeprefix("local-dir:"))
    try:
        cfg = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8")).get("aigc_cfg")
    except (OSError, ValueError, AttributeError):
        cfg = None
    return _hints(cfg, 0) if cfg else Hints(())


def _from_folder(name: str, folder: Path, image_size: int | None) -> Backbone:
    config_path = folder / CONFIG_NAME
    if not config_path.is_file():
        raise AigcError(
            f"Expected a backbone folder with {CONFIG_NAME}, found none at {config_path}.",
            "Name a folder in open_clip's local-dir format.",
        )
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        text_cfg = config["model_cfg"]["text_cfg"]
    except (ValueError, KeyError, TypeError) as error:
        raise AigcError(
            f"Expected open_clip's configuration in {config_path}, found {error!r}.", "Save the model again."
        ) from error
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise EnvironmentProblem(
            f"Expected weights as safetensors in {folder}, found no *.safetensors file.",
            "Convert the checkpoint to safetensors (pickled files are never opened), or use --backbone mini.",
        )
    if "sentence_encoder" in text_cfg:
        return _two_towers(name, folder, config, weights[0], image_size)
    return _from_open_clip(name, f"local-dir:{folder}", None, config.get("aigc_cfg"), image_size)


def _from_hub(name: str, architecture: str, weights: str, image_size: int | None) -> Backbone:
    import open_clip

    if architecture not in open_clip.list_models():
        import difflib

        near = difflib.get_close_matches(architecture, open_clip.list_models(), 1, 0.0)[0]
        raise AigcError(
            f"Expected an architecture that open_clip knows, found '{architecture}'.", f"Did you mean {near}/{weights}?"
        )
    known = open_clip.list_pretrained_tags_by_model(architecture)
    if weights != RANDOM and weights not in known:
        raise AigcError(
            f"Expected weights of {architecture} that open_clip knows ({', '.join(known) or 'none'}), found '{weights}'.",
            f"For example --backbone {architecture}/{known[0] if known else RANDOM}.",
        )
    try:
        return _from_open_clip(name, architecture, None if weights == RANDOM else weights, None, image_size)
    except ImportError as error:
        raise EnvironmentProblem(
            f"The tokenizer of {architecture} needs the package '{error.name}', which is not installed.",
            "pip install 'aigc[hf]'",
        ) from error
    except (RuntimeError, OSError, ValueError) as error:
        source = open_clip.get_pretrained_cfg(architecture, weights)
        place = source.get("hf_hub") or source.get("url")
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EnvironmentProblem(
            f"The weights '{weights}' of {architecture} could not be had: looked for {place} in the Hugging Face cache "
            f"and on the hub ({reason}).",
            f"Connect once so that they are cached, or copy the model's folder here and use --backbone local-dir:PATH; "
            f"--backbone mini needs neither.",
        ) from error


def _from_open_clip(
    name: str, model: str, weights: str | None, hints: Mapping[str, Any] | None, image_size: int | None
) -> Backbone:
    import open_clip

    tag = open_clip.get_pretrained_cfg(model, weights) if weights else {}
    options = {"force_quick_gelu": True} if tag.get("quick_gelu") else {}
    level = logging.root.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.root.setLevel(logging.CRITICAL)
        try:
            network = open_clip.create_model(
                model, weights, force_custom_text=True, force_image_size=image_size, pretrained_text=False, **options
            )
        finally:
            logging.root.setLevel(level)
    tokenizer = open_clip.get_tokenizer(model)
    visual: Any = network.visual
    text = ClipTextTower(network.text)
    image = image_tower(visual)
    cfg = dict(visual.preprocess_cfg)
    return Backbone(
        name=name,
        image=image,
        text=text,
        tokenize=lambda texts: tokenizer(list(texts)),
        truncates=lambda prompt: _fills_context(tokenizer, prompt),
        preprocessing=_preprocessing(cfg),
        embed_dim=_embed_dim(text),
        hints=_hints(hints, len(image.blocks)),
    )


def _two_towers(name: str, folder: Path, config: Mapping[str, Any], weights: Path, image_size: int | None) -> Backbone:
    """A timm image tower beside a sentence encoder, which open_clip itself can't build without transformers."""
    from open_clip.timm_model import TimmModel

    model_cfg, text_cfg = config["model_cfg"], config["model_cfg"]["text_cfg"]
    vision = {key.removeprefix("timm_"): value for key, value in model_cfg["vision_cfg"].items()}
    if image_size is not None:
        vision["image_size"] = image_size
    visual = TimmModel(embed_dim=model_cfg["embed_dim"], **vision)
    text = SentenceEncoder(**text_cfg["sentence_encoder"], embed_dim=model_cfg["embed_dim"])
    state = load_tensors(weights)
    parts = {"visual": visual, "text": text}
    for prefix, part in parts.items():
        own = {key.removeprefix(f"{prefix}."): value for key, value in state.items() if key.startswith(f"{prefix}.")}
        missing = [key for key in part.load_state_dict(own, strict=False).missing_keys if "num_batches" not in key]
        if missing:
            raise AigcError(f"Expected {prefix}.{missing[0]} in {weights}, found no such tensor.", "Fetch it again.")
    tokenizer = SentenceTokenizer(folder / "tokenizer.json", text_cfg["context_length"])
    image = image_tower(visual)
    return Backbone(
        name=name,
        image=image,
        text=SentenceTower(text),
        tokenize=tokenizer,
        truncates=tokenizer.truncates,
        preprocessing=_preprocessing(config["preprocess_cfg"] | {"size": visual.image_size}),
        embed_dim=model_cfg["embed_dim"],
        hints=_hints(config.get("aigc_cfg"), len(image.blocks)),
    )


def _preprocessing(cfg: Mapping[str, Any]) -> Preprocessing:
    size = cfg["size"]
    height, width = (size, size) if isinstance(size, int) else size
    return Preprocessing(
        (height, width),
        tuple(cfg["mean"]),
        tuple(cfg["std"]),
        cfg["interpolation"],
        cfg["resize_mode"],
        cfg.get("fill_color", 0),
    )


def _hints(cfg: Mapping[str, Any] | None, n_blocks: int) -> Hints:
    """The folder's own hints, or pooled features after each quarter of the image tower."""
    if cfg is None:
        return Hints(tuple(sorted({max(n_blocks * quarter // 4 - 1, 0) for quarter in (1, 2, 3, 4)})))
    return Hints(**{**cfg, "levels": tuple(cfg["levels"])})


def _embed_dim(text: Tower) -> int:
    with torch.inference_mode():
        tokens = torch.zeros(1, text.module.context_length, dtype=torch.long)
        return text.tail(text.stem(tokens), tokens).shape[1]


def _fills_context(tokenizer: Any, prompt: str) -> bool:
    """Whether open_clip's tokenizer cut the prompt: a wider context would hold more tokens."""
    width = tokenizer.context_length
    return bool((tokenizer([prompt], context_length=2 * width)[0, width:] != 0).any())
