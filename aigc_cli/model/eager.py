"""PyTorch's eager mode as what computes scores: on a GPU, and for models without graphs."""

import contextlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aigc_cli.errors import EnvironmentProblem
from aigc_cli.model.backbone import average_text_parts
from aigc_cli.model.devices import use_one_thread
from aigc_cli.model.trained import TrainedModel
from aigc_cli.progress import Progress, SilentProgress
from aigc_cli.runtime.long_prompts import split_prompt
from aigc_cli.runtime.network import KEPT_PROMPTS, Outputs

TEXT_BATCH = 32

_Job = tuple[NDArray[np.uint8], str | None]


class EagerNetwork:
    """A trained model as a `Network`.

    On a CPU each image runs alone, on one thread, the thread that asked for it: no thread waits for another, and a
    score depends on no other image. On other devices images run in batches, in smaller ones when the memory of the
    device is too small; `progress` is told.
    """

    engine = "eager"

    def __init__(self, trained: TrainedModel, progress: Progress | None = None) -> None:
        self._model, self._progress = trained.model, progress or SilentProgress()
        self.device = trained.model.device.type
        self._largest = 1 << 30  # images at a time that fit into the device's memory, as far as known
        self._embed_one = lru_cache(KEPT_PROMPTS)(lambda prompt: self._embed([prompt]))

    def start(self, pixels: NDArray[np.uint8], prompt: str | None) -> Any:
        """On a CPU the outputs of one image (H, W, 3), else what `finish` needs."""
        job = (pixels, prompt)
        if self.device != "cpu":
            return job
        with use_one_thread():
            return self._compute([job])

    def finish(self, started: Sequence[Any]) -> Outputs:
        """The outputs of several images."""
        parts: list[Outputs] = list(started) if self.device == "cpu" else []
        done = 0
        while self.device != "cpu" and done < len(started):
            here = started[done : done + self._largest]
            with contextlib.suppress(torch.OutOfMemoryError):
                parts.append(self._compute(here))
                done += len(here)
                continue
            self._halve_batch(len(here))
        scores = {name: np.concatenate([part.scores[name] for part in parts]) for name in parts[0].scores}
        features = np.concatenate([part.features for part in parts])
        return Outputs(scores, features, [split for part in parts for split in part.split])

    def _compute(self, jobs: Sequence[_Job]) -> Outputs:
        backbone, device = self._model.backbone, self._model.device
        with torch.inference_mode():
            pixels = torch.from_numpy(np.stack([pixels for pixels, _ in jobs])).to(device)
            image = backbone.encode_image(backbone.normalise(pixels))
            texts, split = self._embed_all([prompt for _, prompt in jobs])
            scores = self._model.heads(image, texts)
            features = self._model.heads.read_features(image)
        numbers = {name: score.cpu().numpy() for name, score in scores._asdict().items()}
        return Outputs(numbers, features.cpu().double().numpy(), split)

    def _embed_all(self, prompts: Sequence[str | None]) -> tuple[Tensor, list[bool]]:
        """(embeddings (B, D), whether each prompt was split); zeros for a prompt of None."""
        known = list(dict.fromkeys(prompt for prompt in prompts if prompt is not None))
        if self.device == "cpu":
            found = {prompt: self._embed_one(prompt) for prompt in known}
            rows = {prompt: (texts[0], split[0]) for prompt, (texts, split) in found.items()}
        else:
            texts, split = self._embed(known) if known else (torch.empty(0), [])
            rows = dict(zip(known, zip(texts, split, strict=True), strict=True))
        nothing = torch.zeros(self._model.backbone.embed_dim, device=self._model.device), False
        chosen = [nothing if prompt is None else rows[prompt] for prompt in prompts]
        return torch.stack([row for row, _ in chosen]), [was_split for _, was_split in chosen]

    def _embed(self, prompts: Sequence[str]) -> tuple[Tensor, list[bool]]:
        backbone = self._model.backbone
        parts = [split_prompt(prompt, backbone.truncates) for prompt in prompts]
        flat = [piece for pieces in parts for piece in pieces]
        with torch.inference_mode():
            size = 1 if self.device == "cpu" else TEXT_BATCH  # a text's last bits depend on those beside it
            rows = [backbone.encode_text(flat[start : start + size]) for start in range(0, len(flat), size)]
            return average_text_parts(torch.cat(rows), [len(pieces) for pieces in parts]), [len(p) > 1 for p in parts]

    def _halve_batch(self, size: int) -> None:
        if size == 1:
            raise EnvironmentProblem(
                "The device's memory is too small for one image.", "Close other programs on it, or add --device cpu."
            )
        self._largest = size // 2
        self._progress.say(f"Out of memory with {size} images at a time; continuing with {self._largest}.")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
