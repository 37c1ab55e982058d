"""Questions on a terminal before files are removed or moved; a script is not asked."""

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aigc_cli.storage.results import write_table
from aigc_cli.storage.schemas import SCHEMAS

ROOT = Path(__file__).parents[2]
ENGINE = f"engines/{'ab' * 12}-{'cd' * 8}.onnx"
Ask = Callable[..., tuple[int, str]]

pytestmark = pytest.mark.slow


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Runs `aigc` on a terminal where `answer` is typed; returns (exit code, what the terminal showed)."""

    def run(answer: str, *arguments: str) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "AIGC_CACHE": str(tmp_path / "cache"), "TERM": "dumb"}
        line = [sys.executable, "-m", "aigc_cli", *arguments]
        with subprocess.Popen(
            line, cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        ) as process:
            os.close(theirs)
            os.write(ours, answer.encode())
            shown = b""
            while True:
                try:
                    part = os.read(ours, 4096)
                except OSError:  # the other end is closed
                    break
                if not part:
                    break
                shown += part
            os.close(ours)
            return process.wait(timeout=60), shown.decode("utf-8", "replace").replace("\r\n", "\n")

    return run


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    rows = []
    for name in ("a.png", "b.png"):
        (tmp_path / "images" / name).write_bytes(name.encode())
        row = {"name": name, "path": f"images/{name}", "prompt": name, "status": "ok", "quality": 1.0}
        rows.append(dict.fromkeys(SCHEMAS["scores"].names) | row)
    write_table(tmp_path / "s.csv", "scores", rows, {})
    return tmp_path / "s.csv"


@pytest.mark.parametrize("answer", ["n\n", "\n", "\x04"])
def test_no_keeps_everything(answer: str, ask: Ask, table: Path, tmp_path: Path) -> None:
    (tmp_path / "cache" / ENGINE).parent.mkdir(parents=True)
    (tmp_path / "cache" / ENGINE).write_bytes(b"12345")
    code, shown = ask(answer, "cache", "clear")
    assert code == 2
    assert "Remove 1 item, 0.005 kB, from " in shown
    assert "Nothing was changed." in shown
    assert (tmp_path / "cache" / ENGINE).exists()
    code, shown = ask(answer, "pick", "s.csv", "--move", "best")
    assert code == 2
    assert "Move 2 files to best? [y/N]" in shown
    assert len(list((tmp_path / "images").iterdir())) == 2
    assert not (tmp_path / "best").exists()


def test_yes_goes_on(ask: Ask, table: Path, tmp_path: Path) -> None:
    (tmp_path / "cache" / ENGINE).parent.mkdir(parents=True)
    (tmp_path / "cache" / ENGINE).write_bytes(b"12345")
    assert ask("yes\n", "cache", "clear")[0] == 0
    assert not (tmp_path / "cache" / ENGINE).exists()
    assert ask("y\n", "pick", "s.csv", "--move", "best")[0] == 0
    (record,) = (tmp_path / "best").glob("undo-*.json")
    assert list((tmp_path / "images").iterdir()) == []
    code, shown = ask("n\n", "pick", "--undo", str(record))
    assert code == 2
    assert f"Move 2 files from {tmp_path / 'best'} back to {tmp_path / 'images'}?" in "".join(shown.splitlines())
    assert ask("", "pick", "--undo", str(record), "--yes")[0] == 0
    assert len(list((tmp_path / "images").iterdir())) == 2


def test_a_script_is_not_asked(table: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "aigc_cli", "pick", "s.csv", "--move", "best"]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert "[y/N]" not in done.stderr
    assert len(list((tmp_path / "best").glob("*.png"))) == 2
