"""Where tensors live."""

import contextlib
from collections.abc import Iterator

import torch

from aigc_cli.errors import AigcError, EnvironmentProblem

DEVICES = ("auto", "cpu", "cuda", "mps")


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; `auto` is CUDA, then Apple's MPS, then the CPU.

    Raises:
        AigcError: not one of `DEVICES`.
        EnvironmentProblem: this machine has no such device.
    """
    if name not in DEVICES:
        raise AigcError(f"Expected a device out of {', '.join(DEVICES)}, found '{name}'.", "Use --device auto.")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(device for device in ("cuda", "mps", "cpu") if there[device]))
    if not there[name]:
        raise EnvironmentProblem(f"Expected the device {name}, found none on this machine.", "Use --device auto.")
    return torch.device(name)


def pick_precision(name: str, device: torch.device) -> torch.dtype | None:
    """The type that a backbone's trained part computes in, None for float32; `auto` is bfloat16 where CUDA has it.

    On a CPU `auto` is float32: depthwise convolutions go backward slower in bfloat16.
    """
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if name == "bf16" or (name == "auto" and fast) else None


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread, for a caller whose other threads keep the cores busy: a second one would only wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
