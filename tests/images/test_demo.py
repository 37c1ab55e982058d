"""The demonstration set is deterministic, balanced and scored by the formulas of its docstring."""

import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import spearmanr

from aigc_cli.errors import EnvironmentProblem
from aigc_cli.images import demo
from aigc_cli.images.degrade import distort
from aigc_cli.images.demo import (
    DIFFERENCE,
    change_scene,
    make_random_scene,
    rate_consistency,
    rate_quality,
    render_demo,
)
from aigc_cli.images.sample import Sample

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """All 240 samples; scores, prompts and groups do not depend on the size."""
    return render_demo(tmp_path_factory.mktemp("demo"), size=16)


def test_two_folders_hold_the_same_bytes_and_a_smaller_set_is_a_prefix(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    more = render_demo(tmp_path / "a", n=20, size=64, seed=5)
    fewer = render_demo(tmp_path / "b", n=8, size=64, seed=5)
    for one, other in zip(more[:8], fewer, strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()
        assert (one.name, one.prompt, one.groups) == (other.name, other.prompt, other.groups)
        assert (one.mos_quality, one.mos_align) == (other.mos_quality, other.mos_align)


def test_another_seed_is_another_set(tmp_path: Path) -> None:
    first = render_demo(tmp_path, n=6, size=64, seed=0)
    before = first[0].path.read_bytes()
    second = render_demo(tmp_path, n=6, size=64, seed=1)
    assert first[0].prompt != second[0].prompt
    assert second[0].path.read_bytes() != before  # the same name: images of another seed are replaced


def test_a_second_call_writes_nothing_and_a_damaged_file_is_rendered_again(tmp_path: Path) -> None:
    samples = render_demo(tmp_path, n=7, size=64)
    good = samples[3].path.read_bytes()
    for sample in samples:
        os.utime(sample.path, ns=(1, 1))
    samples[3].path.write_bytes(b"not an image")
    os.utime(samples[3].path, ns=(1, 1))
    assert render_demo(tmp_path, n=7, size=64) == samples
    written = [sample.name for sample in samples if sample.path.stat().st_mtime_ns != 1]
    assert written == ["demo_0003.jpg"]
    assert samples[3].path.read_bytes() == good
    assert sorted(p.name for p in tmp_path.iterdir()) == [sample.name for sample in samples]


def test_a_failed_write_leaves_no_file_and_names_the_path(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with pytest.raises(EnvironmentProblem) as caught:
        render_demo(gone, n=1, size=32)
    message = f"The demonstration image {gone / 'demo_0000.jpg'} could not be written: No such file or directory."
    assert caught.value.message == message
    assert list(tmp_path.iterdir()) == []


def test_no_samples_are_an_empty_list(tmp_path: Path) -> None:
    assert render_demo(tmp_path, n=0) == []


def test_images_of_one_prompt_differ_in_distortion_and_mismatch(full: list[Sample]) -> None:
    by_prompt: dict[str | None, list[Sample]] = defaultdict(list)
    for sample in full:
        by_prompt[sample.prompt].append(sample)
    assert len(by_prompt) == 40
    for group in by_prompt.values():
        assert len({(s.groups["distortion"], s.groups["mismatch"]) for s in group}) == 6
        assert {s.groups["mismatch"] for s in group} == set(DIFFERENCE)
        assert {"none", "blur", "noise", "jpeg", "contrast"} < {s.groups["distortion"] for s in group}


def test_files_of_the_default_size(tmp_path: Path) -> None:
    samples = render_demo(tmp_path, n=6)
    assert sum(sample.path.stat().st_size for sample in samples) < 6 * 40_000
    for sample in samples:
        with Image.open(sample.path) as image:
            assert (image.size, image.mode, image.format) == ((224, 224), "RGB", "JPEG")


def test_scores_are_within_their_bounds(full: list[Sample]) -> None:
    assert len({sample.name for sample in full}) == 240
    quality, consistency = scores(full)
    for values in (quality, consistency):
        assert 0 <= values.min() < 1
        assert 4.5 < values.max() <= 5


def test_quality_and_consistency_are_unrelated(full: list[Sample]) -> None:
    assert abs(float(spearmanr(*scores(full))[0])) < 0.15


def test_scores_are_the_formulas_plus_rater_noise(full: list[Sample]) -> None:
    quality, consistency = scores(full)
    expected = np.array([rate_consistency(sample.groups["mismatch"]) for sample in full])
    assert np.std(consistency - expected) == pytest.approx(0.1, rel=0.2)
    clean = quality[[sample.groups["distortion"] == "none" for sample in full]]
    assert clean.mean() == pytest.approx(4.8, abs=0.06)


@pytest.mark.parametrize("name", ["blur", "noise", "jpeg", "contrast"])
def test_quality_falls_and_damage_grows_with_severity(name: str) -> None:
    rng = np.random.default_rng(0)
    clean = demo.render_scene(make_random_scene(rng), 96, rng)
    severities = [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0]
    expected = [rate_quality({name: s}) for s in severities]
    assert expected == pytest.approx([4.8 - 4.3 * s for s in severities])
    damage = [
        np.square(pixels(distort(clean, {name: s}, np.random.default_rng(1))) - pixels(clean)).mean()
        for s in severities
    ]
    assert damage[0] == 0
    assert np.all(np.diff(np.array(damage)) > 0)


def test_two_distortions_are_worse_than_either() -> None:
    assert rate_quality({}) == pytest.approx(4.8)
    assert rate_quality({"blur": 0.5, "noise": 0.2}) == pytest.approx(4.8 - 4.3 * 0.6)
    assert rate_quality({"blur": 1.0, "noise": 0.2}) == pytest.approx(0.5)


def test_consistency_falls_with_what_differs() -> None:
    values = [rate_consistency(mismatch) for mismatch in ("none", "colour", "count", "object", "everything")]
    assert values == pytest.approx([4.6, 3.525, 2.88, 2.02, 0.3])


@pytest.mark.parametrize("seed", range(20))
def test_a_mismatch_changes_what_it_names(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = make_random_scene(rng)
    assert change_scene(scene, "none", rng) is scene
    for mismatch, field in (("colour", "color"), ("count", "count"), ("object", "kind")):
        shown = change_scene(scene, mismatch, rng)
        differing = [
            name
            for ours, theirs in zip(scene.things, shown.things, strict=True)
            for name in ("color", "count", "kind")
            if getattr(ours, name) != getattr(theirs, name)
        ]
        assert differing == [field]
        assert (shown.relation, shown.background) == (scene.relation, scene.background)
    other = change_scene(scene, "everything", rng)
    assert {t.kind for t in other.things}.isdisjoint(t.kind for t in scene.things)
    assert {t.color for t in other.things}.isdisjoint(t.color for t in scene.things)
    assert other.background != scene.background


def test_prompts_read_as_english() -> None:
    two = demo.Scene((demo.Thing(2, "red", "fish"), demo.Thing(1, "orange", "cup")), "above", "paper")
    assert two.prompt == "two red fish above an orange cup on old paper"
    one = demo.Scene((demo.Thing(3, "blue", "cross"),), "in a row", "white")
    assert one.prompt == "three blue crosses in a row on a white background"


def test_every_object_can_be_drawn_on_every_background() -> None:
    for background in demo.BACKGROUNDS:
        objects: list[demo.PlacedObject] = [(kind, "red", 0.5, 0.5, 0.5) for kind in demo.OBJECTS]
        plain = demo.paint(background, [], 48, np.random.default_rng(0))
        for item in objects:
            drawn = demo.paint(background, [item], 48, np.random.default_rng(0))
            assert np.abs(pixels(drawn) - pixels(plain)).max() > 60, (background, item[0])


def pixels(image: Image.Image) -> NDArray[np.float64]:
    return np.asarray(image, dtype=np.float64)


def scores(samples: list[Sample]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.array([s.mos_quality for s in samples]), np.array([s.mos_align for s in samples])
