"""Scores of images, row by row: what `aigc score` does, and the same from Python."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from aigc_cli.errors import AigcError, EnvironmentProblem
from aigc_cli.images.decoder import decode_file
from aigc_cli.images.reader import ImageFault, Reason, from_pil
from aigc_cli.model.backbone import ImageFeatures
from aigc_cli.model.engines import chosen
from aigc_cli.model.model import Judge
from aigc_cli.model.prompt_encoder import PromptEncoder, score_batch
from aigc_cli.model.trained import Model, load_model
from aigc_cli.progress import Progress, Silent
from aigc_cli.prompts.programs import Recorded
from aigc_cli.storage.partial_table import batched
from aigc_cli.storage.schemas import SCHEMAS
from aigc_cli.text import printable
from aigc_cli.training.feature_store import prefetch
from aigc_cli.uncertainty.intervals import TARGETS
from aigc_cli.uncertainty.out_of_domain import joined

BATCH = 32
WINDOW = 1024  # the most rows that wait for a batch to fill
SEGMENT = 64  # batches whose prompts are encoded in common


@dataclass(frozen=True, slots=True)
class Entry:
    """One image to score.

    Attributes:
        name: in the table.
        source: where its pixels come from; a folder's own images by str, which takes a quarter of a Path's memory.
        prompt: None to take the one that the image itself records, if any.
        prompt_source: where the prompt is from; None for an image without one.
        beside: what the text file beside the image says, whose prompt is `prompt` unless another one comes first.
        sidecar: identifies that file's content; None without a file.
        fault: why the image must not be opened.
        note: a reason that its row gets whatever becomes of it.
    """

    name: str
    source: str | Path | Image.Image
    prompt: str | None
    prompt_source: str | None
    beside: Recorded | None = None
    sidecar: str | None = None
    fault: Reason | None = None
    note: Reason | None = None


class Loaded(NamedTuple):
    """What the engine made of a decoded image, and what is worth knowing of the original."""

    begun: Any
    width: int
    height: int
    note: str | None
    recorded: Recorded


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

    def catch_up(self, prompts: Iterable[str | None]) -> None:
        """Gets where it would be after the batches of these prompts, which were scored before."""
        segment: list[list[str | None]] = []
        for batch in batched(prompts, BATCH):
            segment = [] if len(segment) == SEGMENT else segment
            segment.append(batch)
        for batch in segment if len(segment) < SEGMENT else ():
            self(batch)


class Scorer:
    """Scores images from Python.

    from aigc_cli import Scorer
    table = Scorer.load().score(images=["a.png", "b.png"], prompts=["a red fox", "a blue house"])

    Args:
        model: what judges.
        progress: is told when a batch has to be made smaller, or the engine is not the fast one.
    """

    def __init__(self, model: Model, engine: str = "auto", progress: Progress | None = None) -> None:
        self.model = model
        self.texts = Texts(model.judge)
        self._progress = progress or Silent()
        self._engine = chosen(model.judge.backbone, engine, progress)
        self._largest = BATCH  # images that fit into the device's memory at a time, as far as is known
        self._untrained = set(TARGETS) - set(model.targets)
        self._fitted = model.judge.backbone.preprocessing.fitted

    @classmethod
    def load(cls, model: str | Path | None = None, device: str = "auto", engine: str = "auto") -> "Scorer":
        """The shipped scorer, or the model of a run folder.

        Args:
            engine: eager, onnx or openvino run the image tower; auto takes onnx on a CPU. Scores agree to 1e-3 MOS.

        Raises:
            AigcError: no model there, or no such engine.
            EnvironmentProblem: its backbone's weights can't be had, no such device, or the engine can't run it.
        """
        return cls(load_model(None if model is None else Path(model), device), engine)

    @property
    def engine(self) -> str:
        """The name of the engine that is in use."""
        return self._engine.name

    def score(
        self, *, images: Sequence[str | Path | Image.Image], prompts: Sequence[str | None] | None = None
    ) -> pd.DataFrame:
        """Scores of `images`, one row each, in their order, with the columns of the scores table.

        Args:
            images: paths or PIL images.
            prompts: as many prompts; None (for one or for all) takes what the image itself records, and gives quality
                only where that is nothing.

        Raises:
            AigcError: the lengths differ. An image that can't be read is a row with `status` failed and its `reason`.
        """
        if isinstance(images, str | Path):
            raise AigcError("Expected a list of images, found one path.", "Write images=[path].")
        if prompts is not None and len(prompts) != len(images):
            raise AigcError(f"Expected {len(images)} prompts, one for each image, found {len(prompts)}.", "Add None.")
        texts = [None] * len(images) if prompts is None else [prompt_or_none(prompt) for prompt in prompts]
        entries = [
            Entry(f"image_{i}", image, text, text and "option")
            if isinstance(image, Image.Image)
            else Entry(Path(image).name, Path(image), text, text and "option")
            for i, (image, text) in enumerate(zip(images, texts, strict=True))
        ]
        table = pa.Table.from_pylist(list(self.rows(entries)), schema=SCHEMAS["scores"])
        nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
        frame: pd.DataFrame = table.to_pandas(types_mapper=nullable.get)
        return frame

    def rows(self, entries: Sequence[Entry], texts: Texts | None = None) -> Iterator[dict[str, Any]]:
        """One row of the scores table for each entry, in order."""
        return itertools.chain.from_iterable(self.batches(entries, texts))

    def batches(self, entries: Sequence[Entry], texts: Texts | None = None) -> Iterator[list[dict[str, Any]]]:
        """The rows of each batch in turn, with those of unreadable images among them; decoding runs ahead.

        A batch is made of readable images only, so that the others change no bit of their scores. Scoring what is
        left after some batch gives the same bits too, once `texts` (by default the scorer's own) has caught up.
        """
        waiting: list[tuple[Entry, Loaded | ImageFault]] = []
        good = 0
        for chunk, loaded in prefetch(entries, self._load, BATCH):
            for pair in zip(chunk, loaded, strict=True):
                waiting.append(pair)
                good += not isinstance(pair[1], ImageFault)
                if good == BATCH or (len(waiting) == WINDOW and not good):
                    yield self._batch_rows(waiting, texts or self.texts)
                    waiting, good = [], 0
        if waiting:
            yield self._batch_rows(waiting, texts or self.texts)

    def _load(self, entry: Entry) -> Loaded | ImageFault:
        if entry.fault:
            return ImageFault(entry.fault)
        try:
            source = entry.source
            decoded = from_pil(source) if isinstance(source, Image.Image) else decode_file(Path(source))
        except ImageFault as fault:
            return ImageFault(fault.reason)  # a new one: that one holds on to the bytes of the file
        begun = self._engine.each(self._fitted(decoded.pixels))
        return Loaded(begun, decoded.width, decoded.height, decoded.note, decoded.recorded)

    def _batch_rows(self, loaded: Sequence[tuple[Entry, Loaded | ImageFault]], texts: Texts) -> list[dict[str, Any]]:
        good = [(entry, found) for entry, found in loaded if not isinstance(found, ImageFault)]
        scored: Iterator[dict[str, Any]] = iter(())
        if good:
            text, cut = texts([_prompt(entry, found) for entry, found in good])
            features = self._features([found.begun for _, found in good])
            scores = score_batch(self.model.judge, features, text)
            columns = self._mos(scores) | self._bars(features, scores)
            scored = (
                self._good_row(entry, found, {name: float(column[i]) for name, column in columns.items()}, cut[i])
                for i, (entry, found) in enumerate(good)
            )
        return [_failed(entry, found) if isinstance(found, ImageFault) else next(scored) for entry, found in loaded]

    def _features(self, begun: Sequence[Any]) -> ImageFeatures:
        """The image tower's answer for a batch, in smaller ones where the device's memory does not hold it."""
        parts: list[ImageFeatures] = []
        while (done := sum(len(part.embedding) for part in parts)) < len(begun):
            here = begun[done : done + self._largest]
            with contextlib.suppress(torch.OutOfMemoryError):
                parts.append(ImageFeatures(**self._engine.together(here)))
                continue
            self._halve(len(here))
        return ImageFeatures(*(torch.cat(column) for column in zip(*parts, strict=True)))

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

    def _bars(self, features: ImageFeatures, scores: Any) -> dict[str, Any]:
        """Error bars in MOS units, how unusual the images are, and percentiles; nothing without a calibration."""
        if self.model.calibration is None:
            return {}
        scale = (self.model.recipe.mos_min, self.model.recipe.mos_max)
        return self.model.calibration.columns(joined(features), scores._asdict(), scale)

    def _good_row(self, entry: Entry, found: Loaded, values: dict[str, float], cut: bool) -> dict[str, Any]:
        values = {name: value for name, value in values.items() if name.split("_")[0] not in self._untrained}
        said = found.recorded
        row = _blank(entry) | {"width": found.width, "height": found.height, "status": "ok"}
        row |= {name: value for name, value in said.settings().items() if value is not None}
        notes = [found.note, entry.note]
        if _prompt(entry, found) is None:
            values = {k: v for k, v in values.items() if k.startswith("quality") or k == "out_of_domain"}
            notes += ["no_prompt", said.fault]
        else:
            values |= {"prompt_truncated": cut}
        if entry.prompt is None and said.prompt:
            row |= {"prompt": said.prompt, "prompt_source": said.source, "prompt_raw": said.raw}
        return row | values | {"reason": ",".join(note for note in notes if note) or None}


def _prompt(entry: Entry, found: Loaded) -> str | None:
    return found.recorded.prompt if entry.prompt is None else entry.prompt


def _blank(entry: Entry) -> dict[str, Any]:
    """A row without scores."""
    path = None if isinstance(entry.source, Image.Image) else printable(str(entry.source))
    row: dict[str, Any] = dict.fromkeys(SCHEMAS["scores"].names)
    if entry.beside is not None:
        row |= entry.beside.settings()
    return row | {
        "name": printable(entry.name),
        "path": path,
        "prompt": entry.prompt,
        "prompt_source": entry.prompt_source or "none",
        "prompt_raw": entry.beside.raw if entry.beside and entry.prompt_source == "sidecar" else None,
        "status": "failed",
        "reason": entry.note,
    }


def _failed(entry: Entry, fault: ImageFault) -> dict[str, Any]:
    return _blank(entry) | {"reason": ",".join(word for word in (fault.reason, entry.note) if word)}


def prompt_or_none(prompt: str | None) -> str | None:
    """A prompt of white space is none."""
    return prompt if prompt and prompt.strip() else None
