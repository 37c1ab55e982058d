"""The cache folder's own list, and that nothing else is ever removed."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_cli.storage.cache import clear, kept
from aigc_cli.storage.feature_bank import Bank, folder_size, shown_size, store_size

KEY = {"backbone": "mini", "boundary": 12, "view": {"number": 2}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A cache with a bank of features, an engine, a demonstration set and two files of somebody else's."""
    bank = Bank(tmp_path, KEY)
    bank.append(["a", "b"], {"levels": np.zeros((2, 1000), np.float32)})
    for name in ("engines/abc.onnx", "demo/0001.jpg", "engines/notes.txt", "mine.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    return tmp_path


def _age(path: Path, days: float) -> None:
    os.utime(path, (time.time() - days * 86400,) * 2)


def test_everything_is_listed_the_largest_first(root: Path) -> None:
    items = kept(root)
    assert [item.kind for item in items] == ["features", "demonstration", "engine"]
    assert items[0].name == "mini, 12 blocks, view 2"
    assert items[0].size > 8000
    assert [item.size for item in items[1:]] == [5, 5]
    assert kept(root / "nothing") == []
    assert items[0].size - 2000 < store_size(root) <= items[0].size


def test_what_goes_away_meanwhile_is_not_counted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, whole = os.scandir, folder_size(root)
    (shard,) = (path for path in root.glob("features/*/*") if path.is_dir())
    going = sum(path.stat().st_size for path in shard.iterdir())

    def scandir(place: Any) -> Any:
        if Path(place) == shard:
            raise FileNotFoundError(place)
        return honest(place)

    monkeypatch.setattr(os, "scandir", scandir)
    assert folder_size(root) == whole - going
    assert {item.kind for item in kept(root)} == {"features", "demonstration", "engine"}


def test_clearing_removes_what_is_ours_and_nothing_else(root: Path) -> None:
    assert len(clear(root)) == 3
    assert kept(root) == []
    assert sorted(path.name for path in root.rglob("*") if path.is_file()) == ["mine.txt", "notes.txt"]
    assert Bank(root, KEY).missing(["a"]) == ["a"]


def test_what_was_used_lately_stays(root: Path) -> None:
    for item in kept(root):
        _age(item.path, 10)
    assert clear(root, older_than=11) == []
    Bank(root, KEY)  # uses it
    assert [item.kind for item in clear(root, older_than=9)] == ["demonstration", "engine"]
    assert [item.kind for item in kept(root)] == ["features"]


def test_a_folder_that_is_a_link_leads_nowhere(root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious.txt").write_text("mine")
    (root / "features" / "link").symlink_to(elsewhere)
    clear(root)
    assert (elsewhere / "precious.txt").exists()


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 kB"), (1500, "1.5 kB"), (35_000_000, "35 MB"), (2.5e9, "2.5 GB"), (1.2e12, "1,200 GB")]
)
def test_sizes_for_a_person(count: float, shown: str) -> None:
    assert shown_size(count) == shown
