"""A user's folder with every kind of file that `aigc` reads, and attacks on it: one file is replaced by other bytes.

test_any_bytes.py uses it for a short time, tests/fuzz as long as it is told to.
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

from attacks import OUT, QUICK, TRAINING, Attack, make_attacks
from tiny import TINY_VISION, save_open_clip_folder, save_tiny_model

from aigc_cli.cli import main as cli
from aigc_cli.images.demo import render_demo
from aigc_cli.model import trained as models
from aigc_cli.model.backbone import Backbone
from aigc_cli.model.loading import load_backbone
from aigc_cli.workflows.score import score
from aigc_cli.workflows.train import resume, train

IMAGES = 8
PATIENCE = 60  # seconds; a file may ask for a million epochs, which is no error
WRITING = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "shutil.rmtree"}


class Ending(NamedTuple):
    """How a command ended; its code is None if it took longer than `PATIENCE`."""

    line: str
    code: int | None
    out: str
    err: str


class TooSlow(BaseException):
    """Not an Exception, so that no `except Exception` in the package catches it."""


class Watch:
    """Records every path that this process opens for writing, renames or removes while `on` is set."""

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
                return  # relative to an open folder, as in rmtree; the folder itself was recorded before
            touched = arguments[:2] if event in ("os.rename", "os.link", "os.symlink") else arguments[:1]
        else:
            return
        self.paths |= {
            str(Path(os.fsdecode(p)).absolute()) for p in touched if isinstance(p, str | bytes | os.PathLike)
        }


WATCH = Watch()


class Sandbox:
    """The folder: `images/`, tables, a trained `run`, a `cv`, unfinished runs, and optionally an `ablation`."""

    def __init__(self, root: Path, ablation: bool = False) -> None:
        self.root = root
        self.cache = Path(os.environ["AIGC_CACHE"]).absolute()
        root.mkdir(exist_ok=True)
        (root / OUT).mkdir()
        (root / "clip").mkdir()
        (root / "images").mkdir()
        save_open_clip_folder(root / "clip", TINY_VISION)
        save_tiny_model(root / "model", root / "clip")
        self._loaded = load_backbone(f"local-dir:{root / 'clip'}")  # scoring does not change it, so one is enough
        samples = render_demo(root / "images", n=IMAGES, size=64)
        rows = [(s.name, s.prompt, s.mos_quality, s.mos_align, s.groups["distortion"]) for s in samples]
        with (root / "ratings.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([("name", "prompt", "mos_quality", "mos_align", "kind"), *rows])
        with (root / "prompts.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([("name", "prompt"), *[row[:2] for row in rows]])
        self._fill(ablation)

    def _fill(self, ablation: bool) -> None:
        """Makes the results of commands, finished and unfinished."""
        backbone = f"--backbone local-dir:{self.root / 'clip'}"
        rated = "--data ratings.csv --images images"
        settings = f"backbone: local-dir:{self.root / 'clip'}\nlr: 1e-3\nfreeze: partial\nloss: l1+plcc\n"
        (self.root / "own.yaml").write_text(f"extends: quick\n{settings}")
        (self.root / "variants.yaml").write_text("low:\n  lr: 1e-4\nhigh: {lr: 1e-2, freeze: all}\n")
        (self.root / "short.yaml").write_text("extends: own.yaml\nepochs: 1\nviews: 1\nbatch_size: 4\n")
        self.prepare(f"train {rated} {backbone} {TRAINING} -o run")
        for suffix in ("parquet", "csv", "jsonl"):
            self.prepare(f"score images --prompts prompts.csv --model model {QUICK} -o scores.{suffix}")
            _copy(self.root / f"scores.{suffix}", self.root / f"any.{suffix}")
            if suffix != "parquet":
                _copy(self.root / f"scores.{suffix}.meta.json", self.root / f"any.{suffix}.meta.json")
        self.prepare(f"crossval {rated} --recipe short.yaml --folds 2 {QUICK} -o cv")
        _copy(self.root / "cv" / "splits.parquet", self.root / "folds.parquet")
        if ablation:
            self.prepare(f"ablate {rated} --recipe short.yaml --variants variants.yaml --folds 2 {QUICK} -o ablation")
        self.prepare("pick scores.parquet --copy out/picks -q")
        record = next((self.root / OUT / "picks").glob("undo-*"))
        record.rename(record.with_name("undo-1.json"))
        (self.root / OUT / "picks").rename(self.root / "picks")
        cells = sorted((self.root / "ablation" / "cells").glob("*"))
        self.attacks = make_attacks(cells[0].name if cells else None)
        dealt = [f"demo_{i:04}.jpg,{'train' if i % 4 else 'val'},{i % 2}\n" for i in range(IMAGES)]
        (self.root / "parts.csv").write_text("name,split,fold\n" + "".join(dealt))
        with self._interrupt(score, "TableWriter"):
            self.prepare(f"score images --prompts prompts.csv --model model {QUICK} -o half/t.csv", made="half")
        with self._interrupt(train, "write_run"):
            self.prepare(f"train {rated} {backbone} {TRAINING} -o begun")
        state = next((self.root / "begun" / "training").glob("epoch-*"))
        state.rename(state.with_name("epoch-1-step-1"))

    @contextlib.contextmanager
    def _interrupt(self, owner: Any, name: str) -> Iterator[None]:
        """Raises KeyboardInterrupt when `owner.name` is called; training saves its state after every step."""

        def stop(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        honest, often = getattr(owner, name), resume.SAVE_EVERY
        setattr(owner, name, stop)
        resume.SAVE_EVERY = 0
        try:
            yield
        finally:
            setattr(owner, name, honest)
            resume.SAVE_EVERY = often

    def prepare(self, line: str, made: str | None = None) -> None:
        """Runs a command that makes a part of the sandbox."""
        if made:
            (self.root / made).mkdir()
        ending = self.run(line, patience=0)
        assert ending.code in (0, 130), ending

    def run(self, line: str, patience: int = PATIENCE) -> Ending:
        """Runs `aigc` in this process, in the sandbox, for at most `patience` seconds; 0: no limit."""
        out, err = io.StringIO(), io.StringIO()
        before = Path.cwd()
        os.chdir(self.root)
        models.load_backbone = self._backbone
        usual = signal.signal(signal.SIGALRM, _raise_too_slow)
        signal.alarm(patience)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code: int | None = cli.run(line.split())
        except TooSlow:
            code = None
        finally:
            signal.alarm(0)
            models.load_backbone = load_backbone
            signal.signal(signal.SIGALRM, usual)
            os.chdir(before)
        return Ending(line, code, out.getvalue(), err.getvalue())

    def _backbone(self, name: str, size: int | None = None, levels: str = "few") -> Backbone:
        asked = (name, size, levels)
        return self._loaded if asked == (self._loaded.name, None, "few") else load_backbone(*asked)

    def attack_file(self, attack: Attack, line: str, data: bytes) -> Ending:
        """Runs a command of an attack with `data` in its file, then restores the sandbox.

        Raises:
            AssertionError: the ending is not allowed, or the command wrote outside the output folder.
        """
        restore = self._remember(attack.file)
        try:
            for name in attack.given:
                _copy(self.root / name, self.root / OUT / name)
            (self.root / attack.file).write_bytes(data)
            before = self._list_files()
            WATCH.paths, WATCH.on = set(), True
            try:
                ending = self.last = self.run(line)
            finally:
                WATCH.on = False
            _check(attack, ending)
            assert self._list_files() == before, f"{line} changed something outside of {OUT}"
            stray = sorted(path for path in WATCH.paths if not self._is_allowed(path))
            assert not stray, f"{line} wrote to {stray[:5]}"
        finally:
            restore()
            shutil.rmtree(self.root / OUT)
            (self.root / OUT).mkdir()
        return ending

    def _remember(self, name: str) -> Callable[[], object]:
        """A function that restores the file as it is now, or removes it."""
        place = self.root / name
        if not place.is_file():
            return lambda: place.unlink(missing_ok=True)
        data = place.read_bytes()
        return lambda: place.write_bytes(data)

    def _list_files(self) -> dict[str, tuple[int, int, int]]:
        """{path: mode, size and time of change} of everything outside the output folder."""
        found = {}
        for path in self.root.rglob("*"):
            if (name := path.relative_to(self.root)).parts[0] != OUT:
                status = path.lstat()
                found[str(name)] = (status.st_mode, status.st_size, status.st_mtime_ns if path.is_file() else 0)
        return found

    def _is_allowed(self, path: str) -> bool:
        gone = path.startswith(f"{tempfile.gettempdir()}{os.sep}aigc-") and not Path(path).exists()
        mine = (f"{self.root / OUT}{os.sep}", str(self.cache))
        return gone or path in (os.devnull, str(self.root / OUT)) or path.startswith(mine)


def _raise_too_slow(number: int, frame: FrameType | None) -> None:
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
