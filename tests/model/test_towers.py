"""Every family of towers: any boundary gives the same output, and freezing leaves exactly the named parameters."""

import copy
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aigc_cli.errors import AigcError
from aigc_cli.model.backbone import Backbone
from aigc_cli.model.engines import compile_engine
from aigc_cli.model.export import make_graphs
from aigc_cli.model.loading import load_backbone
from aigc_cli.model.towers import Tower, fold_batch_norm, make_image_tower, make_text_tower
from aigc_cli.recipe import Recipe
from aigc_cli.runtime.graphs import check_graph
from aigc_cli.runtime.saved import UNFROZEN
from aigc_cli.training.loop import make_model

PROMPTS = ["a red cat", "two blue dogs on a long and winding road, oil painting", ""]
TIMM = {"test_vit": "", "test_vit3": "", "test_convnext": "avg", "test_efficientnet": "avg"}
RESNET = {"image_size": 64, "layers": [1, 1, 2, 1], "width": 8, "head_width": 32}
REAL_SIZE = ("ViT-B-32/random", "RN50/random", "convnext_tiny/random")


def _mark_slow(*names: str) -> list[Any]:
    """Parameters of tests; real sizes are marked as slow."""
    return [pytest.param(name, marks=[pytest.mark.slow] if name in REAL_SIZE else []) for name in names]


@pytest.fixture(scope="module", params=_mark_slow("tiny", "resnet", "mini", *TIMM, *REAL_SIZE))
def backbone(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_folder: Path,
    open_clip_folder: Callable[..., Path],
) -> Backbone:
    """One backbone of each family; it is freed before the next one is built."""
    if request.param == "tiny":
        built = load_backbone(f"local-dir:{tiny_folder}")
    elif request.param == "resnet":
        built = load_backbone(f"local-dir:{open_clip_folder(tmp_path_factory.mktemp('resnet'), RESNET)}")
    elif request.param in TIMM:
        vision = {"timm_model_name": request.param, "timm_pool": TIMM[request.param], "image_size": 160}
        built = load_backbone(f"local-dir:{open_clip_folder(tmp_path_factory.mktemp('timm'), vision)}")
    else:
        built = load_backbone(request.param)
    _shake(built)
    return built


