"""The states of images and prompts at the freeze boundary, from the feature store or computed."""

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aigc_cli.errors import EnvironmentProblem
from aigc_cli.images.decoder import decode_file
from aigc_cli.images.prefetch import prefetch
from aigc_cli.images.preprocess import Pixels
from aigc_cli.images.reader import ImageFault, hash_image_file
from aigc_cli.model.backbone import Backbone, average_text_parts
from aigc_cli.model.devices import limit_this_thread
from aigc_cli.model.engines import Engine, State, choose_engine, name_first_engine
from aigc_cli.progress import Progress, SilentProgress
from aigc_cli.recipe import Recipe
from aigc_cli.runtime.long_prompts import split_prompt
from aigc_cli.storage.cache import measure_features
from aigc_cli.storage.feature_bank import FeatureBank
from aigc_cli.text import format_size

EVALUATION = -1  # the image itself
VIEW_SEED = 0


@dataclass(frozen=True)
class ViewSettings:
    """How an augmented view differs from the image."""

    crop_scale_min: float  # the smallest share of the image's area that a view keeps
    flip: bool  # whether half of the views are mirrored


def list_views(recipe: Recipe) -> range:
    """The numbers of the views that training draws from; with `plain_view` the image itself is the first of them."""
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


CHUNK = 32
SHARD = 256
REPORTED_GROWTH = 100_000_000  # bytes; the store says when it grows by more


