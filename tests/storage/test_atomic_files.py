"""Atomic files and folders, and the check of an output before a computation."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from aigc_cli.errors import AigcError, EnvironmentProblem
from aigc_cli.storage import atomic_files
from aigc_cli.storage.atomic_files import (
    LOCK,
    TABLE_SUFFIXES,
    check_output,
    discard_folder,
    fill_atomic_folder,
    open_atomic,
    read_json,
    sweep_leftovers,
    write_json,
    write_text,
)


def expect_error(call: Callable[[], object], kind: type[AigcError], message: str, hint: str) -> None:
    with pytest.raises(AigcError) as caught:
        call()
    assert (type(caught.value), caught.value.message, caught.value.hint) == (kind, message, hint)


# --- writing


@pytest.mark.parametrize("mode", ["w", "wb"])
def test_a_block_that_raises_leaves_the_old_file(tmp_path: Path, mode: Literal["w", "wb"]) -> None:
    path = tmp_path / "result.txt"
    path.write_text("old")

    def stop_half_way() -> None:
        with open_atomic(path, mode) as stream:
            stream.write("new" if mode == "w" else b"new")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        stop_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_visible_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    with open_atomic(path) as stream:
        stream.write("new\r\nline")
        stream.flush()
        assert not path.exists()
    assert path.read_bytes() == b"new\r\nline"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.txt"
    path.write_text("old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_files.os, "fsync", full)
    expect_error(
        lambda: write_text(path, "new"),
        EnvironmentProblem,
        f"{path} could not be written: No space left on device.",
        "Free some space or choose another place with -o.",
    )
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_mode_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "result.txt", "x")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "result.txt").stat().st_mode) == 0o640


def test_json_never_holds_nan(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_json(path, {"b": 1, "a": "é"})
    assert path.read_text(encoding="utf-8") == '{\n  "b": 1,\n  "a": "é"\n}\n'
    with pytest.raises(ValueError, match="Out of range float values"):
        write_json(path, {"a": float("nan")})
    assert path.read_text(encoding="utf-8").startswith('{\n  "b": 1')


# --- what may be written


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_new_table_is_fine(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"new{suffix}"
    check_output(path, overwrite=False)
    path.write_text("old")
    check_output(path, overwrite=True)
    assert path.read_text() == "old"


def test_an_output_that_exists(tmp_path: Path) -> None:
    table, run = tmp_path / "t.csv", tmp_path / "run"
    table.write_text("old")
    run.mkdir()
    check_output(run, overwrite=False, suffixes=())  # nothing can be lost in an empty folder
    (run / "run.json").write_text("{}")
    hint = "Add --overwrite, or choose another place with -o."
    expect_error(lambda: check_output(table, overwrite=False), AigcError, f"The output {table} exists.", hint)
    expect_error(lambda: check_output(run, overwrite=False, suffixes=()), AigcError, f"The output {run} exists.", hint)
    check_output(run, overwrite=True, suffixes=())


@pytest.mark.parametrize("name", ["t.txt", "t", "t.PARQUET", "t.parquet.gz", ".csv"])
def test_another_suffix(tmp_path: Path, name: str) -> None:
    message = f"Expected an output ending in .parquet, .csv, .jsonl, found {tmp_path / name}."
    expect_error(lambda: check_output(tmp_path / name, overwrite=True), AigcError, message, "Change -o.")


@pytest.mark.parametrize("overwrite", [False, True])
def test_links_devices_and_folders(tmp_path: Path, overwrite: bool) -> None:
    folder, link, dead = (tmp_path / name for name in ("folder.csv", "link.csv", "dead.csv"))
    folder.mkdir()
    (tmp_path / "target.csv").write_text("precious")
    link.symlink_to(tmp_path / "target.csv")
    dead.symlink_to(tmp_path / "nothing.csv")
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    for path in (folder, link, dead, pipe):
        message = f"Expected a plain file for the output, found a link, device or folder: {path}."
        expect_error(lambda p=path: check_output(p, overwrite=overwrite), AigcError, message, "Change -o.")
    assert (tmp_path / "target.csv").read_text() == "precious"


def test_a_file_where_a_folder_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("precious")
    message = f"Expected a folder for the output, found a file: {path}."
    expect_error(lambda: check_output(path, overwrite=True, suffixes=()), AigcError, message, "Change -o.")


def test_a_table_makes_no_folders(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "t.csv"
    message = f"The folder {path.parent} does not exist."
    expect_error(lambda: check_output(path, overwrite=False), EnvironmentProblem, message, "Create it, or change -o.")


def test_a_run_makes_its_folders(tmp_path: Path) -> None:
    check_output(tmp_path / "runs" / "a" / "b", overwrite=False, suffixes=())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["run", "deep/run"])
def test_a_run_below_a_file(tmp_path: Path, below: str) -> None:
    """The error comes before hours of training, not after."""
    (tmp_path / "file").write_text("precious")
    with pytest.raises(AigcError, match="file"):
        check_output(tmp_path / "file" / below, overwrite=False, suffixes=())


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    for path, suffixes in ((tmp_path / f"{'x' * 300}.csv", TABLE_SUFFIXES), (tmp_path / ("x" * 300), ())):
        with pytest.raises(AigcError, match="xxxxx"):
            check_output(path, overwrite=False, suffixes=suffixes)


UNWRITABLE = """
import os, sys
from pathlib import Path
from aigc_cli.errors import AigcError
from aigc_cli.storage.atomic_files import check_output
if os.geteuid() == 0:
    os.setresgid(65534, 65534, 65534), os.setresuid(65534, 65534, 65534)
