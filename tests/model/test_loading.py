"""Backbones by name: the numbers of open_clip from the same weights, errors with hints, and `mini`."""

import json
import math
import pickle
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from aigc_cli.errors import AigcError, EnvironmentProblem
from aigc_cli.images.preprocess import Preprocessing
from aigc_cli.model.backbone import Backbone
from aigc_cli.model.loading import load_backbone
from aigc_cli.recipe import Recipe
from aigc_cli.runtime.hints import MINI, read_hints
from aigc_cli.runtime.saved import UNFROZEN, Freezing

ROOT = Path(__file__).parents[2]
PROMPTS = ["a red cat", "two blue dogs on a long and winding road"]
LAION = "ViT-B-32/laion2b_s34b_b79k"
WORDS = "seventeen small painted wooden horses in a bright yellow room "


def _named(module: nn.Module, blocks: range, *tail: str) -> set[str]:
    starts = (*(f"transformer.resblocks.{index}." for index in blocks), *tail)
    return {name for name, _ in module.named_parameters() if name.startswith(starts)}


def _trainable(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "image_blocks", "text_blocks"),
    [("ViT-L-14/random", range(18, 24), range(9, 12)), ("ViT-B-32/random", range(9, 12), range(9, 12))],
)
def test_a_vit_frozen_to_three_quarters(name: str, image_blocks: range, text_blocks: range) -> None:
    """18 of ViT-L/14's 24 blocks and 9 of ViT-B/32's 12, with the stem and the embeddings."""
    backbone = load_backbone(name)
    freezing = backbone.find_boundaries(Recipe(freeze="partial", freeze_depth=0.75))
    assert freezing == Freezing(image_blocks.start, text_blocks.start)
    backbone.freeze(freezing)
    image, text = backbone.image.module, backbone.text.module
    assert _trainable(image) == _named(image, image_blocks, "ln_post.", "proj")
    assert _trainable(text) == _named(text, text_blocks, "ln_final.", "text_projection")
    per_block = 12  # two norms, attention in and out, two linear layers, each with a bias
    assert len(_trainable(image)) == len(image_blocks) * per_block + 3
    assert len(_trainable(text)) == len(text_blocks) * per_block + 3
    for frozen in ("conv1.weight", "class_embedding", "positional_embedding", "ln_pre.weight"):
        assert not image.get_parameter(frozen).requires_grad
    for frozen in ("token_embedding.weight", "positional_embedding"):
        assert not text.get_parameter(frozen).requires_grad


@pytest.mark.parametrize(
    ("mode", "depth", "expected"),
    [
        ("none", 0.75, Freezing(UNFROZEN, UNFROZEN)),
        ("all", 0.75, Freezing(5, 5)),
        ("partial", 0.0, Freezing(0, 0)),
        ("partial", 0.5, Freezing(2, 2)),
        ("partial", 0.75, Freezing(3, 3)),
        ("partial", 1.0, Freezing(4, 4)),
    ],
)
def test_boundaries_of_four_blocks(tiny: Backbone, mode: Any, depth: float, expected: Freezing) -> None:
    assert tiny.find_boundaries(Recipe(freeze=mode, freeze_depth=depth)) == expected


def test_the_text_tower_may_have_another_mode(tiny: Backbone) -> None:
    half = Recipe(freeze="partial", freeze_depth=0.5)
    assert tiny.find_boundaries(replace(half, freeze_text="all")) == Freezing(2, 5)
    assert tiny.find_boundaries(replace(half, freeze="all", freeze_text="none")) == Freezing(5, UNFROZEN)


def test_a_number_of_frozen_blocks(tiny: Backbone) -> None:
    """It counts blocks of the image tower; the text tower is frozen by the same share."""
    assert tiny.find_boundaries(Recipe(freeze="partial", freeze_layers=3)) == Freezing(3, 3)
    with pytest.raises(AigcError) as caught:
        tiny.find_boundaries(Recipe(freeze="partial", freeze_layers=5))
    assert "Expected freeze_layers of 0 to 4" in caught.value.message


def test_embeddings_are_those_of_open_clip_itself(tiny: Backbone, tiny_folder: Path, noise_image: Image.Image) -> None:
    network = open_clip.create_model(f"local-dir:{tiny_folder}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tiny_folder}")
    pixels = tiny.transform(noise_image).unsqueeze(0).repeat(2, 1, 1, 1)
    pixels[1] = pixels[1].flip(-1) * 0.5
    with torch.inference_mode():
        image = network.encode_image(pixels, normalize=True)
        text = network.encode_text(tokenizer(PROMPTS), normalize=True)
        torch.testing.assert_close(tiny.encode_image(pixels).embedding, image, atol=1e-5, rtol=0)
        torch.testing.assert_close(tiny.encode_text(PROMPTS), text, atol=1e-5, rtol=0)
    assert (image[0] - image[1]).abs().max() > 1e-3
    assert (text[0] - text[1]).abs().max() > 1e-3


