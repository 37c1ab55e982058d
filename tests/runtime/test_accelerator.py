"""Which accelerator a machine seems to have, found without PyTorch."""

import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from aigc_cli.runtime.devices import find_accelerator


@pytest.mark.parametrize(
    ("version", "system", "machine", "driver", "expected"),
    [
        ("2.14.1", "linux", "x86_64", True, "cuda"),
        ("2.14.1+cu130", "linux", "x86_64", True, "cuda"),
        ("2.14.1+cpu", "linux", "x86_64", True, None),
        ("2.14.1", "linux", "x86_64", False, None),
        (None, "linux", "x86_64", True, None),
        ("2.14.1", "darwin", "arm64", False, "mps"),
        ("2.14.1", "darwin", "x86_64", False, None),
    ],
)
def test_it_needs_a_driver_and_a_pytorch_that_uses_it(
    version: str | None, system: str, machine: str, driver: bool, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_version(name: str) -> str:
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    def exists(path: Path, **_: Any) -> bool:
        return driver

    monkeypatch.setattr(metadata, "version", find_version)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(Path, "exists", exists)
    assert find_accelerator() == expected
