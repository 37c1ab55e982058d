"""The feature store: arrays that depend only on their key. They are computed once and shared by all commands.

A bank holds the arrays of one way to compute them: backbone, weights, preprocessing, freeze boundary and view. The name
of an entry is the digest of its image file. On disk a bank is a folder of shards:

    <root>/<digest of the bank's key>/key.json
    <root>/<digest of the bank's key>/<shard>/keys.json, <array>.npy ...

`keys.json` holds the SHA-256 of each array. A shard that belongs to another user, as in a shared cache, or has other
arrays is not used. A shard is written into a temporary folder and renamed when it is complete, so a reader never sees a
part of it. If two processes compute the same entries at the same time, both results are valid.
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

from aigc_cli.errors import explain_os_errors
from aigc_cli.regular_file import hash_file
from aigc_cli.storage.atomic_files import read_json
from aigc_cli.storage.cache import is_own

BANK_VERSION = 3
_TEMPORARY = ".tmp-"

Arrays = dict[str, NDArray[Any]]


class FeatureBank:
    """The stored arrays of one way to compute features, in the cache folder `root`.

    The key holds everything except the image that determines the arrays, as JSON values.
    """

    def __init__(self, root: Path, key: Mapping[str, Any]) -> None:
        self.key = {"format_version": BANK_VERSION, **key}
        text = json.dumps(self.key, sort_keys=True)
        self.folder = root / "features" / sha256(text.encode()).hexdigest()[:24]
        self._shards: list[Arrays] = []
        self._place: dict[str, tuple[int, int]] = {}
        self._seen: set[str] = set()
        self.refresh()
        with contextlib.suppress(OSError):
            os.utime(self.folder)  # the time of last use, for `clear_cache`

    def refresh(self) -> None:
        """Load the shards that other processes wrote since."""
        for shard in sorted(self.folder.glob("*/")):
            if not shard.name.startswith(_TEMPORARY) and shard.name not in self._seen:
                self._load_shard(shard.name)

    def _load_shard(self, name: str) -> None:
        try:
            index = read_json(self.folder / name / "keys.json")
            keys = [str(key) for key in index["entries"]]
            files = {field: self.folder / name / f"{field}.npy" for field in index["fields"] if field.isidentifier()}
            if not all(map(is_own, (self.folder, self.folder / name, *files.values()))):
                return
            if {field: hash_file(file) for field, file in files.items()} != index["fields"]:
                return
            arrays = {field: np.load(file, mmap_mode="r", allow_pickle=False) for field, file in files.items()}
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
            return  # removed or damaged: its entries count as missing
        if any(array.shape[:1] != (len(keys),) for array in arrays.values()):
            return
        self._seen.add(name)
        self._shards.append(arrays)
        for row, key in enumerate(keys):
            self._place.setdefault(key, (len(self._shards) - 1, row))

    def list_missing(self, entries: Iterable[str]) -> list[str]:
        """Return the entries that are not stored, without duplicates, in their order."""
        return [entry for entry in dict.fromkeys(entries) if entry not in self._place]

    def append(self, entries: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Store one shard: n names, and arrays of shape (n, ...) whose row i belongs to entries[i].

        Raises:
            EnvironmentProblem: the disk is full or the folder is not writable; earlier shards stay valid.
        """
        name = uuid.uuid4().hex
        temporary = self.folder / f"{_TEMPORARY}{name}"
        hint = "Free some space, or set AIGC_CACHE to a writable folder."
        with explain_os_errors(f"Features could not be stored in {self.folder}", hint):
            try:
                temporary.mkdir(parents=True)
                if not (self.folder / "key.json").exists():
                    (self.folder / "key.json").write_text(json.dumps(self.key, sort_keys=True, indent=1))
                for field, array in arrays.items():
                    np.save(temporary / f"{field}.npy", array, allow_pickle=False)
                sums = {field: hash_file(temporary / f"{field}.npy") for field in arrays}
                (temporary / "keys.json").write_text(json.dumps({"entries": list(entries), "fields": sums}))
                temporary.rename(self.folder / name)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        self._load_shard(name)

    def read(self, entries: Sequence[str]) -> Arrays:
        """Return {field: array of shape (len(entries), ...)} in the order of `entries`; KeyError for a missing one."""
        places = np.array([self._place[entry] for entry in entries], dtype=np.int64).reshape(-1, 2)
        fields = self._shards[places[0, 0]] if len(places) else {}
        out = {field: np.empty((len(places), *array.shape[1:]), array.dtype) for field, array in fields.items()}
        for shard in np.unique(places[:, 0]):
            rows = np.flatnonzero(places[:, 0] == shard)
            for field, array in self._shards[shard].items():
                out[field][rows] = array[places[rows, 1]]
        return out
