"""Features at the freeze boundary: stored and computed ones are equal, and a bad image is one missing row."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from aigc_cli.errors import EnvironmentProblem
from aigc_cli.images.decoder import decode_file
from aigc_cli.images.reader import hash_image_file
from aigc_cli.images.sample import Sample
from aigc_cli.model import engines
from aigc_cli.model.backbone import Backbone
from aigc_cli.progress import SilentProgress
from aigc_cli.runtime.saved import UNFROZEN
from aigc_cli.training import feature_store as features_module
from aigc_cli.training.feature_store import CHUNK, EVALUATION, FrozenImages, FrozenTexts, ViewSettings, augment

VIEWS = ViewSettings(crop_scale_min=0.5, flip=True)
ALL, PARTIAL = 5, 3  # boundaries of the tiny tower's four blocks


class Counter(SilentProgress):
    """Counts the steps that were announced and done."""

    def __init__(self) -> None:
        self.total, self.done = 0, 0

    def start(self, task: str, total: int | None) -> None:
        self.total += total or 0

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.done += steps


def _features(
    backbone: Backbone, paths: Sequence[Path], store: Path | None, boundary: int = PARTIAL, views: ViewSettings = VIEWS
) -> FrozenImages:
    return FrozenImages(backbone, boundary, paths, [hash_image_file(path) for path in paths], views, store)


@pytest.fixture
def paths(demo: list[Sample]) -> list[Path]:
    return [sample.path for sample in demo[:6]]


def _computed(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The images that engines get from now on."""
    images: list[Tensor] = []

    def choose(*given: Any) -> engines.Engine:
        engine = engines.choose_engine(*given)

        def run_one(pixels: Tensor) -> Any:
            images.append(pixels)
            return engine.run_one(pixels)

        return replace(engine, run_one=run_one)

    monkeypatch.setattr(features_module, "choose_engine", choose)
    return images


@pytest.mark.parametrize("boundary", [0, PARTIAL, 4, ALL])
@pytest.mark.parametrize("view", [EVALUATION, 0, 1])
def test_stored_features_are_the_computed_ones(
    tiny: Backbone, paths: list[Path], tmp_path: Path, boundary: int, view: int
) -> None:
    rows = range(len(paths))
    stored = _features(tiny, paths, tmp_path, boundary)
    assert stored.prepare({view: rows}, SilentProgress()) == {}
    order = [4, 0, 0, 2]
    found = stored.get(order, [view] * 4)
    expected = _features(tiny, paths, None, boundary).get(order, [view] * 4)
    assert set(found) == set(expected) == ({"embedding", "levels"} if boundary == ALL else {"hidden", "levels"})
    for name, value in found.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-5)
        assert torch.equal(value[1], value[2])
        assert value.shape[1:].numel() == 0 or not torch.equal(value[0], value[1])


def test_rows_of_several_views_keep_their_places(tiny: Backbone, paths: list[Path], tmp_path: Path) -> None:
    stored = _features(tiny, paths, tmp_path, ALL)
    stored.prepare({view: range(6) for view in (EVALUATION, 0, 1)}, SilentProgress())
    rows, views = [5, 1, 1, 3, 0], [1, EVALUATION, 0, 1, 0]
    together = stored.get(rows, views)["embedding"]
    for place, (row, view) in enumerate(zip(rows, views, strict=True)):
        assert torch.equal(together[place], stored.get([row], [view])["embedding"][0])
    expected = _features(tiny, paths, None, ALL).get(rows, views)["embedding"]
    torch.testing.assert_close(together, expected, atol=1e-6, rtol=0)


def test_an_unfrozen_tower_gets_pixels(tiny: Backbone, paths: list[Path]) -> None:
    found = _features(tiny, paths, None, UNFROZEN).get([1, 0], [EVALUATION, EVALUATION])
    assert set(found) == {"pixels"}
    with Image.open(paths[1]) as image:
        assert torch.equal(found["pixels"][0], tiny.transform(image.convert("RGB")))


