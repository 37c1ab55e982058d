"""Devices, precision and threads."""

import pytest
import torch

from aigc_cli.errors import AigcError, EnvironmentProblem
from aigc_cli.model.backbone import Backbone
from aigc_cli.model.devices import pick_device, pick_precision, use_one_thread
from aigc_cli.recipe import Recipe

CPU = torch.device("cpu")
BOUNDARY = 3


def test_a_device_that_is_unknown_or_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device() == pick_device("cpu") == CPU
    with pytest.raises(AigcError, match="a device out of auto, cpu, cuda, mps, found 'tpu'"):
        pick_device("tpu")
    with pytest.raises(EnvironmentProblem, match="Expected the device cuda, found none on this machine"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device().type == "cuda"


def test_auto_is_float32_on_a_cpu_and_bfloat16_on_a_gpu_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_precision("auto", CPU) is None
    assert pick_precision("bf16", CPU) is torch.bfloat16
    for has_it, expected in ((True, torch.bfloat16), (False, None)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has_it=has_it: has_it)
        assert pick_precision("auto", torch.device("cuda")) is expected
        assert pick_precision("fp32", torch.device("cuda")) is None


def test_only_the_trained_part_computes_in_bfloat16(tiny: Backbone) -> None:
    tiny.freeze(tiny.find_boundaries(Recipe(freeze="partial", freeze_depth=0.75)))
    state = tiny.run_image_to_boundary(torch.randn(2, 3, 32, 32), BOUNDARY)
    exact, texts = tiny.run_image_from_boundary(state, BOUNDARY), tiny.encode_text(["a red fox"])
    whole = tiny.encode_image(torch.ones(1, 3, 32, 32)).embedding
    tiny.autocast = torch.bfloat16
    found = tiny.run_image_from_boundary(state, BOUNDARY)
    assert found.embedding.dtype == found.levels.dtype == torch.float32
    gap = (found.embedding - exact.embedding).abs().max()
    assert 1e-5 < gap < 0.02  # bfloat16 has 8 significant bits, float32 24
    assert torch.allclose(tiny.encode_text(["a red fox"]), texts, atol=0.02)
    assert torch.equal(tiny.encode_image(torch.ones(1, 3, 32, 32)).embedding, whole)
    found.embedding.sum().backward()
    gradients = [p.grad for p in tiny.image.module.parameters() if p.requires_grad and p.grad is not None]
    assert gradients
    assert all(gradient.dtype == torch.float32 for gradient in gradients)


def test_one_thread_within_the_block() -> None:
    torch.set_num_threads(2)
    try:
        with use_one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
