"""The benchmarks' own arithmetic: turns, medians, and what counts as far off."""

import pytest

from benchmarks.__main__ import report
from benchmarks.measure import Row, ratios, turns


def test_the_sides_take_turns() -> None:
    order: list[str] = []
    seconds = turns(2, {"a": lambda: order.append("a"), "b": lambda: order.append("b")})
    assert order == ["a", "b", "a", "b"]
    assert [len(found) for found in seconds.values()] == [2, 2]
    assert ratios([4.0, 9.0], [2.0, 3.0]) == [2.0, 3.0]


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
def test_only_a_ratio_of_less_than_half_its_target_is_far_off(row: Row, met: str, far: bool) -> None:
    assert row.cells()[5] == met
    assert row.far_off == far


def test_the_report_has_a_line_for_each_row() -> None:
    text = report("score", [Row("score", "plain over ours", [3.0, 5.0, 9.0], 4.0, note="few images")], cores=2)
    assert "| score | plain over ours | 5 x | 3 - 9 | >= 4 x | yes | few images |" in text
    assert "torch " in text
    assert "falls short" not in text


def test_the_report_says_what_falls_short_and_why() -> None:
    rows = [Row("score", "plain over ours", [3.0], 4.0, why="The engine is slow."), Row("cli", "help", [0.3], 0.2)]
    text = report("score", rows, cores=2)
    assert "- plain over ours: 75% of the target. The engine is slow." in text
    assert "- help" in report("cli", [Row("cli", "help", [0.3], 0.2, at_least=False, unit="s")], cores=2)


def test_a_part_that_is_measured_again_replaces_its_own_section() -> None:
    first = report("cli", [Row("cli", "help", [0.3])], cores=2)
    both = report("score", [Row("score", "plain over ours", [3.0], 4.0)], 2, first)
    assert both.index("## score") < both.index("## cli")
    again = report("score", [Row("score", "plain over ours", [5.0], 4.0)], 2, both)
    assert "| help | 0.3 x |" in again
    assert "| 5 x |" in again
    assert "| 3 x |" not in again
    assert again.count("# What aigc costs") == again.count("## score") == 1