@pytest.mark.parametrize("portrait", [False, True])
@pytest.mark.parametrize(
    "changes",
    [{}, {"resize_mode": "squash"}, {"resize_mode": "longest", "fill_color": 7}, {"interpolation": "bilinear"}],
    ids=str,
)
def test_pixels_are_those_of_open_clip_itself(
    tmp_path: Path, tiny_folder: Path, noise_image: Image.Image, changes: dict[str, Any], portrait: bool
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "tiny")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["preprocess_cfg"] |= changes
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    image = noise_image.transpose(Image.Transpose.ROTATE_90) if portrait else noise_image
    _, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    ours = load_backbone(f"local-dir:{folder}").transform
    torch.testing.assert_close(ours(image), preprocess(image), atol=1e-5, rtol=0)


def test_the_preprocessing_is_what_the_folder_says(tiny: Backbone) -> None:
    assert tiny.preprocessing == Preprocessing(
        (32, 32), (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), "bicubic", "shortest"
    )


@pytest.mark.parametrize(("name", "size"), [("tiny", 64), pytest.param("mini", 160, marks=pytest.mark.slow)])
def test_another_image_size(tiny_folder: Path, name: str, size: int) -> None:
    backbone = load_backbone(f"local-dir:{tiny_folder}" if name == "tiny" else "mini", image_size=size)
    assert backbone.preprocessing.size == (size, size)
    pixels = backbone.transform(Image.new("RGB", (90, 70))).unsqueeze(0)
    with torch.inference_mode():
        assert backbone.encode_image(pixels).embedding.shape == (1, backbone.embed_dim)


