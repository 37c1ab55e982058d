"""Everything before the freeze boundary, computed once for each image and view, from the store or on the fly."""

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from aigc_cli.errors import EnvironmentProblem
from aigc_cli.images.decoder import decode_file
from aigc_cli.images.reader import ImageFault, Pixels, image_digest, read_bytes
from aigc_cli.model.backbone import Backbone
from aigc_cli.model.engines import Engine, State, automatic, chosen
from aigc_cli.model.long_prompts import joined, parts_of
from aigc_cli.progress import Progress, Silent
from aigc_cli.recipe import Recipe
from aigc_cli.storage.feature_bank import Bank, shown_size, store_size

Job = TypeVar("Job")
Loaded = TypeVar("Loaded")

EVALUATION = -1
VIEW_SEED = 0
CHUNK = 32
SHARD = 256
WAITING = 2  # loading threads beyond those that compute
WORTH_SAYING = 100_000_000  # bytes


@dataclass(frozen=True)
class ViewSettings:
    """How a cached augmented view differs from the evaluation view.

    Attributes:
        crop_scale_min: the smallest share of the image's area that a view keeps.
        flip: whether half of the views are mirrored.
    """

    crop_scale_min: float
    flip: bool


def views_of(recipe: Recipe) -> range:
    """The views that training draws from: augmented ones, from 0, and first the image itself where that is wanted."""
    return range(EVALUATION, EVALUATION + recipe.views) if recipe.plain_view else range(recipe.views)


def augment(pixels: Pixels, digest: str, view: int, settings: ViewSettings) -> Pixels:
    """View number `view` of an image (H, W, 3): a random crop of the same aspect, mirrored or not.

    The same view of the same bytes is the same picture in every run; `EVALUATION` is the image itself.
    """
    if view == EVALUATION:
        return pixels
    random = np.random.default_rng([VIEW_SEED, view, int(digest[:12], 16)])
    side = float(np.sqrt(random.uniform(settings.crop_scale_min, 1.0)))
    full_height, full_width = pixels.shape[:2]
    width, height = max(1, round(full_width * side)), max(1, round(full_height * side))
    left, top = random.integers(full_width - width + 1), random.integers(full_height - height + 1)
    pixels = pixels[top : top + height, left : left + width]
    if settings.flip and random.random() < 0.5:
        pixels = pixels[:, ::-1]
    return pixels


