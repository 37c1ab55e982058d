"""Scores images row by row: for `aigc score`, and from Python."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import pandas as pd
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from aigc_cli.errors import AigcError, EnvironmentProblem
from aigc_cli.images.decoder import decode_file
from aigc_cli.images.reader import ImageFault, Reason, convert_pil
from aigc_cli.images.sample import TARGETS
from aigc_cli.model.backbone import ImageFeatures, concat_features
from aigc_cli.model.engines import choose_engine
from aigc_cli.model.heads import Scores
from aigc_cli.model.model import Model
from aigc_cli.model.prefetch import prefetch
from aigc_cli.model.prompt_encoder import PromptEncoder, score_batch
from aigc_cli.model.trained import TrainedModel, load_model
from aigc_cli.progress import Progress, SilentProgress
from aigc_cli.prompts.programs import GenerationRecord
from aigc_cli.storage.partial_table import split_batches
from aigc_cli.storage.schemas import SCHEMAS
from aigc_cli.text import to_printable

BATCH = 32
WINDOW = 1024  # unreadable images in a row that are passed on without waiting for a batch
SEGMENT = 64  # batches that share one prompt encoder


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One image to score.

    Attributes:
        source: a path or an image; images of a folder are str, which takes a quarter of the memory of a Path.
        prompt: None takes the prompt recorded in the image, if any.
        beside: the record in the text file beside the image; its prompt is used if the table and --prompt give none.
        sidecar: digest of that file; None without a file.
        fault: why the image must not be opened.
        note: a reason to add to its row, whether it is scored or not.
    """

    name: str
    source: str | Path | Image.Image
    prompt: str | None
    prompt_source: str | None
    beside: GenerationRecord | None = None
    sidecar: str | None = None
    fault: Reason | None = None
    note: Reason | None = None


class LoadedImage(NamedTuple):
    """A decoded image after the engine's first step."""

    state: Any  # what `Engine.collect` takes
    width: int
    height: int
    note: str | None
    record: GenerationRecord


