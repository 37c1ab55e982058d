"""`aigc doctor`: whether this machine has what aigc needs, and what to do where it has not."""

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
from aigc_cli.model.hub import hub_answers
from aigc_cli.model.loading import is_at_hand
from aigc_cli.storage.checkpoints import SHIPPED
from aigc_cli.storage.feature_bank import cache_folder, folder_size
from aigc_cli.storage.tensors import wrong_sums

RECOMMENDED = "ViT-L-14/openai"
PYTHON = (3, 11)
FREE = 1 << 30  # bytes on the cache's disk; a backbone or the features of some thousand images need about as much


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name, found: what, and what it is.
        ok: whether it is as it should be; None where nothing depends on it.
        mend: what to do when it is not.
    """

    name: str
    found: str
    ok: bool | None = None
    mend: str = ""


def examine(backbone: str | None = None) -> list[Check]:
    """Every check in the order to show them; takes a second or two, also without a network.

    Args:
        backbone: must be on this machine or on a hub that answers; None only tells of the recommended one.

    Raises:
        AigcError: there is no such backbone.
    """
    return [*_versions(), *_devices(), _cache(), _weights(), _backbone(backbone)]


def _versions() -> Iterator[Check]:
    yield Check("aigc", __version__)
    fine = sys.version_info >= PYTHON
    yield Check("python", platform.python_version(), fine, "" if fine else "Use Python 3.11 or newer.")
    try:
        needed = [Requirement(line) for line in metadata.requires("aigc") or ()]
    except metadata.PackageNotFoundError:
        yield Check("packages", "unknown", False, "Install aigc with pip.")
        return
    for requirement in sorted(needed, key=lambda r: r.name.lower()):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        wanted = f"{requirement.name}{requirement.specifier}"
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Check(requirement.name, "not installed", False, f"pip install '{wanted}'")
            continue
        fine = requirement.specifier.contains(found, prereleases=True)
        yield Check(requirement.name, found, fine, "" if fine else f"pip install -U '{wanted}'")


def _devices() -> Iterator[Check]:
    yield Check("cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} used by PyTorch")
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        yield Check("cuda", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    yield Check("--device auto", pick_device().type)


def _cache() -> Check:
    folder = cache_folder()
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        return Check("cache", f"{folder} can't be written", False, "Set AIGC_CACHE to a folder that can.")
    used = folder_size(folder)
    free = shutil.disk_usage(there).free
    found = f"{folder}, {used / 2**20:.0f} MiB used, {free / 2**30:.1f} GiB free"
    mend = "" if free >= FREE else f"Free some space, or set AIGC_CACHE to another disk; {folder} may be deleted."
    return Check("cache", found, not mend, mend)


def _weights() -> Check:
    """The shipped files against the digests that lie beside them."""
    again = "pip install --force-reinstall --no-deps aigc"
    try:
        wrong = wrong_sums(SHIPPED.parent)
    except AigcError as error:
        return Check("shipped weights", error.message, False, again)
    found = f"{', '.join(wrong)}: not as they were shipped" if wrong else "SHA-256 as they were shipped"
    return Check("shipped weights", found, not wrong, again if wrong else "")


def _backbone(name: str | None) -> Check:
    wanted = name or RECOMMENDED
    if is_at_hand(wanted):
        return Check(wanted, "on this machine", True if name else None)
    is_local = wanted.startswith("local-dir:")
    if not is_local and hub_answers():
        return Check(wanted, "not on this machine; the hub answers", True if name else None)
    found = "no weights there" if is_local else "not on this machine, and the hub does not answer"
    mend = "Connect once so that they are cached, or copy the model's folder here and use --backbone local-dir:PATH."
    return Check(wanted, found, False if name else None, mend if name else "")
