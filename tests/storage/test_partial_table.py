"""A table that grows: what is there is whole and counts, what is damaged is computed again, and nothing else goes."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aigc_cli.errors import AigcError, EnvironmentProblem
from aigc_cli.storage import files
from aigc_cli.storage.partial_table import DONE, INPUT_SCHEMA, INPUTS, SETTINGS, Parts, batched
from aigc_cli.storage.results import TableWriter
from aigc_cli.storage.schemas import SCHEMAS


def row(name: str) -> dict[str, Any]:
    return dict.fromkeys(SCHEMAS["scores"].names) | {"name": name, "status": "ok", "quality": 2.5}


def inputs(*names: str) -> pa.Table:
    columns = {
        "name": [name.encode() for name in names],
        "prompt": None,
        "prompt_source": None,
        "sidecar": None,
        "size": 1,
    }
    rows = len(names)
    values = {key: value if isinstance(value, list) else [value] * rows for key, value in columns.items()}
    return pa.table({**values, "mtime_ns": [2] * rows}, schema=INPUT_SCHEMA)


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    """Three rows in two shards, of four that were planned."""
    made = Parts(tmp_path / "t.csv")
    made.folder.mkdir()
    made.begin({"model": "m"}, inputs("a", "b", "c", "d"))
    made.append([row("a"), row("b")])
    made.append([row("c")])
    return made


def again(parts: Parts) -> Parts:
    return Parts(parts.output)


def test_another_process_goes_on_where_this_one_stopped(parts: Parts) -> None:
    later = again(parts)
    later.check()
    settings, planned = later.plan()
    assert (settings, planned) == ({"model": "m"}, inputs("a", "b", "c", "d"))
    assert (later.planned, later.finished, later.counts) == (True, False, [2, 1])
    later.append([row("d")])
    later.finish()
    assert [found["name"] for found in later.rows()] == ["a", "b", "c", "d"]
    assert again(parts).finished


def test_rows_of_a_shard_are_replaced_in_place(parts: Parts) -> None:
    parts.replace(0, [row("a"), row("new")])
    assert [found["name"] for found in parts.read(0)] == ["a", "new"]
    assert again(parts).plan() == parts.plan()


def test_shards_behind_a_damaged_one_do_not_count(parts: Parts) -> None:
    (parts.folder / "shard-000000.parquet").write_bytes(b"half")
    later = again(parts)
    later.plan()
    assert later.counts == []
    with pytest.raises(AigcError, match=r"Expected a whole shard at .*shard-000000\.parquet"):
        later.read(0)


def test_more_rows_than_were_planned_do_not_count(parts: Parts) -> None:
    parts.update(inputs("a", "b"))
    later = again(parts)
    later.plan()
    assert later.counts == [2]


DAMAGED = [*((SETTINGS, content) for content in (b"[]", b"{", b"\xff", b"[" * 9999)), (INPUTS, b"half"), (INPUTS, None)]


@pytest.mark.parametrize(("name", "content"), DAMAGED)
def test_a_damaged_plan(name: str, content: bytes | None, parts: Parts) -> None:
    if content is None:
        pq.write_table(pa.table({"name": ["a"]}), parts.folder / name)
    else:
        (parts.folder / name).write_bytes(content)
    with pytest.raises(AigcError, match="Expected the plan of an interrupted run in") as caught:
        again(parts).plan()
    assert caught.value.hint == "Start again with --overwrite."


def test_a_new_plan_starts_without_rows(parts: Parts) -> None:
    (parts.folder / ".aigc-left").write_bytes(b"of a killed process")
    parts.finish()
    parts.begin({"model": "other"}, inputs("a"))
    assert sorted(path.name for path in parts.folder.iterdir()) == [INPUTS, SETTINGS]
    assert (parts.counts, parts.finished) == ([], False)


@pytest.mark.parametrize("kind", ["file", "link", "somebody's"])
def test_a_place_that_is_taken(kind: str, tmp_path: Path) -> None:
    parts = Parts(tmp_path / "t.csv")
    if kind == "file":
        parts.folder.write_text("mine")
    elif kind == "link":
        parts.folder.symlink_to(tmp_path)
    else:
        parts.folder.mkdir()
        (parts.folder / "thesis\x1b.txt").write_text("mine")
    with pytest.raises(AigcError) as caught:
        parts.check()
    found = r"thesis\x1b.txt" if kind == "somebody's" else "a link or a file"
    assert caught.value.message.endswith(f"t.csv.parts to be free for unfinished results, found {found} there.")


def test_an_empty_folder_is_free(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "t.csv")
    parts.check()
    parts.folder.mkdir()
    parts.check()
    assert not parts.planned


def test_the_table_is_published_with_its_note(parts: Parts) -> None:
    with TableWriter(parts.joined, "scores", {"model": "m"}) as writer:
        writer.write(list(parts.rows()))
    parts.publish()
    parts.remove()
    assert sorted(path.name for path in parts.output.parent.iterdir()) == ["t.csv", "t.csv.meta.json"]
    assert parts.output.read_text().count("\n") == 4


def test_a_place_that_cannot_be_written_keeps_the_rows(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    with TableWriter(parts.joined, "scores", {}) as writer:
        writer.write([])

    def refuse(self: Path, target: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(files.Path, "replace", refuse)
    with pytest.raises(EnvironmentProblem, match=r"t.csv could not be written: Read-only file system"):
        parts.publish()
    assert again(parts).plan()[0] == {"model": "m"}


def test_a_file_of_somebody_else_is_never_removed(parts: Parts) -> None:
    (parts.folder / "notes.txt").write_text("mine")
    parts.finish()
    parts.remove()
    assert [path.name for path in parts.folder.iterdir()] == ["notes.txt"]
    (parts.folder / "notes.txt").unlink()
    parts.remove()
    parts.remove()  # nothing there: nothing to do
    assert not parts.folder.exists()


def test_done_is_a_mark_of_its_own(parts: Parts) -> None:
    parts.finish()
    assert (parts.folder / DONE).read_text() == '{\n  "rows": 3\n}\n'


def test_batches() -> None:
    rows = [{"n": number} for number in range(5)]
    assert list(batched(iter(rows), 2)) == [rows[:2], rows[2:4], rows[4:]]
    assert list(batched([], 2)) == []
