"""`aigc verify`: a table that is what the model says passes, and any other is told apart."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from aigc_cli.errors import AigcError
from aigc_cli.images.sample import Sample
from aigc_cli.storage.results import TableWriter, iter_rows, read_metadata
from aigc_cli.workflows.score.score import score_folder
from aigc_cli.workflows.verify import Verification
from aigc_cli.workflows.verify import verify as run

SUFFIXES = ("parquet", "csv", "jsonl")


@pytest.fixture
def images(demo: list[Sample], tmp_path: Path) -> Path:
    """12 images under names that a CSV has to quote and a terminal must not see, and one that is damaged."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i, sample in enumerate(demo[:12]):
        (folder / f"{'=-+'[i % 3]}{i:02}\x1b[3{i}m\udcff.jpg").write_bytes(sample.path.read_bytes())
    (folder / "bad.jpg").write_bytes(b"")
    return folder


@pytest.fixture
def verify(tiny_model: Path, images: Path) -> Callable[..., Verification]:
    return lambda table, **given: run(table, **{"images": images, "model": tiny_model, "device": "cpu"} | given)


@pytest.fixture
def table(tiny_model: Path, images: Path, tmp_path: Path) -> Callable[[str], Path]:
    def make(suffix: str) -> Path:
        path = tmp_path / f"t.{suffix}"
        score_folder(images, path, model=tiny_model, device="cpu", prompt="=a fox")
        return path

    return make


def rewritten(path: Path, change: Callable[[dict], dict] = lambda row: row, **metadata: str) -> None:  # type: ignore[type-arg]
    """The table with changed rows, or with other metadata."""
    rows, said = list(iter_rows(path)), read_metadata(path)
    said = {key: text for key, text in said.items() if key not in ("schema", "schema_version", "ARROW:schema")}
    with TableWriter(path, "scores", said | metadata) as writer:
        writer.write([change(dict(row)) for row in rows])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_was_just_scored_is_verified(
    suffix: str, table: Callable[[str], Path], verify: Callable[..., Verification]
) -> None:
    path = table(suffix)
    found = verify(path)
    assert (found.scored, found.checked, found.problems) == (12, 12, [])
    assert found.largest is not None
    assert found.largest < 1e-4
    assert verify(path, n=5).checked == 5


def test_without_a_folder_the_paths_of_the_table_are_followed(
    table: Callable[[str], Path], verify: Callable[..., Verification]
) -> None:
    """Though they are shown with escapes where a terminal must not see what they hold."""
    found = verify(table("parquet"), images=None)
    assert (found.checked, found.problems) == (12, [])


def test_a_prompt_that_csv_had_to_rewrite_is_not_checked(
    tiny_model: Path, images: Path, tmp_path: Path, verify: Callable[..., Verification]
) -> None:
    for suffix, checked in (("csv", 0), ("parquet", 12)):
        path = tmp_path / f"t.{suffix}"
        score_folder(images, path, model=tiny_model, device="cpu", prompt="a \x1b[31m fox")
        found = verify(path)
        assert (found.checked, found.problems) == (checked, [])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_score_that_moved(suffix: str, table: Callable[[str], Path], verify: Callable[..., Verification]) -> None:
    path = table(suffix)
    name = next(row["name"] for row in iter_rows(path) if row["status"] == "ok")
    rewritten(path, lambda row: row | ({"consistency": row["consistency"] + 0.002} if row["name"] == name else {}))
    (problem,) = verify(path).problems
    assert problem == f"{name}: moved by 0.0020 MOS"
    rewritten(path, lambda row: row | ({"consistency": row["consistency"] - 0.0015} if row["name"] == name else {}))
    assert verify(path).problems == []
    rewritten(path, lambda row: row | ({"quality": None} if row["name"] == name else {}))
    (problem,) = verify(path).problems
    assert problem.startswith(f"{name}: has a score now")


@pytest.mark.parametrize("key", ["model_hash", "backbone_hash", "preprocessing", "mos_max"])
def test_another_model(key: str, table: Callable[[str], Path], verify: Callable[..., Verification]) -> None:
    path = table("csv")
    rewritten(path, **{key: "another"})
    found = verify(path)
    assert found.checked == 0
    assert [problem.split(" in the table")[0] for problem in found.problems] == [f"{key}: another"]


def test_images_that_changed(
    table: Callable[[str], Path], verify: Callable[..., Verification], images: Path, demo: list[Sample]
) -> None:
    path = table("parquet")
    one, two, *_ = sorted(images.glob("[!b]*"))
    one.write_bytes(demo[40].path.read_bytes())
    two.unlink()
    first, second = verify(path).problems
    assert "moved by" in first
    assert "can't be read any more (missing_file)" in second


def test_a_sample_follows_its_seed(table: Callable[[str], Path], verify: Callable[..., Verification]) -> None:
    path = table("csv")
    rewritten(path, lambda row: row | {"quality": -1.0})
    samples = [tuple(p.split(":")[0] for p in verify(path, n=4, seed=seed).problems) for seed in (0, 0, 1, 2)]
    assert samples[0] == samples[1]
    assert len(set(samples)) > 1
    assert all(len(sample) == 4 and list(sample) == sorted(sample) for sample in samples)


def test_no_way_out_of_the_image_folder(table: Callable[[str], Path], verify: Callable[..., Verification]) -> None:
    path = table("jsonl")
    for name in ("../x.jpg", "/etc/hostname"):
        rewritten(path, lambda row, n=name: row | {"name": n})
        with pytest.raises(AigcError, match="inside the image folder"):
            verify(path)


def test_what_is_no_table(tmp_path: Path, table: Callable[[str], Path], verify: Callable[..., Verification]) -> None:
    for path in (tmp_path / "no.csv", tmp_path / "t.txt"):
        with pytest.raises(AigcError) as caught:
            verify(path)
        assert caught.value.exit_code == 2
    path = table("csv")
    with path.open(newline="") as stream:
        rows = list(csv.reader(stream))
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([row[:5] for row in rows])
    with pytest.raises(AigcError, match="no column"):
        verify(path)
    path.with_name("t.csv.meta.json").write_text(json.dumps([1]))
    with pytest.raises(AigcError, match="Expected a CSV table"):
        verify(path)
    for n in (0, -1):
        with pytest.raises(AigcError, match="at least one row"):
            verify(path, n=n)
