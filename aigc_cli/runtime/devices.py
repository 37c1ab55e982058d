"""Devices by name, and which of them this machine seems to have; imports no PyTorch."""

import sys
from pathlib import Path

from aigc_cli.errors import AigcError

DEVICES = ("auto", "cpu", "cuda", "mps")
_DRIVERS = (Path("/dev/nvidia0"), Path("/dev/dxg"), Path("C:/Windows/System32/nvcuda.dll"))  # dxg: WSL


def check_device(name: str) -> None:
    """Raises AigcError for a name that is not in `DEVICES`. Whether the machine has the device is checked later."""
    if name not in DEVICES:
        raise AigcError(f"Expected a device out of {', '.join(DEVICES)}, found '{name}'.", "Use --device auto.")


def find_accelerator() -> str | None:
    """`cuda` or `mps` if this machine seems to have it and a PyTorch that can use it, else None.

    It looks at driver files and at the version of the installed PyTorch. Importing PyTorch to ask it takes seconds.
    """
    if sys.platform == "darwin":
        import platform

        found = "mps" if platform.machine() == "arm64" else None
    else:
        found = "cuda" if any(driver.exists() for driver in _DRIVERS) else None
    if found is None:
        return None
    from importlib import metadata  # takes 30 ms

    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None
    return None if version.endswith("+cpu") and found == "cuda" else found
