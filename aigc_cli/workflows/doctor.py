"""`aigc doctor`: checks what aigc needs on this machine, with a remedy for each problem."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

import torch
from packaging.requirements import Requirement

from aigc_cli import __version__
from aigc_cli.errors import AigcError
from aigc_cli.model.devices import pick_device
from aigc_cli.model.hub import is_hub_reachable
from aigc_cli.model.loading import is_available_locally
from aigc_cli.storage.cache import find_cache_folder, measure_folder
from aigc_cli.storage.checkpoints import SHIPPED_SCORER
from aigc_cli.storage.tensors import find_wrong_sums

DISTRIBUTION = "aigc-cli"  # the name `aigc` on the index is another project's
RECOMMENDED = "ViT-L-14/openai"
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
    """Runs every check, in the order to show them; takes a second or two, also without a network.

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
    for requirement in sorted(needed, key=lambda r: r.name.lower()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _check_package(requirement)


def _check_package(requirement: Requirement) -> Check:
    wanted = f"'{requirement.name}{requirement.specifier}'"
    try:
        found = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Check(requirement.name, "not installed", False, f"pip install {wanted}")
    fine = requirement.specifier.contains(found, prereleases=True)
    return Check(requirement.name, found, fine, "" if fine else f"pip install -U {wanted}")


def _check_devices() -> Iterator[Check]:
    yield Check("cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} used by PyTorch")
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        yield Check("cuda", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    yield Check("--device auto", pick_device().type)


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
        wrong = find_wrong_sums(SHIPPED_SCORER.parent)
    except AigcError as error:
        return Check("shipped weights", error.message, False, again)
    found = f"{', '.join(wrong)}: changed since they were shipped" if wrong else "SHA-256 correct"
    return Check("shipped weights", found, not wrong, again if wrong else "")


def _check_backbone(name: str | None) -> Check:
    wanted = name or RECOMMENDED
    is_local = wanted.startswith("local-dir:")
    if is_available_locally(wanted):
        found, ok = "on this machine", True
    elif not is_local and is_hub_reachable():
        found, ok = "not on this machine; the hub answers", True
    else:
        found, ok = "no weights there" if is_local else "not on this machine, and the hub does not answer", False
    if name is None:
        return Check(wanted, found)
    remedy = "Connect once to cache the weights, or copy the model's folder here and use --backbone local-dir:PATH."
    return Check(wanted, found, ok, "" if ok else remedy)
