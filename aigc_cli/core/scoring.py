"""Scores of single images: the forward pass of a judge without a feature store."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from aigc_cli.core.backbone import ImageFeatures
from aigc_cli.core.devices import one_thread
from aigc_cli.core.judge import Judge
from aigc_cli.core.model import Scores

PROMPTS_KEPT = 4096


class PromptEncoder:
    """Text embeddings, each distinct prompt encoded once while it is among the last `PROMPTS_KEPT`."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._known: OrderedDict[str, tuple[Tensor, bool]] = OrderedDict()

    def __call__(self, prompts: Sequence[str | None]) -> tuple[Tensor, list[bool]]:
        """(embeddings (B, D), whether each prompt was cut); zeros where there is no prompt."""
        new = [p for p in dict.fromkeys(prompts) if p is not None and p not in self._known]
        backbone = self._judge.backbone
        for start in range(0, len(new), 32):
            part = new[start : start + 32]
            with torch.inference_mode(), one_thread():
                for prompt, row in zip(part, backbone.encode_text(part), strict=True):
                    self._known[prompt] = (row, backbone.truncates(prompt))
        nothing = (torch.zeros(backbone.embed_dim, device=next(backbone.text.module.parameters()).device), False)
        found = [nothing if prompt is None else self._known[prompt] for prompt in prompts]
        while len(self._known) > PROMPTS_KEPT:
            self._known.popitem(last=False)
        return torch.stack([row for row, _ in found]), [cut for _, cut in found]


def score_batch(judge: Judge, image: ImageFeatures, text: Tensor) -> Scores:
    """Scores (on the CPU) of B images from an engine's features and their prompts' embeddings (B, D)."""
    with torch.inference_mode(), one_thread():
        scores = judge.heads(image, text)
    return Scores(*[column.cpu() for column in scores])
