"""Where tensors live."""

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
