"""Lists and clears the cache folder: features, exported engines and the demonstration set.

Only files that have the names of the cache's own are removed, and nothing through a link: `AIGC_CACHE` may be any
folder.
"""

import contextlib
import os
import re
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from aigc_cli.storage.atomic_files import read_json

CACHE_KINDS = {
    "features": re.compile(r"features/[0-9a-f]{24}"),
    "engine": re.compile(r"engines/[0-9a-f]{24}(-[0-9a-f]{16})?\.onnx"),  # earlier versions wrote no second digest
    "demonstration": re.compile(r"demo"),
}
_OWN = re.compile(  # files in an item that is a folder, and folders in it
    r"(features/[0-9a-f]{24}(/key\.json|/(\.tmp-)?[0-9a-f]{32}(/keys\.json|/[a-z_]{1,40}\.npy)?)?|demo(/demo_\d{4,9}\.jpg)?)"
)
DAY = 86400.0


def find_cache_folder() -> Path:
    """Return the cache folder: `AIGC_CACHE`, else `aigc` in the user's XDG cache folder."""
    if named := os.environ.get("AIGC_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aigc"


def measure_folder(folder: Path) -> int:
    """Return the bytes of all files below `folder`; 0 without a folder. Files may disappear while it counts."""
    size = 0
    for place, _, names in os.walk(folder):  # os.walk ignores a folder that disappears; rglob does not on every system
        for name in names:
            with contextlib.suppress(OSError):
                size += Path(place, name).lstat().st_size
    return size


def measure_features(root: Path) -> int:
    """Return the bytes of all features in the cache folder `root`."""
    return measure_folder(root / "features")


@dataclass(frozen=True)
class CacheItem:
    """A file or folder in the cache.

    `kind` is a key of `CACHE_KINDS`, `name` a description such as `mini, 12 blocks, view 2`, `size` the number of bytes
    and `days` the number of days since the last use.
    """

    kind: str
    name: str
    path: Path
    size: int
    days: float


def is_own(path: Path) -> bool:
    """Whether a file or folder, not a link, belongs to this user or to the system, where the system has owners.

    What others put into a shared cache is not used.
    """
    status = path.lstat()
    return not stat.S_ISLNK(status.st_mode) and (not hasattr(os, "getuid") or status.st_uid in (os.getuid(), 0))


def list_cache(root: Path) -> list[CacheItem]:
    """Return the items of the cache folder `root`, largest first; empty if there is no such folder."""
    items = []
    for kind, form in CACHE_KINDS.items():
        folder = root / form.pattern.partition("/")[0]
        with contextlib.suppress(OSError):  # there is none, or another process removed it
            for path in [folder] if kind == "demonstration" else folder.iterdir():
                if folder.is_symlink() or path.is_symlink() or not form.fullmatch(path.relative_to(root).as_posix()):
                    continue
                status = path.stat()
                size = status.st_size if path.is_file() else measure_folder(path)
                days = max(0.0, time.time() - status.st_mtime) / DAY
                items.append(CacheItem(kind, _name_item(path), path, size, days))
    return sorted(items, key=lambda item: (-item.size, item.path))


def _name_item(path: Path) -> str:
    """Return backbone, frozen blocks and view of features; of other items the file name."""
    try:
        key = read_json(path / "key.json")
        view = "prompts" if "texts" in key else f"view {key['view']['number']}" if "view" in key else "as they are"
        return f"{key['backbone']}, {key['boundary']} blocks, {view}"
    except (OSError, ValueError, KeyError, TypeError):
        return path.name


def clear_cache(root: Path, older_than: float = 0.0) -> list[CacheItem]:
    """Remove the items unused for at least `older_than` days and return them. A later run computes them again."""
    gone = []
    for item in list_cache(root):
        if item.days < older_than:
            continue
        if item.path.is_file():
            item.path.unlink(missing_ok=True)
        else:
            _remove_own(item.path, root)
        if not item.path.exists():
            gone.append(item)
    return gone


def _remove_own(folder: Path, root: Path) -> None:
    """Remove the cache's own files in a folder, then the folder if nothing else is in it."""
    for place, names, files in os.walk(folder, topdown=False):  # does not follow links
        for name in (*files, *names):
            path = Path(place, name)
            if _OWN.fullmatch(path.relative_to(root).as_posix()):
                with contextlib.suppress(OSError):  # a folder that holds something else, or a file in use
                    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()
