"""One owner for a folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aigc_cli.errors import AigcError, EnvironmentProblem, RunHeld
from aigc_cli.storage.files import LOCK
from aigc_cli.storage.locks import owned

HOLD = "import sys; from pathlib import Path; from aigc_cli.storage.locks import owned\n"
HOLD += "with owned(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"


def test_a_folder_is_made_held_and_left_as_it_was(tmp_path: Path) -> None:
    with owned(tmp_path / "deep" / "run"):
        assert (tmp_path / "deep" / "run" / LOCK).read_text() == f"{os.getpid()}\n"
    assert list(tmp_path.iterdir()) == []
    with owned(tmp_path / "deep" / "run"):
        (tmp_path / "deep" / "run" / "result").write_text("x")
    assert [path.name for path in (tmp_path / "deep" / "run").iterdir()] == ["result"]


def test_an_error_frees_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), owned(tmp_path / "run"):
        raise ZeroDivisionError
    assert not (tmp_path / "run").exists()
    with owned(tmp_path / "run"):
        pass


def test_a_second_owner_is_told_of_the_first_until_that_dies(tmp_path: Path) -> None:
    line = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for _ in range(2):  # a failed attempt leaves the lock as it is
            with pytest.raises(RunHeld) as caught, owned(tmp_path / "run"):
                pass
            assert caught.value.exit_code == 5
            assert (
                caught.value.message
                == f"Expected {tmp_path / 'run'} to be free, found it held by process {holder.pid}."
            )
        holder.kill()
    assert (tmp_path / "run" / LOCK).exists()  # only the file outlives its process
    with owned(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).read_text() == f"{os.getpid()}\n"


def test_one_process_does_not_own_twice(tmp_path: Path) -> None:
    with owned(tmp_path / "run"), pytest.raises(RunHeld, match=str(os.getpid())), owned(tmp_path / "run"):
        pass


def test_what_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(AigcError) as caught, owned(tmp_path / name):
            pass
        assert caught.value.exit_code == 2
    with pytest.raises(EnvironmentProblem), owned(Path("/proc/nothing/here")):
        pass
    assert (tmp_path / "file").read_text() == "mine"


def test_a_holder_that_did_not_say_who_it_is(tmp_path: Path) -> None:
    with owned(tmp_path / "run"):
        for content in (b"", b"\xff"):
            (tmp_path / "run" / LOCK).write_bytes(content)
            with pytest.raises(RunHeld, match="held by process unknown"), owned(tmp_path / "run"):
                pass
