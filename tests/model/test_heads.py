"""The heads: scores equal the formulas, computed from the heads' own weights; bounds, gradients, standardisation."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from aigc_cli.model.backbone import ImageFeatures
from aigc_cli.model.heads import HeadConfig, Projection, ResidualHeads, Scores, Standardiser

D, L, B = 8, 6, 5
LITERAL = HeadConfig(
    embed_dim=D,
    level_dim=L,
    quality_input="embedding",
    consistency_input="embedding",
    residual=True,
    residual_scale_q=0.2,
    residual_scale_c=0.3,
    hidden_q=7,
    hidden_c=9,
    dropout=0.1,
)
MULTILEVEL = replace(LITERAL, quality_input="multilevel", consistency_input="multilevel")


def _inputs(seed: int = 0, rows: int = B) -> tuple[ImageFeatures, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    v, t = (F.normalize(torch.randn(rows, D, generator=generator), dim=1) for _ in range(2))
    return ImageFeatures(v, 3 + 2 * torch.randn(rows, L, generator=generator)), t


def _heads(config: HeadConfig, moved: bool = True) -> ResidualHeads:
    """Heads in eval mode; `moved` changes all parameters, so that no term of a formula is hidden by a 0 or a 1."""
    torch.manual_seed(0)
    heads = ResidualHeads(config).eval()
    with torch.no_grad():
        for parameter in heads.parameters() if moved else ():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return heads


def _linear(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _mlp_q(state: dict[str, Tensor], h: Tensor) -> Tensor:
    """width -> 7 -> 1 with GELU; layer 2 is the dropout."""
    return _linear(state, "mlp_q.3", F.gelu(_linear(state, "mlp_q.0", h))).squeeze(1)


def _mlp_c(state: dict[str, Tensor], g: Tensor) -> Tensor:
    """width -> 9 -> 64 -> 1 with GELU; layer 4 is the dropout."""
    hidden = F.gelu(_linear(state, "mlp_c.2", F.gelu(_linear(state, "mlp_c.0", g))))
    return _linear(state, "mlp_c.5", hidden).squeeze(1)


def _layer_norm(state: dict[str, Tensor], x: Tensor) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    return scaled * state["input_c.weight"] + state["input_c.bias"]


def _by_hand(config: HeadConfig, state: dict[str, Tensor], image: ImageFeatures, t: Tensor) -> Scores:
    v, levels = image[:2]
    s = (v * t).sum(1)
    h, g = v, torch.cat([v, t, s.unsqueeze(1)], dim=1)
    if config.feature_axes:
        both, where = torch.cat([v, levels], dim=1), "projection.standardise"
        axes = ((both - state[f"{where}.mean"]) / state[f"{where}.std"]) @ state["projection.axes"]
        text = torch.cat([t, v * t, s.unsqueeze(1)], dim=1)
        h = axes
        if config.consistency_input == "multilevel":
            g = torch.cat([axes, (text - state["input_c.mean"]) / state["input_c.std"]], dim=1)
    elif config.quality_input == "multilevel":
        h = (torch.cat([v, levels], dim=1) - state["input_q.mean"]) / state["input_q.std"]
    if config.consistency_input == "scores":
        g = (s.unsqueeze(1) - state["input_c.mean"]) / state["input_c.std"]
    elif config.feature_axes:
        pass
    elif config.consistency_input == "multilevel":
        g = torch.cat([v, t, v * t, s.unsqueeze(1), levels], dim=1)
        g = (g - state["input_c.mean"]) / state["input_c.std"]
    else:
        g = _layer_norm(state, g)
    raw_q = _mlp_q(state, h)
    if config.consistency_input == "scores":
        base = _linear(state, "base_q", h).squeeze(1).sigmoid() if config.residual else 0
        q = base + config.residual_scale_q * raw_q.tanh() if config.residual else raw_q.sigmoid()
        g = torch.cat([g, (4 * q - 2).unsqueeze(1)], dim=1)
    raw_c = _mlp_c(state, g)
    if not config.residual:
        q, zero = raw_q.sigmoid(), torch.zeros(len(v))
        c = raw_c.sigmoid()
        return Scores(q, c, q, zero, c, zero, s)
    q_base, c_base = _linear(state, "base_q", h).squeeze(1).sigmoid(), state["a"] * (s + 1) / 2 + state["b"]
    dq, dc = raw_q.tanh(), raw_c.tanh()
    q = q_base + config.residual_scale_q * dq
    return Scores(q, c_base + config.residual_scale_c * dc, q_base, dq, c_base, dc, s)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"quality_input": "multilevel"},
        {"consistency_input": "multilevel"},
        {"quality_input": "multilevel", "consistency_input": "multilevel"},
        {"quality_input": "multilevel", "consistency_input": "multilevel", "feature_axes": 4},
        {"consistency_input": "scores"},
        {"quality_input": "multilevel", "consistency_input": "scores", "feature_axes": 4},
    ],
    ids=["literal", "quality", "consistency", "both", "axes", "scores", "axes and scores"],
)
def test_scores_are_the_formulas(residual: bool, inputs: dict[str, Any]) -> None:
    config = replace(LITERAL, residual=residual, **inputs)
    heads = _heads(config)
    heads.fit_inputs(*_inputs(1, 40))
    image, t = _inputs()
    with torch.no_grad():
        found = heads(image, t)
        expected = _by_hand(config, heads.state_dict(), image, t)
    for name, one, other in zip(Scores._fields, found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    assert found.quality.std() > 1e-3
    assert found.consistency.std() > 1e-3


def test_consistency_from_scores_has_no_gradient_to_quality() -> None:
    heads = _heads(replace(LITERAL, consistency_input="scores"))
    heads(*_inputs()).consistency.sum().backward()
    assert all(parameter.grad is None for part in (heads.base_q, heads.mlp_q) for parameter in part.parameters())
    assert all(parameter.grad is not None for parameter in heads.mlp_c.parameters())


def test_features_are_the_axes_where_there_are_any_and_are_not_projected_twice() -> None:
    config = replace(LITERAL, quality_input="multilevel", feature_axes=4)
    heads, plain = _heads(config), _heads(MULTILEVEL)
    heads.fit_inputs(*_inputs(1, 40))
    image, t = _inputs()
    assert (heads.read_features(image).shape[1], config.feature_width) == (4, 4)
    assert (plain.read_features(image).shape[1], MULTILEVEL.feature_width) == (D + L, D + L)
    known = ImageFeatures(image.embedding, image.levels[:, :0], heads.read_features(image))
    with torch.no_grad():
        for one, other in zip(heads(image, t), heads(known, t), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_consistency_starts_as_the_scaled_cosine() -> None:
    heads = _heads(LITERAL, moved=False)
    assert (float(heads.a.detach()), float(heads.b.detach())) == (1.0, 0.0)
    image, t = _inputs()
    with torch.no_grad():
        found = heads(image, t)
    torch.testing.assert_close(found.cosine, F.cosine_similarity(image.embedding, t))
    torch.testing.assert_close(found.consistency_base, (found.cosine + 1) / 2)


def test_corrections_are_bounded_and_scores_are_not_clipped() -> None:
    heads = _heads(LITERAL)
    with torch.no_grad():
        for layer in (heads.mlp_q[-1], heads.mlp_c[-1], heads.base_q):
            layer.weight.mul_(1000)
            layer.bias.fill_(500.0)
        heads.b.fill_(0.9)
    image, t = _inputs()
    found = heads(image, t)
    assert found.quality_delta.abs().max() <= 1
    assert found.consistency_delta.abs().max() <= 1
    assert (found.quality - found.quality_base).abs().max() <= 0.2 + 1e-6
    assert (found.consistency - found.consistency_base).abs().max() <= 0.3 + 1e-6
    assert found.consistency.max() > 1
    found.consistency.sum().backward()
    assert heads.b.grad is not None
    assert float(heads.b.grad) == B  # scores above 1 have a gradient too


@pytest.mark.parametrize(
    "config", [LITERAL, MULTILEVEL, replace(MULTILEVEL, feature_axes=4)], ids=["literal", "multilevel", "axes"]
)
def test_a_gradient_reaches_every_parameter(config: HeadConfig) -> None:
    heads = _heads(config)
    heads.fit_inputs(*_inputs(1, 40))
    image, t = _inputs()
    scores = heads(image, t)
    ((scores.quality - 0.3).square().sum() + (scores.consistency - 0.3).square().sum()).backward()
    assert {"a", "b"} <= {name for name, _ in heads.named_parameters()}
    for name, parameter in heads.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_quality_has_no_gradient_in_the_consistency_head() -> None:
    heads = _heads(LITERAL)
    image, t = _inputs()
    heads(image, t).quality.sum().backward()
    assert all(p.grad is None for name, p in heads.named_parameters() if name in ("a", "b") or "_c." in name)


def test_without_residual_there_is_no_base() -> None:
    heads = _heads(replace(LITERAL, residual=False))
    assert not [name for name, _ in heads.named_parameters() if name in ("a", "b") or name.startswith("base")]
    image, t = _inputs()
    found = heads(image, t)
    assert torch.equal(found.quality, found.quality_base)
    assert found.quality_delta.tolist() == found.consistency_delta.tolist() == [0.0] * B


def test_the_literal_quality_head_reads_only_the_embedding() -> None:
    image, t = _inputs()
    other = ImageFeatures(image.embedding, image.levels + 1)
    for config, same in ((LITERAL, True), (MULTILEVEL, False)):
        heads = _heads(config)
        with torch.no_grad():
            assert torch.equal(heads(image, t).quality, heads(other, t).quality) is same
            assert torch.equal(heads(image, t).consistency, heads(other, t).consistency) is same
            assert torch.equal(heads(image, t).quality, heads(image, t.flip(0)).quality)


def test_standardised_training_features_have_mean_0_and_spread_1() -> None:
    heads = _heads(MULTILEVEL)
    image, t = _inputs(2, 300)
    heads.fit_inputs(image, t)
    for layer, features in zip((heads.input_q, heads.input_c), heads.make_inputs(image, t), strict=True):
        assert isinstance(layer, Standardiser)
        found = layer(features)
        torch.testing.assert_close(found.mean(0), torch.zeros(found.shape[1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(found.std(0, correction=0), torch.ones(found.shape[1]), atol=1e-4, rtol=0)


def test_the_standardisation_is_saved_with_the_weights() -> None:
    heads, other = _heads(MULTILEVEL), _heads(MULTILEVEL)
    heads.fit_inputs(*_inputs(2, 300))
    image, t = _inputs()
    with torch.no_grad():
        assert not torch.equal(heads(image, t).quality, other(image, t).quality)
        other.load_state_dict(heads.state_dict())
        assert torch.equal(heads(image, t).quality, other(image, t).quality)


def test_a_constant_feature_and_an_outlier_stay_finite() -> None:
    layer = Standardiser(2)
    layer.fit(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    assert layer(torch.tensor([[2.0, 5.0]])).tolist() == [[0.0, 0.0]]
    assert layer(torch.tensor([[1e9, 6.0], [-1e9, 4.0]])).tolist() == [[8.0, 8.0], [-8.0, -8.0]]


def test_features_on_principal_axes() -> None:
    features = torch.randn(300, 6, generator=torch.Generator().manual_seed(0)) @ torch.randn(6, 40) + 5
    layer = Projection(40, 6)
    layer.fit(features)
    found = layer(features)
    torch.testing.assert_close(found.mean(0), torch.zeros(6), atol=1e-4, rtol=0)
    covariance = torch.cov(found.T, correction=0)
    spread = covariance.diagonal()
    torch.testing.assert_close(covariance, torch.diag(spread), atol=1e-4, rtol=0)
    assert spread.tolist() == sorted(spread.tolist(), reverse=True)
    assert float(spread.mean()) == pytest.approx(1, abs=1e-4)
    known = layer.standardise(features)  # six axes hold all of features that have six degrees of freedom
    rebuilt = found @ torch.linalg.pinv(layer.axes) + known.mean(0)
    torch.testing.assert_close(rebuilt, known, atol=1e-3, rtol=0)


def test_few_images_leave_axes_empty() -> None:
    layer = Projection(40, 6)
    layer.fit(torch.randn(4, 40, generator=torch.Generator().manual_seed(0)))
    assert [bool(axis.any()) for axis in layer.axes.T] == [True] * 3 + [False] * 3
    layer.fit(torch.ones(1, 40))
    assert not layer.axes.any()
    layer.fit(torch.ones(3, 40))
    assert bool(layer.axes.isfinite().all())


def test_one_head_on_axes_and_one_on_the_embedding() -> None:
    for name, other in (("quality_input", "consistency"), ("consistency_input", "quality")):
        heads = _heads(replace(LITERAL, feature_axes=4, **{name: "multilevel"}))
        heads.fit_inputs(*_inputs(1, 40))
        image, t = _inputs()
        moved = ImageFeatures(image.embedding, image.levels + 1)
        with torch.no_grad():
            before, after = heads(image, t)._asdict(), heads(moved, t)._asdict()
        assert torch.equal(before[other], after[other])
        assert not torch.equal(before[name.removesuffix("_input")], after[name.removesuffix("_input")])


@pytest.mark.parametrize("residual", [True, False])
def test_dropout_only_while_training(residual: bool) -> None:
    heads = _heads(replace(LITERAL, residual=residual, dropout=0.5))
    image, t = _inputs()
    assert torch.equal(heads(image, t).quality, heads(image, t).quality)
    heads.train()
    assert not torch.equal(heads(image, t).quality, heads(image, t).quality)


def test_a_batch_of_one_has_the_same_scores() -> None:
    heads = _heads(MULTILEVEL)
    image, t = _inputs()
    with torch.no_grad():
        whole, one = heads(image, t), heads(ImageFeatures(image.embedding[:1], image.levels[:1]), t[:1])
    for name, a, b in zip(Scores._fields, whole, one, strict=True):
        assert b.shape == (1,), name
        torch.testing.assert_close(a[:1], b, atol=1e-6, rtol=1e-5)


def test_the_configuration_survives_json() -> None:
    assert HeadConfig(**MULTILEVEL.to_json()) == MULTILEVEL
