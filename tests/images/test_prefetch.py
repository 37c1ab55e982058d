"""Prefetching: results are in order, faults are results, and at most two chunks are loaded ahead."""

import os
import threading

import pytest

from aigc_cli.images.prefetch import JOBS_PER_THREAD, WAITING_THREADS, count_threads, count_workers, prefetch
from aigc_cli.images.reader import ImageFault


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


def test_each_thread_is_initialised_before_it_loads() -> None:
    ready = threading.local()
    found = prefetch(range(40), lambda job: ready.yes, 20, lambda: setattr(ready, "yes", True))
    assert [result for _, results in found for result in results] == [True] * 40


def test_as_many_threads_as_cores_and_a_few_more(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = len(os.sched_getaffinity(0))
    counts = {}
    for wanted in ("", "0", "some", "1", "1,4", f"{cores + 1}"):
        monkeypatch.setenv("OMP_NUM_THREADS", wanted)
        counts[wanted] = count_threads()
    assert counts == {"": cores, "0": cores, "some": cores, "1": 1, "1,4": 1, f"{cores + 1}": cores}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    workers = 1 + WAITING_THREADS
    together = threading.Barrier(workers)
    jobs = range(workers * JOBS_PER_THREAD)
    assert sum(len(chunk) for chunk, _ in prefetch(jobs, lambda job: together.wait(10), 8)) == len(jobs)
    assert [count_workers(count) for count in (0, 1, 8, 9, 1000)] == [1, 1, 1, 2, workers]


def test_other_errors_reach_the_caller() -> None:
    def load(job: int) -> int:
        raise ValueError(f"job {job}")

    with pytest.raises(ValueError, match="job 1"):
        list(prefetch([1], load, 1))
