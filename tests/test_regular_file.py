"""Regular files are told apart from everything that could block or have no end."""

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from aigc_cli.regular_file import FileTooLarge, NotRegularFile, check_regular, read_regular


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


KINDS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "link to a folder": lambda path: path.symlink_to(path.parent),
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "socket": make_socket,
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_a_regular_file_is_never_opened(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    path = Path("x")
    KINDS[kind](path)
    for call in (check_regular, read_regular):
        with pytest.raises(NotRegularFile, match="it is a folder, pipe, socket or device") as caught:
            call(path)
        assert caught.value.errno == errno.EINVAL


def test_a_device() -> None:
    with pytest.raises(NotRegularFile):
        read_regular(Path("/dev/zero"), limit=10)


def test_a_missing_file_and_a_dead_link(tmp_path: Path) -> None:
    (tmp_path / "dead").symlink_to(tmp_path / "nothing")
    for name in ("missing", "dead", "missing/below"):
        for call in (check_regular, read_regular):
            with pytest.raises(FileNotFoundError):
                call(tmp_path / name)


def test_a_link_loop_and_a_nul_character(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError) as caught:
        read_regular(tmp_path / "loop")
    assert caught.value.errno == errno.ELOOP
    with pytest.raises(ValueError):
        check_regular("a\0b")


def test_a_file_and_a_link_to_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name in ("file", "link"):
        assert check_regular(str(tmp_path / name)).st_size == 7
        assert read_regular(tmp_path / name) == b"content"


def test_the_limit_is_the_largest_allowed_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    assert len(read_regular(path, limit=1000)) == 1000
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("a file over the limit was read"))
    with pytest.raises(FileTooLarge, match="it has 1,000 bytes") as caught:
        read_regular(path, limit=999)
    assert (caught.value.size, caught.value.errno) == (1000, errno.EFBIG)


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert read_regular(tmp_path / "empty", limit=0) == b""
