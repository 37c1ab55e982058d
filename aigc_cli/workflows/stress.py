"""`aigc ablate --stress`: how a model's scores move when image or prompt is harmed, and whether it reads the prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from aigc_cli import __version__
from aigc_cli.errors import AigcError
from aigc_cli.images.decoder import decode_file
from aigc_cli.images.degrade import PERTURBATIONS
from aigc_cli.images.reader import ImageFault, from_pil
from aigc_cli.metrics.by_name import mean_estimate, value
from aigc_cli.metrics.formulas import auc
from aigc_cli.model.heads import Scores
from aigc_cli.model.trained import Model, load_model
from aigc_cli.progress import Progress
from aigc_cli.recipe import Recipe
from aigc_cli.storage.files import check_output, sweep, write_text
from aigc_cli.storage.locks import owned
from aigc_cli.storage.results import write_table
from aigc_cli.training.feature_store import prefetch
from aigc_cli.workflows.experiment.rated import TARGETS, Rated, read_rated, tell_skipped, to_mos
from aigc_cli.workflows.experiment.source import Source

SHUFFLED, EMPTIED = "shuffled prompt", "emptied prompt"
MAX_IMAGES = 200
CHUNK = 8
READS_AUC = 0.7  # below it a fall that is real is still too small to choose images by
Column = NDArray[np.float64]


@dataclass(frozen=True)
class Shift:
    """How one target's scores moved under one perturbation.

    Attributes:
        perturbation, target: what was done, and to which score.
        n: images.
        change: mean of (perturbed - original), MOS units, with its 95% interval from resampling prompts.
        lower: share of images whose score fell.
        srocc: rank agreement of perturbed with original scores; None where it is not defined.
    """

    perturbation: str
    target: str
    n: int
    change: float
    ci_low: float | None
    ci_high: float | None
    lower: float
    srocc: float | None


@dataclass(frozen=True)
class Stress:
    """All shifts, and how far consistency depends on the prompt.

    Attributes:
        auc: the chance that a matched prompt scores above a shuffled one, over all pairs of images; 0.5 is chance.
        verdict: that, and the change of consistency, in words.
    """

    model: str
    shifts: list[Shift]
    auc: float
    verdict: str


def stress(
    place: Path | None,
    source: Source,
    output: Path,
    *,
    progress: Progress,
    images: int = MAX_IMAGES,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
) -> Stress:
    """Measures how the scores of a model move on harmed copies of rated images; writes `stress.parquet` and `.md`.

    Args:
        place: a run or model folder; None for the shipped scorer.
        images: at most this many, drawn with `seed`.

    Raises:
        AigcError: the model, the table or the output is not as it should be, or there is only one prompt.
        RunHeld: another process works in `output`.
    """
    with owned(output):
        check_output(output, overwrite=overwrite, suffixes=())
        model = load_model(place, device)
        rated = read_rated(source, model.recipe, progress)
        rows = sorted(np.random.default_rng(seed).permutation(len(rated.samples))[:images].tolist())
        prompts = [rated.samples[row].prompt or "" for row in rows]
        swapped = _others(prompts, np.random.default_rng(seed))
        scores, faults = _scores(model, rated, rows, prompts, swapped, seed, progress)
        tell_skipped([*rated.skipped, *faults], progress)
        groups = [rated.samples[row].prompt or "" for row in rows if rated.samples[row].name not in dict(faults)]
        if not groups:
            raise AigcError("Expected at least one image that can be read, found none.", "Check --images.")
        found = _judge(model.metadata()["model"], scores, groups)
        sweep(output)
        labels = {"model": found.model}
        meta = {"aigc_version": __version__, "data": source.describe(), **model.metadata()}
        write_table(output / "stress.parquet", "stress", [labels | asdict(shift) for shift in found.shifts], meta)
        write_text(output / "stress.md", markdown(found, source.describe()))
        return found


def _others(prompts: Sequence[str], random: np.random.Generator) -> list[str]:
    """For each prompt a different one of the same list, drawn at random."""
    distinct = sorted(set(prompts))
    if len(distinct) < 2:
        raise AigcError("Expected at least 2 prompts to shuffle, found 1.", "Use images of several prompts.")
    number = {prompt: index for index, prompt in enumerate(distinct)}
    steps = random.integers(1, len(distinct), size=len(prompts)).tolist()
    return [distinct[(number[p] + step) % len(distinct)] for p, step in zip(prompts, steps, strict=True)]


def _scores(
    model: Model,
    rated: Rated,
    rows: Sequence[int],
    prompts: Sequence[str],
    swapped: Sequence[str],
    seed: int,
    progress: Progress,
) -> tuple[dict[str, dict[str, Column]], list[tuple[str, str]]]:
    """({perturbation, "" for none: {target: (n,) MOS}}, faults); an image that can't be decoded is left out."""
    transform, judge = model.judge.backbone.transform, model.judge
    device = next(judge.heads.parameters()).device
    known = list(dict.fromkeys([*prompts, *swapped, ""]))
    with torch.inference_mode():
        parts = [judge.backbone.encode_text(known[start : start + 32]) for start in range(0, len(known), 32)]
    text = dict(zip(known, torch.cat(parts), strict=True))

    def load(position: int) -> torch.Tensor:
        image = decode_file(rated.samples[rows[position]].path).image
        harmed = [_harmed(image, name, [seed, position]) for name in PERTURBATIONS]
        return torch.stack([transform(image), *map(transform, harmed)])

    names = ["", *PERTURBATIONS, SHUFFLED, EMPTIED]
    found: dict[str, list[Scores]] = {name: [] for name in names}
    faults: list[tuple[str, str]] = []
    progress.start("images under stress", len(rows))
    for chunk, loaded in prefetch(range(len(rows)), load, CHUNK):
        for position, pixels in zip(chunk, loaded, strict=True):
            if isinstance(pixels, ImageFault):
                faults.append((rated.samples[rows[position]].name, pixels.reason))
                continue
            with torch.inference_mode():
                image = judge.backbone.encode_image(pixels.to(device))
                whole = type(image)(*[torch.cat([part, part[:1], part[:1]]) for part in image])
                texts = [text[prompts[position]]] * len(pixels) + [text[swapped[position]], text[""]]
                scores = judge.heads(whole, torch.stack(texts))
            for index, name in enumerate(names):
                found[name].append(Scores(*[column[index].cpu() for column in scores]))
        progress.advance(len(chunk))
    return {name: _columns(scores, model.recipe) for name, scores in found.items()}, faults


