"""Devices, precision and threads."""

import contextlib
from collections.abc import Iterator

import torch

from aigc_cli.errors import EnvironmentProblem
from aigc_cli.runtime.devices import check_device


def pick_device(name: str = "auto") -> torch.device:
    """The device `name`; `auto` is the first available one of CUDA, Apple's MPS and the CPU.

    Raises:
        AigcError: there is no such name, see `DEVICES`.
        EnvironmentProblem: this machine has no such device.
    """
    check_device(name)
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(device for device in ("cuda", "mps", "cpu") if available[device]))
    if not available[name]:
        raise EnvironmentProblem(f"Expected the device {name}, found none on this machine.", "Use --device auto.")
    return torch.device(name)


def pick_precision(name: str, device: torch.device) -> torch.dtype | None:
    """The type in which the trained part of a backbone computes; None for float32.

    `auto` is bfloat16 on a CUDA device that supports it, else float32: on a CPU the backward pass of depthwise
    convolutions is slower in bfloat16.
    """
    supported = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if name == "bf16" or (name == "auto" and supported) else None


def limit_this_thread() -> None:
    """PyTorch uses one thread for what the calling thread runs from now on: other threads keep the other cores busy."""
    torch.set_num_threads(1)


@contextlib.contextmanager
def use_one_thread() -> Iterator[None]:
    """Within the block PyTorch uses one thread: other threads of the caller keep the other cores busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
