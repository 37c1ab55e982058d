"""Decoding in other processes: the same pixels, and one that dies costs one image at most."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from aigc_cli.errors import EnvironmentProblem
from aigc_cli.images import decoder
from aigc_cli.images.decoder import decode_file
from aigc_cli.images.reader import ImageFault, decode

# Runs in every process of this Python, before anything else: some files make its decoder misbehave.
MISBEHAVE = """
import os, signal, time
from pathlib import Path
from aigc_cli.images import reader as images
honest = images.read_bytes
def read_bytes(path):
    if "abort" in path.name:
        os.abort()
    if "hang" in path.name:
        time.sleep(600)
    if "once" in path.name and not (mark := path.with_suffix(".mark")).exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if "memory" in path.name:
        bytearray(1 << 40)
    return honest(path)
images.read_bytes = read_bytes
"""


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """No process of an earlier test, and none for a later one."""
    decoder._idle.close()
    yield
    decoder._idle.close()


@pytest.fixture
def misbehaving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(MISBEHAVE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def picture(tmp_path: Path, noise_image: Image.Image) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        noise_image.save(tmp_path / name)
        return tmp_path / name

    return make


def fault(path: Path) -> str:
    with pytest.raises(ImageFault) as caught:
        decode_file(path)
    return caught.value.reason


def test_the_pixels_are_the_same(picture: Callable[[str], Path]) -> None:
    path = picture("a.png")
    here, there = decode(path.read_bytes()), decode_file(path)
    assert there.image.tobytes() == here.image.tobytes()
    assert (there.image.mode, there.width, there.height, there.note) == ("RGB", 61, 37, None)


def test_notes_and_faults_come_through(tmp_path: Path, noise_image: Image.Image) -> None:
    noise_image.save(tmp_path / "a.gif", save_all=True, append_images=[noise_image.rotate(180)])
    assert decode_file(tmp_path / "a.gif").note == "animated_first_frame"
    (tmp_path / "b.png").write_bytes(b"text")
    (tmp_path / "c.png").mkdir()
    os.mkfifo(tmp_path / "d.png")
    reasons = [fault(tmp_path / name) for name in ("b.png", "c.png", "d.png", "e.png", "f\0.png", "\udcff.png")]
    assert reasons == ["not_an_image", "not_regular", "not_regular", *["missing_file"] * 3]


def test_a_relative_path_is_from_where_we_are(
    picture: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode_file(picture("a.png"))
    (tmp_path / "below").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "below" / "\udcff\n.png")
    monkeypatch.chdir(tmp_path / "below")
    assert decode_file(Path("\udcff\n.png")).width == 61


@pytest.mark.usefixtures("misbehaving")
def test_a_decoder_that_dies_costs_its_image_only(picture: Callable[[str], Path]) -> None:
    assert decode_file(picture("a.png")).width == 61
    assert fault(picture("abort.png")) == "decoder_crash"
    assert decode_file(picture("b.png")).width == 61


@pytest.mark.usefixtures("misbehaving")
def test_a_decoder_that_was_killed_from_outside_is_replaced(picture: Callable[[str], Path]) -> None:
    assert decode_file(picture("once.png")).width == 61


def test_an_idle_decoder_that_was_killed_is_replaced(picture: Callable[[str], Path]) -> None:
    path = picture("a.png")
    decode_file(path)
    os.kill(decoder._idle._waiting[0]._child.pid, signal.SIGKILL)
    assert decode_file(path).width == 61


@pytest.mark.usefixtures("misbehaving")
def test_a_decoder_that_hangs_is_ended(picture: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, fine = picture("hang.png"), picture("a.png")
    decode_file(fine)
    monkeypatch.setattr(decoder, "PATIENCE", 0.5)
    assert fault(hangs) == "decoder_crash"
    monkeypatch.undo()
    assert decode_file(fine).width == 61


@pytest.mark.usefixtures("misbehaving")
def test_a_decoder_that_wants_all_memory(picture: Callable[[str], Path]) -> None:
    assert fault(picture("memory.png")) == "decoder_crash"
    assert decode_file(picture("a.png")).width == 61


def test_ctrl_c_and_sigterm_leave_a_decoder_at_work(picture: Callable[[str], Path]) -> None:
    path = picture("a.png")
    decode_file(path)
    child = decoder._idle._waiting[0]._child
    for sent in (signal.SIGINT, signal.SIGTERM):
        os.kill(child.pid, sent)
    assert os.getpgid(child.pid) != os.getpgid(0)
    assert decode_file(path).width == 61
    assert decoder._idle._waiting[0]._child is child


def test_a_decoder_that_hangs_ends_by_itself_when_its_run_is_gone(
    picture: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = tmp_path / "impatient"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        f"{MISBEHAVE}\nfrom aigc_cli.images import decoder\ndecoder.PATIENCE = 0.5\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    process = decoder._Process()
    assert process._child.stdin is not None
    process._child.stdin.write(os.fsencode(picture("hang.png")).hex().encode() + b"\n")
    process.close()  # waits
    assert process._child.returncode == -signal.SIGALRM


def test_threads_have_a_decoder_each(picture: Callable[[str], Path]) -> None:
    path, together = picture("a.png"), threading.Barrier(3)

    def work(_: int) -> int:
        together.wait()
        return sum(decode_file(path).width for _ in range(20))

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, range(3))) == [20 * 61] * 3
    assert 1 <= len(decoder._idle._waiting) <= 3


def test_a_fork_leaves_the_decoders_to_its_parent(picture: Callable[[str], Path]) -> None:
    path = picture("a.png")
    decode_file(path)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if not decoder._idle._waiting and decode_file(path).width == 61 else 2
            decoder._idle.close()
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert decode_file(path).width == 61


def test_decoders_end_with_their_run(picture: Callable[[str], Path]) -> None:
    decode_file(picture("a.png"))
    child = decoder._idle._waiting[0]._child
    decoder._idle.close()
    assert child.returncode == 0


def test_no_process_can_be_started(picture: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder.sys, "executable", "/nowhere/python")
    with pytest.raises(EnvironmentProblem, match="could not be started"):
        decode_file(picture("a.png"))
    monkeypatch.setattr(decoder.sys, "executable", "/bin/true")
    with pytest.raises(EnvironmentProblem, match="could not be started"):
        decode_file(picture("a.png"))