class FrozenImages:
    """The state at the freeze boundary of every image of a data set, for any view.

    With a store, `prepare` computes what is missing and `get` reads it; without one, `get` computes. Both give the same
    numbers, on a CPU to the last bit: activations are stored in float32, since float16 moved losses by 3e-4.

    An engine computes, as in scoring. Its name is part of the store's key, so the store never mixes features of two
    engines. It is made only when features are missing: most runs find all of them in the store.

    Args:
        boundary: the number of frozen blocks of the image tower, see `Freezing`.
        paths, digests: the images, all readable, and SHA-256 of each one's bytes.
        store: the folder of the feature store; None computes everything on the fly.
        limit: bytes that the store may take. If it would grow beyond, nothing is stored and `get` computes.
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
        self._asked: dict[int, set[int]] = {}  # the rows of each view in all calls of `prepare`
        self._banks: dict[int, FeatureBank] = {}
        self._pool = ThreadPoolExecutor(torch.get_num_threads(), "load", torch.set_num_threads, (1,))

    def _get_engine(self, progress: Progress) -> Engine:
        """The engine, made at the first call. It may be a fallback with other banks, so open banks are forgotten."""
        if self._engine is None:
            self._engine = choose_engine(self.backbone, self.boundary, progress)
            self._banks.clear()
        return self._engine

    def get_bank(self, view: int) -> FeatureBank:
        assert self.store is not None
        if view not in self._banks:
            key: dict[str, Any] = {
                "backbone": self.backbone.name,
                "weights": self.backbone.state_hash,
                "preprocessing": asdict(self.backbone.preprocessing) | {"resized_by": "Pillow"},
                "levels": self.backbone.describe_levels(),
                "boundary": self.boundary,
                "engine": self._engine.name if self._engine else name_first_engine(self.backbone, self.boundary),
            }
            if view != EVALUATION:
                key["view"] = {"number": view, "seed": VIEW_SEED, **asdict(self.settings)}
            self._banks[view] = FeatureBank(self.store, key)
        return self._banks[view]

    def prepare(self, rows_by_view: Mapping[int, Collection[int]], progress: Progress) -> dict[int, str]:
        """Computes and stores missing features; decodes each image once for all of its views.

        Returns:
            {row: reason} of the images that can't be decoded; every other row can be read with `get` from now on.
        """
        for view, rows in rows_by_view.items():
            self._asked.setdefault(view, set()).update(rows)
        if self.store is not None and not self._list_missing(rows_by_view):
            return {}
        if self._engine is None:
            self._get_engine(progress)
            rows_by_view = self._asked  # a fallback has other banks, which may lack rows of earlier calls
        if self.store is None:
            return self._check_images(sorted({row for rows in rows_by_view.values() for row in rows}), progress)
        return self._fill(rows_by_view, progress)

    def _fill(self, rows_by_view: Mapping[int, Collection[int]], progress: Progress) -> dict[int, str]:
        """`prepare` where there is a store and an engine."""
        wanted = self._list_missing(rows_by_view)
        if not wanted:
            return {}
        count, fits = sum(map(len, wanted.values())), None
        progress.start("views of images, frozen part", count)
        row_of = {digest: row for row, digest in enumerate(self.digests)}
        pending: dict[int, list[tuple[str, State]]] = {}
        jobs = [(row_of[digest], views) for digest, views in wanted.items()]
        faults: dict[str, str] = {}
        for chunk, loaded in prefetch(jobs, self._load_views, max(1, CHUNK // len(jobs[0][1])), limit_this_thread):
            good = []
            for (row, views), found in zip(chunk, loaded, strict=True):
                if isinstance(found, ImageFault):
                    faults[self.digests[row]] = found.reason
                else:
                    good.append((self.digests[row], views, found))
            for view, entry in self._iterate_entries(good):
                fits = self._check_limit(count, entry[1], progress) if fits is None else fits
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

    def _check_limit(self, views: int, state: State, progress: Progress) -> bool:
        """Whether the store may grow by `views` times `state`; says so when the growth is large or not allowed."""
        assert self.store is not None
        grows = views * sum(value.nbytes for value in state.values())
        if self.limit < math.inf and (total := measure_features(self.store) + grows) > self.limit:
            progress.say(
                f"The feature store would take {format_size(total)}, more than {format_size(self.limit)}: frozen "
                "features are computed each time they are needed. `aigc cache list` shows what can be removed."
            )
            return False
        if grows >= REPORTED_GROWTH:
            progress.say(f"The feature store grows by {format_size(grows)} in {self.store}.")
        return True

    def _list_missing(self, rows_by_view: Mapping[int, Collection[int]]) -> dict[str, list[int]]:
        """{digest: views} that the store does not hold yet."""
        wanted: dict[str, list[int]] = {}
        for view, rows in rows_by_view.items():
            for digest in self.get_bank(view).list_missing(self.digests[row] for row in rows):
                wanted.setdefault(digest, []).append(view)
        return wanted

    def _load_views(self, job: tuple[int, Sequence[int]]) -> list[Any]:
        """Runs the engine on one image's views, one by one: in a batch, the last bits could depend on other images."""
        row, views = job
        if hash_image_file(self.paths[row]) != self.digests[row]:
            raise explain_changed_image(self.paths[row], "other content")
        engine = self._get_engine(SilentProgress())
        return [engine.run_one(torch.from_numpy(pixels)) for pixels in self._iterate_views(row, views)]

    def _iterate_views(self, row: int, views: Sequence[int]) -> Iterator[Pixels]:
        """Yields an image's views at the tower's size. The decoding process resizes the image itself, but no crops."""
        preprocessing = self.backbone.preprocessing
        if [*views] == [EVALUATION]:
            yield decode_file(self.paths[row], preprocessing).pixels
            return
        pixels = decode_file(self.paths[row]).pixels
        for view in views:
            yield preprocessing.fit_size(augment(pixels, self.digests[row], view, self.settings))

    def _iterate_entries(
        self, good: Sequence[tuple[str, list[int], list[Any]]]
    ) -> Iterator[tuple[int, tuple[str, State]]]:
        """Yields (view, (digest, state of one image)) of loaded images."""
        if not good:
            return
        state = self._get_engine(SilentProgress()).collect([view for _, _, found in good for view in found])
        names = [(digest, view) for digest, views, _ in good for view in views]
        for position, (digest, view) in enumerate(names):
            yield view, (digest, {name: value[position].cpu().clone() for name, value in state.items()})

    def _check_images(self, rows: Sequence[int], progress: Progress) -> dict[int, str]:
        """{row: reason} of the images that can't be decoded."""
        progress.start("checking images", len(rows))
        faults: dict[int, str] = {}
        for chunk, decoded in prefetch(rows, lambda row: decode_file(self.paths[row]).width, CHUNK):
            faults |= {r: d.reason for r, d in zip(chunk, decoded, strict=True) if isinstance(d, ImageFault)}
            progress.advance(len(chunk))
        return faults

    def get(self, rows: Sequence[int], views: Sequence[int]) -> State:
        """The boundary state of images `rows`, each in its own view; float32 on the backbone's device."""
        begun, out = time.perf_counter(), State()
        if self.store is None:
            engine = self._get_engine(SilentProgress())
            jobs = [(row, [view]) for row, view in zip(rows, views, strict=True)]
            out = engine.collect([found for (found,) in self._pool.map(self._reload_views, jobs)])
            views = ()
        device = next(self.backbone.image.module.parameters()).device
        for view in dict.fromkeys(views):
            picked = [i for i, v in enumerate(views) if v == view]
            for name, array in self.get_bank(view).read([self.digests[rows[i]] for i in picked]).items():
                tensor = torch.from_numpy(array).to(device, torch.float32)
                if name not in out:
                    out[name] = tensor.new_empty((len(rows), *tensor.shape[1:]))
                out[name][picked] = tensor
        self.seconds += time.perf_counter() - begun
        return out

    def _reload_views(self, job: tuple[int, Sequence[int]]) -> list[Any]:
        """`_load_views` of an image that could be read before: a fault means that the file has changed."""
        try:
            return self._load_views(job)
        except ImageFault as fault:
            raise explain_changed_image(self.paths[job[0]], fault.reason) from fault

    def _flush(self, view: int, entries: Sequence[tuple[str, State]]) -> None:
        fields = entries[0][1]
        arrays = {field: torch.stack([state[field] for _, state in entries]).numpy() for field in fields}
        self.get_bank(view).append([digest for digest, _ in entries], arrays)


