"""What a person sees: `aigc` in a real terminal of 80 columns, driven by tmux, and the same without one."""

import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Work, aigc, process

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed (Debian: apt install tmux)")


class Screen:
    """A shell in a tmux server of its own."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "50", "sh")

    def tmux(self, *arguments: str) -> str:
        command = ["tmux", "-u", "-S", str(self.socket), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout

    def run(self, command: str, *flags: str) -> list[str]:
        """Types a command and returns the screen once it has ended."""
        self.tmux("send-keys", "-l", f"clear; {command}; echo ended:$?")
        self.tmux("send-keys", "Enter")
        for _ in range(600):
            if re.search(r"^ended:\d+$", self.tmux("capture-pane", "-p"), re.M):
                return self.tmux("capture-pane", "-p", *flags).splitlines()
            time.sleep(0.1)
        raise AssertionError("\n".join(self.tmux("capture-pane", "-p").splitlines()))


@pytest.fixture
def screen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Screen]:
    found = Screen(tmp_path_factory.mktemp("tmux") / "s")
    yield found
    found.tmux("kill-server")


def command_of(work: Work) -> str:
    given = (
        "score",
        work.images,
        "--model",
        work.run,
        "--device",
        "cpu",
        "--overwrite",
        "--prompt",
        "a red fox",
    )
    where = {"PYTHONPATH": ROOT, "OMP_NUM_THREADS": 1, "AIGC_CACHE": os.environ["AIGC_CACHE"], "PYTHONUTF8": 1}
    variables = [f"{name}={value}" for name, value in where.items()]
    return shlex.join(["env", *variables, sys.executable, "-m", "aigc_cli", *map(str, given)])


@needs_tmux
@pytest.mark.parametrize("plain", ["", "NO_COLOR=1 ", "TERM=dumb "], ids=["usual", "no colour", "dumb"])
def test_the_summary_is_legible_in_80_columns(plain: str, work: Work, screen: Screen) -> None:
    lines = screen.run(f"cd {Path.cwd()}; {plain}{command_of(work)}")
    start = next(index for index, line in enumerate(lines) if line.split() == ["quality", "consistency"])
    table = next(index for index, line in enumerate(lines) if line.startswith("Best and worst by quality"))
    bars = [line for line in lines[start + 1 : table] if line]
    assert bars
    for line in bars:
        assert re.fullmatch(r" *[\d.]+ - [\d.]+ +(█+ \d+)?( +█+ \d+)?", line), line
    assert sum(int(n) for line in bars for n in re.findall(r"█ (\d+)", line)) == 2 * 48
    rows = [line for line in lines[table:] if re.match(r" \S+\.jpg +\d\.\d\d +\d\.\d\d +a red fox", line)]
    assert len(rows) == 10  # none was broken over two lines
    assert "ended:0" in lines
    assert any(line.startswith("48 images by run, 0 failed, mean quality ") for line in lines)


@needs_tmux
def test_colour_is_only_where_it_is_wanted(work: Work, screen: Screen) -> None:
    shown = "\n".join(screen.run(f"cd {Path.cwd()}; NO_COLOR=1 {command_of(work)}", "-e"))
    assert re.search(r"\x1b\[[0-9;]*(?:3[0-8]|9[0-7])m", shown) is None


@needs_tmux
def test_pick_and_compare_are_legible_in_80_columns(work: Work, screen: Screen) -> None:
    command = f"env PYTHONPATH={ROOT} {sys.executable} -m aigc_cli"
    assert aigc("score", work.images, "--model", work.run, "--device", "cpu", "-o", "s.csv").code == 0
    lines = screen.run(f"cd {Path.cwd()}; {command} pick s.csv -k 3 -o p.csv; {command} compare s.csv p.csv")
    assert "3 of 48 images picked from 1 group by quality" in lines
    assert any(line.startswith("aigc: Expected prompts that s and p have in common") for line in lines)


def through_terminal(command: str, **environment: str) -> str:
    """What a command writes to a terminal, byte for byte."""
    main, follower = pty.openpty()
    with subprocess.Popen(
        ["sh", "-c", command],
        stdin=follower,
        stdout=follower,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "80"} | environment,
    ) as running:
        os.close(follower)
        written = b""
        try:
            while part := os.read(main, 65536):
                written += part
        except OSError:  # Linux ends a terminal whose other side has closed like this
            pass
        os.close(main)
        assert running.wait(60) == 0
    return written.decode()


def test_a_click_opens_the_image(work: Work) -> None:
    shown = through_terminal(command_of(work))
    links = re.findall(r"\x1b\]8;[^;]*;(file://[^\x1b]+)\x1b\\([^\x1b]+)\x1b\]8;;\x1b\\", shown)
    assert len(links) == 10
    for target, name in links:
        assert target == (work.images / name).absolute().as_uri()
    assert "\x1b" not in through_terminal(command_of(work), TERM="dumb")


def test_without_utf_8_there_are_other_bars_and_no_crash(work: Work) -> None:
    ascii_only = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    given = ("score", work.images, "--model", work.run, "--device", "cpu", "--prompt", "狐狸")
    ending = process(*given, **ascii_only)
    assert ending.code == 0
    assert ending.out.isascii()
    assert re.search(r" - [\d.]+ +#+ \d+", ending.out)
    assert "\\u72d0" in ending.out
