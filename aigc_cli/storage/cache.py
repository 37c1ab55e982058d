"""What lies in the cache folder: features, exported engines and the demonstration set; nothing else is ever removed."""

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aigc_cli.storage.feature_bank import folder_size
from aigc_cli.storage.files import read_json

KINDS = {"features": "features/*", "engine": "engines/*.onnx", "demonstration": "demo"}
DAY = 86400.0


@dataclass(frozen=True)
class Kept:
    """One thing in the cache.

    Attributes:
        kind: a key of `KINDS`.
        name: what it belongs to, for a person.
        path: a folder or a file.
        size: bytes.
        days: since it was last used.
    """

    kind: str
    name: str
    path: Path
    size: int
    days: float


def kept(root: Path) -> list[Kept]:
    """Everything in the cache folder `root`, the largest first; nothing where there is no such folder."""
    return sorted(_found(root), key=lambda item: (-item.size, item.path))


def _found(root: Path) -> Iterator[Kept]:
    for kind, pattern in KINDS.items():
        for path in root.glob(pattern):
            with contextlib.suppress(OSError):  # removed meanwhile
                size = path.stat().st_size if path.is_file() else folder_size(path)
                yield Kept(kind, _name(path), path, size, max(0.0, time.time() - path.stat().st_mtime) / DAY)


def _name(path: Path) -> str:
    """For features, the backbone, what of it is frozen and the view; else the file's name."""
    try:
        key = read_json(path / "key.json")
        view = "prompts" if "texts" in key else f"view {key['view']['number']}" if "view" in key else "as they are"
        return f"{key['backbone']}, {key['boundary']} blocks, {view}"
    except (OSError, ValueError, KeyError, TypeError):
        return path.name


def clear(root: Path, older_than: float = 0.0) -> list[Kept]:
    """Removes what was not used for `older_than` days and returns it; a run that reads it computes it again."""
    gone = []
    for item in kept(root):
        if item.days < older_than:
            continue
        if item.path.is_file():
            item.path.unlink(missing_ok=True)
        else:
            shutil.rmtree(item.path, ignore_errors=True)
        if not item.path.exists():
            gone.append(item)
    return gone