class BatchTexts:
    """Text embeddings of the prompts of each batch; within `SEGMENT` batches each distinct prompt is encoded once.

    The last bits of an embedding depend on the prompts encoded beside it. A resumed scoring gets the same bits by
    calling `catch_up`, which encodes at most one segment again.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._encode, self._batches = PromptEncoder(model), 0

    def __call__(self, prompts: Sequence[str | None]) -> tuple[Tensor, list[bool]]:
        """(embeddings (B, D), whether each prompt was split into parts) of the next batch."""
        if self._batches == SEGMENT:
            self._encode, self._batches = PromptEncoder(self._model), 0
        self._batches += 1
        return self._encode(prompts)

    def catch_up(self, prompts: Iterable[str | None]) -> None:
        """Restores the state after the batches of these prompts, which an earlier process scored."""
        segment: list[list[str | None]] = []
        for batch in split_batches(prompts, BATCH):
            segment = [] if len(segment) == SEGMENT else segment
            segment.append(batch)
        for batch in segment if len(segment) < SEGMENT else ():
            self(batch)


class Scorer:
    """Scores images from Python.

    Example:
        >>> from aigc_cli import Scorer
        >>> images = ["examples/red-circles-clean.jpg", "examples/red-circles-blurred.jpg"]
        >>> prompts = ["two red circles on a white background"] * 2
        >>> table = Scorer.load(device="cpu").score(images=images, prompts=prompts)
        >>> table["status"].tolist()
        ['ok', 'ok']
        >>> bool(table["quality"][0] > table["quality"][1])
        True

    `progress` is told when a batch has to be made smaller, or the engine `auto` can't use ONNX Runtime.
    """

    def __init__(self, trained: TrainedModel, engine: str = "auto", progress: Progress | None = None) -> None:
        self.trained = trained
        self.texts = BatchTexts(trained.model)
        self._progress = progress or SilentProgress()
        self._engine = choose_engine(trained.model.backbone, engine, progress)
        self._largest = BATCH  # images at a time that fit into the device's memory, as far as known
        self._untrained = set(TARGETS) - set(trained.targets)
        self._fit_size = trained.model.backbone.preprocessing.fit_size

    @classmethod
    def load(cls, model: str | Path | None = None, device: str = "auto", engine: str = "auto") -> Self:
        """Loads the shipped scorer, or the model of a run or model folder.

        Args:
            device: auto, cpu, cuda or mps.
            engine: what runs the image tower: eager, onnx, or auto (onnx on a CPU). Scores agree to 1e-3 MOS.

        Raises:
            AigcError: the folder holds no model, or there is no such engine.
            EnvironmentProblem: the backbone's weights are not available, there is no such device, or the engine can't
                run the model.
        """
        return cls(load_model(None if model is None else Path(model), device), engine)

    @property
    def engine(self) -> str:
        """The name of the engine that is in use."""
        return self._engine.name

    def score(
        self, *, images: Sequence[str | Path | Image.Image], prompts: Sequence[str | None] | None = None
    ) -> pd.DataFrame:
        """Scores `images`: one row each, in their order, with the columns of the scores table; scores are in MOS.

        An image that can't be read gets a row with `status` failed and its `reason`.

        Args:
            images: paths or PIL images.
            prompts: one for each image. None, for one or for all, takes the prompt recorded in the image; without any
                prompt an image gets its quality only.

        Raises:
            AigcError: there are not as many prompts as images.
        """
        if isinstance(images, str | Path):
            raise AigcError("Expected a list of images, found one path.", "Write images=[path].")
        if prompts is not None and len(prompts) != len(images):
            raise AigcError(f"Expected {len(images)} prompts, one for each image, found {len(prompts)}.", "Add None.")
        texts = [None] * len(images) if prompts is None else [drop_blank_prompt(prompt) for prompt in prompts]
        names = [f"image_{i}" if isinstance(image, Image.Image) else Path(image).name for i, image in enumerate(images)]
        entries = [
            ImageEntry(name, image, text, text and "option")
            for name, image, text in zip(names, images, texts, strict=True)
        ]
        table = pa.Table.from_pylist(list(self.iterate_rows(entries)), schema=SCHEMAS["scores"])
        nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
        frame: pd.DataFrame = table.to_pandas(types_mapper=nullable.get)
        return frame

    def iterate_rows(self, entries: Sequence[ImageEntry], texts: BatchTexts | None = None) -> Iterator[dict[str, Any]]:
        """Yields one row of the scores table for each entry, in order."""
        return itertools.chain.from_iterable(self.iterate_batches(entries, texts))

    def iterate_batches(
        self, entries: Sequence[ImageEntry], texts: BatchTexts | None = None
    ) -> Iterator[list[dict[str, Any]]]:
        """Yields the rows of each batch, those of unreadable images included; decoding runs ahead.

        A batch counts readable images only, so unreadable ones do not change any score. Scoring that resumes after a
        batch gives the same bits once `texts` (default: the scorer's own) has caught up.
        """
        waiting: list[tuple[ImageEntry, LoadedImage | ImageFault]] = []
        good = 0
        for chunk, loaded in prefetch(entries, self._load, BATCH):
            for pair in zip(chunk, loaded, strict=True):
                waiting.append(pair)
                good += not isinstance(pair[1], ImageFault)
                if good == BATCH or (len(waiting) == WINDOW and not good):
                    yield self._score_rows(waiting, texts or self.texts)
                    waiting, good = [], 0
        if waiting:
            yield self._score_rows(waiting, texts or self.texts)

    def _load(self, entry: ImageEntry) -> LoadedImage | ImageFault:
        if entry.fault:
            return ImageFault(entry.fault)
        try:
            source = entry.source
            decoded = convert_pil(source) if isinstance(source, Image.Image) else decode_file(Path(source))
        except ImageFault as fault:
            return ImageFault(fault.reason)  # a new one: the traceback of the caught one keeps the file's bytes
        state = self._engine.run_one(self._fit_size(decoded.pixels))
        return LoadedImage(state, decoded.width, decoded.height, decoded.note, decoded.record)

    def _score_rows(
        self, loaded: Sequence[tuple[ImageEntry, LoadedImage | ImageFault]], texts: BatchTexts
    ) -> list[dict[str, Any]]:
        good = [(entry, found) for entry, found in loaded if not isinstance(found, ImageFault)]
        if good:
            text, split = texts([_choose_prompt(entry, found) for entry, found in good])
            features = self._collect_features([found.state for _, found in good])
            scores = score_batch(self.trained.model, features, text)
            columns = self._to_mos(scores)
            if self.trained.calibration is not None:  # intervals, percentiles and `out_of_domain`
                arrays = {target: getattr(scores, target).cpu().double().numpy() for target in TARGETS}
                scale = self.trained.recipe.scale
                columns |= self.trained.calibration.describe_scores(concat_features(features), arrays, scale)
        rows, i = [], 0
        for entry, found in loaded:
            if isinstance(found, ImageFault):
                rows.append(_make_blank_row(entry, found.reason))
                continue
            values = {name: float(column[i]) for name, column in columns.items()}
            rows.append(self._make_row(entry, found, values, split[i]))
            i += 1
        return rows

    def _collect_features(self, states: Sequence[Any]) -> ImageFeatures:
        """Image features of a batch, computed in smaller batches when the device's memory is too small."""
        parts: list[ImageFeatures] = []
        while (done := sum(len(part.embedding) for part in parts)) < len(states):
            here = states[done : done + self._largest]
            with contextlib.suppress(torch.OutOfMemoryError):
                parts.append(ImageFeatures(**self._engine.collect(here)))
                continue
            self._halve_batch(len(here))
        return ImageFeatures(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _halve_batch(self, size: int) -> None:
        if size == 1:
            raise EnvironmentProblem(
                "The device's memory is too small for one image.", "Close other programs on it, or add --device cpu."
            )
        self._largest = size // 2
        self._progress.say(f"Out of memory with {size} images at a time; continuing with {self._largest}.")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _to_mos(self, scores: Scores) -> dict[str, Any]:
        """Scores, bases and corrections in MOS; only the final scores are clipped to the scale."""
        scale, config = self.trained.recipe.scale, self.trained.model.heads.config
        return {
            "quality": scale.to_mos(scores.quality.clamp(0, 1)),
            "consistency": scale.to_mos(scores.consistency.clamp(0, 1)),
            "quality_base": scale.to_mos(scores.quality_base),
            "quality_delta": scale.span * config.residual_scale_q * scores.quality_delta,
            "consistency_base": scale.to_mos(scores.consistency_base),
            "consistency_delta": scale.span * config.residual_scale_c * scores.consistency_delta,
            "clip_cosine": scores.cosine,
        }

    def _make_row(self, entry: ImageEntry, found: LoadedImage, values: dict[str, float], split: bool) -> dict[str, Any]:
        values = {name: value for name, value in values.items() if name.split("_")[0] not in self._untrained}
        record = found.record
        row = _make_blank_row(entry) | {"width": found.width, "height": found.height, "status": "ok"}
        row |= {name: value for name, value in record.get_settings().items() if value is not None}
        notes = [found.note, entry.note]
        if _choose_prompt(entry, found) is None:
            values = {k: v for k, v in values.items() if k.startswith("quality") or k == "out_of_domain"}
            notes += ["no_prompt", record.fault]
        else:
            values |= {"prompt_split": split}
        if entry.prompt is None and record.prompt:
            row |= {"prompt": record.prompt, "prompt_source": record.source, "prompt_raw": record.raw}
        return row | values | {"reason": ",".join(filter(None, notes)) or None}


def _choose_prompt(entry: ImageEntry, found: LoadedImage) -> str | None:
    return found.record.prompt if entry.prompt is None else entry.prompt


def _make_blank_row(entry: ImageEntry, fault: Reason | None = None) -> dict[str, Any]:
    """A row without scores, of an image that failed with the reason `fault`."""
    path = None if isinstance(entry.source, Image.Image) else to_printable(str(entry.source))
    row: dict[str, Any] = dict.fromkeys(SCHEMAS["scores"].names)
    if entry.beside is not None:
        row |= entry.beside.get_settings()
    return row | {
        "name": to_printable(entry.name),
        "path": path,
        "prompt": entry.prompt,
        "prompt_source": entry.prompt_source or "none",
        "prompt_raw": entry.beside.raw if entry.beside and entry.prompt_source == "sidecar" else None,
        "status": "failed",
        "reason": ",".join(filter(None, (fault, entry.note))),
    }


def drop_blank_prompt(prompt: str | None) -> str | None:
    """The prompt, or None if it is empty or white space."""
    return prompt if prompt and prompt.strip() else None
