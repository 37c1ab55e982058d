"""Backbones by name: `mini`, open_clip's, or a folder of one's own. The only place that imports open_clip."""

import contextlib
import difflib
import logging
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from aigc_cli.errors import AigcError, EnvironmentProblem
from aigc_cli.model.backbone import Backbone
from aigc_cli.model.hints import CONFIG_NAME, MINI, hints_from
from aigc_cli.model.hub import cached_only, hub_answers
from aigc_cli.model.preprocess import Preprocessing
from aigc_cli.model.sentence_encoder import SentenceEncoder, SentenceTokenizer
from aigc_cli.model.towers import ClipTextTower, SentenceTower, Tower, image_tower
from aigc_cli.storage.files import read_json
from aigc_cli.storage.tensors import load_tensors

WEIGHTS_NAME = "open_clip_model.safetensors"
RANDOM = "random"


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
    try:
        return _build(name, image_size)
    except (ImportError, RuntimeError) as error:
        if "transformers" not in str(error):
            raise
        raise EnvironmentProblem(
            f"The tokenizer or text tower of {name} needs the package transformers, which is not installed.",
            "pip install 'aigc[hf]'",
        ) from error


def _build(name: str, image_size: int | None) -> Backbone:
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


def is_at_hand(name: str) -> bool:
    """Whether the weights of the backbone `name` are on this machine; looks for them, and loads and fetches nothing.

    Raises:
        AigcError: open_clip has no such weights.
    """
    architecture, _, weights = name.partition("/")
    if name == "mini" or name.startswith("local-dir:"):
        folder = MINI if name == "mini" else Path(name.removeprefix("local-dir:"))
        return any(folder.glob("*.safetensors"))
    import open_clip

    source = open_clip.get_pretrained_cfg(architecture, weights)
    if weights != RANDOM and not source:
        raise AigcError(f"Expected weights that open_clip knows, found '{name}'.", "Example: ViT-L-14/openai.")
    if weights == RANDOM or not source.get("hf_hub"):
        return weights == RANDOM
    try:
        with cached_only(True):
            return Path(open_clip.download_pretrained(source)).is_file()
    except OSError:
        return False


