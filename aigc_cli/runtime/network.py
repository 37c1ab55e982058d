"""What computes the scores of images: the interface, and ONNX Runtime behind it."""

import contextlib
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from aigc_cli.errors import AigcError
from aigc_cli.memory_limit import limit_memory
from aigc_cli.runtime.graphs import SCORE_NAMES, WEIGHTS_HASH, GraphPaths, first_line, open_graph
from aigc_cli.runtime.long_prompts import average_parts, split_prompt
from aigc_cli.runtime.saved import SavedModel
from aigc_cli.runtime.tokenizer import PromptTokenizer

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

ENGINES = ("auto", "onnx", "eager")
KEPT_PROMPTS = 4096
GRAPH_ROOM = 2 << 30  # bytes for loading a graph and its first run, besides a multiple of its own size
GRAPH_COPIES = 16
_HINT = "Write the graphs again with aigc export, or train again."
Numbers = NDArray[np.float32]


class Outputs(NamedTuple):
    """What a network computes for B images.

    Attributes:
        scores: {score or part of it, see `SCORE_NAMES`: (B,)} on [0, 1], not clipped; the cosine on [-1, 1].
        features: (B, F) float64, see `HeadConfig.feature_width`.
        split: whether each prompt is longer than the window of the text tower and was embedded in parts.
    """

    scores: dict[str, Numbers]
    features: NDArray[np.float64]
    split: list[bool]


class Network(Protocol):
    """Computes scores in two steps, so that the first can run in the threads that read the images.

    Attributes:
        engine: `onnx` or `eager`.
        device: `cpu`, `cuda` or `mps`.
    """

    engine: str
    device: str

    def start(self, pixels: NDArray[np.uint8], prompt: str | None) -> Any:
        """The first step, for one image of the network's size, (H, W, 3); None where there is no prompt."""

    def finish(self, started: Sequence[Any]) -> Outputs:
        """The second step, for what `start` returned for several images."""


class GraphNetwork:
    """ONNX Runtime on a CPU, one image at a time: a score depends on no other image.

    Raises:
        AigcError: the graphs can't be used, or do not fit the model's description.
    """

    engine, device = "onnx", "cpu"

    def __init__(self, saved: SavedModel, paths: GraphPaths) -> None:
        room = GRAPH_ROOM + GRAPH_COPIES * (paths.image.stat().st_size + paths.text.stat().st_size)
        with contextlib.nullcontext() if paths.trusted else limit_memory(room):
            self._load(saved, paths)

    def _load(self, saved: SavedModel, paths: GraphPaths) -> None:
        own_text = paths.text.parent == saved.checkpoint.folder
        self._text = open_graph(paths.text, trusted=paths.trusted or not own_text)
        self._image = open_graph(paths.image, paths.trusted)
        self._tokenizer = PromptTokenizer(paths.tokenizer)
        self._width = saved.heads.embed_dim
        self._embed = lru_cache(KEPT_PROMPTS)(self._embed_prompt)
        made_for = self._text.get_modelmeta().custom_metadata_map.get(WEIGHTS_HASH)
        if not own_text and saved.backbone["weights_hash"] not in str(made_for).split():
            name, weights = saved.backbone["name"], saved.backbone["weights_hash"][:12]
            raise AigcError(
                f"Expected {name} with weights {weights}, as when this model was trained, found {str(made_for)[:12]}.",
                "Use the same version of this package, or train again.",
            )
        self._check(saved, paths)

    def _check(self, saved: SavedModel, paths: GraphPaths) -> None:
        """Runs both graphs once; raises AigcError unless the outputs have the names and sizes of the model."""
        try:
            found = self.finish([self.start(np.zeros((*saved.preprocessing.size, 3), np.uint8), "a")])
            width = saved.heads.feature_width
            outputs: dict[str, NDArray[Any]] = {"features": found.features, **found.scores}
            for name, array in outputs.items():
                shape = (1, width) if name == "features" else (1,)
                if array.shape != shape or not np.isfinite(array).all():
                    raise ValueError(f"{name} of shape {array.shape}, not finite numbers of shape {shape}")
        except AigcError:
            raise
        except Exception as error:
            raise AigcError(
                f"Expected graphs that fit the model in {paths.image.parent}, found others: {first_line(error)}.",
                _HINT,
            ) from error

    def start(self, pixels: NDArray[np.uint8], prompt: str | None) -> tuple[dict[str, NDArray[Any]], bool]:
        """Everything about one image: the graph's outputs, each of one row, and whether the prompt was split."""
        text, split = (np.zeros(self._width, np.float32), False) if prompt is None else self._embed(prompt)
        return _run(self._image, {"pixels": pixels[None], "text": text[None]}), split

    def finish(self, started: Sequence[tuple[dict[str, NDArray[Any]], bool]]) -> Outputs:
        """Joins what `start` returned."""
        rows = [row for row, _ in started]
        scores = {name: np.concatenate([row[name] for row in rows]) for name in SCORE_NAMES}
        parts = ("features",) if "features" in rows[0] else ("embedding", "levels")  # the latter in earlier versions
        features = [np.concatenate([row[part] for part in parts], axis=1) for row in rows]
        return Outputs(scores, np.concatenate(features).astype(np.float64), [split for _, split in started])

    def _embed_prompt(self, prompt: str) -> tuple[Numbers, bool]:
        """(the L2-normalised embedding (D,) of a prompt, whether it was split)."""
        parts = split_prompt(prompt, self._tokenizer.truncates)
        rows = [_run(self._text, {"tokens": self._tokenizer([part])})["text"] for part in parts]
        return average_parts(np.concatenate(rows)), len(parts) > 1


def _run(session: "InferenceSession", inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, inputs), strict=True))
    except Exception as error:  # of many types
        raise AigcError(
            f"Expected graphs that take any image and prompt, found one that fails: {first_line(error)}.", _HINT
        ) from error