class FrozenTexts:
    """The state at the freeze boundary of every distinct prompt of a data set, each computed once.

    A prompt that is longer than the text tower's window is embedded in parts, as in scoring.

    Args:
        store: the folder of the feature store, which keeps the embeddings of a wholly frozen tower; None computes them.
    """

    def __init__(self, backbone: Backbone, boundary: int, prompts: Sequence[str], store: Path | None = None) -> None:
        self.backbone, self.boundary = backbone, boundary
        self.prompts = list(dict.fromkeys(prompts))
        parts = {prompt: split_prompt(prompt, backbone.truncates) for prompt in self.prompts}
        texts = list(dict.fromkeys(part for pieces in parts.values() for part in pieces))
        row = {text: index for index, text in enumerate(texts)}
        self._rows = {prompt: [row[part] for part in pieces] for prompt, pieces in parts.items()}
        whole = boundary > len(backbone.text.blocks)
        self._state = self._embed_all(texts, store) if whole else self._compute(texts, CHUNK)

    def _compute(self, texts: Sequence[str], size: int) -> State:
        """The boundary state of `texts`, computed `size` at a time.

        With a size of 1 each text is tokenised by itself, otherwise all together: a tokeniser may pad to its longest
        text, and all texts that can meet in one training batch need the same length.
        """
        device = next(self.backbone.text.module.parameters()).device
        if size == 1:
            parts = [self.backbone.tokenize([text]) for text in texts]
        else:
            parts = list(torch.split(self.backbone.tokenize(texts), size)) if texts else []

        def compute(tokens: Tensor) -> State:
            with torch.no_grad():
                return self.backbone.run_text_to_boundary(tokens.to(device), self.boundary)

        if device.type != "cpu" or size > 1:
            return _concat_states([compute(part) for part in parts])
        with ThreadPoolExecutor(torch.get_num_threads(), "texts", torch.set_num_threads, (1,)) as pool:
            return _concat_states(list(pool.map(compute, parts)))

    def _embed_all(self, texts: Sequence[str], store: Path | None) -> State:
        """The embeddings of `texts`, read from the store or computed and stored.

        On a CPU each text runs by itself, so that stored embeddings do not depend on other texts.
        """
        device = next(self.backbone.text.module.parameters()).device
        size = 1 if device.type == "cpu" else CHUNK
        if store is None or not texts:
            return self._compute(texts, size)
        key = {"backbone": self.backbone.name, "weights": self.backbone.state_hash, "boundary": self.boundary}
        bank = FeatureBank(store, {**key, "texts": True})
        name_of = {text: sha256(text.encode()).hexdigest() for text in texts}
        missing = set(bank.list_missing(name_of.values()))
        if new := [text for text in texts if name_of[text] in missing]:
            found = self._compute(new, size)
            bank.append([name_of[text] for text in new], {name: value.cpu().numpy() for name, value in found.items()})
        stored = bank.read([name_of[text] for text in texts])
        return {name: torch.from_numpy(value).to(device) for name, value in stored.items()}

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """L2-normalised embeddings (len(prompts), D); each distinct prompt runs once through the rest of the tower."""
        distinct = list(dict.fromkeys(prompts))
        rows = torch.tensor([row for prompt in distinct for row in self._rows[prompt]])
        state = {name: value[rows.to(value.device)] for name, value in self._state.items()}
        parts = self.backbone.run_text_from_boundary(state, self.boundary)
        embeddings = average_text_parts(parts, [len(self._rows[prompt]) for prompt in distinct])
        position = {prompt: index for index, prompt in enumerate(distinct)}
        return embeddings[torch.tensor([position[prompt] for prompt in prompts], device=embeddings.device)]


def _concat_states(parts: Sequence[State]) -> State:
    return {name: torch.cat([part[name] for part in parts]) for name in (parts[0] if parts else {})}


def explain_changed_image(path: Path, found: str) -> EnvironmentProblem:
    """The error for an image that changed since the run began; `found` says what it is now."""
    return EnvironmentProblem(f"Expected {path.name} as it was at the start, found {found}.", "Put the image back.")
