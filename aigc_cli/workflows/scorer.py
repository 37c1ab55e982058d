"""Scores of images, row by row: what `aigc score` does, and the same from Python."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from aigc_cli.core.features import prefetch
from aigc_cli.core.model import Scores
from aigc_cli.core.scoring import PromptEncoder, score_batch
from aigc_cli.core.training import Judge
from aigc_cli.errors import AigcError, EnvironmentProblem
from aigc_cli.io.decoder import decode_file
from aigc_cli.io.images import ImageFault, from_pil
from aigc_cli.io.results import SCHEMAS
from aigc_cli.io.text import printable
from aigc_cli.progress import Progress, Silent
from aigc_cli.workflows.models import Model, load_model
from aigc_cli.workflows.ratings import TARGETS

BATCH = 32
WINDOW = 1024  # the most rows that wait for a batch to fill
SEGMENT = 64  # batches whose prompts are encoded in common


@dataclass(frozen=True, slots=True)
class Entry:
    """One image to score: its name, where its pixels come from, and its prompt with that prompt's source."""

    name: str
    source: Path | Image.Image
    prompt: str | None
    prompt_source: str | None


class Pixels(NamedTuple):
    """A decoded image as the backbone reads it, (3, H, W), and what is worth knowing of the original."""

    tensor: Tensor
    width: int
    height: int
    note: str | None


