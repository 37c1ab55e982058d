"""`score --resume`: finished rows are kept, changed inputs are refused, and the table equals that of one run."""

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scored import score as score_table

from aigc_cli.errors import AigcError, EnvironmentProblem, FolderConflict, Interruption
from aigc_cli.images.sample import Sample
from aigc_cli.runtime.saved import SavedModel
from aigc_cli.storage.locks import own_folder
from aigc_cli.storage.partial_table import PartialTable
from aigc_cli.storage.results import read_parquet_rows
from aigc_cli.workflows.score import score as module
from aigc_cli.workflows.score import scorer as scoring
from aigc_cli.workflows.score.score import ScoreSummary
from aigc_cli.workflows.score.scorer import Scorer

N = 40


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> Scorer:
    return Scorer.load(tiny_model, "cpu")


@pytest.fixture(autouse=True)
def _small(loaded: Scorer, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many shards out of few images: a batch is 4 of them, and every batch a shard. The model is loaded once."""
    load = Scorer.load
    choose = lambda place, *options: loaded if place == tiny_model else load(place, *options)  # noqa: E731
    monkeypatch.setattr(Scorer, "load", choose)
    monkeypatch.setattr(scoring, "BATCH", 4)
    monkeypatch.setattr(module, "SHARD_SECONDS", 0)


@pytest.fixture
def folder(demo: list[Sample], tmp_path: Path) -> Path:
    """40 images with prompts of their own, in p.csv beside the folder; 3 are damaged, and one is a dead link."""
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "gone.png").symlink_to("nowhere")
    rows = [("name", "prompt"), ("gone.png", "nothing")]
    for i, sample in enumerate(demo[:N]):
        (folder / f"{i:02}.jpg").write_bytes(b"" if i in (5, 21, 22) else sample.path.read_bytes())
        rows.append((f"{i:02}.jpg", f"{sample.prompt} number {i}"))
    with (tmp_path / "p.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return folder


class _Enough(Exception):
    """Ends a scoring, as a kill would."""


@pytest.fixture
def run(tiny_model: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ScoreSummary]:
    """Scores the folder to `name`; with `stop` it dies after that many batches of this call."""

    def score(name: str = "t.csv", stop: int | None = None, **options: Any) -> ScoreSummary:
        honest = scoring.Scorer.iterate_batches

        def batches(*given: Any) -> Iterator[list[dict[str, Any]]]:
            for number, rows in enumerate(honest(*given)):
                if number == stop:
                    raise _Enough
                yield rows

        given = {"model": tiny_model, "prompts": tmp_path / "p.csv"} | options
        with monkeypatch.context() as patch:
            patch.setattr(scoring.Scorer, "iterate_batches", batches)
            return score_table(folder, tmp_path / name, **given)

    return score


def stopped(run: Callable[..., ScoreSummary], after: int, name: str = "t.csv", **options: Any) -> None:
    with pytest.raises(_Enough):
        run(name, stop=after, **options)


def refused(run: Callable[..., ScoreSummary], part: str, **options: Any) -> None:
    with pytest.raises(AigcError) as caught:
        run(resume=True, **options)
    assert caught.value.exit_code == 2
    assert part in caught.value.message


@pytest.mark.parametrize(
    "suffix", [pytest.param("parquet", marks=pytest.mark.slow), "csv", pytest.param("jsonl", marks=pytest.mark.slow)]
)
def test_a_resumed_table_is_byte_for_byte_that_of_one_go(
    suffix: str, run: Callable[..., ScoreSummary], tmp_path: Path
) -> None:
    whole = run(f"whole.{suffix}")
    name = f"t.{suffix}"
    stopped(run, 2, name)
    stopped(run, 0, name, resume=True)
    stopped(run, 4, name, resume=True)
    assert not (tmp_path / name).exists()
    found = run(name, resume=True)
    assert (tmp_path / name).read_bytes() == (tmp_path / f"whole.{suffix}").read_bytes()
    assert found.__dict__ | {"output": None} == whole.__dict__ | {"output": None}
    assert (whole.rows, whole.failed) == (N + 1, 4)
    beside = {"p.csv", "images", name, f"whole.{suffix}"}
    if suffix != "parquet":
        beside |= {f"{name}.meta.json", f"whole.{suffix}.meta.json"}
    assert {path.name for path in tmp_path.iterdir()} == beside


def test_finished_rows_are_not_computed_again_and_failed_ones_are(
    run: Callable[..., ScoreSummary], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(run, 3)
    decoded: list[str] = []
    honest = scoring.decode_file
    monkeypatch.setattr(scoring, "decode_file", lambda path, *how: (decoded.append(path.name), honest(path, *how))[1])
    run(resume=True)
    assert sorted(decoded) == ["05.jpg", *(f"{i:02}.jpg" for i in range(13, N)), "gone.png"]


def test_the_first_rows_are_on_disk_after_one_batch(
    run: Callable[..., ScoreSummary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD_SECONDS", 1000)
    stopped(run, 6)
    shards = sorted((tmp_path / "t.csv.parts").glob("shard-*"))
    assert [len(read_parquet_rows(path)) for path in shards] == [4]


def test_a_repaired_image_gets_its_score(
    run: Callable[..., ScoreSummary], demo: list[Sample], folder: Path, tmp_path: Path
) -> None:
    stopped(run, 6, "t.parquet")
    (folder / "05.jpg").write_bytes(demo[5].path.read_bytes())
    (folder / "nowhere").write_bytes(demo[6].path.read_bytes())
    stopped(run, 1, "t.parquet", resume=True)
    summary = run("t.parquet", resume=True)
    assert summary.failed == 2
    run("whole.parquet")
    found = {row["name"]: row for row in read_parquet_rows(tmp_path / "t.parquet")}
    for row in read_parquet_rows(tmp_path / "whole.parquet"):
        for name, value in row.items():
            assert found[row["name"]][name] == value


def test_a_complete_table_needs_nothing(run: Callable[..., ScoreSummary], tmp_path: Path) -> None:
    for name in ("t.csv", "t.parquet"):
        whole = run(name, resume=True)
        before = (tmp_path / name).stat()  # but for when it was read
        assert run(name, resume=True) == whole
        after = (tmp_path / name).stat()
        assert (after.st_ino, after.st_mtime_ns, after.st_size) == (before.st_ino, before.st_mtime_ns, before.st_size)
        with pytest.raises(AigcError, match="is complete, but was made from other images"):
            run(name, resume=True, prompts=None)
        after = (tmp_path / name).stat()
        assert (after.st_ino, after.st_mtime_ns, after.st_size) == (before.st_ino, before.st_mtime_ns, before.st_size)


# --- what changed is named


def test_another_list_of_images(run: Callable[..., ScoreSummary], folder: Path) -> None:
    stopped(run, 3)
    (folder / "30.jpg").rename(folder / "x\x1b[31m.jpg")
    refused(run, r"the list of images (1 gone: 30.jpg; 1 new: x\x1b[31m.jpg)")
    (folder / "x\x1b[31m.jpg").rename(folder / "30.jpg")
    assert run(resume=True).rows == N + 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["01.jpg", "35.jpg"])
def test_other_bytes(name: str, run: Callable[..., ScoreSummary], folder: Path) -> None:
    stopped(run, 3)
    data, status = (folder / name).read_bytes(), (folder / name).stat()
    (folder / name).write_bytes(data)
    os.utime(folder / name, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    refused(run, f"the bytes of 1 image ({name})")
    (folder / name).unlink()
    refused(run, f"the list of images (1 gone: {name})")
    (folder / name).write_bytes(data)
    os.utime(folder / name, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert run(resume=True).rows == N + 1


def test_another_prompt(run: Callable[..., ScoreSummary], tmp_path: Path) -> None:
    stopped(run, 3)
    table = tmp_path / "p.csv"
    text = table.read_text()
    table.write_text(text.replace("number 7\n", "number seven\n").replace("number 37\n", "number 73\n"))
    refused(run, "the prompt of 2 images (07.jpg, 37.jpg)")
    head, *rows = text.splitlines(keepends=True)
    table.write_text(head + "".join(rows[::-1]))
    assert run(resume=True).rows == N + 1


@pytest.mark.slow
def test_another_model_folder_or_way_of_computing(
    run: Callable[..., ScoreSummary], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(run, 3)
    other = tmp_path / "other" / "run"
    shutil.copytree(tiny_model, other)
    path = other / "checkpoint" / "model.json"
    said = json.loads(path.read_text())
    said["recipe"]["mos_max"] = 6.0
    path.write_text(json.dumps(said))
    refused(run, "mos max (5.0 then, 6.0 now)", model=other)
    honest = SavedModel.make_metadata
    for key in ("model_hash", "preprocessing", "backbone_hash"):
        with monkeypatch.context() as patch:
            patch.setattr(SavedModel, "make_metadata", lambda self, k=key: {**honest(self), k: "another"})
            refused(run, f"{key.replace('_', ' ')} (")
    with monkeypatch.context() as patch:
        patch.setattr("aigc_cli.workflows.score.inputs.BATCH", 5)
        refused(run, "batch (")
    assert run(resume=True).rows == N + 1


# --- what else may lie there


def test_without_resume_an_unfinished_scoring_is_left_alone(run: Callable[..., ScoreSummary], tmp_path: Path) -> None:
    stopped(run, 3)
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(AigcError, match="is unfinished") as caught:
        run()
    assert caught.value.hint == "Add --resume to go on, or --overwrite to start again."
    assert {path: path.lstat().st_mtime_ns for path in before if path.is_file()} == {
        path: time for path, time in before.items() if path.is_file()
    }
    assert run(overwrite=True).rows == N + 1
    assert not (tmp_path / "t.csv.parts").exists()


def test_the_old_table_stays_until_the_new_one_is_whole(run: Callable[..., ScoreSummary], tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("old")
    stopped(run, 3, overwrite=True)
    assert (tmp_path / "t.csv").read_text() == "old"
    run(resume=True, overwrite=True)
    run("whole.csv")
    assert (tmp_path / "t.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_damaged_shard_is_computed_again(run: Callable[..., ScoreSummary], tmp_path: Path) -> None:
    stopped(run, 6)
    shards = sorted((tmp_path / "t.csv.parts").glob("shard-*"))
    shards[2].write_bytes(shards[2].read_bytes()[:-7])
    shards[4].unlink()
    run(resume=True)
    run("whole.csv")
    assert (tmp_path / "t.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize("damage", ["{", "[]", "missing"])
def test_a_damaged_plan_is_an_error(damage: str, run: Callable[..., ScoreSummary], tmp_path: Path) -> None:
    stopped(run, 3)
    parts = tmp_path / "t.csv.parts"
    (parts / "inputs.parquet").unlink() if damage == "missing" else (parts / "plan.json").write_text(damage)
    refused(run, "Expected the plan of an interrupted run")


def test_a_place_that_is_taken(run: Callable[..., ScoreSummary], tmp_path: Path) -> None:
    parts = tmp_path / "t.csv.parts"
    parts.mkdir()
    (parts / "thesis.txt").write_text("precious")
    refused(run, "found thesis.txt there")
    refused(run, "found thesis.txt there", overwrite=True)
    shutil.rmtree(parts)
    parts.symlink_to(tmp_path)
    refused(run, "found a link or a file there", overwrite=True)
    parts.unlink()
    parts.write_text("precious")
    refused(run, "found a link or a file there", overwrite=True)
    assert parts.read_text() == "precious"


def test_a_file_put_into_the_parts_is_kept(run: Callable[..., ScoreSummary], tmp_path: Path) -> None:
    stopped(run, 3)
    (tmp_path / "t.csv.parts" / "thesis.txt").write_text("precious")
    assert run(resume=True).rows == N + 1
    assert [path.name for path in (tmp_path / "t.csv.parts").iterdir()] == ["thesis.txt"]


def test_an_error_before_the_first_row_leaves_nothing(run: Callable[..., ScoreSummary], tmp_path: Path) -> None:
    with pytest.raises(AigcError, match="found none at"):
        run(model=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"images", "p.csv"}


def test_one_at_a_time(run: Callable[..., ScoreSummary], tmp_path: Path) -> None:
    with own_folder(tmp_path / "t.csv.parts"), pytest.raises(FolderConflict, match=str(os.getpid())) as caught:
        run(overwrite=True)
    assert caught.value.exit_code == 5


def test_a_place_that_cannot_take_the_table_keeps_the_rows(
    run: Callable[..., ScoreSummary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def publish(self: PartialTable) -> None:
        (tmp_path / "t.csv").mkdir(exist_ok=True)
        honest(self)

    honest = PartialTable.publish
    monkeypatch.setattr(PartialTable, "publish", publish)
    with pytest.raises(EnvironmentProblem, match="could not be written") as caught:
        run()
    assert caught.value.hint.endswith("Then add --resume to go on.")
    monkeypatch.undo()
    (tmp_path / "t.csv").rmdir()


def test_a_signal_ends_it_after_the_batch(
    run: Callable[..., ScoreSummary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD_SECONDS", 1000)
    honest = scoring.Scorer.iterate_batches

    def batches(*given: Any) -> Iterator[list[dict[str, Any]]]:
        for number, rows in enumerate(honest(*given)):
            if number == 4:
                os.kill(os.getpid(), 15)
            yield rows

    monkeypatch.setattr(scoring.Scorer, "iterate_batches", batches)
    with pytest.raises(Interruption) as caught:
        run()
    assert caught.value.exit_code == 143
    assert caught.value.message == f"Terminated; 21 rows are finished and kept in {tmp_path / 't.csv.parts'}."
    assert caught.value.hint == "Run the same command with --resume to continue."
    monkeypatch.undo()
