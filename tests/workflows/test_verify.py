"""`aigc verify`: accepts a table that the model reproduces, and reports every other one."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from scored import score

from aigc_cli.errors import AigcError
from aigc_cli.images.sample import Sample
from aigc_cli.storage.results import TableWriter, iterate_rows, read_table_metadata
from aigc_cli.workflows.verify import Verification
from aigc_cli.workflows.verify import verify_table as run

SUFFIXES = ("parquet", "csv", "jsonl")


@pytest.fixture(scope="module")
def made(demo: list[Sample], tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`images` with 12 images whose names a CSV must quote and a terminal must not show, and a damaged one; and tables.

    The tables t.parquet, t.csv and t.jsonl hold their scores.
    """
    place = tmp_path_factory.mktemp("verified")
    folder = place / "images"
    folder.mkdir()
    for i, sample in enumerate(demo[:12]):
        (folder / f"{'=-+'[i % 3]}{i:02}\x1b[3{i}m\udcff.jpg").write_bytes(sample.path.read_bytes())
    (folder / "bad.jpg").write_bytes(b"")
    for suffix in SUFFIXES:
        score(folder, place / f"t.{suffix}", tiny_model, prompt="=a fox")
    return place


@pytest.fixture
def images(made: Path) -> Path:
    return made / "images"


@pytest.fixture
def verify(tiny_model: Path, images: Path) -> Callable[..., Verification]:
    return lambda table, **given: run(table, **{"images": images, "model": tiny_model, "device": "cpu"} | given)


@pytest.fixture
def table(made: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that copies a table with what lies beside it."""

    def copy(suffix: str) -> Path:
        for path in made.glob(f"t.{suffix}*"):
            shutil.copy(path, tmp_path)
        return tmp_path / f"t.{suffix}"

    return copy


def rewritten(path: Path, change: Callable[[dict], dict] = lambda row: row, **metadata: str) -> None:  # type: ignore[type-arg]
    """The table with changed rows, or with other metadata."""
    rows, said = list(iterate_rows(path)), read_table_metadata(path)
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
    table: Callable[[str], Path], verify: Callable[..., Verification], images: Path
) -> None:
    """The table escapes bytes that a terminal must not show; the files are found all the same."""
    with pytest.raises(AigcError, match="which leads out of it"):
        verify(table("parquet"), images=None)
    found = verify(table("parquet").rename(images.parent / "t.parquet"), images=None)
    assert (found.checked, found.problems) == (12, [])


def test_a_prompt_that_csv_had_to_rewrite_is_not_checked(
    tiny_model: Path, images: Path, tmp_path: Path, verify: Callable[..., Verification]
) -> None:
    for suffix, checked in (("csv", 0), ("parquet", 12)):
        path = tmp_path / f"t.{suffix}"
        score(images, path, tiny_model, prompt="a \x1b[31m fox")
        found = verify(path)
        assert (found.checked, found.problems) == (checked, [])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_score_that_moved(suffix: str, table: Callable[[str], Path], verify: Callable[..., Verification]) -> None:
    path = table(suffix)
    name = next(row["name"] for row in iterate_rows(path) if row["status"] == "ok")
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
    table: Callable[[str], Path], verify: Callable[..., Verification], images: Path, demo: list[Sample], tmp_path: Path
) -> None:
    path, own = table("parquet"), tmp_path / "images"
    shutil.copytree(images, own)
    one, two, *_ = sorted(own.glob("[!b]*"))
    one.write_bytes(demo[40].path.read_bytes())
    two.unlink()
    first, second = verify(path, images=own).problems
    assert "moved by" in first
    assert "can no longer be read (missing_file)" in second


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
