"""Whole processes in odd surroundings: closed streams, full devices, few descriptors, other locales, and a Scorer in
threads, after a fork, in other processes and in an event loop."""

import asyncio
import csv
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from aigc_cli import Scorer

EXAMPLES = Path(__file__).parents[2] / "examples"
IMAGES = sorted(EXAMPLES.glob("*.jpg"))[:6]
Shell = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a shell of POSIX")


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Runs a line of a shell in which `aigc` is this package; returns (exit code, stdout, stderr)."""

    def run(line: str, **variables: str) -> tuple[int, str, str]:
        line = line.replace("aigc ", f"{sys.executable} -m aigc_cli ", 1).replace("EXAMPLES", str(EXAMPLES))
        home = {"HOME": str(tmp_path), "AIGC_CACHE": str(tmp_path / "cache")}
        environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent), **home, **variables}
        environment = {name: value for name, value in environment.items() if value != "-"}
        done = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100
        )
        return done.returncode, done.stdout, done.stderr

    return run


def count_scored(table: Path) -> int:
    with table.open(newline="", encoding="utf-8") as stream:
        return sum(row["status"] == "ok" for row in csv.DictReader(stream))


# --- refusals: nothing is loaded, so they are fast


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_refusal_with_closed_streams(closed: str, shell: Shell) -> None:
    code, out, said = shell(f"aigc score nowhere {closed}")
    assert (code, out) == (2, "")
    expected = [] if "2>&-" in closed else ["aigc: nowhere: expected a folder of images, found nothing there"]
    assert said.splitlines()[:1] == expected


@pytest.mark.parametrize("line", ["--help", "recommend --n 100", "recommend --n 100 --json", "cache size"])
def test_results_that_nobody_can_read(line: str, shell: Shell) -> None:
    assert shell(f"aigc {line} >&-")[0] == 0
    code, _, said = shell(f"aigc {line} >/dev/full")
    assert code == 4
    assert said.splitlines()[0] == "aigc: Standard output could not be written: No space left on device."
    assert shell(f"aigc {line} | head -1 >/dev/null; exit ${{PIPESTATUS[0]}}")[0] == 0


def test_a_table_for_a_closed_stream(shell: Shell) -> None:
    code, _, said = shell("aigc score EXAMPLES -o - >&-")
    assert (code, said.splitlines()[0]) == (4, "aigc: Expected standard output for the table, found it closed.")
    code, _, said = shell("aigc pick - <&-")
    assert (code, said.splitlines()[0]) == (2, "aigc: Expected a table on standard input, found nothing.")


# --- scorings


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "variables"),
    [
        ("aigc score EXAMPLES -o t.csv <&- >&- 2>&-", {}),
        ("aigc score EXAMPLES -o t.csv 2>&-", {}),
        ("aigc score EXAMPLES -o t.csv >&-", {}),
        ("aigc score EXAMPLES -o t.csv | head -1; exit ${PIPESTATUS[0]}", {}),
        ("ulimit -n 64; aigc score EXAMPLES -o t.csv", {}),
        ("aigc score EXAMPLES -o t.csv", {"HOME": "-", "AIGC_CACHE": "-"}),
        ("aigc score EXAMPLES -o t.csv", {"AIGC_CACHE": "/dev/full"}),
        ("aigc score EXAMPLES -o t.csv", {"AIGC_CACHE": "/proc"}),
        ("aigc score EXAMPLES -o t.csv", {"PYTHONOPTIMIZE": "1"}),
        (
            "aigc score EXAMPLES --prompt '漢字 ø' -o t.csv",
            {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        ),
    ],
)
def test_a_scoring_loses_nothing(line: str, variables: dict[str, str], shell: Shell, tmp_path: Path) -> None:
    code, _, said = shell(line, **variables)
    assert code == 0, said
    assert "Traceback" not in said
    assert "bug" not in said
    assert count_scored(tmp_path / "t.csv") == len(list(EXAMPLES.glob("*.jpg")))


@pytest.mark.slow
def test_a_full_standard_output_keeps_the_table(shell: Shell, tmp_path: Path) -> None:
    code, _, said = shell("aigc score EXAMPLES -o t.csv -q >/dev/full")
    assert code == 4
    assert said.splitlines()[0] == "aigc: Standard output could not be written: No space left on device."
    assert count_scored(tmp_path / "t.csv") == len(list(EXAMPLES.glob("*.jpg")))


@pytest.mark.slow
def test_settings_of_matplotlib_in_the_working_folder(shell: Shell, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert shell(f"aigc score EXAMPLES --prompts {EXAMPLES / 'prompts.csv'} -o {name}.csv -q")[0] == 0
    assert shell("aigc compare a.csv b.csv --plot plain.svg")[0] == 0
    (tmp_path / "matplotlibrc").write_text("backend: nonsense\nfigure.dpi: 3\nsvg.fonttype: path\n")
    code, _, said = shell("aigc compare a.csv b.csv --plot odd.svg")
    assert code == 0, said
    assert (tmp_path / "odd.svg").read_bytes() == (tmp_path / "plain.svg").read_bytes()


@pytest.mark.slow
def test_quiet_prints_nothing_on_stderr(shell: Shell) -> None:
    table = EXAMPLES / "prompts.csv"
    for line in (
        f"aigc score EXAMPLES --prompts {table} -o a.csv -q",
        f"aigc score EXAMPLES --prompts {table} -o b.csv -q",
        "aigc compare a.csv b.csv -q",
        "aigc pick a.csv --images EXAMPLES --copy best -q",
        "aigc verify a.csv --images EXAMPLES -q",
        "aigc train --recipe quick --epochs 1 -o run -q",
        "aigc eval run -q",
        "aigc score EXAMPLES --model run -o c.csv -q",
    ):
        code, _, said = shell(line)
        assert (code, said) == (0, ""), line


# --- Scorer


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.load(device="cpu")


def score_all(scorer: Scorer) -> list[float]:
    return list(scorer.score(images=IMAGES, prompts=["a cat"] * len(IMAGES))["consistency"])


def score_in_process(_: Any) -> list[float]:
    return score_all(Scorer.load(device="cpu"))


@pytest.mark.slow
def test_a_scorer_in_threads(scorer: Scorer) -> None:
    expected = score_all(scorer)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(score_all, [scorer] * 12)) == [expected] * 12
        assert list(pool.map(score_in_process, range(3))) == [expected] * 3


@pytest.mark.slow
def test_a_scorer_in_an_event_loop(scorer: Scorer) -> None:
    expected = score_all(scorer)

    async def serve() -> list[list[float]]:
        return await asyncio.gather(*(asyncio.to_thread(score_all, scorer) for _ in range(4)))

    assert asyncio.run(serve()) == [expected] * 4


@pytest.mark.slow
@pytest.mark.parametrize("way", ["fork", "spawn", "forkserver"])
def test_a_scorer_in_other_processes(way: Any, scorer: Scorer) -> None:
    expected = score_all(scorer)
    with multiprocessing.get_context(way).Pool(2) as pool:
        assert pool.map_async(score_in_process, range(4)).get(timeout=100) == [expected] * 4
    assert score_all(scorer) == expected


@pytest.mark.slow
def test_a_scorer_that_was_used_before_a_fork(scorer: Scorer) -> None:
    expected = score_all(scorer)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writer, str(score_all(scorer) == expected).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        assert stream.read() == "True"
    os.waitpid(child, 0)
    assert score_all(scorer) == expected
