"""Backbones by name: `mini`, those of open_clip, or a local folder. No other module imports open_clip."""

import contextlib
import difflib
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

from aigc_cli.errors import AigcError, EnvironmentProblem
from aigc_cli.images.folders import leads_outside
from aigc_cli.model.backbone import Backbone
from aigc_cli.model.folder_config import check_config
from aigc_cli.model.hub import is_hub_reachable, use_cache_only
from aigc_cli.model.sentence_encoder import SentenceEncoder
from aigc_cli.model.tokenizers import convert_tokenizer
from aigc_cli.model.towers import fold_batch_norm, make_image_tower, make_sentence_tower, make_text_tower
from aigc_cli.runtime.hints import CONFIG_NAME, MINI, TOKENIZER, check_backbone, find_folder, parse_hints
from aigc_cli.runtime.saved import parse_preprocessing
from aigc_cli.runtime.tokenizer import PromptTokenizer
from aigc_cli.storage.atomic_files import read_json
from aigc_cli.storage.tensors import load_tensors

WEIGHTS_NAME = "open_clip_model.safetensors"
RANDOM = "random"


def load_backbone(name: str, image_size: int | None = None, levels: str = "few") -> Backbone:
    """Loads the backbone `name` on the CPU in float32.

    Args:
        name: `mini`, `midi`, `architecture/weights` as open_clip names them, `architecture/random` (untrained, for
            timing and tests) or `local-dir:PATH` (a folder in open_clip's own format, with safetensors weights).
        image_size: side of the square input in pixels; None for the checkpoint's own size.
        levels: `few`, `all` or `inner`, see `Backbone.set_levels`.

    Raises:
        AigcError: the name has another form or is unknown, the folder's weights don't fit its configuration, or the
            tower has no `inner` levels.
        EnvironmentProblem: the weights can't be fetched, or a package is missing.
    """
    check_backbone(name)
    try:
        folder = find_folder(name)
        backbone = _load_folder(name, folder, image_size) if folder else _load_from_hub(name, image_size)
    except (ImportError, RuntimeError) as error:
        if "transformers" not in str(error):
            raise
        raise EnvironmentProblem(
            f"The tokenizer or text tower of {name} needs the package transformers, which is not installed.",
            "pip install 'aigc-cli[hf]'",
        ) from error
    backbone.set_levels(levels)
    return backbone


def is_available_locally(name: str) -> bool:
    """Whether the weights of the backbone `name` are on this machine; AigcError if open_clip does not know them."""
    if folder := find_folder(name):
        return any(folder.glob("*.safetensors"))
    import open_clip

    architecture, _, weights = name.partition("/")
    source = open_clip.get_pretrained_cfg(architecture, weights)
    if weights != RANDOM and not source:
        raise AigcError(f"Expected weights that open_clip knows, found '{name}'.", "Example: ViT-L-14/openai.")
    if weights == RANDOM or not source.get("hf_hub"):
        return weights == RANDOM
    try:
        with use_cache_only(True):
            return Path(open_clip.download_pretrained(source)).is_file()
    except OSError:
        return False


def _load_folder(name: str, folder: Path, image_size: int | None) -> Backbone:
    config_path = folder / CONFIG_NAME
    try:
        config = read_json(config_path)
        text_cfg = config["model_cfg"]["text_cfg"]
        check_config(config, folder)
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
    for file in (config_path, weights[0], *folder.glob("*.json"), *folder.glob("*.txt")):
        if leads_outside(file, folder) and not file.resolve().is_relative_to((folder / "../../blobs").resolve()):
            raise AigcError(  # the cache of the Hugging Face hub keeps all files of a model in `blobs`
                f"Expected the files of a model in {folder}, found {file.name}, a link out of it.", "Copy the file."
            )
    load_tensors(weights[0])  # raises an error if the file is cut short, a pickle or not finite
    try:
        with use_cache_only(True):
            if text_cfg.keys() & {"sentence_encoder", "text_tower"}:
                return _load_two_towers(name, folder, config, weights[0], image_size)
            return _load_open_clip(name, f"local-dir:{folder}", None, config.get("aigc_cfg"), image_size, weights[0])
    except (AigcError, ImportError, MemoryError):
        raise
    except Exception as error:  # open_clip and timm don't check configurations: any error may follow
        if "transformers" in str(error):
            raise
        problem = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        raise AigcError(
            f"Expected weights that fit {config_path}, found others in {weights[0]}: {problem}", "Save the model again."
        ) from error


def _load_from_hub(name: str, image_size: int | None) -> Backbone:
    architecture, _, weights = name.partition("/")
    import open_clip

    if architecture not in open_clip.list_models():
        near = _find_nearest(architecture, open_clip.list_models())
        raise AigcError(
            f"Expected an architecture that open_clip knows, found '{architecture}'.", f"Did you mean {near}/{weights}?"
        )
    known = open_clip.list_pretrained_tags_by_model(architecture)
    if weights != RANDOM and weights not in known:
        raise AigcError(
            f"Expected weights of {architecture} that open_clip knows ({', '.join(known) or 'none'}), "
            f"found '{weights}'.",
            f"For example --backbone {architecture}/{_find_nearest(weights, [*known, RANDOM])}.",
        )
    try:
        with use_cache_only(not is_hub_reachable()):
            return _load_open_clip(name, architecture, None if weights == RANDOM else weights, None, image_size)
    except (RuntimeError, OSError, ValueError) as error:
        if weights == RANDOM or "transformers" in str(error):
            raise
        source = open_clip.get_pretrained_cfg(architecture, weights)
        place = source.get("hf_hub") or source.get("url")
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EnvironmentProblem(
            f"The weights '{weights}' of {architecture} were not found: looked for {place} in the Hugging Face cache "
            f"and on the hub ({reason}).",
            "Connect once so that they are cached, or copy the model's folder here and use --backbone local-dir:PATH; "
            "--backbone mini needs neither.",
        ) from error


