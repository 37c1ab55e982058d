"""Faults around a scoring: signals, full disks, rights, other runs, decoders, memory."""

import contextlib
import csv
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from killing import Forge

from aigc_cli.errors import EnvironmentProblem
from aigc_cli.images.sample import Sample
from aigc_cli.model.backbone import ImageFeatures
from aigc_cli.model.eager import EagerNetwork
from aigc_cli.model.trained import load_model
from aigc_cli.progress import SilentProgress
from aigc_cli.workflows.score.scorer import ImageEntry, Scorer

Here = Callable[..., tuple[int, str, str]]


def wait_for(found: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    """Waits until `found` returns something true while the process runs."""
    for _ in range(30_000):
        if found():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("timeout")


# --- signals


@pytest.mark.slow
def test_ctrl_c_keeps_the_rows_and_says_how_to_resume(
    tiny_model: Path,
    many: Callable[..., Path],
    tmp_path: Path,
    environment: dict[str, str],
    aigc_here: Here,
) -> None:
    folder = many(160, "slow")
    line = ("score", folder, "--model", tiny_model, "--device", "cpu", "-o", tmp_path / "t.csv")
    command = [sys.executable, "-m", "aigc_cli", *map(str, line)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        wait_for(lambda: [*tmp_path.glob("t.csv.parts/shard-*")], process)
        os.killpg(process.pid, signal.SIGINT)  # like a terminal: decoders get it too
        stdout, stderr = process.communicate(timeout=400)
    assert (process.returncode, stdout) == (130, "")
    rows = int(re.search(r"aigc: Interrupted; (\d+) rows are finished and kept in .*t\.csv\.parts\.\n", stderr)[1])  # type: ignore[index]
    assert "Run the same command with --resume to continue." in stderr
    assert rows % 32 == 0
    assert 32 <= rows < 160
    assert not (tmp_path / "t.csv").exists()
    code, _, stderr = aigc_here(*line, "--resume", "-q")
    assert (code, stderr) == (0, "")
    with (tmp_path / "t.csv").open(newline="") as stream:
        assert [row["status"] for row in csv.DictReader(stream)] == ["ok"] * 160


@pytest.mark.slow
def test_sigterm_keeps_the_rows(forge: Forge, tiny_model: Path, many: Callable[..., Path], tmp_path: Path) -> None:
    line = f"score {many(96)} --model {tiny_model} --device cpu -q"
    whole = forge.run(tmp_path / "whole", f"{line} -o t.csv")
    assert whole.code == 0, whole.err
    ending = forge.run(tmp_path / "work", f"{line} -o t.csv", at=whole.events // 2, do="terminate")
    assert ending.code == 143
    assert "aigc: Terminated; " in ending.err
    assert not (tmp_path / "work" / "t.csv").exists()
    assert forge.run(tmp_path / "work", f"{line} -o t.csv --resume").code == 0
    assert (tmp_path / "work" / "t.csv").read_bytes() == (tmp_path / "whole" / "t.csv").read_bytes()


@pytest.mark.slow
def test_second_signal_ends_at_once(
    tiny_model: Path, many: Callable[..., Path], demo: list[Sample], tmp_path: Path, environment: dict[str, str]
) -> None:
    folder = many(32)
    (folder / "hang.jpg").write_bytes(demo[0].path.read_bytes())
    line = ["score", folder, "--model", tiny_model, "--device", "cpu", "-o", tmp_path / "t.csv", "-q"]
    with subprocess.Popen([sys.executable, "-m", "aigc_cli", *map(str, line)], env=environment) as process:
        wait_for(lambda: [*tmp_path.glob("t.csv.parts/shard-*")], process)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None  # it waits for the hanging decoder
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == -signal.SIGINT


# --- the output


HOLDER = """
import sys
from pathlib import Path
from aigc_cli.storage.locks import own_folder
with own_folder(Path(sys.argv[1])):
    print(flush=True)
    sys.stdin.read()
"""


def test_a_second_run_leaves_the_first_alone(
    tiny_model: Path, many: Callable[..., Path], tmp_path: Path, aigc_here: Here
) -> None:
    folder = many(2)
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "t.csv.parts")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        for more in ((), ("--resume",), ("--overwrite",)):
            code, out, err = aigc_here("score", folder, "--model", tiny_model, "-o", tmp_path / "t.csv", *more)
            assert (code, out) == (5, "")
            assert str(other.pid) in err
            assert len(err.splitlines()) == 2
        other.kill()
    assert aigc_here("score", folder, "--model", tiny_model, "-o", tmp_path / "t.csv", "-q")[0] == 0


@contextlib.contextmanager
def limit_files(size: int) -> Iterator[None]:
    """Limits every file to `size` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("suffix", ["parquet", *(pytest.param(s, marks=pytest.mark.slow) for s in ("csv", "jsonl"))])
def test_a_full_disk_keeps_the_old_table_and_the_rows(
    suffix: str, tiny_model: Path, many: Callable[..., Path], tmp_path: Path, aigc_here: Here
) -> None:
    folder, output = many(100), tmp_path / f"t.{suffix}"
    output.write_text("old")
    line = ("score", folder, "--model", tiny_model, "--device", "cpu", "-o", output, "--overwrite", "--prompt", "a fox")
    for limit in (1000, 9000):  # the plan does not fit; a later file does not fit
        with limit_files(limit):
            code, out, err = aigc_here(*line, "-q")
        assert (code, out) == (4, ""), err
        assert "File too large" in err
        assert output.read_text() == "old"
        assert [path.name for path in tmp_path.glob(".aigc-*")] == []
    assert "--resume" in err
    code, _, err = aigc_here(*line, "-q", "--resume")
    assert (code, err) == (0, "")
    assert output.stat().st_size > 9000
    assert not (tmp_path / f"{output.name}.parts").exists()


POWERLESS = """
import os, sys
from pathlib import Path
from aigc_cli.errors import AigcError
from aigc_cli.storage.atomic_files import Output
from aigc_cli.workflows.score.plan import ScoringPlan
from aigc_cli.workflows.score.score import score_folder
if os.geteuid() == 0:  # after the imports: an ordinary user may not read the files of this Python
    os.setgroups([])
    os.setresgid(65534, 65534, 65534), os.setresuid(65534, 65534, 65534)
try:
    score_folder(Path(sys.argv[1]), Output(Path(sys.argv[2])), ScoringPlan(model=Path("/no such model")))
except AigcError as error:
    print(error.exit_code, error.message)
"""


@pytest.mark.slow
def test_unwritable_folder_is_found_before_the_model_is_loaded(environment: dict[str, str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:  # other users have no access to pytest's folders
        folder, closed = Path(name, "images"), Path(name, "closed")
        folder.mkdir()
        (folder / "a.jpg").write_bytes(b"")
        closed.mkdir(mode=0o555)
        Path(name).chmod(0o755)
        line = [sys.executable, "-c", POWERLESS, str(folder), f"{closed}/t.csv"]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=400)
    assert (done.stdout, done.stderr) == (f"4 The folder {closed} is not writable.\n", "")


@pytest.mark.parametrize("kind", ["folder", "link", "dead link", "pipe", "device"])
def test_an_output_that_is_no_file(kind: str, many: Callable[..., Path], tmp_path: Path, aigc_here: Here) -> None:
    output = tmp_path / "t.csv"
    if kind == "folder":
        output.mkdir()
    elif kind == "pipe":
        os.mkfifo(output)
    else:
        target = {"link": tmp_path / "precious", "dead link": tmp_path / "nothing", "device": Path("/dev/null")}[kind]
        (tmp_path / "precious").write_text("precious")
        output.symlink_to(target)
    before = stat.S_IFMT(output.lstat().st_mode)
    code, out, err = aigc_here("score", many(1), "-o", output, "--overwrite")
    assert (code, out) == (2, "")
    assert "found a link, device or folder" in err
    assert stat.S_IFMT(output.lstat().st_mode) == before
    assert not (tmp_path / "t.csv.parts").exists()


# --- memory


@pytest.mark.slow
def test_full_shared_memory_does_not_matter(
    tiny_model: Path, many: Callable[..., Path], tmp_path: Path, environment: dict[str, str]
) -> None:
    unshare = shutil.which("unshare")
    mount = "mount -t tmpfs -o size=4k tmpfs /dev/shm && { head -c 8192 /dev/zero > /dev/shm/full || true; }"
    if not unshare or subprocess.run([unshare, "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("only root can mount another /dev/shm for one process")
    folder = many(8)
    line = f'{mount} 2>/dev/null; exec "$@"'
    command = [sys.executable, "-m", "aigc_cli", "score", str(folder), "--model", str(tiny_model), "-q"]
    done = subprocess.run(
        [unshare, "-m", "sh", "-c", line, "sh", *command, "-o", str(tmp_path / "t.csv")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "8 images by run, 0 failed" in done.stdout.replace("\n", " ")


class RecordingProgress(SilentProgress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def make_entries(demo: list[Sample]) -> list[ImageEntry]:
    return [ImageEntry(sample.name, sample.path, sample.prompt, "table") for sample in demo[:40]]


def load_on_small_device(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, holds: int, progress: SilentProgress | None = None
) -> tuple[Scorer, list[int]]:
    """A scorer on a device that holds `holds` images at a time, and the batch sizes that it tries."""
    trained, sizes = load_model(tiny_model, "cpu"), list[int]()
    encode = trained.model.backbone.encode_image

    def encode_image(pixels: torch.Tensor) -> ImageFeatures:
        sizes.append(len(pixels))
        if len(pixels) > holds:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return encode(pixels)

    monkeypatch.setattr(trained.model.backbone, "encode_image", encode_image)
    network = EagerNetwork(trained, progress)
    network.device = "cuda"
    return Scorer(trained.saved, network), sizes


def test_device_without_memory_gets_smaller_batches(
    tiny_model: Path, demo: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = RecordingProgress()
    expected = list(Scorer.load(tiny_model, "cpu").iterate_rows(make_entries(demo)))
    scorer, sizes = load_on_small_device(tiny_model, monkeypatch, 10, progress)
    found = list(scorer.iterate_rows(make_entries(demo)))
    assert sizes == [32, 16, 8, 8, 8, 8, 8]
    assert [text.partition(";")[0] for text in progress.said] == [
        "Out of memory with 32 images at a time",
        "Out of memory with 16 images at a time",
    ]
    for one, other in zip(found, expected, strict=True):
        assert one["quality"] == pytest.approx(other["quality"], abs=1e-4)
        assert one["consistency"] == pytest.approx(other["consistency"], abs=1e-4)


def test_device_that_holds_no_image(tiny_model: Path, demo: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, _ = load_on_small_device(tiny_model, monkeypatch, 0)
    with pytest.raises(EnvironmentProblem, match="one image"):
        list(scorer.iterate_rows(make_entries(demo)))


def test_lack_of_memory_is_not_a_bug(monkeypatch: pytest.MonkeyPatch, aigc_here: Here) -> None:
    from aigc_cli.workflows.recommend import by_size

    def starve(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(by_size, "recommend_by_size", starve)
    code, _, err = aigc_here("recommend", "--n", "100")
    assert code == 4
    assert err.startswith("aigc: Out of memory")
