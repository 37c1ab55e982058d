"""Scores images row by row: for `aigc score`, and from Python."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from PIL import Image

from aigc_cli.errors import AigcError, EnvironmentProblem
from aigc_cli.images.decoder import decode_file
from aigc_cli.images.prefetch import prefetch
from aigc_cli.images.reader import ImageFault, Reason, convert_pil
from aigc_cli.images.sample import TARGETS
from aigc_cli.progress import Progress, SilentProgress
from aigc_cli.prompts.record import GenerationRecord
from aigc_cli.runtime.network import Network, Outputs
from aigc_cli.runtime.saved import SavedModel, read_model
from aigc_cli.storage.schemas import SCHEMAS
from aigc_cli.text import to_printable
from aigc_cli.workflows.score.networks import load_network

if TYPE_CHECKING:
    import pandas as pd

BATCH = 32
WINDOW = 1024  # unreadable images in a row that are passed on without waiting for a batch


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
    """A decoded image after the network's first step."""

    started: Any  # what `Network.start` returned
    width: int
    height: int
    note: str | None
    record: GenerationRecord


class Scorer:
    """Scores images from Python.

    Example:
        >>> from aigc_cli import Scorer
        >>> images = ["examples/astronaut-clean.jpg", "examples/astronaut-blurred.jpg"]
        >>> prompts = ["a portrait of an astronaut in an orange suit"] * 2
        >>> table = Scorer.load(device="cpu").score(images=images, prompts=prompts)
        >>> table["status"].tolist()
        ['ok', 'ok']
        >>> bool(table["quality"][0] > table["quality"][1])
        True

    `progress` is told what takes long, and when a batch has to be made smaller.

    Attributes:
        saved: what the model's folder says.
        network: what computes the scores.
    """

    def __init__(self, saved: SavedModel, network: Network) -> None:
        self.saved, self.network = saved, network
        self._untrained = set(TARGETS) - set(saved.targets)

    @classmethod
    def load(
        cls,
        model: str | Path | None = None,
        device: str = "auto",
        engine: str = "auto",
        progress: Progress | None = None,
    ) -> Self:
        """Loads the shipped scorer, or the model of a run or model folder.

        Args:
            device: auto, cpu, cuda or mps.
            engine: onnx (the model's graphs with ONNX Runtime, on a CPU), eager (PyTorch), or auto: onnx where it can
                be used. Scores agree to 1e-3 MOS.

        Raises:
            AigcError: the folder holds no model, its graphs can't be used, or there is no such engine or device.
            EnvironmentProblem: the backbone's weights or a package are not available, or there is no such device.
        """
        saved = read_model(None if model is None else Path(model))
        return cls(saved, load_network(saved, device, engine, progress or SilentProgress()))

    def score(
        self, *, images: Sequence[str | Path | Image.Image], prompts: Sequence[str | None] | None = None
    ) -> "pd.DataFrame":
        """Scores `images`: one row each, in their order, with the columns of the scores table; scores are in MOS.

        An image that can't be read gets a row with `status` failed and its `reason`.

        Args:
            images: paths or PIL images.
            prompts: one for each image. None, for one or for all, takes the prompt recorded in the image; without any
                prompt an image gets its quality only.

        Raises:
            AigcError: there are not as many prompts as images.
            EnvironmentProblem: pandas is not installed.
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
        try:
            import pandas as pd  # here: the command line has no use for it
            import pyarrow as pa
        except ImportError as error:
            raise EnvironmentProblem(
                f"A DataFrame needs pandas, which fails: {error}.", "pip install pandas"
            ) from error
        rows = list(self.iterate_rows(entries))
        table = pa.Table.from_pylist(rows, schema=SCHEMAS["scores"])
        nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
        frame: pd.DataFrame = table.to_pandas(types_mapper=nullable.get)
        return frame

    def iterate_rows(self, entries: Sequence[ImageEntry]) -> Iterator[dict[str, Any]]:
        """Yields one row of the scores table for each entry, in order."""
        return itertools.chain.from_iterable(self.iterate_batches(entries))

    def iterate_batches(self, entries: Sequence[ImageEntry]) -> Iterator[list[dict[str, Any]]]:
        """Yields the rows of each batch, those of unreadable images included; decoding runs ahead.

        A batch counts readable images only, so unreadable ones do not change any score. Scoring that resumes after a
        batch gives the same bits.
        """
        waiting: list[tuple[ImageEntry, LoadedImage | ImageFault]] = []
        good = 0
        for chunk, loaded in prefetch(entries, self._load, BATCH):
            for pair in zip(chunk, loaded, strict=True):
                waiting.append(pair)
                good += not isinstance(pair[1], ImageFault)
                if good == BATCH or (len(waiting) == WINDOW and not good):
                    yield self._score_rows(waiting)
                    waiting, good = [], 0
        if waiting:
            yield self._score_rows(waiting)

    def _load(self, entry: ImageEntry) -> LoadedImage | ImageFault:
        if entry.fault:
            return ImageFault(entry.fault)
        source, preprocessing = entry.source, self.saved.preprocessing
        try:
            if isinstance(source, Image.Image):
                decoded = convert_pil(source)
                pixels = preprocessing.fit_size(decoded.pixels)
            else:
                decoded = decode_file(Path(source), preprocessing)
                pixels = decoded.pixels
        except ImageFault as fault:
            return ImageFault(fault.reason)  # a new one: the traceback of the caught one keeps the file's bytes
        started = self.network.start(pixels, _choose_prompt(entry, decoded.record))
        return LoadedImage(started, decoded.width, decoded.height, decoded.note, decoded.record)

    def _score_rows(self, loaded: Sequence[tuple[ImageEntry, LoadedImage | ImageFault]]) -> list[dict[str, Any]]:
        good = [found.started for _, found in loaded if not isinstance(found, ImageFault)]
        if good:
            outputs = self.network.finish(good)
            columns = self._to_mos(outputs)
        rows, i = [], 0
        for entry, found in loaded:
            if isinstance(found, ImageFault):
                rows.append(_make_blank_row(entry, found.reason))
                continue
            values = {name: float(column[i]) for name, column in columns.items()}
            rows.append(self._make_row(entry, found, values, outputs.split[i]))
            i += 1
        return rows

    def _to_mos(self, outputs: Outputs) -> dict[str, Any]:
        """Scores, bases and corrections in MOS, intervals and percentiles; only the final scores are clipped."""
        scale, heads, scores = self.saved.recipe.scale, self.saved.heads, outputs.scores
        columns = {
            "quality": scale.to_mos(scores["quality"].clip(0, 1)),
            "consistency": scale.to_mos(scores["consistency"].clip(0, 1)),
            "quality_base": scale.to_mos(scores["quality_base"]),
            "quality_delta": scale.span * heads.residual_scale_q * scores["quality_delta"],
            "consistency_base": scale.to_mos(scores["consistency_base"]),
            "consistency_delta": scale.span * heads.residual_scale_c * scores["consistency_delta"],
            "clip_cosine": scores["cosine"],
        }
        if self.saved.calibration is not None:
            arrays = {target: scores[target].astype(float) for target in TARGETS}
            columns |= self.saved.calibration.describe_scores(outputs.features, arrays, scale)
        return columns

    def _make_row(self, entry: ImageEntry, found: LoadedImage, values: dict[str, float], split: bool) -> dict[str, Any]:
        values = {name: value for name, value in values.items() if name.split("_")[0] not in self._untrained}
        record = found.record
        row = _make_blank_row(entry) | {"width": found.width, "height": found.height, "status": "ok"}
        row |= {name: value for name, value in record.get_settings().items() if value is not None}
        notes = [found.note, entry.note]
        if _choose_prompt(entry, record) is None:
            values = {k: v for k, v in values.items() if k.startswith("quality") or k == "out_of_domain"}
            notes += ["no_prompt", record.fault]
        else:
            values |= {"prompt_split": split}
        if entry.prompt is None and record.prompt:
            row |= {"prompt": record.prompt, "prompt_source": record.source, "prompt_raw": record.raw}
        return row | values | {"reason": ",".join(filter(None, notes)) or None}


def _choose_prompt(entry: ImageEntry, record: GenerationRecord) -> str | None:
    return record.prompt if entry.prompt is None else entry.prompt


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