def _shake(backbone: Backbone) -> None:
    """Changes norms, biases and statistics from their start, so that the output shows if one is left out."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in backbone.modules().state_dict().values():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.add_(0.3 * torch.rand(tensor.shape, generator=generator))


def _pixels(backbone: Backbone, n: int = 2) -> Tensor:
    """Noise; each image has another contrast and brightness."""
    noise = torch.randn(n, 3, *backbone.preprocessing.size, generator=torch.Generator().manual_seed(1))
    steps = torch.arange(n).view(-1, 1, 1, 1)
    return noise * (1 + steps) + steps


def _list_boundaries(tower: Tower) -> list[int]:
    n = len(tower.blocks)
    return [UNFROZEN, 0, n // 2, n, n + 1]


def test_an_image_tower_gives_the_same_at_any_boundary(backbone: Backbone) -> None:
    pixels = _pixels(backbone)
    with torch.inference_mode():
        expected = F.normalize(backbone.image.module(pixels), dim=-1)
        levels = backbone.encode_image(pixels).levels
        for boundary in _list_boundaries(backbone.image):
            found = backbone.run_image_from_boundary(backbone.run_image_to_boundary(pixels, boundary), boundary)
            torch.testing.assert_close(found.embedding, expected, atol=1e-5, rtol=0)
            torch.testing.assert_close(found.levels, levels, atol=1e-4, rtol=1e-4)
    assert (expected[0] - expected[1]).abs().max() > 1e-4  # both images differ, so the equality above is not trivial


@pytest.mark.slow
def test_the_tracing_exporter_supports_every_family(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other exporter takes ten times as long."""
    export = torch.onnx.export

    def trace(*args: Any, dynamo: bool, **options: Any) -> Any:
        assert not dynamo
        return export(*args, dynamo=False, **options)

    monkeypatch.setattr(torch.onnx, "export", trace)
    monkeypatch.setenv("AIGC_CACHE", str(tmp_path))
    assert compile_engine(backbone, len(backbone.image.blocks) + 1).name == "onnx"


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet", "mini", "test_vit", "test_convnext"], indirect=True)
def test_every_family_becomes_graphs(backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both towers with heads, by dynamo; they are checked against PyTorch when they are made."""
    monkeypatch.setenv("AIGC_CACHE", str(tmp_path))
    model = make_model(backbone, Recipe(freeze="all"))
    model.eval()
    for name, graph in make_graphs(model).items():
        if name.endswith(".onnx"):
            (tmp_path / name).write_bytes(graph)
            check_graph(tmp_path / name)


def test_a_text_tower_gives_the_same_at_any_boundary(backbone: Backbone) -> None:
    tokens = backbone.tokenize(PROMPTS)
    with torch.inference_mode():
        expected = F.normalize(backbone.text.module(tokens), dim=-1)
        for boundary in _list_boundaries(backbone.text):
            found = backbone.run_text_from_boundary(backbone.run_text_to_boundary(tokens, boundary), boundary)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(backbone.encode_text(PROMPTS), expected, atol=1e-5, rtol=0)
    assert (expected[0] - expected[1]).abs().max() > 1e-4


def test_the_keys_of_the_boundary_state(backbone: Backbone) -> None:
    pixels, tokens = _pixels(backbone, 1), backbone.tokenize(PROMPTS[:1])
    for tower, state in (
        (backbone.image, lambda cut: backbone.run_image_to_boundary(pixels, cut)),
        (backbone.text, lambda cut: backbone.run_text_to_boundary(tokens, cut)),
    ):
        is_image = tower is backbone.image
        with torch.inference_mode():
            kinds = [set(state(cut)) for cut in (UNFROZEN, 0, len(tower.blocks), len(tower.blocks) + 1)]
        between = {"hidden", "levels"} if is_image else {"hidden", "tokens"}
        last = {"embedding", "levels"} if is_image else {"embedding"}
        assert kinds == [{"pixels"} if is_image else {"tokens"}, between, between, last]


def test_levels_are_mean_and_spread_over_the_places_of_each_chosen_block(backbone: Backbone) -> None:
    outputs: dict[int, Tensor] = {}
    tower = backbone.image
    hooks = [
        block.register_forward_hook(lambda _m, _i, out, index=index: outputs.__setitem__(index, out))
        for index, block in enumerate(tower.blocks)
    ]
    with torch.inference_mode():
        levels = backbone.encode_image(_pixels(backbone)).levels
    for hook in hooks:
        hook.remove()
    expected = []
    for index in sorted(backbone.hints.few_levels):
        hidden = outputs[index]
        places = hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden[:, _class_tokens(tower.module) :]
        expected += [places.mean(1), (places.var(1, correction=0) + 1e-6).sqrt()]
    torch.testing.assert_close(levels, torch.cat(expected, dim=1), atol=1e-4, rtol=1e-4)
    assert levels.shape[1] == backbone.count_levels()


@pytest.mark.parametrize(
    ("name", "widest"),
    [("mini", r"trunk\.blocks\.\d\.\d\.(conv_dw|conv_pw)"), ("tiny", r"mlp\.c_fc"), ("test_vit", r"mlp\.fc1")],
)
def test_inner_levels_follow_those_of_each_block(
    name: str, widest: str, tmp_path: Path, tiny_folder: Path, open_clip_folder: Callable[..., Path]
) -> None:
    place = "mini"
    if name == "tiny":
        place = f"local-dir:{tiny_folder}"
    elif name in TIMM:
        vision = {"timm_model_name": name, "timm_pool": TIMM[name], "image_size": 160}
        place = f"local-dir:{open_clip_folder(tmp_path, vision)}"
    few, every, inner = (load_backbone(place, None, levels) for levels in ("few", "all", "inner"))
    tower, pixels = inner.image, _pixels(inner)
    with torch.inference_mode():
        found, outer = inner.encode_image(pixels).levels, every.encode_image(pixels).levels
        embedding = inner.encode_image(pixels).embedding
        torch.testing.assert_close(embedding, few.encode_image(pixels).embedding)
        hidden, start, taken = tower.run_stem(pixels), 0, []
        for block, layer in zip(tower.blocks, tower.inner_layers, strict=True):
            wide: list[Tensor] = []
            hook = (layer or nn.Identity()).register_forward_hook(lambda _m, _i, out, wide=wide: wide.append(out))
            hidden = tower.run_block(block, hidden, None)
            hook.remove()
            own = tower.pool(hidden)
            torch.testing.assert_close(found[:, start : start + own.shape[1]], own, atol=1e-4, rtol=1e-4)
            start += own.shape[1]
            taken.append(own)
            if layer is None:
                continue
            within = tower.pool(wide[0])
            torch.testing.assert_close(found[:, start : start + within.shape[1]], within, atol=1e-4, rtol=1e-4)
            start += within.shape[1]
            layers = [m for n, m in tower.module.named_modules() if re.search(widest, n) and m in set(block.modules())]
            channels = max(layer.weight.shape[0] for layer in layers)
            assert within.shape[1] == 2 * channels
        torch.testing.assert_close(outer, torch.cat(taken, dim=1), atol=1e-4, rtol=1e-4)
    assert start == found.shape[1] == inner.count_levels()
    assert [index for index, layer in enumerate(tower.inner_layers) if layer is not None] == (
        [0, 1, 3, 5, 8, 11, 15] if name == "mini" else list(range(len(tower.blocks)))
    )
    assert len({backbone.describe_levels() for backbone in (few, every, inner)}) == (2 if name == "tiny" else 3)


def test_inner_levels_at_every_boundary_and_in_threads() -> None:
    backbone = load_backbone("mini", 64, "inner")
    blocks = len(backbone.image.blocks)

    def run(seed: int) -> tuple[Tensor, list[Tensor]]:
        pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
        with torch.inference_mode():
            states = [(backbone.run_image_to_boundary(pixels, cut), cut) for cut in (UNFROZEN, 0, 6, blocks)]
            return backbone.encode_image(pixels).levels, [
                backbone.run_image_from_boundary(state, cut).levels for state, cut in states
            ]

    alone = [run(seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, range(8)))
    for (whole, parts), (other, _) in zip(alone, together, strict=True):
        torch.testing.assert_close(whole, other)
        for part in parts:
            torch.testing.assert_close(part, whole, atol=1e-4, rtol=1e-4)


def test_a_tower_without_inner_layers(tmp_path: Path, open_clip_folder: Callable[..., Path]) -> None:
    place = f"local-dir:{open_clip_folder(tmp_path, RESNET)}"
    with pytest.raises(AigcError, match=f"Expected levels few or all with {place}, found inner"):
        load_backbone(place, None, "inner")


def _class_tokens(module: Any) -> int:
    return int(module.trunk.num_prefix_tokens) if hasattr(module, "trunk") else 1


def _trainable(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def _named(module: nn.Module, *starts: str) -> set[str]:
    names = {name for name, _ in module.named_parameters() if name.startswith(starts)}
    assert all(any(name.startswith(start) for name in names) for start in starts)  # each start matches a parameter
    return names


def _blocks(prefix: str, indices: range) -> list[str]:
    return [f"{prefix}{index}." for index in indices]


def _clip_text(backbone: Backbone, first: int) -> set[str]:
    stays = _blocks("transformer.resblocks.", range(first, len(backbone.text.blocks)))
    return _named(backbone.text.module, *stays, "ln_final.", "text_projection")


IMAGE_TAILS: dict[str, list[str]] = {
    "tiny": [*_blocks("transformer.resblocks.", range(3, 4)), "ln_post.", "proj"],
    "ViT-B-32/random": [*_blocks("transformer.resblocks.", range(9, 12)), "ln_post.", "proj"],
    "resnet": ["layer4.", "attnpool."],  # 4 of 1 + 1 + 2 + 1
    "RN50/random": ["layer3.5.", "layer4.", "attnpool."],  # 12 of 3 + 4 + 6 + 3
    "convnext_tiny/random": [
        "trunk.stages.2.blocks.8.",
        "trunk.stages.3.",
        "trunk.head.",
        "head.",
    ],  # 14 of 3 + 3 + 9 + 3
    "mini": [
        "trunk.blocks.5.",
        "trunk.blocks.6.",
        "trunk.conv_head.",
        "head.",
    ],  # 12: 1+2+2+3+3 = 11, + 1
}


@pytest.mark.parametrize("backbone", _mark_slow(*IMAGE_TAILS), indirect=True)
def test_three_quarters_frozen_leaves_exactly_the_named_parameters(
    backbone: Backbone, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["backbone"]
    image, text = backbone.image.module, backbone.text.module
    freezing = backbone.find_boundaries(Recipe(freeze="partial", freeze_depth=0.75))
    backbone.freeze(freezing)
    expected = _named(image, *IMAGE_TAILS[name])
    if name == "mini":
        expected -= _named(image, "trunk.blocks.5.0.")
        assert _trainable(text) == _named(text, "blocks.5.", "projection.")  # 5 = round half up of 4.5
    else:
        assert _trainable(text) == _clip_text(backbone, freezing.text)
    assert _trainable(image) == expected
    assert freezing.image < len(backbone.image.blocks)


def test_all_leaves_nothing_and_none_leaves_everything(backbone: Backbone) -> None:
    modules = backbone.modules()
    assert backbone.freeze(backbone.find_boundaries(Recipe(freeze="all", freeze_depth=0.75))) == []
    assert _trainable(modules) == set()
    learnt = backbone.freeze(backbone.find_boundaries(Recipe(freeze="none", freeze_depth=0.75)))
    assert {id(p) for p in learnt} == {id(p) for p in modules.parameters()}
    assert _trainable(modules) == {name for name, _ in modules.named_parameters()}


def test_gradients_reach_what_is_trainable_and_nothing_else(backbone: Backbone) -> None:
    freezing = backbone.find_boundaries(Recipe(freeze="partial", freeze_depth=0.75))
    backbone.freeze(freezing)
    modules = backbone.modules()
    modules.zero_grad()
    backbone.eval()
    image = backbone.run_image_from_boundary(
        backbone.run_image_to_boundary(_pixels(backbone), freezing.image), freezing.image
    )
    text = backbone.run_text_from_boundary(
        backbone.run_text_to_boundary(backbone.tokenize(PROMPTS[:2]), freezing.text), freezing.text
    )
    ((image.embedding * text).sum() + image.levels.sum()).backward()  # type: ignore[no-untyped-call]
    reached = {name for name, p in modules.named_parameters() if p.grad is not None}
    assert reached == _trainable(modules)
    assert all(torch.isfinite(p.grad).all() for p in modules.parameters() if p.grad is not None)
    modules.zero_grad()


@pytest.mark.parametrize("backbone", ["resnet"], indirect=True)
def test_batchnorm_statistics_change_only_after_the_boundary(backbone: Backbone) -> None:
    module = backbone.image.module
    freezing = backbone.find_boundaries(Recipe(freeze="partial", freeze_depth=0.75))
    backbone.freeze(freezing)
    backbone.train(freezing)
    kept = {name: value.clone() for name, value in module.named_buffers() if "running" in name}
    backbone.run_image_from_boundary(backbone.run_image_to_boundary(_pixels(backbone), freezing.image), freezing.image)
    moved = {name for name, value in module.named_buffers() if name in kept and not torch.equal(value, kept[name])}
    expected = {
        f"{name}.{which}"
        for name, part in module.named_modules()
        if isinstance(part, nn.BatchNorm2d) and _trainable(part)
        for which in ("running_mean", "running_var")
    }
    for name, value in kept.items():
        module.get_buffer(name).copy_(value)
    backbone.eval()
    assert moved == expected
    assert 0 < len(moved) < len(kept)


def test_training_mode_is_set_after_the_boundary_and_eval_ends_it(tiny: Backbone) -> None:
    freezing = tiny.find_boundaries(Recipe(freeze="partial", freeze_depth=0.5))
    tiny.freeze(freezing)
    tiny.train(freezing)
    for tower in (tiny.image, tiny.text):
        assert [block.training for block in tower.blocks] == [False, False, True, True]
    tiny.eval()
    assert not any(part.training for tower in (tiny.image, tiny.text) for part in tower.module.modules())


def test_an_unknown_family_is_named() -> None:
    class Mixer(nn.Module):
        pass

    with pytest.raises(AigcError) as caught:
        make_image_tower(Mixer())
    assert caught.value.message.endswith("(ViT, ResNet, EfficientNet, ConvNeXt), found Mixer.")
    assert caught.value.hint == "Choose another backbone, for example ViT-B-32/laion2b_s34b_b79k."


def test_a_family_whose_blocks_need_more_than_their_input_is_refused() -> None:
    """EVA passes rotary positions to every block; without them its output is wrong."""
    from open_clip.timm_model import TimmModel

    eva = TimmModel("eva02_tiny_patch14_224", embed_dim=32, image_size=28, pool="avg")
    with pytest.raises(AigcError, match=r"found Eva\."):
        make_image_tower(eva)


def test_a_text_tower_with_an_appended_class_token_is_refused() -> None:
    from open_clip.transformer import TextTransformer

    with pytest.raises(AigcError, match=r"an appended class token \(CoCa\)"):
        make_text_tower(TextTransformer(width=16, heads=1, layers=1, embed_cls=True))


def test_folded_batch_norm_is_the_same_network() -> None:
    network = timm.create_model("mobilenetv2_050", pretrained=False).eval()
    random = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1, generator=random)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2, generator=random)  # type: ignore[union-attr]
    folded = copy.deepcopy(network)
    fold_batch_norm(folded)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert sum(isinstance(m, nn.ReLU6) for m in folded.modules()) == sum(
        isinstance(m, nn.ReLU6) for m in network.modules()
    )
    pixels = torch.randn(2, 3, 64, 64, generator=random)
    with torch.inference_mode():
        torch.testing.assert_close(folded(pixels), network(pixels), rtol=1e-4, atol=1e-5)


def test_distances_count_blocks_from_the_tail(backbone: Backbone) -> None:
    tower = backbone.image
    found = {id(parameter): distance for parameter, distance in tower.measure_distances()}
    assert found.keys() == {id(parameter) for parameter in tower.module.parameters()}
    for index, block in enumerate(tower.blocks):
        assert {found[id(p)] for p in block.parameters()} == {len(tower.blocks) - index}
    tail = {id(p) for part in tower.list_trainable_parts(len(tower.blocks)) for p in _parameters(part)}
    assert {found[key] for key in tail} == {0}
    assert set(found.values()) <= set(range(len(tower.blocks) + 2))


def _parameters(part: nn.Module | nn.Parameter) -> list[nn.Parameter]:
    return list(part.parameters()) if isinstance(part, nn.Module) else [part]
