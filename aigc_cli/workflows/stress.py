"""`aigc stress`: how scores change when the image or the prompt is perturbed, and whether the prompt matters."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aigc_cli import __version__
from aigc_cli.errors import AigcError
from aigc_cli.images.decoder import decode_file
from aigc_cli.images.degrade import PERTURBATIONS
from aigc_cli.images.prefetch import prefetch
from aigc_cli.images.reader import ImageFault, convert_pil
from aigc_cli.images.sample import TARGETS, Sample
from aigc_cli.metrics.by_name import compute_metric, estimate_mean
from aigc_cli.metrics.formulas import Values, auc
from aigc_cli.progress import Progress
from aigc_cli.report.numbers import format_interval, format_number
from aigc_cli.runtime.devices import check_device
from aigc_cli.runtime.saved import read_model
from aigc_cli.storage.atomic_files import Output, sweep_leftovers, write_text
from aigc_cli.storage.locks import own_folder
from aigc_cli.storage.partial_table import split_batches
from aigc_cli.storage.results import write_table
from aigc_cli.workflows.experiment.rated import convert_to_mos, read_rated, report_skipped
from aigc_cli.workflows.experiment.source import Source

if TYPE_CHECKING:
    import torch

    from aigc_cli.model.trained import TrainedModel

SHUFFLED, EMPTIED = "shuffled prompt", "emptied prompt"
COPIES = ("", *PERTURBATIONS, SHUFFLED, EMPTIED)  # "" is the original
STRESS_CHUNK = 8
READS_AUC = 0.7  # below it, even a significant drop is too small for choosing images


@dataclass(frozen=True)
class StressPlan:
    """A run or model folder (None: the shipped scorer), and the most images to use, drawn at random with `seed`."""

    model: Path | None = None
    images: int = 200
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        check_device(self.device)


@dataclass(frozen=True)
class Shift:
    """The change of one target's scores under one perturbation.

    Attributes:
        change: mean of (perturbed - original) in MOS; `ci_low` and `ci_high` from resampling prompts, 95%.
        lower: share of images whose score fell.
        srocc: SROCC of perturbed with original scores; None where it is not defined.
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
class StressResult:
    """All shifts; `auc`: the probability that a matched prompt scores above a shuffled one, over all pairs."""

    model: str
    shifts: list[Shift]
    auc: float
    verdict: str


def stress_model(source: Source, plan: StressPlan, output: Output, progress: Progress) -> StressResult:
    """Measures how a model's scores change on perturbed copies of rated images; writes `stress.parquet` and `.md`.

    Raises:
        AigcError: the model, the table or the output is invalid, or there is only one prompt.
        FolderConflict: another process works in the folder.
    """
    with own_folder(output.path):
        output.check(suffixes=())
        saved = read_model(plan.model)
        rated = read_rated(source, saved.recipe.scale, progress, with_prompts=True)
        draw = np.random.default_rng(plan.seed)
        samples = [rated.samples[row] for row in sorted(draw.permutation(len(rated.samples))[: plan.images].tolist())]
        swapped = shuffle_prompts([sample.topic for sample in samples], np.random.default_rng(plan.seed))
        progress.start("loading the model", None)
        import torch

        from aigc_cli.model.trained import load_saved

        scores, faults = _score_copies(load_saved(saved, plan.device), samples, swapped, plan.seed, progress)
        report_skipped([*rated.skipped, *faults], progress)
        if not scores:
            raise AigcError("Expected at least one image that can be read, found none.", "Check --images.")
        mos = convert_to_mos(torch.stack(scores), saved.recipe.scale)  # (images, copies, targets)
        columns = {name: dict(zip(TARGETS, mos[:, copy].T, strict=True)) for copy, name in enumerate(COPIES)}
        lost = dict(faults)
        groups = [sample.topic for sample in samples if sample.name not in lost]
        found = summarise_stress(saved.name, columns, groups)
        sweep_leftovers(output.path)
        metadata = {"aigc_version": __version__, "data": source.describe(), **saved.make_metadata()}
        table = [{"model": found.model} | asdict(shift) for shift in found.shifts]
        write_table(output.path / "stress.parquet", "stress", table, metadata)
        write_text(output.path / "stress.md", format_stress_page(found, source.describe()))
        return found


def shuffle_prompts(prompts: Sequence[str], random: np.random.Generator) -> list[str]:
    """For each prompt a different one of the same list, drawn at random; AigcError for fewer than two prompts."""
    distinct = sorted(set(prompts))
    if len(distinct) < 2:
        raise AigcError("Expected at least 2 prompts to shuffle, found 1.", "Use images of several prompts.")
    number = {prompt: index for index, prompt in enumerate(distinct)}
    steps = random.integers(1, len(distinct), size=len(prompts)).tolist()
    return [distinct[(number[p] + step) % len(distinct)] for p, step in zip(prompts, steps, strict=True)]


