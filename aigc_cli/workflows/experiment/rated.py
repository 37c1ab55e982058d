"""Rated images of the user's table or the demonstration set, their states at the freeze boundary, and agreement.

Reading and checking them needs no PyTorch, which takes seconds to import; what computes with a backbone imports it.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aigc_cli.errors import AigcError, EnvironmentProblem
from aigc_cli.images.decoder import decode_file
from aigc_cli.images.demo import render_demo
from aigc_cli.images.prefetch import prefetch
from aigc_cli.images.reader import ImageFault, hash_image_file
from aigc_cli.images.sample import TARGETS, Sample
from aigc_cli.metrics.by_name import make_metric_rows
from aigc_cli.metrics.choices import make_choice_rows
from aigc_cli.mos_scale import MosScale
from aigc_cli.progress import Progress
from aigc_cli.prompts.record import RECORDED_SETTINGS
from aigc_cli.recipe import Recipe
from aigc_cli.storage.cache import find_cache_folder
from aigc_cli.storage.pair_tables import Preference
from aigc_cli.storage.rating_tables import read_ratings
from aigc_cli.text import to_printable
from aigc_cli.workflows.experiment.source import Source

if TYPE_CHECKING:
    from torch import Tensor

    from aigc_cli.model.backbone import Backbone
    from aigc_cli.training.batches import TrainingData
    from aigc_cli.training.feature_store import FrozenImages
    from aigc_cli.training.pairs import Pairs

IMAGES_AT_ONCE = 32
NOT_HUMAN = (
    "No --data given: using the built-in demonstration set. Its scores are computed from how the images were rendered; "
    "they are not human scores."
)


@dataclass(frozen=True)
class RatedImages:
    """Readable rated images, and the images that were left out.

    Attributes:
        digests: SHA-256 of each image's bytes.
        skipped: (name, reason) of the others.
        choices: between two of the images, by their names.
    """

    samples: Sequence[Sample]
    digests: Sequence[str]
    skipped: Sequence[tuple[str, str]]
    choices: Sequence[Preference] = ()

    def list_targets(self, rows: Sequence[int]) -> list[str]:
        """The targets for which at least one of `rows` was rated, or chosen from another one."""
        names = {self.samples[row].name for row in rows}
        asked = {choice.question for choice in self.choices if choice.a in names and choice.b in names}
        return [t for t in TARGETS if t in asked or any(self.samples[row].get_mos(t) is not None for row in rows)]

    def list_groups(self, by: str) -> list[str]:
        """The group of each row: its prompt, its name, or a column of the table."""
        if by == "prompt":
            return [sample.topic for sample in self.samples]
        if by == "name":
            return [sample.name for sample in self.samples]
        known = sorted({name for sample in self.samples for name in sample.groups})
        if by not in known:
            raise AigcError(
                f"Expected a column to group by out of prompt, name, {', '.join(known) or 'none other'}, found '{by}'.",
                "Check the table's header.",
            )
        return [sample.groups[by] for sample in self.samples]


def read_rated(source: Source, scale: MosScale, progress: Progress, with_prompts: bool = False) -> RatedImages:
    """The rated images of `source` whose file can be read; without a table, the demonstration set is rendered.

    Args:
        with_prompts: whether images without a prompt are left out; they are rated for quality only.

    Raises:
        AigcError: the table has a fault, or no image is left.
    """
    samples = list[Sample]()
    if source.data is not None:
        samples = read_ratings(
            source.data,
            source.folder,
            scale=scale,
            columns=source.select_columns(source.data),
            sep=source.sep,
            say=progress.say,
        )
    elif source.pairs is None:
        source.check()
        samples = _render_demonstration(progress)
    choices, samples = _join_choices(*source.read_choices(), samples)
    kept, digests, skipped = [], [], []
    progress.start("reading images", len(samples))
    for sample in samples:
        progress.advance()
        if not sample.prompt and (with_prompts or sample.mos_quality is None):
            skipped.append((sample.name, "no_prompt"))
            continue
        try:
            digests.append(hash_image_file(sample.path))
            kept.append(sample)
        except ImageFault as fault:
            skipped.append((sample.name, fault.reason))
    rated = _check_not_empty(RatedImages(kept, digests, skipped, choices), source.describe())
    for target in sorted(set(TARGETS) - set(rated.list_targets(range(len(kept))))):
        progress.say(f"No {target} scores in {source.describe()}: a model trained on it gives none.")
    return rated


def _join_choices(
    choices: Sequence[Preference], places: Mapping[str, Path], samples: Sequence[Sample]
) -> tuple[list[Preference], list[Sample]]:
    """Choices and samples with one name for each file; images that only the choices name are added, without scores.

    Raises:
        AigcError: an image has several prompts.
    """
    of_path, found = {sample.path: sample for sample in samples}, list(samples)
    for choice in choices:
        for name in (choice.a, choice.b):
            path = places[name]
            if path not in of_path:
                of_path[path] = Sample(name, path, choice.prompt)
                found.append(of_path[path])
            if (known := of_path[path].prompt) != choice.prompt:
                shown = f"'{to_printable(choice.prompt, 60)}' and '{to_printable(known or '', 60)}'"
                raise AigcError(f"Expected one prompt for {to_printable(name)}, found {shown}.", "Correct the tables.")
    names = {name: of_path[path].name for name, path in places.items()}
    return [replace(choice, a=names[choice.a], b=names[choice.b]) for choice in choices], found


def _render_demonstration(progress: Progress) -> list[Sample]:
    progress.say(NOT_HUMAN)
    folder = find_cache_folder() / "demo"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentProblem(
            f"The cache folder {folder} can't be made: {error.strerror}.",
            "Set AIGC_CACHE to a folder that can be written.",
        ) from error
    return render_demo(folder)


def add_recorded_setting(rated: RatedImages, by: str | None, progress: Progress) -> RatedImages:
    """Adds the column `by` when it is a setting that generators record in images, and not a column of the table.

    Raises:
        AigcError: no image records it.
    """
    if by not in RECORDED_SETTINGS or any(by in sample.groups for sample in rated.samples):
        return rated
    progress.start(f"reading {by} from images", len(rated.samples))
    values: list[str | None] = []
    paths = [sample.path for sample in rated.samples]
    for chunk, found in prefetch(paths, lambda path: decode_file(path).record.get_settings()[by], IMAGES_AT_ONCE):
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


def _check_not_empty(rated: RatedImages, where: str) -> RatedImages:
    if not rated.samples:
        reasons = ", ".join(sorted({reason for _, reason in rated.skipped})) or "no rows"
        raise AigcError(f"Expected rated images in {where}, found none usable ({reasons}).", "Check --images.")
    return rated


def drop_undecoded(rated: RatedImages, names: Collection[str]) -> RatedImages:
    """`rated` without the images that could not be decoded, which are not in `names`; finds the reason of each."""
    skipped = list(rated.skipped)
    for sample in (sample for sample in rated.samples if sample.name not in names):
        try:
            decode_file(sample.path)
            skipped.append((sample.name, "unreadable"))
        except ImageFault as fault:
            skipped.append((sample.name, fault.reason))
    return _select_rows(rated, [row for row, sample in enumerate(rated.samples) if sample.name in names], skipped)


def _select_rows(rated: RatedImages, rows: Sequence[int], skipped: Sequence[tuple[str, str]]) -> RatedImages:
    samples, digests = [rated.samples[row] for row in rows], [rated.digests[row] for row in rows]
    return RatedImages(samples, digests, skipped, rated.choices)


def freeze_images(
    backbone: "Backbone", boundary: int, rated: RatedImages, recipe: Recipe, cache: bool | float, progress: Progress
) -> "tuple[FrozenImages, RatedImages]":
    """The images at the freeze boundary, with computed evaluation views; leaves out images that can't be decoded.

    Args:
        boundary: the number of frozen blocks of the image tower, see `Freezing`.
        cache: see `Compute`; nothing is stored when nothing is frozen.
    """
    from aigc_cli.training.feature_store import EVALUATION, FrozenImages, ViewSettings

    settings = ViewSettings(recipe.crop_scale_min, recipe.flip)
    store = find_cache_folder() if cache is not False and recipe.freeze != "none" else None
    limit = math.inf if cache is True else 1e9 * cache

    def freeze(of: RatedImages) -> FrozenImages:
        return FrozenImages(backbone, boundary, [s.path for s in of.samples], of.digests, settings, store, limit)

    images = freeze(rated)
    faults = images.prepare({EVALUATION: range(len(rated.samples))}, progress)
    if not faults:
        return images, rated
    kept = [row for row in range(len(rated.samples)) if row not in faults]
    skipped = [*rated.skipped, *((rated.samples[row].name, reason) for row, reason in sorted(faults.items()))]
    whole = _select_rows(rated, kept, skipped)
    return freeze(_check_not_empty(whole, "the table")), whole


def prepare_views(images: "FrozenImages", rows: Sequence[int], recipe: Recipe, progress: Progress) -> None:
    """Computes the recipe's views of images `rows`, all of which could be read before.

    Raises:
        EnvironmentProblem: one can't be read any more, or the disk is full.
    """
    from aigc_cli.training.feature_store import explain_changed_image, list_views

    for row, reason in images.prepare(dict.fromkeys(list_views(recipe), rows), progress).items():
        raise explain_changed_image(images.paths[row], reason)


def hash_rated(rated: RatedImages) -> str:
    """A short digest of the images, their prompts and their scores."""
    pairs = zip(rated.samples, rated.digests, strict=True)
    rows = [[sample.name, digest, sample.prompt, sample.mos_quality, sample.mos_align] for sample, digest in pairs]
    rows += [[*astuple(choice)] for choice in rated.choices]
    return sha256(json.dumps(rows).encode()).hexdigest()[:16]


def make_training_data(
    images: "FrozenImages", text_boundary: int, rated: RatedImages, scale: MosScale
) -> "TrainingData":
    """Images, prompts and scores as the training loop reads them."""
    import torch

    from aigc_cli.training.batches import TrainingData
    from aigc_cli.training.feature_store import FrozenTexts

    prompts = [sample.topic for sample in rated.samples]
    scores = [
        [math.nan if (mos := sample.get_mos(target)) is None else scale.to_unit(mos) for target in TARGETS]
        for sample in rated.samples
    ]
    device = next(images.backbone.image.module.parameters()).device
    texts = FrozenTexts(images.backbone, text_boundary, prompts, images.store)
    targets = torch.tensor(scores, dtype=torch.float32, device=device)
    return TrainingData(images, texts, prompts, targets, make_pairs(rated))


def make_pairs(rated: RatedImages) -> "Pairs":
    """The choices between readable images, by their rows."""
    import torch

    from aigc_cli.training.pairs import Pairs

    place = {sample.name: row for row, sample in enumerate(rated.samples)}
    known = [choice for choice in rated.choices if choice.a in place and choice.b in place]
    a, b = (torch.tensor([place[getattr(c, side)] for c in known], dtype=torch.long) for side in ("a", "b"))
    questions = torch.tensor([TARGETS.index(choice.question) for choice in known], dtype=torch.long)
    return Pairs(a, b, questions, torch.tensor([choice.preferred for choice in known]))


def convert_to_mos(score: "Tensor", scale: MosScale) -> Any:
    """Scores on [0, 1] as MOS, clipped to the scale; float64 array of the same length."""
    return scale.to_mos(score.clamp(0, 1).double()).numpy()


def hash_prompt(prompt: str) -> str:
    """A short digest of a prompt; a model's description lists its training prompts in this form, without their text."""
    return sha256(prompt.strip().encode()).hexdigest()[:12]


