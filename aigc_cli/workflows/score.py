"""`aigc score`: rate a folder of images, and the same from Python."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from aigc_cli import __version__
from aigc_cli.core.features import prefetch
from aigc_cli.core.scoring import PromptEncoder, score_batch
from aigc_cli.errors import AigcError
from aigc_cli.io.files import check_output
from aigc_cli.io.images import ImageFault, decode, from_pil, list_images, read_bytes
from aigc_cli.io.results import SCHEMAS, TableWriter
from aigc_cli.io.tables import read_prompts
from aigc_cli.io.text import printable
from aigc_cli.progress import Progress, Silent
from aigc_cli.workflows.models import Model, load_model
from aigc_cli.workflows.ratings import TARGETS

BATCH = 32
WINDOW = 1024  # the most rows that wait for a batch to fill
SHOWN = 5


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class ScoreSummary:
    """What a scoring run did.

    Attributes:
        output: the table.
        rows, failed: how many images were in it, and how many of them have no score.
        best, worst: the rows of highest and lowest quality.
        means: {score: mean over the rows that have it}.
        reasons: {reason: rows}.
    """

    output: Path
    rows: int
    failed: int
    best: list[dict[str, Any]]
    worst: list[dict[str, Any]]
    means: dict[str, float | None]
    reasons: dict[str, int]


class Scorer:
    """Scores images from Python.

    from aigc_cli import Scorer
    table = Scorer.load().score(images=["a.png", "b.png"], prompts=["a red fox", "a blue house"])
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._encode = PromptEncoder(model.judge)
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
        texts = [None] * len(images) if prompts is None else [_or_none(prompt) for prompt in prompts]
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
        """One row of the scores table for each entry, in order; decoding runs ahead of the forward pass.

        A batch is made of readable images only, so that the others change no bit of their scores.
        """
        waiting: list[tuple[Entry, Pixels | ImageFault]] = []
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

    def _load(self, entry: Entry) -> Pixels:
        decoded = from_pil(entry.source) if isinstance(entry.source, Image.Image) else decode(read_bytes(entry.source))
        return Pixels(self._transform(decoded.image), decoded.width, decoded.height, decoded.note)

    def _chunk_rows(self, chunk: Sequence[Entry], loaded: Sequence[Pixels | ImageFault]) -> Iterator[dict[str, Any]]:
        good = [(entry, found) for entry, found in zip(chunk, loaded, strict=True) if not isinstance(found, ImageFault)]
        scored: Iterator[dict[str, Any]] = iter(())
        if good:
            text, cut = self._encode([entry.prompt for entry, _ in good])
            scores = score_batch(self.model.judge, torch.stack([found.tensor for _, found in good]), text)
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


def _or_none(prompt: str | None) -> str | None:
    """A prompt of white space is none."""
    return prompt if prompt and prompt.strip() else None


def entries_of(folder: Path, prompts: Mapping[str, str] | None, prompt: str | None) -> list[Entry]:
    """What `aigc score` rates: the folder's images by name, then the table's rows that have no image.

    Args:
        folder: searched for images, not below.
        prompts: {image name: prompt} from a table; it comes before `prompt`.
        prompt: one text for every image that the table has none for.
    """
    known, names = dict(prompts or {}), list_images(folder)
    prompt = _or_none(prompt)
    entries = []
    for name in names:
        text, origin = (known[name], "table") if name in known else (prompt, "argument" if prompt else None)
        entries.append(Entry(name, folder / name, text, origin))
    there = set(names)
    entries += [Entry(name, folder / name, text, "table") for name, text in known.items() if name not in there]
    return entries


def score_folder(
    folder: Path,
    output: Path,
    *,
    prompts: Path | None = None,
    prompt: str | None = None,
    columns: Mapping[str, str] | None = None,
    sep: str = ",",
    model: Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ScoreSummary:
    """Scores every image of a folder into one table; memory does not grow with the folder's images.

    Raises:
        AigcError: the folder, the table of prompts, the model or the output is not as it should be.
        EnvironmentProblem: the output can't be written.
    """
    progress = progress or Silent()
    check_output(output, overwrite=overwrite)
    if prompt and prompt != prompt.encode("utf-8", "replace").decode():
        raise AigcError(f"Expected --prompt as UTF-8 text, found {printable(prompt, 80)}.", "Type it again.")
    table = read_prompts(prompts, columns=columns, sep=sep) if prompts else None
    entries = entries_of(folder, table, prompt)
    scorer = Scorer(load_model(model, device))
    summary = _Summary()
    progress.start("scoring", len(entries))
    metadata = {"aigc_version": __version__, **scorer.model.metadata()}
    with TableWriter(output, "scores", metadata) as writer:
        for rows in _batched(scorer.rows(entries), BATCH):
            writer.write(rows)
            summary.add(rows)
            progress.advance(len(rows))
    return summary.result(output)


def _batched(rows: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    iterator = iter(rows)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


class _Summary:
    """Keeps what the terminal shows while rows stream past."""

    def __init__(self) -> None:
        self.rows = self.failed = 0
        self.best: list[dict[str, Any]] = []
        self.worst: list[dict[str, Any]] = []
        self.sums = {"quality": [0, 0.0], "consistency": [0, 0.0]}
        self.reasons: dict[str, int] = {}

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows += len(rows)
        scored = [row for row in rows if row["status"] == "ok"]
        self.failed += len(rows) - len(scored)
        for row in rows:
            if row["reason"]:
                self.reasons[row["reason"]] = self.reasons.get(row["reason"], 0) + 1
        for name, total in self.sums.items():
            values = [row[name] for row in scored if row[name] is not None]
            total[0] += len(values)
            total[1] += sum(values)
        quality: Callable[[dict[str, Any]], float] = lambda row: row["quality"]  # noqa: E731
        judged = [row for row in scored if row["quality"] is not None]
        self.best = sorted(self.best + judged, key=quality, reverse=True)[:SHOWN]
        self.worst = sorted(self.worst + judged, key=quality)[:SHOWN]

    def result(self, output: Path) -> ScoreSummary:
        means = {name: total / count if count else None for name, (count, total) in self.sums.items()}
        return ScoreSummary(output, self.rows, self.failed, self.best, self.worst, means, self.reasons)
