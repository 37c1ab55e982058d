"""Whether more answers still pay: how the agreement on held-out prompts grows with the number of answers."""

import math
import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aigc_cli.metrics.bootstrap import draw_counts
from aigc_cli.metrics.by_name import compute_interval, compute_metric
from aigc_cli.mos_scale import MosScale
from aigc_cli.progress import SilentProgress
from aigc_cli.workflows.experiment.source import Compute, Source

if TYPE_CHECKING:
    from aigc_cli.training.batches import TrainingData

FEWEST_ANSWERS, FEWEST_PROMPTS = 30, 10
EVERY = 25  # answers between two looks
HELD_OUT_PARTS = 5
ANSWER_SHARES = (0.5, 1.0)  # of the answers of the other prompts
PAYS = 0.01  # of agreement


@dataclass(frozen=True)
class Worth:
    """What the answers so far are worth.

    Attributes:
        answers: how many there are: images, or choices.
        measure: what agreement means: SROCC of quality, or the share of choices foreseen.
        start: the agreement of the start model with the answers on held-out prompts.
        half, whole: the same after learning from half of the answers of the other prompts, and from all of them.
        gain: whole - half, and its 95% interval over prompts.
    """

    answers: int
    measure: str
    start: float
    half: float
    whole: float
    gain: tuple[float, float | None, float | None]

    def describe(self) -> str:
        """In words."""
        gain, low, high = self.gain
        shown = f"{gain:+.3f}" + ("" if low is None or high is None else f" [{low:+.3f}, {high:+.3f}]")
        if high is not None and high < PAYS:
            verdict = "More answers hardly pay now."
        elif low is not None and low > 0:
            verdict = "More answers pay."
        else:
            verdict = "Whether more answers pay can't be told yet."
        return (
            f"{self.answers} answers. {self.measure} on prompts held out: {self.start:.3f} as shipped, "
            f"{self.whole:.3f} after learning from them. Their second half added {shown}. {verdict}"
        )


def measure_worth(source: Source, model: str, scale: MosScale) -> Worth | None:
    """Learns from the answers with a warm start, part of the prompts held out; None while there are too few answers.

    Args:
        source: the tables that `aigc rate` derives from the answers.
        model: the start model, which learns a taste.
    """
    from aigc_cli.metrics.splits import Split, make_folds
    from aigc_cli.model.loading import load_backbone
    from aigc_cli.recipe import resolve_recipe
    from aigc_cli.training.loop import make_model, predict
    from aigc_cli.training.rates import complete_resolved
    from aigc_cli.training.taste import fit_taste
    from aigc_cli.workflows.experiment.folds import prepare_data
    from aigc_cli.workflows.experiment.rated import read_rated

    ends = {"mos_min": str(scale.low), "mos_max": str(scale.high)}
    recipe = complete_resolved(resolve_recipe({"start_from": model, "freeze": "all", **ends})).recipe
    quiet = SilentProgress()
    rated = read_rated(source, scale, quiet)
    topics = rated.list_groups("prompt")
    count = len(rated.choices) or len(rated.samples)
    if count < FEWEST_ANSWERS or len(set(topics)) < FEWEST_PROMPTS:
        return None
    backbone = load_backbone(recipe.backbone, recipe.image_size, recipe.levels or "few")
    ready = prepare_data(backbone, rated, recipe, Compute("cpu"), quiet)
    topics = ready.rated.list_groups("prompt")
    columns = np.zeros((1 + len(ANSWER_SHARES), 2, len(topics)))  # scores of both targets, before and after each share
    random = np.random.default_rng(0)
    for held_out in make_folds(topics, HELD_OUT_PARTS, 0):
        apart = set(held_out)
        rest = [row for row in range(len(topics)) if row not in apart]
        names = random.permutation(sorted({topics[row] for row in rest})).tolist()
        for place, share in enumerate((0.0, *ANSWER_SHARES)):
            model_now = make_model(backbone, recipe, ready.start)
            used = set(names[: round(share * len(names))])
            if used:
                split = Split([row for row in rest if topics[row] in used], [])
                fit_taste(model_now, ready.data, split, topics, recipe, quiet)
            found = predict(model_now, ready.data, held_out)
            columns[place, :, held_out] = np.stack([found.quality.numpy(), found.consistency.numpy()], 1)
    return _summarise(columns, ready.data, topics, count)


def _summarise(columns: Any, data: "TrainingData", topics: Sequence[str], count: int) -> Worth:
    """Agreement by target, averaged over the targets that were judged; intervals resample prompts."""
    names, codes = np.unique(np.asarray(topics, dtype=object), return_inverse=True)
    draws = draw_counts(len(names), 200, 0)
    measure = _rate_choices if len(data.pairs) else _rate_ratings
    values = [measure(column, data, np.ones(len(topics))) for column in columns]
    pairs = [[measure(column, data, draw[codes]) for column in columns[1:]] for draw in draws]
    low, high = compute_interval([whole - half for half, whole in pairs])
    label = "Share of choices foreseen" if len(data.pairs) else "SROCC"
    return Worth(count, label, values[0], values[1], values[2], (values[2] - values[1], low, high))


def _rate_ratings(scores: Any, data: "TrainingData", weights: Any) -> float:
    """The mean SROCC of both targets; each image counts `weights` (N,) times."""
    found = []
    for index in range(2):
        human = data.targets[:, index].numpy()
        times = np.where(np.isnan(human), 0, weights).astype(int)
        rows = np.repeat(np.arange(len(human)), times)
        if (srocc := compute_metric("srocc", scores[index][rows], human[rows])) is not None:
            found.append(srocc)
    return float(np.mean(found)) if found else math.nan


def _rate_choices(scores: Any, data: "TrainingData", weights: Any) -> float:
    """The share of decided choices that the scores foresee; each prompt counts `weights` times."""
    pairs = data.pairs
    a, b, question, preferred = (np.asarray(x) for x in (pairs.a, pairs.b, pairs.question, pairs.preferred))
    lead = scores[question, a] - scores[question, b]
    times = weights[a] * (preferred != 0.5)
    right = 0.5 + 0.5 * np.sign(lead) * np.sign(preferred - 0.5)
    return float((times * right).sum() / max(times.sum(), 1e-9))


class WorthWatcher:
    """Measures the worth after every few answers, in a process of low priority, and tells it in words."""

    def __init__(self, source: Source, model: str, scale: MosScale, tell: Callable[[str], None]) -> None:
        self._job, self._tell = (source, model, scale), tell
        self._seen, self._thread = 0, threading.Thread()
        self._process: Any = None

    def look(self, answers: int) -> None:
        """Starts a measurement when there are enough new answers and none is running."""
        if answers < max(FEWEST_ANSWERS, self._seen + EVERY) or self._thread.is_alive():
            return
        self._seen = answers
        self._thread = threading.Thread(target=self._run, name="worth", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends a measurement that is running."""
        if self._process is not None and self._process.is_alive():
            self._process.terminate()

    def _run(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(theirs, *self._job), daemon=True)
        self._process.start()
        theirs.close()
        with suppress(EOFError, OSError):  # it ended without a result
            found: Worth | None = ours.recv()
            if found is not None:
                self._tell(found.describe())
        self._process.join()


def _work(pipe: Any, source: Source, model: str, scale: MosScale) -> None:
    with suppress(OSError, AttributeError):
        os.nice(10)
    import torch

    torch.set_num_threads(1)
    pipe.send(measure_worth(source, model, scale))
