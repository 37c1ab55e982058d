"""`aigc recommend --data`: settings chosen from a look at the rated images. Imports no torch."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from aigc_cli.errors import AigcError
from aigc_cli.images.decoder import decode_file
from aigc_cli.images.reader import ImageFault, hash_bytes, read_image_bytes
from aigc_cli.images.sample import Sample
from aigc_cli.metrics.opinions import ASSUMED_RATERS, RatingsSummary, TargetSummary, summarise_ratings
from aigc_cli.mos_scale import MosScale
from aigc_cli.progress import Progress, SilentProgress
from aigc_cli.recipe import Recipe
from aigc_cli.storage.rating_tables import read_ratings
from aigc_cli.workflows.recommend.by_size import FEW_PROMPTS, Recommendation, list_source_options, recommend_by_size

MANY_AT_ONE_END = 0.2  # share of the images
NARROW = 0.5  # share of the scale
WARM_START_BELOW = 500  # images; measured up to 400, see docs/accuracy.md
MUCH_LESS = 0.5  # of the other target's variance
LETTERS = {"quality": "q", "consistency": "c"}


def recommend_by_data(
    data: Path,
    images: Path | None,
    *,
    scale: MosScale,
    columns: Mapping[str, str] | None = None,
    sep: str = ",",
    raters: int | None = None,
    progress: Progress | None = None,
) -> Recommendation:
    """Recommends settings from the size and the content of a table of ratings.

    The recommendation's `seen["data"]` is the `RatingsSummary` with `duplicates`, `left_out` and `notes`.

    Args:
        images: the folder of the images; None takes the table's own folder, which may hold none.
        raters: opinions behind each score, where the table has no column `raters`.

    Raises:
        AigcError: the table is invalid, `images` holds none of its images, or no row is usable.
    """
    folder = images or data.parent
    samples = read_ratings(data, folder, scale=scale, columns=columns, sep=sep, without_images=images is None)
    looked = any(os.path.lexists(sample.path) for sample in samples)
    kept, digests, left_out = _select_usable(samples, looked, (looked and progress) or SilentProgress())
    if not kept:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in sorted(left_out.items()))
        raise AigcError(f"Expected rated images in {data}, found none usable ({reasons}).", "Check --images.")
    found = summarise_ratings(kept, scale, raters)
    copies = _find_copies(kept, digests)
    notes = _list_notes(found, scale, copies)
    if not looked:
        notes.insert(0, f"No images were checked: '{folder}' holds none of the names. Give their folder with --images.")
    ends = {"mos_min": scale.low, "mos_max": scale.high}
    more: dict[str, tuple[Any, str]] = {
        key: (end, "the scale of your scores") for key, end in ends.items() if end != getattr(Recipe(), key)
    }
    more |= _choose_weights(found.targets)
    if found.images < WARM_START_BELOW:
        more["start_from"] = ("accurate", "from nothing, so few images agree less with people than the shipped scorer")
    source = list_source_options(data, images if looked else Path("images/"), columns or {}, sep)
    if found.prompts == 1:  # a split by prompt has nothing to hold out
        source += ["--group-by", "name"] if found.images > 1 else ["--val-fraction", "0"]
    seen = {**asdict(found), "duplicates": copies, "left_out": left_out, "notes": notes}
    return replace(recommend_by_size(found.images, found.prompts, more, source), seen={"data": seen})


def _select_usable(
    samples: Sequence[Sample], looked: bool, progress: Progress
) -> tuple[list[Sample], list[str], dict[str, int]]:
    """(usable samples, the digest of each one's file, {reason: number of rows left out})."""
    kept, digests, left_out = [], [], Counter[str]()
    progress.start("checking images", len(samples))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for sample, found in zip(samples, pool.map(partial(_check_sample, looked), samples), strict=True):
            if isinstance(found, ImageFault):
                left_out[found.reason] += 1
            else:
                kept.append(sample)
                digests.append(found)
            progress.advance()
    return kept, digests, dict(left_out)


def _check_sample(looked: bool, sample: Sample) -> str | ImageFault:
    """The digest of an image's bytes (its name if not `looked` at), or why training would leave it out."""
    if not sample.prompt and sample.mos_quality is None:
        return ImageFault("no_prompt")
    if not looked:
        return sample.name
    try:
        digest = hash_bytes(read_image_bytes(sample.path))
        decode_file(sample.path)
    except ImageFault as fault:
        return ImageFault(fault.reason)  # a new one: the traceback of the caught one keeps the file's bytes in memory
    return digest


def _find_copies(samples: Sequence[Sample], digests: Sequence[str]) -> dict[str, Any]:
    """Counts images that are byte-identical to an earlier one, and those under another prompt; names the first few."""
    first: dict[str, Sample] = {}
    pairs = [
        (original, sample)
        for sample, digest in zip(samples, digests, strict=True)
        if (original := first.setdefault(digest, sample)) is not sample
    ]
    return {
        "images": len(pairs),
        "across_prompts": sum(original.prompt != sample.prompt for original, sample in pairs),
        "examples": [[original.name, sample.name] for original, sample in pairs[:3]],
    }


def _choose_weights(targets: Mapping[str, TargetSummary]) -> dict[str, tuple[Any, str]]:
    if missing := [target for target in LETTERS if target not in targets]:
        return {f"w_{LETTERS[missing[0]]}": (0.0, f"no {missing[0]} scores to learn from")}
    signal = {t: o.std**2 * (1 if o.reliability is None else o.reliability) for t, o in targets.items()}
    poor, rich = sorted(signal, key=lambda target: signal[target])
    if signal[rich] == 0 or signal[poor] >= MUCH_LESS * signal[rich]:
        return {}
    share = f"{signal[poor] / signal[rich]:.2f}"
    return {
        f"w_{LETTERS[rich]}": (0.6, f"{rich} scores carry more signal"),
        f"w_{LETTERS[poor]}": (0.4, f"{poor} scores carry less signal: {share} of the variance of {rich} beyond noise"),
    }


def _list_notes(found: RatingsSummary, scale: MosScale, copies: Mapping[str, Any]) -> list[str]:
    notes = []
    if found.prompts == 1:
        notes.append("Only one prompt: training and validation share it, so nothing is known of other prompts.")
    elif found.prompts < FEW_PROMPTS:
        part = round(Recipe().val_fraction * found.prompts)
        notes.append(f"Only {found.prompts} prompts: a split by prompt leaves about {part} for validation.")
    if found.raters_assumed:
        notes.append(f"Number of raters unknown: {ASSUMED_RATERS} assumed. Give --raters N or a column `raters`.")
    if not any(opinions.rater_std is not None for opinions in found.targets.values()):
        notes.append(
            "No ceiling: the table has no columns std_quality, std_align. Are they named otherwise? Use --columns."
        )
    for target, opinions in found.targets.items():
        if opinions.high - opinions.low < NARROW * scale.span:
            notes.append(
                f"{target}: the scores cover {opinions.low:g} to {opinions.high:g} of the scale {scale}. "
                "If the scale is another one, give --mos-min and --mos-max."
            )
        if max(opinions.at_low, opinions.at_high) > MANY_AT_ONE_END:
            notes.append(f"{target}: many scores are at one end of the scale, where images can't be distinguished.")
    if copies["images"]:
        notes.append(
            f"{copies['images']:,} images are byte-identical copies, {copies['across_prompts']:,} of them under "
            f"another prompt; a split by prompt may separate them. Example: {' = '.join(copies['examples'][0])}."
        )
    return notes