def _score_copies(
    trained: "TrainedModel", samples: Sequence[Sample], swapped: Sequence[str], seed: int, progress: Progress
) -> "tuple[list[torch.Tensor], list[tuple[str, str]]]":
    """(scores (copies, targets) on [0, 1] of each image that can be decoded, faults of the others)."""
    import torch

    from aigc_cli.model.backbone import ImageFeatures
    from aigc_cli.model.devices import limit_this_thread
    from aigc_cli.model.heads import Scores

    backbone, heads = trained.model.backbone, trained.model.heads

    def load(position: int) -> torch.Tensor:
        image = decode_file(samples[position].path).image
        copies = [image]
        for name, perturb in PERTURBATIONS.items():
            copy = perturb(image, np.random.default_rng([seed, position, *name.encode()]))
            copies.append(convert_pil(copy).image)  # as the reader of image files converts it
        return torch.stack([backbone.transform(copy) for copy in copies])

    known = list(dict.fromkeys([*(sample.topic for sample in samples), *swapped, ""]))
    with torch.inference_mode():
        parts = [backbone.encode_text(batch) for batch in split_batches(known, 32)]
    text = dict(zip(known, torch.cat(parts), strict=True))
    found: list[torch.Tensor] = []
    faults: list[tuple[str, str]] = []
    progress.start("perturbing images", len(samples))
    for chunk, loaded in prefetch(range(len(samples)), load, STRESS_CHUNK, limit_this_thread):
        for position, pixels in zip(chunk, loaded, strict=True):
            sample = samples[position]
            if isinstance(pixels, ImageFault):
                faults.append((sample.name, pixels.reason))
                continue
            texts = [text[sample.topic]] * len(pixels) + [text[swapped[position]], text[""]]
            with torch.inference_mode():
                image = backbone.encode_image(pixels.to(trained.model.device))
                # the last two copies are the original with other prompts
                features = ImageFeatures(*[torch.cat([part, part[:1], part[:1]]) for part in image[:2]])
                scores = Scores(*heads(features, torch.stack(texts)))
            found.append(torch.stack([getattr(scores, target) for target in TARGETS], 1).cpu())
        progress.advance(len(chunk))
    return found, faults


def summarise_stress(model: str, scores: Mapping[str, Mapping[str, Values]], groups: Sequence[str]) -> StressResult:
    """Shifts against the unperturbed scores, and the verdict on shuffled prompts.

    `scores` are {one of `COPIES`: {target: (n,) MOS}}; `groups` are the prompts of the n images, for the intervals.
    """
    shifts = []
    for name, perturbed in scores.items():
        for target in TARGETS:
            if not name or (target == "quality" and name in (SHUFFLED, EMPTIED)):
                continue  # quality never sees the prompt
            before, after = scores[""][target], perturbed[target]
            change, srocc = after - before, compute_metric("srocc", after, before)
            mean, lower = estimate_mean(change, groups), float((change < 0).mean())
            shifts.append(Shift(name, target, len(change), float(change.mean()), mean.low, mean.high, lower, srocc))
    above = auc(scores[""]["consistency"], scores[SHUFFLED]["consistency"])
    shift = next(shift for shift in shifts if shift.perturbation == SHUFFLED)
    if shift.ci_high is None or shift.ci_high >= 0:
        reading = "no sign that this model reads the prompt"
    else:
        reading = "this model reads the prompt" if above >= READS_AUC else "this model hardly reads the prompt"
    verdict = (
        f"Shuffling the prompts changes consistency by {shift.change:+.2f}; a matched prompt scores above a shuffled "
        f"one in {above:.0%} of pairs (chance: 50%): {reading}."
    )
    return StressResult(model, shifts, above, verdict)


def format_stress_page(found: StressResult, data: str) -> str:
    """The result as a page."""
    lines = [
        f"# Stress of {found.model}",
        "",
        f"{found.shifts[0].n} images of {data}. Change is the mean score of the perturbed copies minus that of the "
        "originals, in MOS, with its 95% interval over prompts.",
        "",
        "| perturbation | score | change | lower in | rank agreement |",
        "|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(format_shift(shift)) + " |" for shift in found.shifts]
    return "\n".join([*lines, "", found.verdict]) + "\n"


def format_shift(shift: Shift) -> list[str]:
    """One shift as text, for page and terminal."""
    change = format_interval(shift.change, shift.ci_low, shift.ci_high, "+.2f")
    return [shift.perturbation, shift.target, change, f"{shift.lower:.0%}", format_number(shift.srocc, ".3f")]
