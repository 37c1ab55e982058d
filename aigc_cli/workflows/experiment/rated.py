"""Rated images, from the user's table or the demonstration set, on their way to the freeze boundary."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from aigc_cli.errors import AigcError, EnvironmentProblem
from aigc_cli.images.decoder import decode_file
from aigc_cli.images.demo import demo_samples
from aigc_cli.images.reader import ImageFault
from aigc_cli.images.sample import Sample
from aigc_cli.model.backbone import Backbone, Freezing
from aigc_cli.progress import Progress
from aigc_cli.prompts.programs import SETTINGS
from aigc_cli.recipe import Recipe
from aigc_cli.storage.csv_tables import read_ratings
from aigc_cli.storage.feature_bank import cache_folder
from aigc_cli.training.feature_store import (
    CHUNK,
    EVALUATION,
    ImageFeatures,
    TextFeatures,
    ViewSettings,
    digest_of,
    image_changed,
    prefetch,
    views_of,
)
from aigc_cli.training.loop import Data
from aigc_cli.workflows.experiment.source import Source

TARGETS = {"quality": "mos_quality", "consistency": "mos_align"}
NOT_HUMAN = (
    "No --data given: using the built-in demonstration set. Its scores are computed from how the images were rendered; "
    "they are not human scores."
)


@dataclass(frozen=True)
class Rated:
    """Readable rated images and what was left out.

    Attributes:
        samples: one for each image that could be read.
        digests: SHA-256 of each one's bytes.
        skipped: (name, reason) of the others.
    """

    samples: Sequence[Sample]
    digests: Sequence[str]
    skipped: Sequence[tuple[str, str]]

    def targets(self, rows: Sequence[int]) -> list[str]:
        """The targets that at least one of `rows` was rated for."""
        return [t for t, column in TARGETS.items() if any(getattr(self.samples[r], column) is not None for r in rows)]

    def groups(self, by: str) -> list[str]:
        """The group of each row: its prompt, its name, or a column of the table."""
        if by == "prompt":
            return [sample.prompt or "" for sample in self.samples]
        if by == "name":
            return [sample.name for sample in self.samples]
        known = sorted({name for sample in self.samples for name in sample.groups})
        if by not in known:
            raise AigcError(
                f"Expected a column to group by out of prompt, name, {', '.join(known) or 'none other'}, found '{by}'.",
                "Check the table's header.",
            )
        return [sample.groups[by] for sample in self.samples]


def read_rated(source: Source, recipe: Recipe, progress: Progress) -> Rated:
    """All rated images of `source` whose file can be opened; the demonstration set is rendered when it is asked for.

    Raises:
        AigcError: the table is not as it should be, or no image is left.
    """
    if source.data is None:
        if source.images is not None:
            raise AigcError("Expected --data beside --images, found none.", "Name the table with the scores.")
        progress.say(NOT_HUMAN)
        folder = cache_folder() / "demo"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentProblem(
                f"The cache folder {folder} can't be made: {error.strerror}.",
                "Set AIGC_CACHE to a folder that can be written.",
            ) from error
        samples = demo_samples(folder)
    else:
        folder = source.images or source.data.parent
        samples = read_ratings(
            source.data,
            folder,
            mos_min=recipe.mos_min,
            mos_max=recipe.mos_max,
            columns=source.columns,
            sep=source.sep,
        )
    kept, digests, skipped = [], [], []
    for sample in samples:
        if not sample.prompt:
            skipped.append((sample.name, "no_prompt"))
            continue
        try:
            digests.append(digest_of(sample.path))
            kept.append(sample)
        except ImageFault as fault:
            skipped.append((sample.name, fault.reason))
    rated = _not_empty(Rated(kept, digests, skipped), source.describe())
    for target in sorted(set(TARGETS) - set(rated.targets(range(len(kept))))):
        progress.say(f"No {target} scores in {source.describe()}: a model trained on it gives none.")
    return rated


def with_recorded(rated: Rated, by: str | None, progress: Progress) -> Rated:
    """Adds the column `by` where it is a setting that generators record in images (see `SETTINGS`) and no column yet.

    Raises:
        AigcError: no image records it.
    """
    if by not in SETTINGS or any(by in sample.groups for sample in rated.samples):
        return rated
    progress.start(f"reading {by} from images", len(rated.samples))
    values: list[str | None] = []
    paths = [sample.path for sample in rated.samples]
    for chunk, found in prefetch(paths, lambda path: decode_file(path).recorded.settings()[by], CHUNK):
        values += [None if value is None or isinstance(value, ImageFault) else str(value) for value in found]
        progress.advance(len(chunk))
    if not any(values):
        raise AigcError(
            f"Expected a column {by}, or images that record their {by}, found neither.", "Group by something else."
        )
    samples = [
        replace(sample, groups={**sample.groups, by: value or f"(no {by})"})
        for sample, value in zip(rated.samples, values, strict=True)
    ]
    return replace(rated, samples=samples)


def _not_empty(rated: Rated, where: str) -> Rated:
    if not rated.samples:
        reasons = ", ".join(sorted({reason for _, reason in rated.skipped})) or "no rows"
        raise AigcError(f"Expected rated images in {where}, found none usable ({reasons}).", "Check --images.")
    return rated


def image_features(
    backbone: Backbone, freezing: Freezing, rated: Rated, recipe: Recipe, cache: bool | float, progress: Progress
) -> tuple[ImageFeatures, Rated]:
    """The images at the freeze boundary, evaluation views computed; images that can't be decoded leave `rated`.

    Args:
        cache: whether what is frozen is kept in the feature store, or the GB that the store may take; it is not kept
            when nothing is frozen.
    """
    settings = ViewSettings(recipe.crop_scale_min, recipe.flip)
    store = cache_folder() if cache is not False and recipe.freeze != "none" else None
    limit = math.inf if cache is True else 1e9 * cache

    def features(of: Rated) -> ImageFeatures:
        return ImageFeatures(backbone, freezing.image, [s.path for s in of.samples], of.digests, settings, store, limit)

    images = features(rated)
    faults = images.prepare({EVALUATION: range(len(rated.samples))}, progress)
    if not faults:
        return images, rated
    kept = [row for row in range(len(rated.samples)) if row not in faults]
    skipped = [*rated.skipped, *((rated.samples[row].name, reason) for row, reason in sorted(faults.items()))]
    whole = Rated([rated.samples[row] for row in kept], [rated.digests[row] for row in kept], skipped)
    return features(_not_empty(whole, "the table")), whole


def prepare_views(images: ImageFeatures, rows: Sequence[int], recipe: Recipe, progress: Progress) -> None:
    """Computes the recipe's views of images `rows`, which could all be read before.

    Raises:
        EnvironmentProblem: one can't be read any more, or the disk is full.
    """
    for row, reason in images.prepare(dict.fromkeys(views_of(recipe), rows), progress).items():
        raise image_changed(images.paths[row], reason)


def data_digest(rated: Rated) -> str:
    """A short name for exactly these images, prompts and scores."""
    rows = [
        [sample.name, digest, sample.prompt, sample.mos_quality, sample.mos_align]
        for sample, digest in zip(rated.samples, rated.digests, strict=True)
    ]
    return sha256(json.dumps(rows).encode()).hexdigest()[:16]


def training_data(images: ImageFeatures, freezing: Freezing, rated: Rated, recipe: Recipe) -> Data:
    """Images, prompts and scores in the form that the training loop reads."""
    prompts = [sample.prompt or "" for sample in rated.samples]
    span = recipe.mos_max - recipe.mos_min
    nothing = float("nan")
    scores = [
        [nothing if mos is None else (mos - recipe.mos_min) / span for mos in (sample.mos_quality, sample.mos_align)]
        for sample in rated.samples
    ]
    device = next(images.backbone.image.module.parameters()).device
    texts = TextFeatures(images.backbone, freezing.text, prompts, images.store)
    return Data(images, texts, prompts, torch.tensor(scores, dtype=torch.float32, device=device))


def to_mos(score: Tensor, recipe: Recipe) -> Any:
    """Scores on [0, 1] as MOS, clipped to the range that people could give; float64 array of the same length."""
    return (recipe.mos_min + score.clamp(0, 1).double() * (recipe.mos_max - recipe.mos_min)).numpy()


def prompt_digest(prompt: str) -> str:
    """A short name for a prompt: a model remembers which ones it was trained on without carrying their texts."""
    return sha256(prompt.strip().encode()).hexdigest()[:12]


def tell_skipped(skipped: Sequence[tuple[str, str]], progress: Progress) -> None:
    """One line about what was left out."""
    if skipped:
        shown = ", ".join(f"{name} ({reason})" for name, reason in skipped[:3])
        more = f" and {len(skipped) - 3} more" if len(skipped) > 3 else ""
        progress.say(f"Left out {len(skipped)} rows: {shown}{more}.")
