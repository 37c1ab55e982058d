"""A user's folder with everything that `aigc` reads, and attacks on it: one file is replaced by other bytes.

Used by test_any_bytes.py, with few bytes, and by tests/fuzz, for as long as one likes.
"""

import contextlib
import csv
import io
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from attacks import OUT, QUICK, TRAINING, Attack, attacks
from tiny import TINY_VISION, save_open_clip_folder, save_tiny_model

from aigc_cli.cli import commands
from aigc_cli.cli import main as cli
from aigc_cli.images.demo import demo_samples
from aigc_cli.model import trained as models
from aigc_cli.model.backbone import Backbone
from aigc_cli.model.loading import load_backbone
from aigc_cli.workflows.score import score
from aigc_cli.workflows.train import resume as unfinished
from aigc_cli.workflows.train import train

IMAGES = 8
PATIENCE = 120  # seconds; a training may be asked for a million epochs, and that is no fault
WRITING = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "shutil.rmtree"}


class Ending(NamedTuple):
    """How a command ended, None as its code where it took longer than `PATIENCE`."""

    line: str
    code: int | None
    out: str
    err: str


class TooSlow(BaseException):
    """Not an Exception, so that nothing on the way takes it for one of its own."""


class Watch:
    """Notes every path that this process opens to write, renames or removes while it is on."""

    def __init__(self) -> None:
        self.on, self.paths = False, set[str]()
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, mode, flags = arguments
            if not (set(mode or "") & set("wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
                return
            touched: tuple[Any, ...] = (path,)
        elif event in WRITING:
            if any(isinstance(handle, int) and handle >= 0 for handle in arguments[1:]):
                return  # a name within an open folder, as rmtree removes them; the folder itself was told of before
            touched = arguments[:2] if event in ("os.rename", "os.link", "os.symlink") else arguments[:1]
        else:
            return
        self.paths |= {
            str(Path(os.fsdecode(p)).absolute()) for p in touched if isinstance(p, str | bytes | os.PathLike)
        }


WATCH = Watch()


class Sandbox:
    """The folder: `images/`, tables, a trained `run`, what was left unfinished, and an `ablation` if asked for."""

    def __init__(self, root: Path, ablation: bool = False) -> None:
        self.root = root
        self.cache = Path(os.environ["AIGC_CACHE"]).absolute()
        if not cli.app.registered_commands:
            commands.register(cli.app)
        root.mkdir(exist_ok=True)
        (root / OUT).mkdir()
        (root / "clip").mkdir()
        (root / "images").mkdir()
        save_open_clip_folder(root / "clip", TINY_VISION)
        save_tiny_model(root / "model", root / "clip")
        self._loaded = load_backbone(f"local-dir:{root / 'clip'}")  # scoring leaves it as it is, so once is enough
        samples = demo_samples(root / "images", n=IMAGES, size=64)
        rows = [(s.name, s.prompt, s.mos_quality, s.mos_align, s.groups["distortion"]) for s in samples]
        with (root / "ratings.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([("name", "prompt", "mos_quality", "mos_align", "kind"), *rows])
        with (root / "prompts.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([("name", "prompt"), *[row[:2] for row in rows]])
        self._fill(ablation)

    def _fill(self, ablation: bool) -> None:
        """What commands leave, finished and not."""
        backbone = f"--backbone local-dir:{self.root / 'clip'}"
        rated = "--data ratings.csv --images images"
        settings = f"backbone: local-dir:{self.root / 'clip'}\nlr: 1e-3\nfreeze: partial\nloss: l1+plcc\n"
        (self.root / "own.yaml").write_text(f"extends: quick\n{settings}")
        (self.root / "variants.yaml").write_text("low:\n  lr: 1e-4\nhigh: {lr: 1e-2, freeze: all}\n")
        (self.root / "short.yaml").write_text("extends: own.yaml\nepochs: 1\nviews: 1\nbatch_size: 4\n")
        self.must(f"train {rated} {backbone} {TRAINING} -o run")
        for suffix in ("parquet", "csv", "jsonl"):
            self.must(f"score images --prompts prompts.csv --model model {QUICK} -o scores.{suffix}")
            _copy(self.root / f"scores.{suffix}", self.root / f"any.{suffix}")
            if suffix != "parquet":
                _copy(self.root / f"scores.{suffix}.meta.json", self.root / f"any.{suffix}.meta.json")
        self.must(f"eval --protocol prompt {rated} --recipe short.yaml --folds 2 {QUICK} --splits-out folds.parquet")
        if ablation:
            self.must(f"ablate {rated} --recipe short.yaml --variants variants.yaml --folds 2 {QUICK} -o ablation")
        self.must("pick scores.parquet --copy out/picks -q")
        record = next((self.root / OUT / "picks").glob("undo-*"))
        record.rename(record.with_name("undo-1.json"))
        (self.root / OUT / "picks").rename(self.root / "picks")
        cells = sorted((self.root / "ablation" / "cells").glob("*"))
        self.attacks = attacks(cells[0].name if cells else None)
        dealt = [f"demo_{i:04}.jpg,{'train' if i % 4 else 'val'},{i % 2}\n" for i in range(IMAGES)]
        (self.root / "parts.csv").write_text("name,split,fold\n" + "".join(dealt))
        with self._stopped(score._Job, "_join"):
            self.must(f"score images --prompts prompts.csv --model model {QUICK} -o half/t.csv", made="half")
        with self._stopped(train, "write_run"):
            self.must(f"train {rated} {backbone} {TRAINING} -o begun")
        state = next((self.root / "begun" / "training").glob("epoch-*"))
        state.rename(state.with_name("epoch-1-step-1"))

    @contextlib.contextmanager
    def _stopped(self, owner: Any, name: str) -> Iterator[None]:
        """As if Ctrl-C were pressed when `name` is called."""

        def stop(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        honest, often = getattr(owner, name), unfinished.SAVE_EVERY
        setattr(owner, name, stop)
        unfinished.SAVE_EVERY = 0
        try:
            yield
        finally:
            setattr(owner, name, honest)
            unfinished.SAVE_EVERY = often

    def must(self, line: str, made: str | None = None) -> None:
        """Runs a command that prepares the sandbox."""
        if made:
            (self.root / made).mkdir()
        ending = self.run(line, patience=0)
        assert ending.code in (0, 130), ending

    def run(self, line: str, patience: int = PATIENCE) -> Ending:
        """Runs `aigc` in this process, in the sandbox; 0: however long it takes."""
        out, err = io.StringIO(), io.StringIO()
        before = Path.cwd()
        os.chdir(self.root)
        models.load_backbone = self._backbone
        usual = signal.signal(signal.SIGALRM, _too_slow)
        signal.alarm(patience)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code: int | None = cli._run(line.split())
        except TooSlow:
            code = None
        finally:
            signal.alarm(0)
            models.load_backbone = load_backbone
            signal.signal(signal.SIGALRM, usual)
            os.chdir(before)
        return Ending(line, code, out.getvalue(), err.getvalue())

    def _backbone(self, name: str, size: int | None = None) -> Backbone:
        return self._loaded if (name, size) == (self._loaded.name, None) else load_backbone(name, size)

    def attacked(self, attack: Attack, line: str, data: bytes) -> Ending:
        """Runs one of an attack's commands with `data` in its file; afterwards everything is as it was.

        Raises:
            AssertionError: an ending that is not allowed, or something outside the output was touched.
        """
        put_back = self._keeper(attack.file)
        try:
            for name in attack.given:
                _copy(self.root / name, self.root / OUT / name)
            (self.root / attack.file).write_bytes(data)
            before = self._seen()
            WATCH.paths, WATCH.on = set(), True
            try:
                ending = self.last = self.run(line)
            finally:
                WATCH.on = False
            _check(attack, ending)
            assert self._seen() == before, f"{line} changed something outside of {OUT}"
            stray = sorted(path for path in WATCH.paths if not self._allowed(path))
            assert not stray, f"{line} wrote to {stray[:5]}"
        finally:
            put_back()
            shutil.rmtree(self.root / OUT)
            (self.root / OUT).mkdir()
        return ending

    def _keeper(self, name: str) -> Callable[[], object]:
        """What puts a file back as it is now, or takes it away again."""
        place = self.root / name
        if not place.is_file():
            return lambda: place.unlink(missing_ok=True)
        data = place.read_bytes()
        return lambda: place.write_bytes(data)

    def _seen(self) -> dict[str, tuple[int, int, int]]:
        """Everything outside of the output: kind, size and time of change."""
        found = {}
        for path in self.root.rglob("*"):
            if (name := path.relative_to(self.root)).parts[0] != OUT:
                status = path.lstat()
                found[str(name)] = (status.st_mode, status.st_size, status.st_mtime_ns if path.is_file() else 0)
        return found

    def _allowed(self, path: str) -> bool:
        gone = path.startswith(f"{tempfile.gettempdir()}{os.sep}aigc-") and not Path(path).exists()
        mine = (f"{self.root / OUT}{os.sep}", str(self.cache))
        return gone or path in (os.devnull, str(self.root / OUT)) or path.startswith(mine)


def _too_slow(number: int, frame: FrameType | None) -> None:
    raise TooSlow


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)


def _check(attack: Attack, ending: Ending) -> None:
    said = ending.out + ending.err
    assert ending.code in attack.codes, ending
    assert "Traceback" not in said, ending
    assert "A bug" not in ending.err, ending
    assert not set(said) & set("\x1b\x07\x00\x9b"), ending
    if ending.code == 2:
        assert ending.err.startswith("aigc: "), ending
        assert ending.out == "", ending
