"""Child processes decode to the same pixels, and a crash costs one image only."""

import json
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
from aigc_cli.images.preprocess import Preprocessing
from aigc_cli.images.reader import ImageFault, decode_image

# A sitecustomize.py, which every process of this Python runs at its start: names of files make the decoder fail.
MISBEHAVE = """
import os, signal, time
from pathlib import Path
from aigc_cli.images import reader as images
honest = images.read_image_bytes
def read_image_bytes(path):
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
images.read_image_bytes = read_image_bytes
"""


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Start and end every test without idle processes."""
    decoder.POOL.close()
    yield
    decoder.POOL.close()


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


def fault_of(path: Path) -> str:
    with pytest.raises(ImageFault) as caught:
        decode_file(path)
    return caught.value.reason


def test_the_pixels_are_the_same(picture: Callable[[str], Path]) -> None:
    path = picture("a.png")
    here, there = decode_image(path.read_bytes()), decode_file(path)
    assert there.image.tobytes() == here.image.tobytes()
    assert (there.image.mode, there.width, there.height, there.note) == ("RGB", 61, 37, None)


def test_the_child_resizes_if_asked(picture: Callable[[str], Path]) -> None:
    path = picture("a.png")
    ours = Preprocessing((20, 30), (0.5,) * 3, (0.5,) * 3, "bilinear", "longest", 9)
    found = decode_file(path, ours)
    assert found.pixels.tobytes() == ours.fit_size(Image.open(path)).tobytes()
    assert (found.pixels.shape, found.width, found.height) == ((20, 30, 3), 61, 37)
    assert decode_file(path).pixels.shape == (37, 61, 3)


def test_notes_and_faults_come_through(tmp_path: Path, noise_image: Image.Image) -> None:
    noise_image.save(tmp_path / "a.gif", save_all=True, append_images=[noise_image.rotate(180)])
    assert decode_file(tmp_path / "a.gif").note == "animated_first_frame"
    (tmp_path / "b.png").write_bytes(b"text")
    (tmp_path / "c.png").mkdir()
    os.mkfifo(tmp_path / "d.png")
    reasons = [fault_of(tmp_path / name) for name in ("b.png", "c.png", "d.png", "e.png", "f\0.png", "\udcff.png")]
    assert reasons == ["not_an_image", "not_regular", "not_regular", *["missing_file"] * 3]


def test_a_relative_path_starts_in_the_current_folder(
    picture: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode_file(picture("a.png"))
    (tmp_path / "below").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "below" / "\udcff\n.png")
    monkeypatch.chdir(tmp_path / "below")
    assert decode_file(Path("\udcff\n.png")).width == 61


@pytest.mark.usefixtures("misbehaving")
def test_a_crash_costs_one_image_only(picture: Callable[[str], Path]) -> None:
    assert decode_file(picture("a.png")).width == 61
    assert fault_of(picture("abort.png")) == "decoder_crash"
    assert decode_file(picture("b.png")).width == 61


@pytest.mark.usefixtures("misbehaving")
def test_a_decoder_killed_once_is_replaced(picture: Callable[[str], Path]) -> None:
    assert decode_file(picture("once.png")).width == 61


def test_a_decoder_killed_while_idle_is_replaced(picture: Callable[[str], Path]) -> None:
    path = picture("a.png")
    decode_file(path)
    os.kill(decoder.POOL.waiting[0].child.pid, signal.SIGKILL)
    assert decode_file(path).width == 61


@pytest.mark.usefixtures("misbehaving")
def test_a_hanging_decoder_is_ended(picture: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, fine = picture("hang.png"), picture("a.png")
    decode_file(fine)
    monkeypatch.setattr(decoder, "DECODE_SECONDS", 0.5)
    assert fault_of(hangs) == "decoder_crash"
    monkeypatch.undo()
    assert decode_file(fine).width == 61


@pytest.mark.usefixtures("misbehaving")
def test_a_decoder_that_needs_too_much_memory(picture: Callable[[str], Path]) -> None:
    assert fault_of(picture("memory.png")) == "decoder_crash"
    assert decode_file(picture("a.png")).width == 61


def test_decoders_ignore_ctrl_c_and_sigterm(picture: Callable[[str], Path]) -> None:
    path = picture("a.png")
    decode_file(path)
    child = decoder.POOL.waiting[0].child
    for sent in (signal.SIGINT, signal.SIGTERM):
        os.kill(child.pid, sent)
    assert os.getpgid(child.pid) != os.getpgid(0)
    assert decode_file(path).width == 61
    assert decoder.POOL.waiting[0].child is child


def test_a_hanging_decoder_ends_itself_without_its_parent(
    picture: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = tmp_path / "short-alarm"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        f"{MISBEHAVE}\nfrom aigc_cli.images import decoder\ndecoder.DECODE_SECONDS = 0.5\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    process = decoder.DecoderProcess()
    process.wait_until_ready()
    assert process.child.stdin is not None
    request = {"path": os.fsencode(picture("hang.png")).hex(), "preprocessing": None}
    process.child.stdin.write(json.dumps(request).encode() + b"\n")
    process.close()  # waits
    assert process.child.returncode == -signal.SIGALRM


def test_each_thread_has_its_own_decoder(picture: Callable[[str], Path]) -> None:
    path, together = picture("a.png"), threading.Barrier(3)

    def work(_: int) -> int:
        together.wait()
        return sum(decode_file(path).width for _ in range(20))

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, range(3))) == [20 * 61] * 3
    assert 1 <= len(decoder.POOL.waiting) <= 3


def test_a_fork_starts_its_own_decoders(picture: Callable[[str], Path]) -> None:
    path = picture("a.png")
    decode_file(path)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if not decoder.POOL.waiting and decode_file(path).width == 61 else 2
            decoder.POOL.close()
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert decode_file(path).width == 61


def test_closing_the_pool_ends_its_decoders(picture: Callable[[str], Path]) -> None:
    decode_file(picture("a.png"))
    child = decoder.POOL.waiting[0].child
    decoder.POOL.close()
    assert child.returncode == 0


def test_a_process_that_cannot_be_started(picture: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder.sys, "executable", "/nowhere/python")
    with pytest.raises(EnvironmentProblem, match="could not be started"):
        decode_file(picture("a.png"))
    monkeypatch.setattr(decoder.sys, "executable", "/bin/true")
    with pytest.raises(EnvironmentProblem, match="could not be started"):
        decode_file(picture("a.png"))
