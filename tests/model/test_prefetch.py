"""Prefetching: results are in order, faults are results, and at most two chunks are loaded ahead."""

import pytest

from aigc_cli.images.reader import ImageFault
from aigc_cli.model.prefetch import prefetch


def test_chunks_are_in_order_and_faults_are_results() -> None:
    def load(job: int) -> int:
        if job == 3:
            raise ImageFault("truncated")
        return 10 * job

    chunks = list(prefetch(range(7), load, 3))
    assert [list(jobs) for jobs, _ in chunks] == [[0, 1, 2], [3, 4, 5], [6]]
    results = [result for _, found in chunks for result in found]
    assert isinstance(results[3], ImageFault)
    assert [result for result in results if not isinstance(result, ImageFault)] == [0, 10, 20, 40, 50, 60]
    assert list(prefetch([], load, 3)) == []


def test_two_chunks_are_loaded_ahead() -> None:
    loaded: list[int] = []
    chunks = prefetch(range(10), lambda job: loaded.append(job), 2)
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    assert sorted(loaded) == list(range(6))


def test_other_errors_reach_the_caller() -> None:
    def load(job: int) -> int:
        raise ValueError(f"job {job}")

    with pytest.raises(ValueError, match="job 1"):
        list(prefetch([1], load, 1))
