"""A limit on memory, for as long as a stranger's graph is loaded."""

import resource
from pathlib import Path

import numpy as np
import pytest

from aigc_cli.memory_limit import limit_memory

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux has this limit")


def test_what_exceeds_it_is_an_error_and_afterwards_nothing_is_limited() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with limit_memory(1 << 28):
        assert np.empty(1 << 26, np.uint8).nbytes == 1 << 26
        with pytest.raises(MemoryError):
            np.empty(1 << 30, np.uint8)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert np.empty(1 << 30, np.uint8).nbytes == 1 << 30


def test_a_stricter_limit_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to = list[tuple[int, int]]()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1 << 20, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: set_to.append(limits))
    with limit_memory(1 << 40):
        pass
    assert set_to == [(1 << 20, resource.RLIM_INFINITY)] * 2
