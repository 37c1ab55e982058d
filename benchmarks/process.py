"""Runs whole processes: their peak memory, and the code of another checkout beside ours."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.data import Images

ROOT = Path(__file__).parents[1]
WORKER = Path(__file__).with_name("worker.py")
POLL = 0.1  # seconds


@dataclass(frozen=True)
class Usage:
    """Seconds that a process took, and the peak resident memory in MB of the largest process in its tree."""

    seconds: float
    peak: float


def make_environment(checkout: Path = ROOT, **variables: str) -> dict[str, str]:
    """The environment of a process that imports aigc from a checkout.

    Python writes bytecode here even if the environment turns it off, because an installed package has it.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPATH": str(checkout), **variables}


def make_command(*arguments: str | Path) -> list[str]:
    """A command line of aigc; `-P`: aigc comes from the environment, not from the working folder."""
    return [sys.executable, "-P", "-m", "aigc_cli", *map(str, arguments)]


def run_quietly(command: list[str], environment: dict[str, str] | None = None) -> None:
    """Runs a command to its end without its output; RuntimeError with its last words if it fails."""
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace")
    if found.returncode:
        raise RuntimeError(f"{' '.join(command[:6])} ended with {found.returncode}: {found.stderr[-2000:]}")


def watch_process(
    command: list[str], environment: dict[str, str] | None = None, stop: Callable[[float], bool] = lambda _: False
) -> Usage:
    """Runs a command and reads the memory of its tree every `POLL` seconds; ends it when `stop(seconds)` is true.

    The largest process counts, not the sum: processes share the pages of their libraries.
    """
    begun, peak, stopped = time.perf_counter(), 0.0, False
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    while child.poll() is None and not stopped:
        peak = max(peak, read_peak(child.pid))
        stopped = stop(time.perf_counter() - begun)
        time.sleep(POLL)
    seconds = time.perf_counter() - begun
    child.terminate()
    if child.wait() and not stopped:
        raise RuntimeError(f"{' '.join(command[:6])} ended with {child.returncode}")
    return Usage(seconds, peak)


def read_peak(pid: int) -> float:
    """Peak resident memory in MB of the largest process among `pid` and its descendants; 0 without /proc.

    wait4 and getrusage also count the parent's memory before exec, which can be much more.
    """
    parents, peaks = dict[int, int](), dict[int, float]()
    for found, status in _read_statuses():
        parents[found] = int(status.get("PPid", "0"))
        peaks[found] = int(status.get("VmHWM", "0 kB").split()[0]) * 1024 / 1e6
    family, grown = {pid}, True
    while grown:
        children = {found for found, parent in parents.items() if parent in family} - family
        family, grown = family | children, bool(children)
    return max(peaks.get(member, 0.0) for member in family)


def _read_statuses() -> Iterator[tuple[int, dict[str, str]]]:
    for path in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:  # it has ended
            continue
        yield int(path.parent.name), {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


class ScoringWorker(AbstractContextManager["ScoringWorker"]):
    """A process that has loaded the shipped scorer from a checkout and scores sets of images when it is told to.

    It waits between sets, so that workers with different code can take turns.
    """

    def __init__(self, checkout: Path = ROOT) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-P", str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=make_environment(checkout),
            text=True,
        )

    def score(self, images: Images) -> None:
        """Scores the images; RuntimeError unless all of them get scores."""
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(json.dumps([[str(path) for path in images.paths], images.prompts]) + "\n")
        self.child.stdin.flush()
        answer = self.child.stdout.readline().strip()
        if answer != str(len(images.paths)):
            raise RuntimeError(f"expected {len(images.paths)} scored images, found '{answer}'")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.child.communicate()  # closes its input, which ends it


def name_checkout(checkout: Path) -> str:
    """`commit abc1234` of a checkout, or its folder's name if Git does not know."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True)
    return f"commit {found.stdout.strip()}" if found.returncode == 0 else checkout.resolve().name