def report_skipped(skipped: Sequence[tuple[str, str]], progress: Progress) -> None:
    """Says in one line which images were left out."""
    if skipped:
        shown = ", ".join(f"{name} ({reason})" for name, reason in skipped[:3])
        more = f" and {len(skipped) - 3} more" if len(skipped) > 3 else ""
        progress.say(f"Left out {len(skipped)} rows: {shown}{more}.")


ZERO_SHOT_TARGET = "zero_shot_cosine"


def make_evaluation_rows(
    scores: "Mapping[str, Tensor]",
    data: "TrainingData",
    rows: Sequence[int],
    scale: MosScale,
    labels: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Metrics of both targets on images `rows`, in MOS, and of the untrained cosine against human consistency.

    Args:
        scores: quality and consistency on [0, 1] and the untrained cosine `ZERO_SHOT_TARGET`, each (len(rows),).
    """
    if not rows:
        return []
    human = scale.to_mos(data.targets[list(rows)].cpu().double().numpy())
    predictions = {target: (convert_to_mos(scores[target], scale), human[:, i]) for i, target in enumerate(TARGETS)}
    predictions[ZERO_SHOT_TARGET] = (scores[ZERO_SHOT_TARGET].numpy(), human[:, 1])
    if len(data.pairs):  # then a target may have choices only
        predictions = {name: sides for name, sides in predictions.items() if not np.isnan(sides[1]).all()}
    return drop_cosine_error(make_metric_rows(predictions, [data.prompts[row] for row in rows], labels))


def measure_choices(
    rated: RatedImages, scores: "Mapping[str, Tensor]", rows: Sequence[int], labels: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Rows of the metrics table about the choices between images `rows`; `scores` as in `make_evaluation_rows`."""
    if not rated.choices:
        return []
    names = [rated.samples[row].name for row in rows]
    of = {target: dict(zip(names, scores[target].tolist(), strict=True)) for target in TARGETS}
    return make_choice_rows(rated.choices, of, labels)


def drop_cosine_error(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the metrics table without the RMSE of the cosine, which is not a MOS."""
    return [row for row in rows if (row["target"], row["metric"]) != (ZERO_SHOT_TARGET, "rmse")]