def test_the_tag_selects_quick_gelu(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that were trained with QuickGELU give other numbers with GELU."""
    seen: list[dict[str, Any]] = []

    def create_model(model: str, weights: str | None, **options: Any) -> nn.Module:
        seen.append({"model": model, "weights": weights, **options})
        return original(f"local-dir:{tiny_folder}", force_custom_text=True)

    original = open_clip.create_model
    monkeypatch.setattr(open_clip, "create_model", create_model)
    load_backbone("ViT-B-32/openai")
    load_backbone(LAION)
    assert [(one["model"], one["weights"], one.get("force_quick_gelu", False)) for one in seen] == [
        ("ViT-B-32", "openai", True),
        ("ViT-B-32", "laion2b_s34b_b79k", False),
    ]


# --- errors


def test_a_name_of_another_form() -> None:
    with pytest.raises(AigcError) as caught:
        load_backbone("foo")
    assert str(caught.value) == (
        "Expected a backbone 'mini', 'midi', 'architecture/weights' or 'local-dir:PATH', found 'foo'.\n"
        "For example --backbone ViT-L-14/openai."
    )
    assert caught.value.exit_code == 2


def test_an_unknown_architecture_names_the_nearest() -> None:
    with pytest.raises(AigcError) as caught:
        load_backbone("ViT-B32/openai")
    assert caught.value.message == "Expected an architecture that open_clip knows, found 'ViT-B32'."
    assert caught.value.hint == "Did you mean ViT-B-32/openai?"


def test_unknown_weights_list_the_known_ones() -> None:
    with pytest.raises(AigcError) as caught:
        load_backbone("ViT-B-32/laion9")
    known = open_clip.list_pretrained_tags_by_model("ViT-B-32")
    assert caught.value.message == (
        f"Expected weights of ViT-B-32 that open_clip knows ({', '.join(known)}), found 'laion9'."
    )
    assert caught.value.hint == "For example --backbone ViT-B-32/laion2b_e16."


def test_an_architecture_without_weights_offers_random_ones() -> None:
    with pytest.raises(AigcError) as caught:
        load_backbone("convnext_tiny/openai")
    assert caught.value.message == "Expected weights of convnext_tiny that open_clip knows (none), found 'openai'."
    assert caught.value.hint == "For example --backbone convnext_tiny/random."


def test_weights_that_are_not_found_name_the_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    begun = time.perf_counter()
    with pytest.raises(EnvironmentProblem) as caught:
        load_backbone(LAION)
    assert time.perf_counter() - begun < 5
    assert caught.value.exit_code == 4
    assert caught.value.message.startswith(
        "The weights 'laion2b_s34b_b79k' of ViT-B-32 were not found: looked for laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    )
    assert "in the Hugging Face cache and on the hub (" in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint == (
        "Connect once so that they are cached, or copy the model's folder here and use --backbone local-dir:PATH; "
        "--backbone mini needs neither."
    )


def test_a_folder_without_configuration(tmp_path: Path) -> None:
    with pytest.raises(AigcError) as caught:
        load_backbone(f"local-dir:{tmp_path}")
    assert str(caught.value) == (
        f"Expected a backbone folder with open_clip_config.json, found none at {tmp_path / 'open_clip_config.json'}.\n"
        "Name a folder in open_clip's local-dir format."
    )


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model_cfg": {}}', '{"model_cfg": 3}'])
def test_a_configuration_of_another_kind(tmp_path: Path, text: str) -> None:
    (tmp_path / "open_clip_config.json").write_text(text)
    with pytest.raises(AigcError) as caught:
        load_backbone(f"local-dir:{tmp_path}")
    assert caught.value.message.startswith(
        f"Expected open_clip's configuration in {tmp_path / 'open_clip_config.json'}"
    )
    assert caught.value.hint == "Save the model again."


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_folder_with_only_a_pickle_is_refused_unopened(tmp_path: Path, tiny_folder: Path) -> None:
    shutil.copy(tiny_folder / "open_clip_config.json", tmp_path)
    (tmp_path / "open_clip_pytorch_model.bin").write_bytes(pickle.dumps(_Trap(tmp_path / "sprung")))
    with pytest.raises(EnvironmentProblem) as caught:
        load_backbone(f"local-dir:{tmp_path}")
    assert caught.value.message == f"Expected weights as safetensors in {tmp_path}, found no *.safetensors file."
    assert caught.value.hint == (
        "Convert the checkpoint to safetensors (pickled files are never opened), or use --backbone mini."
    )
    assert not (tmp_path / "sprung").exists()


def test_a_pickle_beside_the_safetensors_is_not_opened(tmp_path: Path, tiny: Backbone, tiny_folder: Path) -> None:
    """open_clip itself prefers open_clip_pytorch_model.bin to a safetensors file with another name."""
    shutil.copy(tiny_folder / "open_clip_config.json", tmp_path)
    shutil.copy(tiny_folder / "open_clip_model.safetensors", tmp_path / "weights.safetensors")
    (tmp_path / "open_clip_pytorch_model.bin").write_bytes(pickle.dumps(_Trap(tmp_path / "sprung")))
    assert load_backbone(f"local-dir:{tmp_path}").weights_hash == tiny.weights_hash
    assert not (tmp_path / "sprung").exists()


def test_open_clips_own_file_is_taken_where_there_are_several(
    tmp_path: Path, tiny: Backbone, tiny_folder: Path
) -> None:
    """A copied hub repository holds `model.safetensors` too, in the format of transformers."""
    folder = shutil.copytree(tiny_folder, tmp_path / "copied")
    save_file({"vision_model.x": torch.ones(1)}, folder / "model.safetensors")
    assert load_backbone(f"local-dir:{folder}").weights_hash == tiny.weights_hash


def _damaged(tiny_folder: Path, folder: Path, how: str) -> None:
    shutil.copy(tiny_folder / "open_clip_config.json", folder)
    weights = folder / "open_clip_model.safetensors"
    data = (tiny_folder / weights.name).read_bytes()
    tensors = load_file(tiny_folder / weights.name)
    if how == "truncated":
        weights.write_bytes(data[: len(data) // 2])
    elif how == "pickle":
        weights.write_bytes(pickle.dumps(_Trap(folder / "sprung")))
    elif how == "nan":
        tensors["visual.proj"][0, 0] = math.nan
        save_file(tensors, weights)
    else:
        tensors["visual.proj"] = torch.zeros(64, 31)
        save_file(tensors, weights)


@pytest.mark.parametrize("how", ["truncated", "pickle", "nan", "other shape"])
def test_damaged_weights_are_an_error_that_names_the_folder(tmp_path: Path, tiny_folder: Path, how: str) -> None:
    _damaged(tiny_folder, tmp_path, how)
    with pytest.raises(AigcError, match=re.escape(str(tmp_path))):
        load_backbone(f"local-dir:{tmp_path}")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.slow
def test_mini_without_one_tensor_names_it(tmp_path: Path) -> None:
    folder = shutil.copytree(MINI, tmp_path / "mini")
    weights = folder / "open_clip_model.safetensors"
    tensors = load_file(weights)
    del tensors["text.projection.bias"]
    save_file(tensors, weights)
    with pytest.raises(AigcError) as caught:
        load_backbone(f"local-dir:{folder}")
    assert caught.value.message == f"Expected text.projection.bias in {weights}, found no such tensor."


# --- identity


def test_the_weights_hash_is_of_the_values(tiny: Backbone, tiny_folder: Path, tmp_path: Path) -> None:
    assert load_backbone(f"local-dir:{tiny_folder}").weights_hash == tiny.weights_hash
    folder = shutil.copytree(tiny_folder, tmp_path / "other")
    tensors = load_file(folder / "open_clip_model.safetensors")
    tensors["visual.proj"][0, 0] += 1e-3
    save_file(tensors, folder / "open_clip_model.safetensors")
    assert load_backbone(f"local-dir:{folder}").weights_hash != tiny.weights_hash


def test_loading_leaves_everything_frozen_and_in_eval_mode(tiny: Backbone) -> None:
    for tower in (tiny.image, tiny.text):
        assert not any(parameter.requires_grad for parameter in tower.module.parameters())
        assert not any(module.training for module in tower.module.modules())


def test_a_prompt_that_exceeds_the_context_is_detected(tiny: Backbone) -> None:
    assert tiny.truncates(WORDS * 30)
    assert not tiny.truncates("a red cat")
    fits = "cat " * 75  # with the start and the end token: 77
    assert not tiny.truncates(fits)
    assert tiny.truncates(fits + "cat")


# --- mini


def test_minis_sizes_and_hints(mini: Backbone) -> None:
    assert re.fullmatch("[0-9a-f]{64}", mini.weights_hash)
    assert mini.embed_dim == 384
    assert mini.count_levels() == 896
    assert (len(mini.image.blocks), len(mini.text.blocks)) == (16, 6)
    assert mini.hints == read_hints("mini")
    assert (mini.hints.few_levels, mini.hints.settings["quality_input"]) == ((2, 4, 7, 10, 14), "multilevel")


def test_midi_is_a_larger_image_tower_with_minis_text_tower(mini: Backbone) -> None:
    midi = load_backbone("midi")
    assert (midi.embed_dim, midi.preprocessing.size, len(midi.image.blocks)) == (384, (384, 384), 21)
    torch.testing.assert_close(midi.encode_text(PROMPTS), mini.encode_text(PROMPTS), rtol=0, atol=0)
    assert midi.describe_tokenizer() == mini.describe_tokenizer()
    assert midi.hints == read_hints("midi")


def test_minis_text_embeddings_are_unit_length_and_do_not_depend_on_the_batch(mini: Backbone) -> None:
    with torch.inference_mode():
        together = mini.encode_text([PROMPTS[0], WORDS * 5])
        alone = mini.encode_text([PROMPTS[0]])
    torch.testing.assert_close(together.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=0)


def _tokens(mini: Backbone, texts: Sequence[str]) -> torch.Tensor:
    tokens = mini.tokenize(texts)
    assert tokens.dtype == torch.int64
    return tokens


def test_mini_keeps_the_end_token_when_it_cuts_a_prompt(mini: Backbone) -> None:
    start, end = _tokens(mini, ["cat"])[0, [0, -1]].tolist()
    cut = _tokens(mini, ["word " * 300])
    assert cut.shape == (1, 128)
    assert cut[0, 0] == start
    assert cut[0, -1] == end
    assert (cut[0, 1:-1] != end).all()


def test_mini_detects_prompts_that_it_cuts(mini: Backbone) -> None:
    assert mini.truncates("word " * 300)
    assert not mini.truncates("a red cat")
    assert not mini.truncates("word " * 126)
    assert mini.truncates("word " * 127)


def test_minis_files_are_small_and_recorded() -> None:
    files = [path for path in (ROOT / "aigc_cli" / "weights").rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json"}
    assert sum(path.stat().st_size for path in files) <= 60_000_000
    others = {path.name for path in files if path.suffix not in (".json", ".safetensors")}
    assert others == {"SHA256SUMS", "image.onnx", "text.onnx"}
    digest = sha256((MINI / "open_clip_model.safetensors").read_bytes()).hexdigest()
    assert digest in (ROOT / "NOTICE").read_text(encoding="utf-8")
