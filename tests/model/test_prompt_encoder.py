"""Prompt embeddings: each prompt is encoded once, long prompts are split, a missing prompt gives zeros."""

import pytest
import torch

from aigc_cli.model import prompt_encoder
from aigc_cli.model.backbone import Backbone
from aigc_cli.model.prompt_encoder import PromptEncoder, score_batch
from aigc_cli.recipe import Recipe
from aigc_cli.training.loop import make_model

LONG = "seventeen small painted wooden horses in a bright yellow room, " * 20


def test_embeddings_of_prompts(tiny: Backbone) -> None:
    encoder = PromptEncoder(make_model(tiny, Recipe(freeze="all")))
    embeddings, was_split = encoder(["a red fox", None, LONG, "a red fox"])
    assert embeddings.shape == (4, tiny.embed_dim)
    assert was_split == [False, False, True, False]
    with torch.inference_mode():
        torch.testing.assert_close(embeddings[0], tiny.encode_text(["a red fox"])[0], atol=1e-5, rtol=0)
    assert torch.equal(embeddings[0], embeddings[3])
    assert not embeddings[1].any()
    assert float(embeddings[2].norm()) == pytest.approx(1, abs=1e-5)


def test_only_new_prompts_are_encoded(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, encode, texts = PromptEncoder(make_model(tiny, Recipe(freeze="all"))), tiny.encode_text, []
    monkeypatch.setattr(tiny, "encode_text", lambda batch: (texts.extend(batch), encode(batch))[1])
    monkeypatch.setattr(prompt_encoder, "KEPT_PROMPTS", 2)
    for prompts in (["a", "b"], ["b", "a"], ["c"], ["b"], ["a"]):  # the third call drops "a"
        encoder(prompts)
    assert texts == ["a", "b", "c", "a"]


def test_scores_of_a_batch_are_those_of_the_heads(tiny: Backbone) -> None:
    model = make_model(tiny, Recipe(freeze="all"))
    model.eval()
    with torch.inference_mode():
        image, text = tiny.encode_image(torch.randn(2, 3, 32, 32)), tiny.encode_text(["a fox", "a cat"])
        expected = model.heads(image, text)
    found = score_batch(model, image, text)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