# --- views


def test_a_view_is_the_same_twice_and_unlike_every_other(tiny: Backbone, paths: list[Path]) -> None:
    views = [EVALUATION, 0, 1, 2]
    once, again = (_features(tiny, paths, None, UNFROZEN).get([0] * 4, views)["pixels"] for _ in range(2))
    assert torch.equal(once, again)
    for i in range(4):
        for j in range(i):
            assert not torch.equal(once[i], once[j]), (views[i], views[j])


def test_the_evaluation_view_is_the_image_itself(noise_image: Image.Image) -> None:
    pixels = np.array(noise_image)
    assert augment(pixels, "0" * 64, EVALUATION, VIEWS) is pixels


@pytest.mark.parametrize("least", [0.25, 0.8, 1.0])
def test_a_view_keeps_the_aspect_and_enough_of_the_area(least: float) -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    shares = []
    for view in range(40):
        height, width, _ = augment(image, f"{view:064x}"[::-1], view, ViewSettings(least, False)).shape
        assert width / height == pytest.approx(1.5, rel=0.02)
        shares.append(width * height / 60_000)
    assert min(shares) >= least - 0.02
    assert max(shares) <= 1
    assert (max(shares) - min(shares) > 0.1) == (least < 1)


def test_half_of_the_views_are_mirrored_where_that_is_asked_for() -> None:
    image = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(9, axis=0)
    for flip, low, high in ((False, 0, 0), (True, 30, 70)):
        settings = ViewSettings(1.0, flip)
        views = [augment(image, f"{view:064x}", view, settings) for view in range(100)]
        assert low <= sum(int(view[0, 0, 0]) > int(view[0, -1, 0]) for view in views) <= high


def test_views_do_not_depend_on_the_run(noise_image: Image.Image) -> None:
    """Pinned: a view that an earlier version stored must be this one, or FORMAT_VERSION goes up."""
    pixels = np.array(noise_image)
    found = augment(pixels, "c0ffee" + "0" * 58, 3, ViewSettings(0.5, True))
    assert found.shape == (28, 47, 3)
    assert sha256(found.tobytes()).hexdigest().startswith("3c81e23ba428ca75")
    other = augment(pixels, "decade" + "0" * 58, 3, ViewSettings(0.5, True))
    assert other.tobytes() != found.tobytes()


# --- the store


