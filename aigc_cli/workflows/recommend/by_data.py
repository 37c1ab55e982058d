"""`aigc recommend --data`: looks at the user's rated images instead of asking for their number. Imports no torch."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aigc_cli.errors import AigcError
from aigc_cli.images.decoder import decode_file
from aigc_cli.images.reader import ImageFault, image_digest, read_bytes
from aigc_cli.images.sample import Sample
from aigc_cli.metrics.opinions import ASSUMED_RATERS, Opinions, Survey, survey
from aigc_cli.progress import Progress, Silent
from aigc_cli.recipe import Recipe
from aigc_cli.storage.csv_tables import read_ratings
from aigc_cli.workflows.recommend.by_size import (
    POLICY,
    Recommendation,
    by_policy,
    difference,
    policy_row,
    recommend,
    source_options,
)

FEW_PROMPTS = 50
MANY_AT_THE_END = 0.2
NARROW = 0.5  # share of the scale
MUCH_LESS = 0.5  # of the other target's variance
LETTERS = {"quality": "q", "consistency": "c"}


def recommend_for(
    data: Path,
    images: Path | None,
    *,
    scale: tuple[float, float],
    columns: Mapping[str, str] | None = None,
    sep: str = ",",
    raters: int | None = None,
    progress: Progress | None = None,
) -> Recommendation:
    """The recommended settings for a table of ratings, by its size and by what it shows.

    The recommendation's `seen["data"]` is the `Survey` with `duplicates`, `left_out` and `notes`.

    Args:
        images: the folder of the images; None for the table's own folder, where there may be none.
        scale: the lowest and the highest score that people could give.
        raters: opinions behind each score, where the table has no column `raters`.

    Raises:
        AigcError: the table is not as it should be, `images` holds none of its images, or no row is usable.
    """
    folder = images or data.parent
    low, high = scale
    samples = read_ratings(
        data, folder, mos_min=low, mos_max=high, columns=columns, sep=sep, without_images=images is None
    )
    looked = any(os.path.lexists(sample.path) for sample in samples)
    kept, digests, left_out = _usable(samples, looked, progress or Silent())
    if not kept:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in sorted(left_out.items()))
        raise AigcError(f"Expected rated images in {data}, found none usable ({reasons}).", "Check --images.")
    found = survey(kept, scale, raters)
    copies = _copies(kept, digests)
    unseen = f"No images looked at: none of the names is in '{folder}'. Name their folder by --images."
    notes = [] if looked else [unseen]
    notes += _notes(found, scale, copies)
    source = source_options(data, images if looked else Path("images/"), columns or {}, sep)
    result = _settings(found, scale, source)
    seen = {**asdict(found), "duplicates": copies, "left_out": left_out, "notes": notes}
    return Recommendation(result.n, result.recipe, result.reasons, result.command, result.neighbours, {"data": seen})


def _usable(
    samples: Sequence[Sample], looked: bool, progress: Progress
) -> tuple[list[Sample], list[str], dict[str, int]]:
    """(samples that training would use, the digest of each one's file, {reason: how many} of the others)."""
    kept, digests, left_out = [], [], Counter[str]()
    if looked:
        progress.start("checking images", len(samples))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for sample, found in zip(samples, pool.map(_look if looked else _named, samples), strict=True):
            if isinstance(found, ImageFault):
                left_out[found.reason] += 1
            else:
                kept.append(sample)
                digests.append(found)
            if looked:
                progress.advance()
    return kept, digests, dict(left_out)


def _named(sample: Sample) -> str | ImageFault:
    return sample.name if sample.prompt else ImageFault("no_prompt")


def _look(sample: Sample) -> str | ImageFault:
    """The digest of an image's bytes, or why training would leave it out."""
    if not sample.prompt:
        return ImageFault("no_prompt")
    try:
        digest = image_digest(read_bytes(sample.path))
        decode_file(sample.path)
    except ImageFault as fault:
        return ImageFault(fault.reason)  # a new one: that one holds on to the bytes of the file
    return digest


def _copies(samples: Sequence[Sample], digests: Sequence[str]) -> dict[str, Any]:
    """How many images are byte for byte an earlier one, how many of those have another prompt, and the first few."""
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


def _settings(found: Survey, scale: tuple[float, float], source: Sequence[str]) -> Recommendation:
    """The policy's row, the one below it for few prompts, with the scale and the weights that the scores ask for."""
    usual = Recipe()
    given = zip(("mos_min", "mos_max"), scale, strict=True)
    more = {key: (end, "the scale of your scores") for key, end in given if end != getattr(usual, key)}
    more |= _weights(found.targets)
    index = policy_row(found.images)
    if index == 0 or found.prompts >= FEW_PROMPTS:
        return by_policy(found.images, POLICY[index], recommend(found.images).neighbours, more, source)
    row, below = POLICY[index], POLICY[index - 1]
    why = f"{below.reasons['freeze']} (one row lower than for {found.images:,} images: only {found.prompts} prompts)"
    neighbours = [f"with {FEW_PROMPTS} prompts or more: {difference(row, below)}"]
    return by_policy(found.images, below, neighbours, {"freeze": (below.settings["freeze"], why), **more}, source)


def _weights(targets: Mapping[str, Opinions]) -> dict[str, tuple[Any, str]]:
    """Loss weights where one target can teach much less: it is not rated, or holds much less variance beyond noise."""
    if missing := [target for target in LETTERS if target not in targets]:
        return {f"w_{LETTERS[missing[0]]}": (0.0, f"no {missing[0]} scores to learn from")}
    signal = {t: o.std**2 * (1 if o.reliability is None else o.reliability) for t, o in targets.items()}
    poor, rich = sorted(signal, key=lambda target: signal[target])
    if signal[rich] == 0 or signal[poor] >= MUCH_LESS * signal[rich]:
        return {}
    share = f"{signal[poor] / signal[rich]:.2f} of the other's"
    return {
        f"w_{LETTERS[rich]}": (0.6, f"{rich} has more to learn from"),
        f"w_{LETTERS[poor]}": (0.4, f"{poor} scores hold little beyond noise: a variance of {share}"),
    }


def _notes(found: Survey, scale: tuple[float, float], copies: Mapping[str, Any]) -> list[str]:
    """What a person should know of the data, one line each."""
    notes = []
    if found.prompts < FEW_PROMPTS:
        part = round(Recipe().val_fraction * found.prompts)
        notes.append(f"{found.prompts} prompts are few: a split by prompt leaves about {part} to validate on.")
    if found.raters_assumed:
        notes.append(f"Number of raters not known: {ASSUMED_RATERS} assumed. Give --raters N, or a column `raters`.")
    if not any(opinions.rater_std is not None for opinions in found.targets.values()):
        notes.append("No ceiling: name the raters' standard deviations std_quality, std_align by --columns.")
    for target, opinions in found.targets.items():
        if opinions.high - opinions.low < NARROW * (scale[1] - scale[0]):
            notes.append(
                f"{target}: scores from {opinions.low:g} to {opinions.high:g} of {scale[0]:g} to {scale[1]:g}. "
                "Is it the scale? Give --mos-min and --mos-max."
            )
        if max(opinions.at_low, opinions.at_high) > MANY_AT_THE_END:
            notes.append(f"{target}: many scores at an end of the scale; what lies beyond can't be told apart.")
    if copies["images"]:
        notes.append(
            f"{copies['images']:,} images are byte for byte another one, {copies['across_prompts']:,} of them under "
            f"another prompt, where a split by prompt may see them on both sides: {' = '.join(copies['examples'][0])}."
        )
    return notes