class Texts:
    """Text embeddings of the prompts of batches, each distinct prompt encoded once in `SEGMENT` batches.

    The last bits of an embedding depend on the prompts that it was encoded with. Whoever goes on where another stopped
    gets the same bits by `catch_up`, which has to look back over one segment at most.
    """

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._encode, self._batches = PromptEncoder(judge), 0

    def __call__(self, prompts: Sequence[str | None]) -> tuple[Tensor, list[bool]]:
        """(embeddings (B, D), whether each prompt was cut) of the next batch."""
        if self._batches == SEGMENT:
            self._encode, self._batches = PromptEncoder(self._judge), 0
        self._batches += 1
        return self._encode(prompts)

    def catch_up(self, prompts: Sequence[str | None]) -> None:
        """Gets where it would be after the batches of these prompts, which were scored before."""
        batches = [prompts[start : start + BATCH] for start in range(0, len(prompts), BATCH)]
        for batch in batches[len(batches) // SEGMENT * SEGMENT :]:
            self(batch)


class Scorer:
    """Scores images from Python.

    from aigc_cli import Scorer
    table = Scorer.load().score(images=["a.png", "b.png"], prompts=["a red fox", "a blue house"])

    Args:
        model: what judges.
        progress: is told when a batch has to be made smaller.
    """

    def __init__(self, model: Model, progress: Progress | None = None) -> None:
        self.model = model
        self.texts = Texts(model.judge)
        self._progress = progress or Silent()
        self._largest = BATCH  # images that fit into the device's memory at a time, as far as is known
        self._untrained = set(TARGETS) - set(model.checkpoint.description.get("targets", TARGETS))
        self._transform = model.judge.backbone.transform

    @classmethod
    def load(cls, model: str | Path | None = None, device: str = "auto") -> "Scorer":
        """The shipped scorer, or the model of a run folder.

        Raises:
            AigcError: no model there.
            EnvironmentProblem: its backbone's weights can't be had, or no such device.
        """
        return cls(load_model(None if model is None else Path(model), device))

    def score(
        self, *, images: Sequence[str | Path | Image.Image], prompts: Sequence[str | None] | None = None
    ) -> pd.DataFrame:
        """Scores of `images`, one row each, in their order, with the columns of the scores table.

        Args:
            images: paths or PIL images.
            prompts: as many prompts; None (for one or for all) gives quality only.

        Raises:
            AigcError: the lengths differ. An image that can't be read is a row with `status` failed and its `reason`.
        """
        if isinstance(images, str | Path):
            raise AigcError("Expected a list of images, found one path.", "Write images=[path].")
        if prompts is not None and len(prompts) != len(images):
            raise AigcError(f"Expected {len(images)} prompts, one for each image, found {len(prompts)}.", "Add None.")
        texts = [None] * len(images) if prompts is None else [prompt_or_none(prompt) for prompt in prompts]
        entries = [
            Entry(f"image_{i}", image, text, text and "argument")
            if isinstance(image, Image.Image)
            else Entry(Path(image).name, Path(image), text, text and "argument")
            for i, (image, text) in enumerate(zip(images, texts, strict=True))
        ]
        table = pa.Table.from_pylist(list(self.rows(entries)), schema=SCHEMAS["scores"])
        nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
        frame: pd.DataFrame = table.to_pandas(types_mapper=nullable.get)
        return frame

    def rows(self, entries: Sequence[Entry]) -> Iterator[dict[str, Any]]:
        """One row of the scores table for each entry, in order."""
        return itertools.chain.from_iterable(self.batches(entries))

    def batches(self, entries: Sequence[Entry]) -> Iterator[list[dict[str, Any]]]:
        """The rows of each batch in turn, with those of unreadable images among them; decoding runs ahead.

        A batch is made of readable images only, so that the others change no bit of their scores. Scoring what is
        left after some batch gives the same bits too, once `texts` has caught up.
        """
        waiting: list[tuple[Entry, Pixels | ImageFault]] = []
        good = 0
        for chunk, loaded in prefetch(entries, self._load, BATCH):
            for pair in zip(chunk, loaded, strict=True):
                waiting.append(pair)
                good += not isinstance(pair[1], ImageFault)
                if good == BATCH or (len(waiting) == WINDOW and not good):
                    yield self._batch_rows(waiting)
                    waiting, good = [], 0
        if waiting:
            yield self._batch_rows(waiting)

    def _load(self, entry: Entry) -> Pixels | ImageFault:
        try:
            decoded = from_pil(entry.source) if isinstance(entry.source, Image.Image) else decode_file(entry.source)
        except ImageFault as fault:
            return ImageFault(fault.reason)  # a new one: that one holds on to the bytes of the file
        return Pixels(self._transform(decoded.image), decoded.width, decoded.height, decoded.note)

    def _batch_rows(self, loaded: Sequence[tuple[Entry, Pixels | ImageFault]]) -> list[dict[str, Any]]:
        good = [(entry, found) for entry, found in loaded if not isinstance(found, ImageFault)]
        scored: Iterator[dict[str, Any]] = iter(())
        if good:
            text, cut = self.texts([entry.prompt for entry, _ in good])
            columns = self._mos(self._forward(torch.stack([found.tensor for _, found in good]), text))
            scored = (
                self._good_row(entry, found, {name: float(column[i]) for name, column in columns.items()}, cut[i])
                for i, (entry, found) in enumerate(good)
            )
        return [
            _blank(entry) | {"reason": found.reason} if isinstance(found, ImageFault) else next(scored)
            for entry, found in loaded
        ]

    def _forward(self, pixels: Tensor, text: Tensor) -> Scores:
        """Scores of a batch, in smaller ones where the device's memory does not hold it."""
        parts: list[Scores] = []
        while (done := sum(len(part.quality) for part in parts)) < len(pixels):
            here = slice(done, done + self._largest)
            with contextlib.suppress(torch.OutOfMemoryError):
                parts.append(score_batch(self.model.judge, pixels[here], text[here]))
                continue
            self._halve(len(pixels[here]))
        return Scores(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _halve(self, size: int) -> None:
        if size == 1:
            raise EnvironmentProblem(
                "The device's memory does not hold one image.", "Close what else uses it, or add --device cpu."
            )
        self._largest = size // 2
        self._progress.say(f"Out of memory with {size} images at a time; going on with {self._largest}.")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _mos(self, scores: Any) -> dict[str, Any]:
        """Scores, bases and corrections in MOS units; only the final scores are clipped to the range."""
        low, span = self.model.recipe.mos_min, self.model.recipe.mos_max - self.model.recipe.mos_min
        config = self.model.judge.heads.config
        return {
            "quality": low + span * scores.quality.clamp(0, 1),
            "consistency": low + span * scores.consistency.clamp(0, 1),
            "quality_base": low + span * scores.quality_base,
            "quality_delta": span * config.scale_q * scores.quality_delta,
            "consistency_base": low + span * scores.consistency_base,
            "consistency_delta": span * config.scale_c * scores.consistency_delta,
            "clip_cosine": scores.cosine,
        }

    def _good_row(self, entry: Entry, found: Pixels, values: dict[str, float], cut: bool) -> dict[str, Any]:
        values = {name: value for name, value in values.items() if name.split("_")[0] not in self._untrained}
        row = _blank(entry) | {"width": found.width, "height": found.height, "status": "ok", "reason": found.note}
        if entry.prompt is None:
            notes = [note for note in (found.note, "no_prompt") if note]
            return row | {k: v for k, v in values.items() if k.startswith("quality")} | {"reason": ",".join(notes)}
        return row | values | {"prompt_truncated": cut}


def _blank(entry: Entry) -> dict[str, Any]:
    """A row without scores."""
    path = None if isinstance(entry.source, Image.Image) else printable(str(entry.source))
    row: dict[str, Any] = dict.fromkeys(SCHEMAS["scores"].names)
    return row | {
        "name": printable(entry.name),
        "path": path,
        "prompt": entry.prompt,
        "prompt_source": entry.prompt_source,
        "status": "failed",
    }


def prompt_or_none(prompt: str | None) -> str | None:
    """A prompt of white space is none."""
    return prompt if prompt and prompt.strip() else None