def test_what_is_stored_is_not_computed_again(
    tiny: Backbone, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = _computed(monkeypatch)
    wanted = {EVALUATION: range(6), 0: range(3)}
    first, second = Counter(), Counter()
    _features(tiny, paths, tmp_path).prepare(wanted, first)
    assert len(computed) == 9
    assert (first.total, first.done) == (9, 9)
    features = _features(tiny, paths, tmp_path)
    assert features.prepare(wanted, second) == {}
    features.get(range(6), [EVALUATION] * 6)
    assert len(computed) == 9
    assert (second.total, second.done) == (0, 0)
    _features(tiny, paths, tmp_path).prepare({EVALUATION: range(6), 0: range(6)}, SilentProgress())
    assert len(computed) == 12  # three views more, not twelve


def test_an_image_that_stands_twice_is_computed_once(
    tiny: Backbone, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = tmp_path / "twin.jpg"
    shutil.copy(paths[0], twin)
    computed = _computed(monkeypatch)
    features = _features(tiny, [paths[0], twin, paths[1]], tmp_path / "store")
    features.prepare({EVALUATION: [0, 1, 2]}, SilentProgress())
    assert len(computed) == 2
    state = features.get([0, 1], [EVALUATION] * 2)["hidden"]
    assert torch.equal(state[0], state[1])


def test_more_images_than_a_chunk(tiny: Backbone, demo: list[Sample], tmp_path: Path) -> None:
    paths = [sample.path for sample in demo]
    assert len(paths) > CHUNK
    features = _features(tiny, paths, tmp_path, ALL)
    assert features.prepare({EVALUATION: range(len(paths)), 7: range(len(paths))}, SilentProgress()) == {}
    found = features.get(range(len(paths)), [7] * len(paths))["embedding"]
    expected = _features(tiny, paths, None, ALL).get(range(len(paths)), [7] * len(paths))["embedding"]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "other",
    [{"boundary": 2}, {"views": ViewSettings(0.6, True)}, {"views": ViewSettings(0.5, False)}],
    ids=["boundary", "crop", "flip"],
)
def test_what_changes_the_numbers_changes_the_bank(
    tiny: Backbone, paths: list[Path], tmp_path: Path, other: dict[str, Any]
) -> None:
    _features(tiny, paths, tmp_path).prepare({0: range(6)}, SilentProgress())
    features = _features(tiny, paths, tmp_path, **other)
    assert len(features.get_bank(0).list_missing(features.digests)) == 6


def test_other_weights_are_another_bank(tiny: Backbone, paths: list[Path], tmp_path: Path) -> None:
    _features(tiny, paths, tmp_path).prepare({EVALUATION: range(6)}, SilentProgress())
    tiny.state_hash = "other"
    assert len(_features(tiny, paths, tmp_path).get_bank(EVALUATION).list_missing([hash_image_file(paths[0])])) == 1


def test_a_damaged_shard_is_computed_again(
    tiny: Backbone, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = _features(tiny, paths, tmp_path)
    features.prepare({EVALUATION: range(6)}, SilentProgress())
    expected = features.get(range(6), [EVALUATION] * 6)
    (array,) = features.get_bank(EVALUATION).folder.glob("*/hidden.npy")
    array.write_bytes(array.read_bytes()[:-100])
    computed = _computed(monkeypatch)
    again = _features(tiny, paths, tmp_path)
    again.prepare({EVALUATION: range(6)}, SilentProgress())
    assert len(computed) == 6
    found = again.get(range(6), [EVALUATION] * 6)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("name", ["tiny", pytest.param("mini", marks=pytest.mark.slow)])
def test_what_is_stored_does_not_depend_on_what_was_stored_before(
    name: str, paths: list[Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """After a kill, the next run computes the rest in other batches and must get the same bits."""
    backbone, views = request.getfixturevalue(name), (EVALUATION, 0, 1)
    boundary = len(backbone.image.blocks) // 2
    whole = _features(backbone, paths, tmp_path / "whole", boundary)
    whole.prepare({view: range(6) for view in views}, SilentProgress())
    for rows, some in (([5], views[1:]), ([2, 0], views[:1]), (range(6), views)):  # a new process each time
        parts = _features(backbone, paths, tmp_path / "parts", boundary)
        parts.prepare(dict.fromkeys(some, rows), SilentProgress())
    for view in views:
        expected = whole.get(range(6), [view] * 6)
        assert all(torch.equal(found, expected[key]) for key, found in parts.get(range(6), [view] * 6).items())


@pytest.mark.parametrize("store", [False, True])
def test_an_image_that_changed_since(store: bool, tiny: Backbone, paths: list[Path], tmp_path: Path) -> None:
    image = tmp_path / "image.jpg"
    shutil.copy(paths[0], image)
    features = _features(tiny, [image], tmp_path / "store" if store else None)
    shutil.copy(paths[1], image)
    with pytest.raises(EnvironmentProblem) as caught:
        features.prepare({0: [0]}, SilentProgress()) if store else features.get([0], [0])
    assert caught.value.message == "Expected image.jpg as it was at the start, found other content."


def test_an_image_that_vanished_where_nothing_is_stored(tiny: Backbone, paths: list[Path], tmp_path: Path) -> None:
    image = tmp_path / "image.jpg"
    shutil.copy(paths[0], image)
    features = _features(tiny, [image], None)
    image.unlink()
    with pytest.raises(EnvironmentProblem, match="as it was at the start, found missing_file"):
        features.get([0], [0])


# --- bad images


@pytest.mark.parametrize("stored", [True, False])
def test_a_bad_image_does_not_touch_the_others(tiny: Backbone, paths: list[Path], tmp_path: Path, stored: bool) -> None:
    half, text = tmp_path / "half.jpg", tmp_path / "text.jpg"
    half.write_bytes(paths[0].read_bytes()[:900])
    text.write_bytes(b"no image at all")
    mixed = [half, *paths[:2], text, paths[2]]
    store = tmp_path / "store" if stored else None
    features = _features(tiny, mixed, store)
    progress = Counter()
    assert features.prepare({EVALUATION: range(5), 0: range(5)}, progress) == {0: "truncated", 3: "not_an_image"}
    assert progress.done == progress.total > 0
    good = [1, 2, 4]
    for view in (EVALUATION, 0):
        found = features.get(good, [view] * 3)
        expected = _features(tiny, paths[:3], None).get([0, 1, 2], [view] * 3)
        torch.testing.assert_close(found["levels"], expected["levels"], atol=1e-5, rtol=1e-5)


def test_all_images_are_bad(tiny: Backbone, tmp_path: Path) -> None:
    bad = [tmp_path / f"{index}.png" for index in range(3)]
    for index, path in enumerate(bad):
        path.write_bytes(b"no image " * (index + 1))
    features = _features(tiny, bad, tmp_path / "store")
    assert features.prepare({EVALUATION: range(3)}, SilentProgress()) == dict.fromkeys(range(3), "not_an_image")


def test_an_image_that_went_missing_since(tiny: Backbone, paths: list[Path], tmp_path: Path) -> None:
    gone = tmp_path / "gone.jpg"
    shutil.copy(paths[0], gone)
    features = _features(tiny, [paths[1], gone], tmp_path / "store")
    gone.unlink()
    assert features.prepare({EVALUATION: [0, 1]}, SilentProgress()) == {1: "missing_file"}


# --- texts


@pytest.mark.parametrize("boundary", [UNFROZEN, 0, PARTIAL, ALL])
def test_text_features_are_the_embeddings(tiny: Backbone, boundary: int) -> None:
    distinct = [f"{number} red cats" for number in range(CHUNK + 3)]
    prompts = [*distinct, distinct[1], distinct[0]]
    features = FrozenTexts(tiny, boundary, prompts)
    assert features.prompts == distinct
    asked = [distinct[5], distinct[CHUNK + 1], distinct[5]]
    with torch.no_grad():
        found, expected = features.embed(asked), tiny.encode_text(asked)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])


def test_prompts_of_any_length_meet_in_one_batch(mini: Backbone) -> None:
    """The tokeniser pads to the longest of its texts, and later prompts are longer than the first ones."""
    prompts = [" ".join(["fox"] * (1 + n // 8)) + f" {n}" for n in range(CHUNK + 8)]
    features = FrozenTexts(mini, len(mini.text.blocks), prompts)
    mixed = [prompts[0], prompts[-1]]
    torch.testing.assert_close(features.embed(mixed), mini.encode_text(mixed), atol=1e-6, rtol=0)


def test_a_prompt_runs_through_the_rest_of_the_tower_once(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    features = FrozenTexts(tiny, PARTIAL, ["a", "b", "c"])
    sizes: list[int] = []
    original = tiny.run_text_from_boundary

    def run_text_from_boundary(state: dict[str, Tensor], boundary: int) -> Tensor:
        sizes.append(len(state["tokens"]))
        return original(state, boundary)

    monkeypatch.setattr(tiny, "run_text_from_boundary", run_text_from_boundary)
    assert features.embed(["c", "a", "c", "c"]).shape == (4, 32)
    assert sizes == [2]


def test_embeddings_of_prompts_are_stored_and_do_not_depend_on_their_neighbours(
    tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = FrozenTexts(tiny, ALL, ["a red fox"]).embed(["a red fox"])
    FrozenTexts(tiny, ALL, ["a long sentence of many words", "a red fox"], tmp_path)
    counted: list[int] = []
    original = tiny.run_text_to_boundary

    def run_text_to_boundary(tokens: Tensor, boundary: int) -> dict[str, Tensor]:
        counted.append(len(tokens))
        return original(tokens, boundary)

    monkeypatch.setattr(tiny, "run_text_to_boundary", run_text_to_boundary)
    again = FrozenTexts(tiny, ALL, ["a red fox", "a blue house"], tmp_path)
    assert counted == [1]  # the house
    assert torch.equal(again.embed(["a red fox"]), alone)
    assert torch.equal(again.embed(["a blue house"]), FrozenTexts(tiny, ALL, ["a blue house"]).embed(["a blue house"]))


# --- engines


class Listener(Counter):
    """Keeps what is said, too."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def test_a_tower_that_cannot_be_exported_is_computed_in_eager_mode_everywhere(
    tiny: Backbone, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features that another engine stored are computed again: no result mixes two engines."""
    onnx, views = _features(tiny, paths, tmp_path), [EVALUATION] * 3 + [0] * 3
    onnx.prepare({EVALUATION: range(6), 0: range(2)}, SilentProgress())

    def fail(*_: Any) -> None:
        raise EnvironmentProblem("It can't run with engine onnx.", "")

    monkeypatch.setattr(engines, "compile_engine", fail)
    found = []
    for _ in range(2):
        listener, images = Listener(), _features(tiny, paths, tmp_path)
        images.prepare({EVALUATION: range(6)}, listener)
        assert listener.said == []
        images.prepare({0: range(6)}, listener)
        assert [line.endswith("eager mode takes its place.") for line in listener.said] == [True]
        found.append(images.get(range(6), views))
    boundary = PARTIAL
    for row, view in enumerate(views):
        pixels = augment(decode_file(paths[row]).pixels, hash_image_file(paths[row]), view, VIEWS)
        with torch.no_grad():
            expected = tiny.run_image_to_boundary(tiny.transform(pixels)[None], boundary)
        for name, value in expected.items():
            assert torch.equal(found[0][name][row], value[0])
            assert torch.equal(found[1][name][row], value[0])
    computed = _computed(monkeypatch)
    images.prepare({EVALUATION: range(6), 0: range(6)}, SilentProgress())
    assert computed == []


@pytest.mark.parametrize("boundary", [UNFROZEN, PARTIAL, ALL])
def test_on_another_device_images_run_in_batches(
    boundary: int, tiny: Backbone, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _features(tiny, paths, None, boundary).get(range(6), [0] * 6)
    sizes: list[int] = []
    original = tiny.run_image_to_boundary

    def run_image_to_boundary(pixels: Tensor, boundary: int) -> dict[str, Tensor]:
        sizes.append(len(pixels))
        return original(pixels, boundary)

    monkeypatch.setattr(tiny, "run_image_to_boundary", run_image_to_boundary)
    monkeypatch.setattr(engines, "is_on_cpu", lambda backbone: False)
    found = _features(tiny, paths, None, boundary).get(range(6), [0] * 6)
    assert sizes == [6]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-4)


# --- the store's limit


@pytest.mark.parametrize(("limit", "stored"), [(1e9, True), (1000.0, False)])
def test_a_store_above_its_limit_is_not_filled(
    limit: float, stored: bool, tiny: Backbone, paths: list[Path], tmp_path: Path
) -> None:
    digests, rows, listener = [hash_image_file(path) for path in paths], range(len(paths)), Listener()
    images = FrozenImages(tiny, PARTIAL, paths, digests, VIEWS, tmp_path, limit)
    assert images.prepare({EVALUATION: rows, 0: rows}, listener) == {}
    assert (images.store is not None) == stored
    assert any(tmp_path.rglob("*.npy")) == stored
    assert [("The feature store would take" in line) for line in listener.said] == ([] if stored else [True])
    expected = _features(tiny, paths, None).get(rows, [0] * len(paths))
    found = images.get(rows, [0] * len(paths))
    assert all(torch.allclose(found[name], expected[name], atol=1e-5) for name in expected)
    assert images.seconds > 0
