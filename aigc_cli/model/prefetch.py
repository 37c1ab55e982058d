"""Work ahead of its use, in threads: image decoding and engines run in parallel, without Python's global lock."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from aigc_cli.images.reader import ImageFault

WAITING_THREADS = 2  # additional threads: some always wait for a decoder's answer

Job = TypeVar("Job")
Result = TypeVar("Result")


def prefetch(
    jobs: Sequence[Job], load: Callable[[Job], Result], size: int
) -> Iterator[tuple[Sequence[Job], list[Result | ImageFault]]]:
    """Yields chunks of at most `size` jobs, each with the results of `load` or the ImageFaults that it raised.

    While the caller works on one chunk, the next two are loaded.
    """

    def attempt(job: Job) -> Result | ImageFault:
        try:
            return load(job)
        except ImageFault as fault:
            return fault

    chunks = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    threads = torch.get_num_threads()
    workers = max(1, min(threads + WAITING_THREADS, len(jobs)))
    with ThreadPoolExecutor(workers, "load", torch.set_num_threads, (max(1, threads // workers),)) as pool:
        queue = [[pool.submit(attempt, job) for job in chunk] for chunk in chunks[:2]]
        for position, chunk in enumerate(chunks):
            loaded = [future.result() for future in queue.pop(0)]
            if position + 2 < len(chunks):
                queue.append([pool.submit(attempt, job) for job in chunks[position + 2]])
            yield chunk, loaded
