"""The feature store: arrays that depend only on their key, computed once and shared by every command.

A bank holds the arrays of one recipe for computing them (backbone, weights, preprocessing, boundary, view); its entries
are named by the digest of the image's bytes. On disk a bank is a folder of shards:

    <root>/<digest of the bank's key>/key.json
    <root>/<digest of the bank's key>/<shard>/keys.json, <array>.npy ...

A shard is written into a temporary folder and renamed when it is whole, so a reader never sees half of one, and two
processes that compute the same entries at the same time only waste work.
"""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_cli.errors import EnvironmentProblem
from aigc_cli.storage.files import read_json

FORMAT_VERSION = 2
_TEMPORARY = ".tmp-"

Arrays = dict[str, NDArray[Any]]


def cache_folder() -> Path:
    """Where the feature store lies: `AIGC_CACHE`, else `aigc` in the user's cache folder (XDG)."""
    if named := os.environ.get("AIGC_CACHE"):
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "aigc"


def folder_size(folder: Path) -> int:
    """Bytes of all files below `folder`, 0 where there is none; other processes may write and clear there meanwhile."""
    size = 0
    for place, _, names in os.walk(folder):  # passes over a folder that goes away, which rglob does not everywhere
        for name in names:
            with contextlib.suppress(OSError):
                size += Path(place, name).lstat().st_size
    return size


def store_size(root: Path) -> int:
    """Bytes of all features below `root`."""
    return folder_size(root / "features")


def shown_size(count: float) -> str:
    """Bytes for a person: 1.2 GB, 35 MB, 8 kB."""
    unit = next((unit for unit in ((1e9, "GB"), (1e6, "MB")) if count >= unit[0]), (1e3, "kB"))
    return f"{count / unit[0]:.2g} {unit[1]}" if count < 100 * unit[0] else f"{count / unit[0]:,.0f} {unit[1]}"


class Bank:
    """The entries of one way of computing features.

    Args:
        root: the store's folder; it is made when the first shard is written.
        key: what the arrays depend on besides the image; it must be JSON.
    """

    def __init__(self, root: Path, key: Mapping[str, Any]) -> None:
        self.key = {"format_version": FORMAT_VERSION, **key}
        text = json.dumps(self.key, sort_keys=True)
        self.folder = root / "features" / sha256(text.encode()).hexdigest()[:24]
        self._shards: list[Arrays] = []
        self._place: dict[str, tuple[int, int]] = {}
        self._seen: set[str] = set()
        self.refresh()
        with contextlib.suppress(OSError):
            os.utime(self.folder)  # when it was last used

    def refresh(self) -> None:
        """Takes in the shards that other processes have finished."""
        names = sorted(p.name for p in self.folder.iterdir() if p.is_dir()) if self.folder.is_dir() else []
        for name in names:
            if not name.startswith(_TEMPORARY) and name not in self._seen:
                self._take(name)

    def _take(self, name: str) -> None:
        try:
            index = read_json(self.folder / name / "keys.json")
            keys = [str(key) for key in index["entries"]]
            arrays = {
                field: np.load(self.folder / name / f"{field}.npy", mmap_mode="r", allow_pickle=False)
                for field in index["fields"]
            }
        except (OSError, EOFError, ValueError, KeyError, TypeError):
            return  # a shard that was removed meanwhile or is damaged: its entries are computed again
        if any(array.shape[:1] != (len(keys),) for array in arrays.values()):
            return
        self._seen.add(name)
        self._shards.append(arrays)
        for row, key in enumerate(keys):
            self._place.setdefault(key, (len(self._shards) - 1, row))

    def missing(self, entries: Iterable[str]) -> list[str]:
        """Those of `entries` that are not stored, each once, in order."""
        return [entry for entry in dict.fromkeys(entries) if entry not in self._place]

    def append(self, entries: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Stores one shard: row i of every array belongs to entries[i].

        Raises:
            EnvironmentProblem: the disk is full or the folder can't be written; earlier shards stay whole.
        """
        name = f"{uuid.uuid4().hex}"
        temporary = self.folder / f"{_TEMPORARY}{name}"
        try:
            temporary.mkdir(parents=True)
            if not (self.folder / "key.json").exists():
                (self.folder / "key.json").write_text(json.dumps(self.key, sort_keys=True, indent=1))
            for field, array in arrays.items():
                np.save(temporary / f"{field}.npy", array, allow_pickle=False)
            (temporary / "keys.json").write_text(json.dumps({"entries": list(entries), "fields": list(arrays)}))
            temporary.rename(self.folder / name)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise EnvironmentProblem(
                f"Features could not be stored in {self.folder}: {error.strerror or error}.",
                "Free some space, or set AIGC_CACHE to a folder that can be written.",
            ) from error
        self._take(name)

    def read(self, entries: Sequence[str]) -> Arrays:
        """The arrays of `entries`, rows in their order; KeyError for one that is not stored."""
        places = np.array([self._place[entry] for entry in entries], dtype=np.int64).reshape(-1, 2)
        fields = self._shards[places[0, 0]] if len(places) else {}
        out: Arrays = {
            field: np.empty((len(places), *array.shape[1:]), dtype=array.dtype) for field, array in fields.items()
        }
        for shard in np.unique(places[:, 0]):
            rows = np.flatnonzero(places[:, 0] == shard)
            for field, array in self._shards[shard].items():
                out[field][rows] = array[places[rows, 1]]
        return out
