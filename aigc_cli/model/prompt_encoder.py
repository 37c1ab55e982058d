"""Scoring without a feature store: embeddings of prompts, and the forward pass of the heads."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from aigc_cli.model.backbone import ImageFeatures
from aigc_cli.model.devices import use_one_thread
from aigc_cli.model.heads import Scores
from aigc_cli.model.long_prompts import average_parts, split_prompt
from aigc_cli.model.model import Model

KEPT_PROMPTS = 4096
TEXT_BATCH = 32


class PromptEncoder:
    """Embeds prompts, and remembers the embeddings of the last `KEPT_PROMPTS` different ones."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._known: OrderedDict[str, tuple[Tensor, bool]] = OrderedDict()

    def __call__(self, prompts: Sequence[str | None]) -> tuple[Tensor, list[bool]]:
        """(embeddings (B, D), whether each prompt was longer than the window and split); zeros for a prompt of None."""
        new = [p for p in dict.fromkeys(prompts) if p is not None and p not in self._known]
        backbone = self._model.backbone
        for start in range(0, len(new), TEXT_BATCH):
            batch = new[start : start + TEXT_BATCH]
            parts = [split_prompt(prompt, backbone.truncates) for prompt in batch]
            for prompt, row, pieces in zip(batch, self._embed(parts), parts, strict=True):
                self._known[prompt] = (row, len(pieces) > 1)
        nothing = (torch.zeros(backbone.embed_dim, device=next(backbone.text.module.parameters()).device), False)
        found = [nothing if prompt is None else self._known[prompt] for prompt in prompts]
        while len(self._known) > KEPT_PROMPTS:
            self._known.popitem(last=False)
        return torch.stack([row for row, _ in found]), [split for _, split in found]

    def _embed(self, parts: Sequence[Sequence[str]]) -> Tensor:
        """The embeddings (B, D) of B prompts, each given as its parts."""
        flat = [piece for pieces in parts for piece in pieces]
        with torch.inference_mode(), use_one_thread():
            encode = self._model.backbone.encode_text
            rows = [encode(flat[start : start + TEXT_BATCH]) for start in range(0, len(flat), TEXT_BATCH)]
            return average_parts(torch.cat(rows), [len(pieces) for pieces in parts])


def score_batch(model: Model, image: ImageFeatures, text: Tensor) -> Scores:
    """Scores of B images, on the CPU, from an engine's features and the embeddings (B, D) of their prompts."""
    with torch.inference_mode(), use_one_thread():
        scores = model.heads(image, text)
    return Scores(*[column.cpu() for column in scores])