class ImageFeatures:
    """The state at the freeze boundary of every image of a data set, for any view.

    With a store, `prepare` computes what is missing and `get` reads it; without one, `get` computes. Both give the same
    numbers, on a CPU to the last bit: activations are stored in float32, since float16 moved losses by 3e-4.

    What computes is an engine, as in scoring. Its name is part of the store's key, so that what one engine left off is
    never finished by another; it is made when there is something to compute, which in most runs there is not.

    Args:
        backbone: its image tower is used in eval mode up to the boundary.
        boundary: the number of frozen blocks of the image tower, see `Freezing`.
        paths: the images, all readable.
        digests: SHA-256 of each image's bytes.
        settings: how augmented views are made.
        store: the folder of the feature store; None computes everything on the fly.
        limit: bytes that the store may take; what would exceed it is computed on the fly instead.
    """

    def __init__(
        self,
        backbone: Backbone,
        boundary: int,
        paths: Sequence[Path],
        digests: Sequence[str],
        settings: ViewSettings,
        store: Path | None,
        limit: float = math.inf,
    ) -> None:
        self.backbone, self.boundary = backbone, boundary
        self.paths, self.digests, self.settings = paths, digests, settings
        self.store, self.limit = store, limit
        self.seconds = 0.0  # spent in `get`
        self._engine: Engine | None = None
        self._asked: dict[int, set[int]] = {}  # the rows of each view that `prepare` was asked for
        self._banks: dict[int, Bank] = {}
        self._pool = ThreadPoolExecutor(torch.get_num_threads(), "load", torch.set_num_threads, (1,))

    def _started(self, progress: Progress) -> Engine:
        """The engine, made when it is first asked for; where it is another than was expected, so are the banks."""
        if self._engine is None:
            self._engine = chosen(self.backbone, "auto", progress, self.boundary)
            self._banks.clear()
        return self._engine

    def bank(self, view: int) -> Bank:
        """The store's bank for one view."""
        assert self.store is not None
        if view not in self._banks:
            key: dict[str, Any] = {
                "backbone": self.backbone.name,
                "weights": self.backbone.weights_hash,
                "preprocessing": asdict(self.backbone.preprocessing),
                "levels": self.backbone.hints.levels,
                "boundary": self.boundary,
                "engine": self._engine.name if self._engine else automatic(self.backbone, self.boundary),
            }
            if view != EVALUATION:
                key["view"] = {"number": view, "seed": VIEW_SEED, **asdict(self.settings)}
            self._banks[view] = Bank(self.store, key)
        return self._banks[view]

    def prepare(self, rows_by_view: Mapping[int, Collection[int]], progress: Progress) -> dict[int, str]:
        """Computes and stores what is missing, each image decoded once for all of its views.

        Returns:
            {row: reason} of the images that can't be decoded; every other row can be read with `get` from now on.
        """
        for view, rows in rows_by_view.items():
            self._asked.setdefault(view, set()).update(rows)
        if self.store is not None and not self._missing(rows_by_view):
            return {}
        if self._engine is None:
            self._started(progress)
            rows_by_view = self._asked  # a fallback has other banks, which may lack what was there before
        if self.store is None:
            return self._check(sorted({row for rows in rows_by_view.values() for row in rows}), progress)
        return self._fill(rows_by_view, progress)

    def _fill(self, rows_by_view: Mapping[int, Collection[int]], progress: Progress) -> dict[int, str]:
        """`prepare` where there is a store and an engine."""
        wanted = self._missing(rows_by_view)
        if not wanted:
            return {}
        count, fits = sum(map(len, wanted.values())), None
        progress.start("views of images, frozen part", count)
        row_of = {digest: row for row, digest in enumerate(self.digests)}
        pending: dict[int, list[tuple[str, State]]] = {}
        jobs = [(row_of[digest], views) for digest, views in wanted.items()]
        faults: dict[str, str] = {}
        for chunk, loaded in prefetch(jobs, self._load, max(1, CHUNK // len(jobs[0][1]))):
            good = []
            for (row, views), found in zip(chunk, loaded, strict=True):
                if isinstance(found, ImageFault):
                    faults[self.digests[row]] = found.reason
                else:
                    good.append((self.digests[row], views, found))
            for view, entry in self._entries(good):
                fits = self._fits(count, entry[1], progress) if fits is None else fits
                if not fits:
                    self.store = None
                    return self.prepare(rows_by_view, progress)
                pending.setdefault(view, []).append(entry)
            for view in [view for view, entries in pending.items() if len(entries) >= SHARD]:
                self._flush(view, pending.pop(view))
            progress.advance(sum(len(views) for _, views in chunk))
        for view, entries in pending.items():
            self._flush(view, entries)
        return {row: faults[digest] for row, digest in enumerate(self.digests) if digest in faults}

    def _fits(self, views: int, state: State, progress: Progress) -> bool:
        """Whether the store may grow by `views` times `state`; says by how much where that is much, or too much."""
        assert self.store is not None
        grows = views * sum(value.nbytes for value in state.values())
        if self.limit < math.inf and (total := store_size(self.store) + grows) > self.limit:
            progress.say(
                f"The feature store would take {shown_size(total)}, more than {shown_size(self.limit)}: what is frozen "
                "is computed again each time it is needed. `aigc cache list` shows what can go."
            )
            return False
        if grows >= WORTH_SAYING:
            progress.say(f"The feature store grows by {shown_size(grows)} in {self.store}.")
        return True

    def _missing(self, rows_by_view: Mapping[int, Collection[int]]) -> dict[str, list[int]]:
        """{digest: views} of what the store does not hold yet."""
        wanted: dict[str, list[int]] = {}
        for view, rows in rows_by_view.items():
            for digest in self.bank(view).missing(self.digests[row] for row in rows):
                wanted.setdefault(digest, []).append(view)
        return wanted

    def _load(self, job: tuple[int, Sequence[int]]) -> list[Any]:
        """What the engine makes of one image's views, each by itself.

        Another batch may move the last bits; so what is stored does not depend on its neighbours, nor on where a killed
        run ended.
        """
        row, views = job
        if digest_of(self.paths[row]) != self.digests[row]:
            raise image_changed(self.paths[row], "other content")
        pixels, digest = decode_file(self.paths[row]).pixels, self.digests[row]
        engine, fitted = self._started(Silent()), self.backbone.preprocessing.fitted
        return [engine.each(fitted(augment(pixels, digest, view, self.settings))) for view in views]

    def _entries(self, good: Sequence[tuple[str, list[int], list[Any]]]) -> Iterator[tuple[int, tuple[str, State]]]:
        """(view, (digest, state of one image)) of loaded images."""
        if not good:
            return
        state = self._started(Silent()).together([view for _, _, found in good for view in found])
        names = [(digest, view) for digest, views, _ in good for view in views]
        for position, (digest, view) in enumerate(names):
            yield view, (digest, {name: value[position].cpu().clone() for name, value in state.items()})

    def _check(self, rows: Sequence[int], progress: Progress) -> dict[int, str]:
        """Decodes images only to know which ones can be."""
        progress.start("checking images", len(rows))
        faults: dict[int, str] = {}
        for chunk, decoded in prefetch(rows, lambda row: decode_file(self.paths[row]).width, CHUNK):
            faults |= {r: d.reason for r, d in zip(chunk, decoded, strict=True) if isinstance(d, ImageFault)}
            progress.advance(len(chunk))
        return faults

    def get(self, rows: Sequence[int], views: Sequence[int]) -> State:
        """The boundary state of images `rows`, each in its own view; float32 on the backbone's device."""
        begun = time.perf_counter()
        try:
            return self._get(rows, views)
        finally:
            self.seconds += time.perf_counter() - begun

    def _get(self, rows: Sequence[int], views: Sequence[int]) -> State:
        if self.store is None:
            engine = self._started(Silent())
            jobs = [(row, [view]) for row, view in zip(rows, views, strict=True)]
            return engine.together([found for (found,) in self._pool.map(self._load_again, jobs)])
        device, out = next(self.backbone.image.module.parameters()).device, State()
        for view in dict.fromkeys(views):
            picked = [i for i, v in enumerate(views) if v == view]
            for name, array in self.bank(view).read([self.digests[rows[i]] for i in picked]).items():
                tensor = torch.from_numpy(array).to(device, torch.float32)
                if name not in out:
                    out[name] = tensor.new_empty((len(rows), *tensor.shape[1:]))
                out[name][picked] = tensor
        return out

    def _load_again(self, job: tuple[int, Sequence[int]]) -> list[Any]:
        """`_load` of an image that could be read before."""
        try:
            return self._load(job)
        except ImageFault as fault:
            raise image_changed(self.paths[job[0]], fault.reason) from fault

    def _flush(self, view: int, entries: Sequence[tuple[str, State]]) -> None:
        fields = entries[0][1]
        arrays = {field: torch.stack([state[field] for _, state in entries]).numpy() for field in fields}
        self.bank(view).append([digest for digest, _ in entries], arrays)


def prefetch(
    jobs: Sequence[Job], load: Callable[[Job], Loaded], size: int
) -> Iterator[tuple[Sequence[Job], list[Loaded | ImageFault]]]:
    """Chunks of `size` jobs with what `load` made of each, or the ImageFault it raised.

    The next two chunks are loaded while the caller works on one, in two threads more than PyTorch would use: some are
    always waiting for a decoder's answer. Pillow, PyTorch and the other engines work outside Python's lock.
    """

    def attempt(job: Job) -> Loaded | ImageFault:
        try:
            return load(job)
        except ImageFault as fault:
            return fault

    chunks = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    threads = torch.get_num_threads()
    workers = max(1, min(threads + WAITING, len(jobs)))
    with ThreadPoolExecutor(workers, "load", torch.set_num_threads, (max(1, threads // workers),)) as pool:
        queue = [[pool.submit(attempt, job) for job in chunk] for chunk in chunks[:2]]
        for position, chunk in enumerate(chunks):
            loaded = [future.result() for future in queue.pop(0)]
            if position + 2 < len(chunks):
                queue.append([pool.submit(attempt, job) for job in chunks[position + 2]])
            yield chunk, loaded


class TextFeatures:
    """The state at the freeze boundary of every distinct prompt of a data set, each computed once.

    A prompt that is longer than the text tower's window is embedded in parts, as when images are scored.

    Args:
        store: the folder of the feature store, for the embeddings of a tower that is frozen as a whole; None computes.
    """

    def __init__(self, backbone: Backbone, boundary: int, prompts: Sequence[str], store: Path | None = None) -> None:
        self.backbone, self.boundary = backbone, boundary
        self.prompts = list(dict.fromkeys(prompts))
        parts = {prompt: parts_of(prompt, backbone.truncates) for prompt in self.prompts}
        texts = list(dict.fromkeys(part for pieces in parts.values() for part in pieces))
        row = {text: index for index, text in enumerate(texts)}
        self._rows = {prompt: [row[part] for part in pieces] for prompt, pieces in parts.items()}
        whole = boundary > len(backbone.text.blocks)
        self._state = self._embedded(texts, store) if whole else self._computed(texts, CHUNK)

    def _computed(self, texts: Sequence[str], size: int) -> State:
        """The boundary state of `texts`, so many at a time.

        All are tokenised together, or each by itself: a tokeniser that pads to its longest text must give all the
        texts that one batch of training can bring together the same length.
        """
        device = next(self.backbone.text.module.parameters()).device
        if size == 1:
            parts = [self.backbone.tokenize([text]) for text in texts]
        else:
            parts = list(torch.split(self.backbone.tokenize(texts), size)) if texts else []

        def compute(tokens: Tensor) -> State:
            with torch.no_grad():
                return self.backbone.text_boundary(tokens.to(device), self.boundary)

        if device.type != "cpu" or size > 1:
            return _stacked([compute(part) for part in parts])
        with ThreadPoolExecutor(torch.get_num_threads(), "texts", torch.set_num_threads, (1,)) as pool:
            return _stacked(list(pool.map(compute, parts)))

    def _embedded(self, texts: Sequence[str], store: Path | None) -> State:
        """The embeddings of `texts`, from the store where they are there.

        On a CPU each text runs by itself, so that what is stored does not depend on its neighbours.
        """
        device = next(self.backbone.text.module.parameters()).device
        size = 1 if device.type == "cpu" else CHUNK
        if store is None or not texts:
            return self._computed(texts, size)
        key = {"backbone": self.backbone.name, "weights": self.backbone.weights_hash, "boundary": self.boundary}
        bank = Bank(store, {**key, "texts": True})
        name_of = {text: sha256(text.encode()).hexdigest() for text in texts}
        missing = set(bank.missing(name_of.values()))
        if new := [text for text in texts if name_of[text] in missing]:
            found = self._computed(new, size)
            bank.append([name_of[text] for text in new], {name: value.cpu().numpy() for name, value in found.items()})
        stored = bank.read([name_of[text] for text in texts])
        return {name: torch.from_numpy(value).to(device) for name, value in stored.items()}

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """L2-normalised embeddings (len(prompts), D); each distinct prompt runs through the rest of the tower once."""
        distinct = list(dict.fromkeys(prompts))
        rows = torch.tensor([row for prompt in distinct for row in self._rows[prompt]])
        state = {name: value[rows.to(value.device)] for name, value in self._state.items()}
        parts = self.backbone.text_from_boundary(state, self.boundary)
        embeddings = joined(parts, [len(self._rows[prompt]) for prompt in distinct])
        position = {prompt: index for index, prompt in enumerate(distinct)}
        return embeddings[torch.tensor([position[prompt] for prompt in prompts], device=embeddings.device)]


def _stacked(parts: Sequence[State]) -> State:
    """States of several batches as one; nothing where there is none."""
    return {name: torch.cat([part[name] for part in parts]) for name in (parts[0] if parts else {})}


def image_changed(path: Path, found: str) -> EnvironmentProblem:
    """The error for an image that is no longer what it was when the run began; `found` says what it is now."""
    return EnvironmentProblem(f"Expected {path.name} as it was at the start, found {found}.", "Put the image back.")


def digest_of(path: Path) -> str:
    """SHA-256 of the file's bytes; ImageFault when it can't be read."""
    return image_digest(read_bytes(path))
