"""Files that are copied, linked or moved: none is overwritten or lost, and everything can be undone."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from aigc_cli.errors import AigcError, EnvironmentProblem
from aigc_cli.storage import placed_files
from aigc_cli.storage.placed_files import Action, describe_undo, place_files, plan_placement, undo_placement

ACTIONS: tuple[Action, ...] = ("copy", "link", "symlink", "move")
every_action = pytest.mark.parametrize("action", ACTIONS)


class CutOff(BaseException):
    """Ends the work at any moment, as a kill would."""


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    found = []
    for name in ("one/a.png", "two/a.png", "two/A.PNG", "one/b.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"content of {name}".encode())
        found.append(path)
    return found


def state(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def carry_out(action: Action, files: list[Path], folder: Path, stop_after: int | None = None) -> list[Path]:
    """Place the files and return the announced undo lists; stop after `stop_after` files."""
    records: list[Path] = []
    done: list[None] = []

    def count() -> None:
        done.append(None)
        if len(done) == stop_after:
            raise CutOff

    place_files(plan_placement(action, files, folder), records.append, count)
    return records


@every_action
def test_place_and_undo(action: Action, files: list[Path], tmp_path: Path) -> None:
    before = state(tmp_path)
    (record,) = carry_out(action, files, tmp_path / "best")
    best = tmp_path / "best"
    assert sorted(p.name for p in best.iterdir()) == ["A-3.PNG", "a-2.png", "a.png", "b.png", record.name]
    contents = [(best / name).read_bytes() for name in ("a.png", "a-2.png", "A-3.PNG", "b.png")]
    assert contents == [before[str(file.relative_to(tmp_path))] for file in files]
    assert all(file.exists() == (action != "move") for file in files)
    if action in ("link", "symlink"):
        assert all((best / "b.png").samefile(f) == (f == files[3]) for f in files)
        assert (best / "b.png").is_symlink() == (action == "symlink")
    assert undo_placement(record) == (4, [])
    assert state(tmp_path) == before
    assert not best.exists()


@every_action
@pytest.mark.parametrize("stop", [1, 3])
def test_an_interrupted_placement_can_be_undone(action: Action, stop: int, files: list[Path], tmp_path: Path) -> None:
    before = state(tmp_path)
    with pytest.raises(CutOff):
        carry_out(action, files, tmp_path / "best", stop_after=stop)
    (record,) = (tmp_path / "best").glob("undo-*.json")
    assert undo_placement(record) == (stop, [])
    assert state(tmp_path) == before


@pytest.mark.parametrize("step", ["link", "unlink"])
def test_a_move_cut_off_between_its_steps(
    step: str, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the new name exists, or after it while the old one still exists: the file always has a name."""
    before = state(tmp_path)

    usual = getattr(os if step == "link" else Path, step)

    def die(path: Path, *rest: object, **named: object) -> None:
        if path in files:
            raise CutOff
        usual(path, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(placed_files.os if step == "link" else Path, step, die)
        with pytest.raises(CutOff):
            carry_out("move", files, tmp_path / "best")
    assert {name: before[name] for name in before} == {k: v for k, v in state(tmp_path).items() if k in before}
    (record,) = (tmp_path / "best").glob("undo-*.json")
    assert undo_placement(record) == (int(step == "unlink"), [])
    assert state(tmp_path) == before


def test_an_interrupted_undo_can_be_continued(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(tmp_path)
    (record,) = carry_out("move", files, tmp_path / "best")
    usual, calls = os.link, list[Path]()

    def link_twice(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 3:
            raise CutOff
        usual(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(placed_files.os, "link", link_twice)
        with pytest.raises(CutOff):
            undo_placement(record)
    assert undo_placement(record) == (2, [])
    assert state(tmp_path) == before


@every_action
def test_existing_files_are_not_overwritten(action: Action, files: list[Path], tmp_path: Path) -> None:
    best = tmp_path / "best"
    best.mkdir()
    (best / "B.png").write_bytes(b"mine")
    before = state(tmp_path)
    with pytest.raises(AigcError, match="exists, and nothing is overwritten"):
        carry_out(action, files, best)
    assert state(tmp_path) == before


@every_action
def test_files_that_appear_meanwhile_are_not_overwritten(action: Action, files: list[Path], tmp_path: Path) -> None:
    planned = plan_placement(action, files, tmp_path / "best")

    def ready(_: Path) -> None:
        (tmp_path / "best" / "b.png").write_bytes(b"mine")

    with pytest.raises(AigcError) as caught:
        place_files(planned, ready, lambda: None)
    assert "nothing is overwritten" in caught.value.message
    (record,) = (tmp_path / "best").glob("undo-*.json")
    assert str(record) in caught.value.hint
    count, left = undo_placement(record)
    assert (count, [path.name for path, _ in left]) == (3, ["b.png"])
    assert state(tmp_path)["best/b.png"] == b"mine"
    assert all(file.exists() for file in files)


@every_action
def test_without_links_the_file_system_still_overwrites_nothing(
    action: Action, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(placed_files.os, "link", refuse)
    if action == "link":
        with pytest.raises(AigcError, match="Operation not permitted"):
            carry_out(action, files, tmp_path / "best")
        return
    before = state(tmp_path)
    (record,) = carry_out(action, files, tmp_path / "best")
    assert (tmp_path / "best" / "b.png").read_bytes() == before["images/one/b.png"]
    assert undo_placement(record) == (4, [])
    assert state(tmp_path) == before


def test_undo_loses_no_content(files: list[Path], tmp_path: Path) -> None:
    (record,) = carry_out("copy", files, tmp_path / "best")
    best = tmp_path / "best"
    (best / "b.png").write_bytes(b"edited since")
    files[0].unlink()  # only its copy remains
    (best / "a-2.png").unlink()
    count, left = undo_placement(record)
    assert count == 1
    assert {path.name: why for path, why in left} == {
        "b.png": "the file or its original was changed",
        "a.png": f"the original {files[0]} is gone",
    }
    assert (best / "a.png").is_file()
    assert record.is_file()


def test_undo_keeps_a_copy_whose_original_now_points_at_it(files: list[Path], tmp_path: Path) -> None:
    (record,) = carry_out("copy", files, tmp_path / "best")
    files[3].unlink()
    files[3].symlink_to(tmp_path / "best" / "b.png")
    _, left = undo_placement(record)
    assert [path.name for path, _ in left] == ["b.png"]
    assert files[3].read_bytes() == b"content of one/b.png"


def test_a_move_back_replaces_nothing(files: list[Path], tmp_path: Path) -> None:
    (record,) = carry_out("move", files, tmp_path / "best")
    files[3].write_bytes(b"another")
    count, left = undo_placement(record)
    assert (count, [path.name for path, _ in left]) == (3, ["b.png"])
    assert files[3].read_bytes() == b"another"


def test_errors_come_before_any_file_is_touched(files: list[Path], tmp_path: Path) -> None:
    files[1].unlink()
    with pytest.raises(AigcError, match=r"Expected an image at .*two/a\.png, found none"):
        carry_out("move", files, tmp_path / "best")
    files[1].symlink_to(files[0])
    with pytest.raises(AigcError, match="Expected a regular file to move"):
        carry_out("move", files, tmp_path / "best")
    with pytest.raises(AigcError, match="Expected a folder, found a file"):
        carry_out("copy", files, files[0])
    assert not (tmp_path / "best").exists()


def test_a_list_of_another_folder_is_refused(files: list[Path], tmp_path: Path) -> None:
    (record,) = carry_out("copy", files, tmp_path / "best")
    elsewhere = tmp_path / "list.json"
    elsewhere.write_bytes(record.read_bytes())
    with pytest.raises(AigcError, match="made in another folder"):
        undo_placement(elsewhere)
    elsewhere.write_text("{}")
    with pytest.raises(AigcError, match="Expected an undo list"):
        undo_placement(elsewhere)
    assert os.path.lexists(tmp_path / "best" / "b.png")


@pytest.mark.parametrize("change", [{"folder": ["/elsewhere", 5]}, {"folder": None}, {"version": 1}])
def test_a_list_that_was_not_made_here_is_refused(change: dict[str, Any], files: list[Path], tmp_path: Path) -> None:
    """A list from elsewhere could move files to any place, such as a folder of programs that start by themselves."""
    (record,) = carry_out("move", files, tmp_path / "best")
    said = json.loads(record.read_text())
    said["files"] = [[str(tmp_path / "autostart"), target] for _, target in said["files"]]
    record.write_text(json.dumps({**said, **change}))
    before = state(tmp_path)
    for attempt in (undo_placement, describe_undo):
        with pytest.raises(AigcError, match="Expected an undo list"):
            attempt(record)
    assert state(tmp_path) == before


def test_a_copied_folder_is_not_undone(files: list[Path], tmp_path: Path) -> None:
    (record,) = carry_out("move", files, tmp_path / "best")
    (tmp_path / "best").rename(tmp_path / "aside")
    shutil.copytree(tmp_path / "aside", tmp_path / "best")  # the same path, another folder
    with pytest.raises(AigcError, match="made in another folder"):
        undo_placement(record)


def test_what_an_undo_will_do(files: list[Path], tmp_path: Path) -> None:
    (record,) = carry_out("move", files, tmp_path / "best")
    assert describe_undo(record).startswith(f"Move {len(files)} files from {tmp_path / 'best'} back to {tmp_path}")
    (record,) = carry_out("copy", [tmp_path / "best" / files[0].name], tmp_path / "copies")
    assert describe_undo(record) == f"Remove 1 file from {tmp_path / 'copies'}"


def test_a_disk_that_fills_up_says_how_to_undo(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(tmp_path)
    honest, copied = placed_files.shutil.copy2, list[Path]()

    def full(source: Path, target: Path) -> None:
        copied.append(source)
        if len(copied) == 3:
            target.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        honest(source, target)

    monkeypatch.setattr(placed_files.shutil, "copy2", full)
    with pytest.raises(EnvironmentProblem, match="could not be written: No space left on device") as caught:
        carry_out("copy", files, tmp_path / "best")
    (record,) = (tmp_path / "best").glob("undo-*")
    assert str(record) in caught.value.hint
    assert len(state(tmp_path / "best")) == 3  # two copies and the list
    assert undo_placement(record) == (2, [])
    assert state(tmp_path) == before


def test_between_file_systems_a_move_is_a_copy(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, honest = state(tmp_path), Path.stat

    def stat(self: Path, **options: bool) -> os.stat_result:
        found = list(honest(self, **options))
        found[2] += self.name == "best"  # st_dev: the folder lies on another disk
        return os.stat_result(found)

    monkeypatch.setattr(Path, "stat", stat)
    (record,) = carry_out("move", files, tmp_path / "best")
    assert not any(os.path.lexists(file) for file in files)
    assert undo_placement(record)[1] == []
    assert state(tmp_path) == before


def test_a_file_that_replaced_a_pick_stays(files: list[Path], tmp_path: Path) -> None:
    for action in ("copy", "move", "symlink"):
        best = tmp_path / action
        (record,) = carry_out(action, files[3:] if action == "move" else files[:1], best)
        (placed,) = [path for path in best.iterdir() if path != record]
        placed.unlink()
        placed.symlink_to(record)
        count, left = undo_placement(record)
        reason = "it is not the link that was made" if action == "symlink" else "there is something else now"
        assert (count, [why for _, why in left]) == (0, [reason])
        assert placed.is_symlink()


def test_an_undo_that_fails_can_be_repeated(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (record,) = carry_out("copy", files, tmp_path / "best")

    honest = Path.unlink

    def refuse(self: Path, missing_ok: bool = False) -> None:
        if self.suffix == ".png":
            raise OSError(30, "Read-only file system")
        honest(self, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(EnvironmentProblem, match="could not be undone: Read-only file system"):
            undo_placement(record)
    assert undo_placement(record) == (4, [])


@pytest.mark.parametrize("change", [{"version": 9}, {"action": "burn"}, {"files": [["a", "b"]]}, {"files": 5}])
def test_a_list_that_was_changed(change: dict[str, object], files: list[Path], tmp_path: Path) -> None:
    (record,) = carry_out("copy", files, tmp_path / "best")
    record.write_text(json.dumps(json.loads(record.read_text()) | change))
    with pytest.raises(AigcError, match="Expected an undo list"):
        undo_placement(record)
    assert len(list((tmp_path / "best").iterdir())) == 5