def _harmed(image: Image.Image, name: str, seed: Sequence[int]) -> Image.Image:
    """A harmed copy as the reader of image files would hand it on."""
    return from_pil(PERTURBATIONS[name](image, np.random.default_rng([*seed, *name.encode()]))).image


def _columns(scores: Sequence[Scores], recipe: Recipe) -> dict[str, Column]:
    stacked = {
        "quality": [score.quality for score in scores],
        "consistency": [score.consistency for score in scores],
    }
    return {
        target: to_mos(torch.stack(values), recipe) if values else np.empty(0) for target, values in stacked.items()
    }


def _judge(model: str, scores: Mapping[str, Mapping[str, Column]], groups: Sequence[str]) -> Stress:
    """The shifts against the untouched scores, and what shuffling says."""
    shifts = [
        _shift(name, target, scores[""][target], harmed[target], groups)
        for name, harmed in scores.items()
        for target in TARGETS
        if name and (name not in (SHUFFLED, EMPTIED) or target == "consistency")  # quality never sees the prompt
    ]
    matched, shuffled = scores[""]["consistency"], scores[SHUFFLED]["consistency"]
    above = auc(matched, shuffled)
    shift = next(shift for shift in shifts if shift.perturbation == SHUFFLED)
    verdict = (
        f"With prompts shuffled across images consistency moves by {shift.change:+.2f}, and a matched prompt scores "
        f"above a shuffled one in {above:.0%} of pairs (chance 50%): {_reading(shift, above)}."
    )
    return Stress(model, shifts, above, verdict)


def _reading(shift: Shift, auc: float) -> str:
    if shift.ci_high is None or shift.ci_high >= 0:
        return "no sign that this model reads the prompt"
    return "this model reads the prompt" if auc >= READS_AUC else "this model hardly reads the prompt"


def _shift(name: str, target: str, before: Column, after: Column, groups: Sequence[str]) -> Shift:
    change = after - before
    mean = mean_estimate(change, groups)
    srocc = value("srocc", after, before)
    lower = float((change < 0).mean())
    return Shift(name, target, len(change), float(change.mean()), mean.low, mean.high, lower, srocc)


def markdown(found: Stress, data: str) -> str:
    """The result as a page."""
    lines = [
        f"# Stress of {found.model}",
        "",
        f"{found.shifts[0].n} images of {data}. Change is the mean of the harmed copy's score minus the original's, in "
        "MOS, with its 95% interval over prompts.",
        "",
        "| perturbation | score | change | lower in | rank agreement |",
        "|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(cells(shift)) + " |" for shift in found.shifts]
    return "\n".join([*lines, "", found.verdict]) + "\n"


def cells(shift: Shift) -> list[str]:
    """One shift as text, for page and terminal."""
    span = "" if shift.ci_low is None else f" [{shift.ci_low:+.2f}, {shift.ci_high:+.2f}]"
    srocc = "-" if shift.srocc is None else f"{shift.srocc:.3f}"
    return [shift.perturbation, shift.target, f"{shift.change:+.2f}{span}", f"{shift.lower:.0%}", srocc]
