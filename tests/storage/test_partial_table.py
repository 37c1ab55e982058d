"""Unfinished tables: valid shards count, damaged ones do not, and foreign files are never removed."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aigc_cli.errors import AigcError, EnvironmentProblem
from aigc_cli.storage.partial_table import (
    DONE_FILE,
    INPUT_SCHEMA,
    INPUTS_FILE,
    SETTINGS_FILE,
    PartialTable,
    split_batches,
)
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
def parts(tmp_path: Path) -> PartialTable:
    """Three rows in two shards; four rows are planned."""
    made = PartialTable(tmp_path / "t.csv")
    made.folder.mkdir()
    made.begin({"model": "m"}, inputs("a", "b", "c", "d"))
    made.append([row("a"), row("b")])
    made.append([row("c")])
    return made


def again(parts: PartialTable) -> PartialTable:
    return PartialTable(parts.output)


def test_another_process_continues(parts: PartialTable) -> None:
    later = again(parts)
    later.check()
    settings, planned = later.read_plan()
    assert (settings, planned) == ({"model": "m"}, inputs("a", "b", "c", "d"))
    assert (later.planned, later.finished, later.counts) == (True, False, [2, 1])
    later.append([row("d")])
    later.finish()
    assert [found["name"] for found in later.iterate_rows()] == ["a", "b", "c", "d"]
    assert again(parts).finished


def test_rows_of_a_shard_are_replaced_in_place(parts: PartialTable) -> None:
    parts.replace(0, [row("a"), row("new")])
    assert [found["name"] for found in parts.read_shard(0)] == ["a", "new"]
    assert again(parts).read_plan() == parts.read_plan()


def test_shards_behind_a_damaged_one_do_not_count(parts: PartialTable) -> None:
    (parts.folder / "shard-000000.parquet").write_bytes(b"half")
    later = again(parts)
    later.read_plan()
    assert later.counts == []
    with pytest.raises(AigcError, match=r"Expected a complete shard at .*shard-000000\.parquet"):
        later.read_shard(0)


def test_more_rows_than_were_planned_do_not_count(parts: PartialTable) -> None:
    parts.update(inputs("a", "b"))
    later = again(parts)
    later.read_plan()
    assert later.counts == [2]


DAMAGED = [
    *((SETTINGS_FILE, content) for content in (b"[]", b"{", b"\xff", b"[" * 9999)),
    (INPUTS_FILE, b"half"),
    (INPUTS_FILE, None),
]


@pytest.mark.parametrize(("name", "content"), DAMAGED)
def test_a_damaged_plan(name: str, content: bytes | None, parts: PartialTable) -> None:
    if content is None:
        pq.write_table(pa.table({"name": ["a"]}), parts.folder / name)
    else:
        (parts.folder / name).write_bytes(content)
    with pytest.raises(AigcError, match="Expected the plan of an interrupted run in") as caught:
        again(parts).read_plan()
    assert caught.value.hint == "Start again with --overwrite."


def test_a_new_plan_starts_without_rows(parts: PartialTable) -> None:
    (parts.folder / ".aigc-left").write_bytes(b"of a killed process")
    parts.finish()
    parts.begin({"model": "other"}, inputs("a"))
    assert sorted(path.name for path in parts.folder.iterdir()) == [INPUTS_FILE, SETTINGS_FILE]
    assert (parts.counts, parts.finished) == ([], False)


@pytest.mark.parametrize("kind", ["file", "link", "somebody's"])
def test_a_place_that_is_taken(kind: str, tmp_path: Path) -> None:
    parts = PartialTable(tmp_path / "t.csv")
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
    parts = PartialTable(tmp_path / "t.csv")
    parts.check()
    parts.folder.mkdir()
    parts.check()
    assert not parts.planned


def test_the_table_is_published_with_its_note(parts: PartialTable) -> None:
    with TableWriter(parts.joined, "scores", {"model": "m"}) as writer:
        writer.write(list(parts.iterate_rows()))
    parts.publish()
    parts.remove()
    assert sorted(path.name for path in parts.output.parent.iterdir()) == ["t.csv", "t.csv.meta.json"]
    assert parts.output.read_text().count("\n") == 4


def test_a_place_that_cannot_be_written_keeps_the_rows(parts: PartialTable, monkeypatch: pytest.MonkeyPatch) -> None:
    with TableWriter(parts.joined, "scores", {}) as writer:
        writer.write([])

    def refuse(self: Path, target: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(EnvironmentProblem, match=r"t.csv could not be written: Read-only file system"):
        parts.publish()
    assert again(parts).read_plan()[0] == {"model": "m"}


def test_a_file_of_somebody_else_is_never_removed(parts: PartialTable) -> None:
    (parts.folder / "notes.txt").write_text("mine")
    parts.finish()
    parts.remove()
    assert [path.name for path in parts.folder.iterdir()] == ["notes.txt"]
    (parts.folder / "notes.txt").unlink()
    parts.remove()
    parts.remove()  # without a folder it does nothing
    assert not parts.folder.exists()


def test_the_mark_of_a_finished_table(parts: PartialTable) -> None:
    parts.finish()
    assert (parts.folder / DONE_FILE).read_text() == '{\n  "rows": 3\n}\n'


def test_batches() -> None:
    rows = [{"n": number} for number in range(5)]
    assert list(split_batches(iter(rows), 2)) == [rows[:2], rows[2:4], rows[4:]]
    assert list(split_batches([], 2)) == []
