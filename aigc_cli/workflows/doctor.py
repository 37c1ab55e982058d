"""`aigc doctor`: checks what aigc needs on this machine, with a remedy for each problem.

It imports PyTorch only where there is a GPU to look at, or open_clip has to be asked about a backbone.
"""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement

from aigc_cli import __version__
from aigc_cli.errors import AigcError
from aigc_cli.model.hub import is_hub_reachable
from aigc_cli.runtime.devices import find_accelerator
from aigc_cli.runtime.hints import MINI, find_folder
from aigc_cli.storage.cache import find_cache_folder, measure_folder
from aigc_cli.storage.tensors import find_wrong_sums

DISTRIBUTION = "aigc-cli"  # the name `aigc` on the index is another project's
RECOMMENDED, RECOMMENDED_ON_HUB = "ViT-L-14/openai", "timm/vit_large_patch14_clip_224.openai"
HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
NOT_FOR_SCORING = ("matplotlib", "onnxscript", "open-clip-torch", "pandas", "scipy", "torch")  # see install/score.txt
PYTHON = (3, 11)
FREE = 1 << 30  # bytes on the cache's disk: about the size of a backbone, or of the features of a few thousand images


@dataclass(frozen=True)
class Check:
    """The state of one thing; `ok` is None for information only, and `remedy` says what to do if it is not ok."""

    name: str
    found: str
    ok: bool | None = None
    remedy: str = ""


def check_machine(backbone: str | None = None) -> list[Check]:
    """Runs every check, in the order to show them; takes a second, up to five without a network.

    `backbone` must be cached or downloadable; None reports on the recommended one. AigcError if it is unknown.
    """
    return [*_check_versions(), *_check_devices(), _check_cache(), _check_weights(), _check_backbone(backbone)]


def _check_versions() -> Iterator[Check]:
    yield Check("aigc", __version__)
    fine = sys.version_info >= PYTHON
    yield Check("python", platform.python_version(), fine, "" if fine else "Use Python 3.11 or newer.")
    try:
        needed = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or ()]
    except metadata.PackageNotFoundError:
        yield Check("packages", "unknown", False, f"pip install {DISTRIBUTION}")
        return
    only_scores = _find_version("torch") is None  # as install/score.txt installs it
    for requirement in sorted(needed, key=lambda r: r.name.lower()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _check_package(requirement, only_scores)


def _find_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _check_package(requirement: Requirement, only_scores: bool) -> Check:
    wanted, found = f"'{requirement.name}{requirement.specifier}'", _find_version(requirement.name)
    if found is None and only_scores and requirement.name.replace("_", "-").lower() in NOT_FOR_SCORING:
        return Check(requirement.name, "not installed; scoring does without it")
    if found is None:
        return Check(requirement.name, "not installed", False, f"pip install {wanted}")
    fine = requirement.specifier.contains(found, prereleases=True)
    return Check(requirement.name, found, fine, "" if fine else f"pip install -U {wanted}")


def _check_devices() -> Iterator[Check]:
    yield Check("cpu", f"{os.cpu_count()} cores")
    device = find_accelerator() or "cpu"
    if device != "cpu":
        import torch

        from aigc_cli.model.devices import pick_device

        for number in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(number)
            yield Check("cuda", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
        device = pick_device().type
    yield Check("--device auto", device)


def _check_cache() -> Check:
    folder = find_cache_folder()
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        return Check("cache", f"{folder} can't be written", False, "Set AIGC_CACHE to a writable folder.")
    used = measure_folder(folder)
    free = shutil.disk_usage(there).free
    found = f"{folder}, {used / 2**20:.0f} MiB used, {free / 2**30:.1f} GiB free"
    remedy = "" if free >= FREE else f"Free some space, or set AIGC_CACHE to another disk; {folder} may be deleted."
    return Check("cache", found, not remedy, remedy)


def _check_weights() -> Check:
    again = f"pip install --force-reinstall --no-deps {DISTRIBUTION}"
    try:
        wrong = find_wrong_sums(MINI.parent)
    except AigcError as error:
        return Check("shipped weights", error.message, False, again)
    found = f"{', '.join(wrong)}: changed since they were shipped" if wrong else "SHA-256 correct"
    return Check("shipped weights", found, not wrong, again if wrong else "")


def _check_backbone(name: str | None) -> Check:
    wanted = name or RECOMMENDED
    is_local = wanted.startswith("local-dir:")
    if _is_here(wanted):
        found, ok = "on this machine", True
    elif not is_local and is_hub_reachable():
        found, ok = "not on this machine; the hub answers", True
    else:
        found, ok = "no weights there" if is_local else "not on this machine, and the hub does not answer", False
    if name is None:
        return Check(wanted, found)
    remedy = "Connect once to cache the weights, or copy the model's folder here and use --backbone local-dir:PATH."
    return Check(wanted, found, ok, "" if ok else remedy)


def _is_here(name: str) -> bool:
    """Whether the weights of a backbone are on this machine; AigcError for a name that open_clip does not know."""
    if folder := find_folder(name):
        return any(folder.glob("*.safetensors"))
    if name == RECOMMENDED:  # known without open_clip, which imports PyTorch
        from huggingface_hub import try_to_load_from_cache

        return any(isinstance(try_to_load_from_cache(RECOMMENDED_ON_HUB, file), str) for file in HUB_FILES)
    from aigc_cli.model.loading import is_available_locally

    return is_available_locally(name)
