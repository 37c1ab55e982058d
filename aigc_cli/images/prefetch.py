"""Work ahead of its use, in threads: image decoding and engines run in parallel, without Python's global lock."""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from aigc_cli.images.reader import ImageFault

WAITING_THREADS = 2  # additional threads: some always wait for a decoder's answer
JOBS_PER_THREAD = 8  # each thread has a decoder, whose start costs as much as decoding several images

Job = TypeVar("Job")
Result = TypeVar("Result")


def count_threads() -> int:
    """The number of threads that compute at the same time: the cores that this process may use, or OMP_NUM_THREADS."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # a list has a number for each level
    return min(int(wanted), cores) if wanted.isdecimal() and int(wanted) > 0 else cores


def count_workers(jobs: int) -> int:
    """The number of threads that load `jobs` images."""
    return max(1, min(count_threads() + WAITING_THREADS, -(-jobs // JOBS_PER_THREAD)))


def prefetch(
    jobs: Sequence[Job],
    load: Callable[[Job], Result],
    size: int,
    initialise: Callable[[], object] | None = None,
) -> Iterator[tuple[Sequence[Job], list[Result | ImageFault]]]:
    """Yields chunks of at most `size` jobs, each with the results of `load` or the ImageFaults that it raised.

    While the caller works on one chunk, the next two are loaded. Each thread that loads calls `initialise` first.
    """

    def attempt(job: Job) -> Result | ImageFault:
        try:
            return load(job)
        except ImageFault as fault:
            return fault

    chunks = (jobs[start : start + size] for start in range(0, len(jobs), size))
    with ThreadPoolExecutor(count_workers(len(jobs)), "load", initialise) as pool:
        started = ((chunk, [pool.submit(attempt, job) for job in chunk]) for chunk in chunks)
        queue = list(itertools.islice(started, 2))
        while queue:
            chunk, futures = queue.pop(0)
            loaded = [future.result() for future in futures]
            queue += itertools.islice(started, 1)
            yield chunk, loaded
