"""Scores of single images: the forward pass of a judge without a feature store."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from aigc_cli.model.backbone import ImageFeatures
from aigc_cli.model.devices import one_thread
from aigc_cli.model.heads import Scores
from aigc_cli.model.long_prompts import joined, parts_of
from aigc_cli.model.model import Judge

PROMPTS_KEPT = 4096
TOGETHER = 32


class PromptEncoder:
    """Text embeddings, each distinct prompt encoded once while it is among the last `PROMPTS_KEPT`."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._known: OrderedDict[str, tuple[Tensor, bool]] = OrderedDict()

    def __call__(self, prompts: Sequence[str | None]) -> tuple[Tensor, list[bool]]:
        """(embeddings (B, D), whether each prompt was longer than the window and read in parts); zeros for none."""
        new = [p for p in dict.fromkeys(prompts) if p is not None and p not in self._known]
        backbone = self._judge.backbone
        for start in range(0, len(new), TOGETHER):
            prompts_here = new[start : start + TOGETHER]
            parts = [parts_of(prompt, backbone.truncates) for prompt in prompts_here]
            for prompt, row, pieces in zip(prompts_here, self._embed(parts), parts, strict=True):
                self._known[prompt] = (row, len(pieces) > 1)
        nothing = (torch.zeros(backbone.embed_dim, device=next(backbone.text.module.parameters()).device), False)
        found = [nothing if prompt is None else self._known[prompt] for prompt in prompts]
        while len(self._known) > PROMPTS_KEPT:
            self._known.popitem(last=False)
        return torch.stack([row for row, _ in found]), [cut for _, cut in found]

    def _embed(self, parts: Sequence[Sequence[str]]) -> Tensor:
        """Embeddings (len(parts), D) of prompts that are given in parts."""
        flat = [piece for pieces in parts for piece in pieces]
        with torch.inference_mode(), one_thread():
            encode = self._judge.backbone.encode_text
            rows = [encode(flat[start : start + TOGETHER]) for start in range(0, len(flat), TOGETHER)]
            return joined(torch.cat(rows), [len(pieces) for pieces in parts])


def score_batch(judge: Judge, image: ImageFeatures, text: Tensor) -> Scores:
    """Scores (on the CPU) of B images from an engine's features and their prompts' embeddings (B, D)."""
    with torch.inference_mode(), one_thread():
        scores = judge.heads(image, text)
    return Scores(*[column.cpu() for column in scores])
