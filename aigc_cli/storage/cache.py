"""Lists and clears the cache folder: features, exported engines and the demonstration set.

Other files in the folder are never removed.
"""

import contextlib
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from aigc_cli.storage.atomic_files import read_json

CACHE_KINDS = {"features": "features/*", "engine": "engines/*.onnx", "demonstration": "demo"}
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


def list_cache(root: Path) -> list[CacheItem]:
    """Return the items of the cache folder `root`, largest first; empty if there is no such folder."""
    items = []
    for kind, pattern in CACHE_KINDS.items():
        for path in root.glob(pattern):
            with contextlib.suppress(OSError):  # another process removed it
                size = path.stat().st_size if path.is_file() else measure_folder(path)
                days = max(0.0, time.time() - path.stat().st_mtime) / DAY
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
            shutil.rmtree(item.path, ignore_errors=True)
        if not item.path.exists():
            gone.append(item)
    return gone