for path, suffixes in ((Path(sys.argv[1], "t.csv"), (".csv",)), (Path(sys.argv[1], "run", "a"), ())):
    try:
        check_output(path, overwrite=False, suffixes=suffixes)
    except AigcError as error:
        print(error.exit_code, error.message, error.hint)
"""


def test_an_unwritable_folder_as_an_ordinary_user() -> None:
    """In another process: root may write everywhere, so the process gives up its rights."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:  # other users cannot enter the folders of pytest
        folder = Path(name, "closed")
        folder.mkdir()
        folder.chmod(0o555)
        Path(name).chmod(0o755)
        plain = {
            key: value for key, value in os.environ.items() if "COVERAGE" not in key
        }  # the user may not write coverage data
        line = [sys.executable, "-c", UNWRITABLE, folder]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, env=plain)
    shown = f"4 The folder {folder} is not writable. Change its permissions, or -o."
    assert (done.stdout.splitlines(), done.stderr) == ([shown, shown], "")


# --- folders


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_appears_whole_or_the_old_one_stays(there: bool, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    if there:
        path.mkdir()
        (path / "old").write_text("old")

    def stop_half_way() -> None:
        with fill_atomic_folder(path) as folder:
            (folder / "new").write_text("half")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        stop_half_way()
    assert [p.name for p in tmp_path.rglob("*")] == (["checkpoint", "old"] if there else [])
    with fill_atomic_folder(path) as folder:
        (folder / "new").write_text("new")
    assert [p.name for p in tmp_path.rglob("*")] == ["checkpoint", "new"]


def test_a_rename_that_fails_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, honest = tmp_path / "checkpoint", Path.rename
    path.mkdir()
    (path / "old").write_text("old")

    def rename(self: Path, target: Path) -> Path:
        if (self / "new").exists():
            raise OSError(5, "Input/output error")
        return honest(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    failed = pytest.raises(EnvironmentProblem, match="checkpoint could not be written: Input/output error")
    with failed, fill_atomic_folder(path) as folder:
        (folder / "new").write_text("new")
    assert [p.name for p in tmp_path.rglob("*")] == ["checkpoint", "old"]


def test_a_folder_that_is_discarded(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("x")
    discard_folder(tmp_path / "a")
    discard_folder(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_only_temporary_files_of_this_project_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".aigc-folder").mkdir()
    (tmp_path / ".aigc-folder" / "x").write_text("x")
    (tmp_path / ".aigc-file").write_text("x")
    (tmp_path / ".aigc-link").symlink_to(tmp_path)
    for name in (LOCK, ".aigc", "mine.txt"):
        (tmp_path / name).write_text("x")
    sweep_leftovers(tmp_path, tmp_path / "nowhere")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".aigc", LOCK, "mine.txt"]


def test_a_system_that_cannot_open_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = os.open

    def open_files_only(path: Path, flags: int, *more: int) -> int:
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied")
        return honest(path, flags, *more)

    monkeypatch.setattr(atomic_files.os, "open", open_files_only)
    with fill_atomic_folder(tmp_path / "a") as folder:
        (folder / "x").write_text("x")
    assert (tmp_path / "a" / "x").read_text() == "x"


# --- untrusted JSON


def test_invalid_json_raises(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"name": "caf\udce9", "é": [1]})
    assert read_json(path) == {"name": "caf\udce9", "é": [1]}
    for content in (b"{", b"\xff", b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(ValueError):
            read_json(path)
    path.unlink()
    with pytest.raises(OSError, match="No such file"):
        read_json(path)
    os.mkfifo(path)
    with pytest.raises(OSError, match="it is a folder, pipe, socket or device"):
        read_json(path)