def _from_folder(name: str, folder: Path, image_size: int | None) -> Backbone:
    config_path = folder / CONFIG_NAME
    if not config_path.is_file():
        raise AigcError(
            f"Expected a backbone folder with {CONFIG_NAME}, found none at {config_path}.",
            "Name a folder in open_clip's local-dir format.",
        )
    try:
        config = read_json(config_path)
        text_cfg = config["model_cfg"]["text_cfg"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AigcError(
            f"Expected open_clip's configuration in {config_path}, found {error!r}.", "Save the model again."
        ) from error
    weights = sorted(folder.glob("*.safetensors"), key=lambda path: (path.name != WEIGHTS_NAME, path.name))
    if not weights:
        raise EnvironmentProblem(
            f"Expected weights as safetensors in {folder}, found no *.safetensors file.",
            "Convert the checkpoint to safetensors (pickled files are never opened), or use --backbone mini.",
        )
    load_tensors(weights[0])  # whole, finite and no pickle, or an error that says so
    try:
        if "sentence_encoder" in text_cfg:
            return _two_towers(name, folder, config, weights[0], image_size)
        return _from_open_clip(name, f"local-dir:{folder}", None, config.get("aigc_cfg"), image_size, weights[0])
    except (AigcError, ImportError, MemoryError):
        raise
    except Exception as error:  # a configuration may hold anything, and open_clip and timm take it as it comes
        if "transformers" in str(error):
            raise
        problem = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        raise AigcError(
            f"Expected weights that fit {config_path}, found others in {weights[0]}: {problem}", "Save the model again."
        ) from error


def _from_hub(name: str, architecture: str, weights: str, image_size: int | None) -> Backbone:
    import open_clip

    if architecture not in open_clip.list_models():
        near = _nearest(architecture, open_clip.list_models())
        raise AigcError(
            f"Expected an architecture that open_clip knows, found '{architecture}'.", f"Did you mean {near}/{weights}?"
        )
    known = open_clip.list_pretrained_tags_by_model(architecture)
    if weights != RANDOM and weights not in known:
        raise AigcError(
            f"Expected weights of {architecture} that open_clip knows ({', '.join(known) or 'none'}), "
            f"found '{weights}'.",
            f"For example --backbone {architecture}/{_nearest(weights, [*known, RANDOM])}.",
        )
    try:
        with cached_only(not hub_answers()):
            return _from_open_clip(name, architecture, None if weights == RANDOM else weights, None, image_size)
    except (RuntimeError, OSError, ValueError) as error:
        if weights == RANDOM or "transformers" in str(error):
            raise
        source = open_clip.get_pretrained_cfg(architecture, weights)
        place = source.get("hf_hub") or source.get("url")
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EnvironmentProblem(
            f"The weights '{weights}' of {architecture} could not be had: looked for {place} in the Hugging Face cache "
            f"and on the hub ({reason}).",
            "Connect once so that they are cached, or copy the model's folder here and use --backbone local-dir:PATH; "
            "--backbone mini needs neither.",
        ) from error


def _nearest(word: str, known: list[str]) -> str:
    return difflib.get_close_matches(word, known, 1, 0.0)[0]


class _Blank(TorchFunctionMode):
    """Leaves out the drawing of random weights, a second for a ViT-B/32, where others are loaded right after it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return (*args, *kwargs.values())[0] if func in _DRAWN else func(*args, **kwargs)


_DRAWN: tuple[Any, ...] = (
    torch.Tensor.normal_,
    torch.Tensor.uniform_,
    torch.nn.init.normal_,
    torch.nn.init.uniform_,
    torch.nn.init.kaiming_uniform_,
)


def _from_open_clip(
    name: str,
    model: str,
    weights: str | None,
    hints: Mapping[str, Any] | None,
    image_size: int | None,
    file: Path | None = None,
) -> Backbone:
    import open_clip

    tag = open_clip.get_pretrained_cfg(model, weights) if weights else {}
    options = {"force_quick_gelu": True} if tag.get("quick_gelu") else {}
    loggers = (logging.root, logging.getLogger("huggingface_hub"))
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            with contextlib.nullcontext() if file is None else _Blank():
                network = open_clip.create_model(
                    model,
                    weights,
                    load_weights=file is None,
                    force_custom_text=True,
                    force_image_size=image_size,
                    pretrained_text=False,
                    **options,
                )
            if file is not None:
                open_clip.load_checkpoint(network, str(file))
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
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
        hints=hints_from(hints, len(image.blocks)),
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
        hints=hints_from(config.get("aigc_cfg"), len(image.blocks)),
    )


def _preprocessing(cfg: Mapping[str, Any]) -> Preprocessing:
    """As the checkpoint says it; ValueError or TypeError where that is no preprocessing of RGB images."""
    size = cfg["size"]
    found = Preprocessing(
        size=(size, size) if isinstance(size, int) else tuple(size),
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
        interpolation=cfg["interpolation"],
        resize_mode=cfg["resize_mode"],
        fill_color=cfg.get("fill_color", 0),
    )
    sides, colours = [*found.size, found.fill_color], [*found.mean, *found.std]
    whole = all(type(side) is int for side in sides) and min(found.size) > 0 and found.fill_color in range(256)
    real = all(type(value) in (int, float) and math.isfinite(value) for value in colours) and min(found.std) > 0
    known = found.interpolation in ("bicubic", "bilinear") and found.resize_mode in ("shortest", "longest", "squash")
    if not (whole and real and known and (len(found.size), len(found.mean), len(found.std)) == (2, 3, 3)):
        raise ValueError(f"a preprocessing that is none: {dict(cfg)}")
    return found


def _embed_dim(text: Tower) -> int:
    with torch.inference_mode():
        tokens = torch.zeros(1, text.module.context_length, dtype=torch.long)
        return text.tail(text.stem(tokens), tokens).shape[1]


def _fills_context(tokenizer: Any, prompt: str) -> bool:
    """Whether open_clip's tokenizer cuts the prompt: a wider context would hold more tokens."""
    width = tokenizer.context_length
    wider, blank = (tokenizer([text], context_length=2 * width)[0] for text in (prompt, ""))
    return bool((wider[width:] != blank[-1]).any())  # whatever a tokenizer pads with, a blank text ends in it
