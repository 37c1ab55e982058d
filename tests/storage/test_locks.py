"""Only one process can hold a folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aigc_cli.errors import AigcError, EnvironmentProblem, FolderConflict
from aigc_cli.storage.atomic_files import LOCK
from aigc_cli.storage.locks import own_folder

HOLD = "import sys; from pathlib import Path; from aigc_cli.storage.locks import own_folder\n"
HOLD += "with own_folder(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"


def test_a_folder_is_created_held_and_removed_if_empty(tmp_path: Path) -> None:
    with own_folder(tmp_path / "deep" / "run"):
        assert (tmp_path / "deep" / "run" / LOCK).read_text() == f"{os.getpid()}\n"
    assert list(tmp_path.iterdir()) == []
    with own_folder(tmp_path / "deep" / "run"):
        (tmp_path / "deep" / "run" / "result").write_text("x")
    assert [path.name for path in (tmp_path / "deep" / "run").iterdir()] == ["result"]


def test_an_error_frees_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), own_folder(tmp_path / "run"):
        raise ZeroDivisionError
    assert not (tmp_path / "run").exists()
    with own_folder(tmp_path / "run"):
        pass


def test_a_second_process_gets_an_error_until_the_first_ends(tmp_path: Path) -> None:
    line = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for _ in range(2):  # a failed attempt does not change the lock
            with pytest.raises(FolderConflict) as caught, own_folder(tmp_path / "run"):
                pass
            assert caught.value.exit_code == 5
            assert (
                caught.value.message
                == f"Expected {tmp_path / 'run'} to be free, found it held by process {holder.pid}."
            )
        holder.kill()
    assert (tmp_path / "run" / LOCK).exists()  # the file remains, but not the lock
    with own_folder(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).read_text() == f"{os.getpid()}\n"


def test_one_process_cannot_hold_a_folder_twice(tmp_path: Path) -> None:
    with (
        own_folder(tmp_path / "run"),
        pytest.raises(FolderConflict, match=str(os.getpid())),
        own_folder(tmp_path / "run"),
    ):
        pass


def test_a_file_or_link_cannot_be_held(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(AigcError) as caught, own_folder(tmp_path / name):
            pass
        assert caught.value.exit_code == 2
    with pytest.raises(EnvironmentProblem), own_folder(Path("/proc/nothing/here")):
        pass
    assert (tmp_path / "file").read_text() == "mine"


def test_an_unreadable_lock_file_is_an_unknown_holder(tmp_path: Path) -> None:
    with own_folder(tmp_path / "run"):
        for content in (b"", b"\xff"):
            (tmp_path / "run" / LOCK).write_bytes(content)
            with pytest.raises(FolderConflict, match="held by process unknown"), own_folder(tmp_path / "run"):
                pass


@pytest.mark.parametrize("there", [True, False])
def test_a_link_in_place_of_the_lock_is_not_followed(there: bool, tmp_path: Path) -> None:
    """In a shared folder anybody can plant one, and its target would be emptied."""
    precious, folder = tmp_path / "precious.txt", tmp_path / "run"
    folder.mkdir()
    if there:
        precious.write_text("mine")
    (folder / LOCK).symlink_to(precious)
    with pytest.raises(AigcError, match="found a link"), own_folder(folder):
        pass
    assert precious.exists() == there
    assert not there or precious.read_text() == "mine"


def test_a_link_that_is_planted_later_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precious, folder = tmp_path / "precious.txt", tmp_path / "run"
    folder.mkdir()
    precious.write_text("mine")
    (folder / LOCK).symlink_to(precious)
    monkeypatch.setattr(Path, "is_symlink", lambda _: False)
    with pytest.raises((AigcError, EnvironmentProblem)), own_folder(folder):
        pass
    assert precious.read_text() == "mine"
