"""Arithmetic and report of the benchmarks, their images, and how they run processes."""

import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.__main__ import format_report
from benchmarks.data import FORMATS, LARGE, make_images, make_large
from benchmarks.measure import Row, divide_rounds, time_in_turns
from benchmarks.process import ScoringWorker, watch_process

ALLOCATING = "import time; held = bytearray(200 * 10**6); time.sleep(1.5)"
STARTING = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', sys.argv[1]]).returncode)"
STUB = """
import numpy as np

class Scorer:
    load = classmethod(lambda cls, device: cls())

    def score(self, images, prompts):
        return {"status": np.array(["ok" if prompt else "failed" for prompt in prompts])}
"""


def test_sides_take_turns() -> None:
    order: list[str] = []
    seconds = time_in_turns(2, {"a": lambda: order.append("a"), "b": lambda: order.append("b")})
    assert order == ["a", "b", "a", "b"]
    assert [len(found) for found in seconds.values()] == [2, 2]
    assert divide_rounds([4.0, 9.0], [2.0, 3.0]) == [2.0, 3.0]


@pytest.mark.parametrize(
    ("row", "met", "far"),
    [
        (Row("p", "w", [3.0, 5.0, 9.0], 4.0), "yes", False),
        (Row("p", "w", [3.0], 4.0), "no", False),
        (Row("p", "w", [1.9], 4.0), "no", True),
        (Row("p", "w", [1.0], 4.0, unit="s"), "no", False),
        (Row("p", "w", [1.3], 1.1, at_least=False), "no", False),
        (Row("p", "w", [2.3], 1.1, at_least=False), "no", True),
        (Row("p", "w", [0.1]), "-", False),
        (Row("p", "w", [0.1], 4.0, firm=False), "no", False),
    ],
)
def test_only_a_ratio_below_half_of_its_target_is_far_off(row: Row, met: str, far: bool) -> None:
    assert row.cells()[5] == met
    assert row.far_off == far


def test_report_has_a_line_for_each_row() -> None:
    text = format_report("score", [Row("score", "plain over ours", [3.0, 5.0, 9.0], 4.0, note="few images")], cores=2)
    assert "| score | plain over ours | 5 x | 3 - 9 | >= 4 x | yes | few images |" in text
    assert "torch " in text
    assert "Missed targets" not in text


def test_report_lists_missed_targets_with_reasons() -> None:
    rows = [Row("score", "plain over ours", [3.0], 4.0, why="The engine is slow."), Row("cli", "help", [0.3], 0.2)]
    text = format_report("score", rows, cores=2)
    assert "- plain over ours: 75% of the target. The engine is slow." in text
    assert "- help" in format_report("cli", [Row("cli", "help", [0.3], 0.2, at_least=False, unit="s")], cores=2)


def test_measuring_a_part_again_replaces_its_section() -> None:
    first = format_report("cli", [Row("cli", "help", [0.3])], cores=2)
    both = format_report("score", [Row("score", "plain over ours", [3.0], 4.0)], 2, first)
    assert both.index("## score") < both.index("## cli")
    again = format_report("score", [Row("score", "plain over ours", [5.0], 4.0)], 2, both)
    assert "| help | 0.3 x |" in again
    assert "| 5 x |" in again
    assert "| 3 x |" not in again
    assert again.count("# Speed and memory") == again.count("## score") == 1


def test_large_images_have_the_texture_of_generated_ones(tmp_path: Path) -> None:
    large = make_large(make_images(tmp_path, 2, None), tmp_path)
    assert large.keys() == FORMATS.keys()
    for images in large.values():
        with Image.open(images.paths[0]) as image:
            assert image.size == (LARGE, LARGE)
    assert all(1.2e6 < path.stat().st_size < 2.2e6 for path in large[f"{LARGE} PNG"].paths)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_peak_memory_is_that_of_the_largest_process() -> None:
    usage = watch_process([sys.executable, "-c", STARTING, ALLOCATING])
    assert 200 < usage.peak < 300
    assert usage.seconds > 1.5


def test_a_process_that_fails_is_no_measurement() -> None:
    with pytest.raises(RuntimeError, match="ended with 3"):
        watch_process([sys.executable, "-c", "raise SystemExit(3)"])


def test_a_worker_runs_the_code_of_its_checkout(tmp_path: Path) -> None:
    (tmp_path / "aigc_cli").mkdir()
    (tmp_path / "aigc_cli" / "__init__.py").write_text(STUB)
    images = make_images(tmp_path, 2, None)
    with ScoringWorker(tmp_path) as worker:
        worker.score(images)
        images.prompts[1] = ""
        with pytest.raises(RuntimeError, match="expected 2 scored images, found '1'"):
            worker.score(images)
