"""Scores of images, row by row: what `aigc score` does, and the same from Python."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
from PIL import Image

from aigc_cli.core.engines import Engines
from aigc_cli.core.features import prefetch
from aigc_cli.core.scoring import PromptEncoder, score_batch
from aigc_cli.errors import AigcError
from aigc_cli.io.decoder import decode_file
from aigc_cli.io.images import ImageFault, from_pil
from aigc_cli.io.results import SCHEMAS
from aigc_cli.io.text import printable
from aigc_cli.progress import Progress
from aigc_cli.workflows.models import Model, load_model
from aigc_cli.workflows.ratings import TARGETS

BATCH = 32
WINDOW = 1024  # the most rows that wait for a batch to fill


@dataclass(frozen=True)
class Entry:
    """One image to score: its name, where its pixels come from, and its prompt with that prompt's source."""

    name: str
    source: Path | Image.Image
    prompt: str | None
    prompt_source: str | None


class Loaded(NamedTuple):
    """What the engine made of a decoded image, and what is worth knowing of the original."""

    begun: Any
    width: int
    height: int
    note: str | None


class Scorer:
    """Scores images from Python.

    from aigc_cli import Scorer
    table = Scorer.load().score(images=["a.png", "b.png"], prompts=["a red fox", "a blue house"])
    """

    def __init__(self, model: Model, engine: str = "auto") -> None:
        self.model = model
        self._engines = Engines(model.judge.backbone, engine)
        self._engine = self._engines.choose(0)
        self._encode = PromptEncoder(model.judge)
        self._untrained = set(TARGETS) - set(model.checkpoint.description.get("targets", TARGETS))
        self._transform = model.judge.backbone.transform

    @classmethod
    def load(cls, model: str | Path | None = None, device: str = "auto", engine: str = "auto") -> "Scorer":
        """The shipped scorer, or the model of a run folder.

        Args:
            engine: eager, onnx or openvino run the image tower; auto takes onnx for many images on a CPU. Scores agree
                to 1e-3 MOS.

        Raises:
            AigcError: no model there, or no such engine.
            EnvironmentProblem: its backbone's weights can't be had, no such device, or the engine can't run it.
        """
        return cls(load_model(None if model is None else Path(model), device), engine)

    def expect(self, images: int, progress: Progress | None = None) -> None:
        """Chooses the engine for a job of that many images, which may come in several calls of `rows`."""
        self._engine = self._engines.choose(images, progress)

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
        self.expect(len(entries))
        table = pa.Table.from_pylist(list(self.rows(entries)), schema=SCHEMAS["scores"])
        nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
        frame: pd.DataFrame = table.to_pandas(types_mapper=nullable.get)
        return frame

    def rows(self, entries: Sequence[Entry]) -> Iterator[dict[str, Any]]:
        """One row of the scores table for each entry, in order; decoding runs ahead of the forward pass.

        A batch is made of readable images only, so that the others change no bit of their scores.
        """
        waiting: list[tuple[Entry, Loaded | ImageFault]] = []
        good = 0
        for chunk, loaded in prefetch(entries, self._load, BATCH):
            for pair in zip(chunk, loaded, strict=True):
                waiting.append(pair)
                good += not isinstance(pair[1], ImageFault)
                if good == BATCH or (len(waiting) == WINDOW and not good):
                    yield from self._chunk_rows(*zip(*waiting, strict=True))
                    waiting, good = [], 0
        if waiting:
            yield from self._chunk_rows(*zip(*waiting, strict=True))

    def _load(self, entry: Entry) -> Loaded:
        decoded = from_pil(entry.source) if isinstance(entry.source, Image.Image) else decode_file(entry.source)
        return Loaded(self._engine.each(self._transform(decoded.image)), decoded.width, decoded.height, decoded.note)

    def _chunk_rows(self, chunk: Sequence[Entry], loaded: Sequence[Loaded | ImageFault]) -> Iterator[dict[str, Any]]:
        good = [(entry, found) for entry, found in zip(chunk, loaded, strict=True) if not isinstance(found, ImageFault)]
        scored: Iterator[dict[str, Any]] = iter(())
        if good:
            text, cut = self._encode([entry.prompt for entry, _ in good])
            scores = score_batch(self.model.judge, self._engine.together([found.begun for _, found in good]), text)
            columns = self._mos(scores)
            scored = (
                self._good_row(entry, found, {name: float(column[i]) for name, column in columns.items()}, cut[i])
                for i, (entry, found) in enumerate(good)
            )
        for entry, found in zip(chunk, loaded, strict=True):
            yield _blank(entry) | {"reason": found.reason} if isinstance(found, ImageFault) else next(scored)

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

    def _good_row(self, entry: Entry, found: Loaded, values: dict[str, float], cut: bool) -> dict[str, Any]:
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