def _find_nearest(word: str, known: list[str]) -> str:
    return difflib.get_close_matches(word, known, 1, 0.0)[0]


class _InitialisationSkipper(TorchFunctionMode):
    """Draws no random weights, because others are loaded right afterwards; it saves a second for a ViT-B/32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return (*args, *kwargs.values())[0] if func in _INITIALISERS else func(*args, **kwargs)


_INITIALISERS: Any = (Tensor.normal_, Tensor.uniform_, init.normal_, init.uniform_, init.kaiming_uniform_)


def _load_open_clip(
    name: str, model: str, weights: str | None, hints: Any, image_size: int | None, file: Path | None = None
) -> Backbone:
    import open_clip

    tag = open_clip.get_pretrained_cfg(model, weights) if weights else {}
    options: dict[str, Any] = {"force_quick_gelu": True} if tag.get("quick_gelu") else {}
    options |= {"force_custom_text": True, "force_image_size": image_size, "pretrained_text": False}
    disabled = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            with contextlib.nullcontext() if file is None else _InitialisationSkipper():
                network = open_clip.create_model(model, weights, load_weights=file is None, **options)
            if file is not None:
                open_clip.load_checkpoint(network, str(file))
        finally:
            logging.disable(disabled)
    tokenizer = open_clip.get_tokenizer(model)
    image, text = make_image_tower(network.visual), make_text_tower(network.text)
    with torch.inference_mode():
        tokens = torch.zeros(1, network.text.context_length, dtype=torch.long)
        embed_dim = text.run_tail(text.run_stem(tokens), tokens).shape[1]
    return Backbone(
        name,
        image,
        text,
        lambda texts: tokenizer(list(texts)),
        lambda prompt: _exceeds_context(tokenizer, prompt),
        lambda: convert_tokenizer(tokenizer),
        parse_preprocessing(network.visual.preprocess_cfg),
        embed_dim,
        parse_hints(hints, len(image.blocks)),
    )


def _load_two_towers(
    name: str, folder: Path, config: Mapping[str, Any], weights: Path, image_size: int | None
) -> Backbone:
    """A timm image tower with a sentence encoder; open_clip can't build the latter without transformers.

    With `text_tower: mini` the sentence encoder is that of `mini`.
    """
    from open_clip.timm_model import TimmModel

    model_cfg, text_cfg, text_folder = config["model_cfg"], config["model_cfg"]["text_cfg"], folder
    tensors = load_tensors(weights)
    if "text_tower" in text_cfg:
        text_cfg, text_folder = read_json(MINI / CONFIG_NAME)["model_cfg"]["text_cfg"], MINI
        tensors |= {key: t for key, t in load_tensors(MINI / WEIGHTS_NAME).items() if key.startswith("text.")}
    vision = {key.removeprefix("timm_"): value for key, value in model_cfg["vision_cfg"].items()}
    if image_size is not None:
        vision["image_size"] = image_size
    visual = TimmModel(embed_dim=model_cfg["embed_dim"], **vision)
    text = SentenceEncoder(**text_cfg["sentence_encoder"], embed_dim=model_cfg["embed_dim"])
    state = {key: torch.from_numpy(array) for key, array in tensors.items()}
    if not any(key.endswith("running_mean") for key in state):  # stored with BatchNorm merged
        fold_batch_norm(visual.trunk)
    for prefix, part in (("visual", visual), ("text", text)):
        own = {key.removeprefix(f"{prefix}."): value for key, value in state.items() if key.startswith(f"{prefix}.")}
        missing = [key for key in part.load_state_dict(own, strict=False).missing_keys if "num_batches" not in key]
        if missing:
            raise AigcError(f"Expected {prefix}.{missing[0]} in {weights}, found no such tensor.", "Fetch it again.")
    tokenizer = PromptTokenizer(text_folder / TOKENIZER, text_cfg["context_length"])
    towers = make_image_tower(visual), make_sentence_tower(text)
    preprocessing = parse_preprocessing(config["preprocess_cfg"] | {"size": visual.image_size})
    hints = parse_hints(config.get("aigc_cfg"), len(towers[0].blocks))
    width = model_cfg["embed_dim"]

    def tokenize(texts: Sequence[str]) -> Tensor:
        return torch.from_numpy(tokenizer(texts))

    return Backbone(name, *towers, tokenize, tokenizer.truncates, tokenizer.to_json, preprocessing, width, hints)


def _exceeds_context(tokenizer: Any, prompt: str) -> bool:
    """Whether open_clip's tokenizer cuts the prompt: with a wider context there are more tokens."""
    width = tokenizer.context_length
    wider, blank = (tokenizer([text], context_length=2 * width)[0] for text in (prompt, ""))
    return bool((wider[width:] != blank[-1]).any())  # an empty text ends in the padding token
