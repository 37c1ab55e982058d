"""The list of the cache folder, and that clearing it never removes other files."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_cli.storage.cache import clear_cache, list_cache, measure_features, measure_folder
from aigc_cli.storage.feature_bank import FeatureBank
from aigc_cli.text import format_size

KEY = {"backbone": "mini", "boundary": 12, "view": {"number": 2}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A cache with a feature bank, an engine, a demonstration set and two foreign files."""
    bank = FeatureBank(tmp_path, KEY)
    bank.append(["a", "b"], {"levels": np.zeros((2, 1000), np.float32)})
    engine = f"engines/{'ab' * 12}-{'cd' * 8}.onnx"
    for name in (engine, "demo/demo_0001.jpg", "engines/notes.txt", "mine.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    return tmp_path


def set_age(path: Path, days: float) -> None:
    os.utime(path, (time.time() - days * 86400,) * 2)


def test_items_are_listed_largest_first(root: Path) -> None:
    items = list_cache(root)
    assert [item.kind for item in items] == ["features", "demonstration", "engine"]
    assert items[0].name == "mini, 12 blocks, view 2"
    assert items[0].size > 8000
    assert [item.size for item in items[1:]] == [5, 5]
    assert list_cache(root / "nothing") == []
    assert items[0].size - 2000 < measure_features(root) <= items[0].size


def test_a_folder_that_disappears_is_not_counted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, whole = os.scandir, measure_folder(root)
    (shard,) = (path for path in root.glob("features/*/*") if path.is_dir())
    going = sum(path.stat().st_size for path in shard.iterdir())

    def scandir(place: Any) -> Any:
        if Path(place) == shard:
            raise FileNotFoundError(place)
        return honest(place)

    monkeypatch.setattr(os, "scandir", scandir)
    assert measure_folder(root) == whole - going
    assert {item.kind for item in list_cache(root)} == {"features", "demonstration", "engine"}


def test_clearing_keeps_foreign_files(root: Path) -> None:
    assert len(clear_cache(root)) == 3
    assert list_cache(root) == []
    assert sorted(path.name for path in root.rglob("*") if path.is_file()) == ["mine.txt", "notes.txt"]
    assert FeatureBank(root, KEY).list_missing(["a"]) == ["a"]


def test_recently_used_items_stay(root: Path) -> None:
    for item in list_cache(root):
        set_age(item.path, 10)
    assert clear_cache(root, older_than=11) == []
    FeatureBank(root, KEY)  # counts as a use
    assert [item.kind for item in clear_cache(root, older_than=9)] == ["demonstration", "engine"]
    assert [item.kind for item in list_cache(root)] == ["features"]


def test_clearing_does_not_follow_links(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    bank = FeatureBank(elsewhere, KEY)
    bank.append(["a"], {"levels": np.zeros((1, 10), np.float32)})
    (elsewhere / "demo").mkdir()
    (elsewhere / "demo" / "demo_0001.jpg").write_bytes(b"mine")
    before = sorted(path for path in elsewhere.rglob("*"))
    (root / "features" / ("0" * 24)).symlink_to(bank.folder)
    (shard,) = (path for path in root.glob("features/*/*") if path.is_dir() and not path.parent.is_symlink())
    (shard.parent / ("1" * 32)).symlink_to(next(path for path in bank.folder.iterdir() if path.is_dir()))
    clear_cache(root)
    for name in ("features", "demo", "engines"):
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).symlink_to(elsewhere / name)
    assert clear_cache(root) == []
    assert sorted(path for path in elsewhere.rglob("*")) == before


def test_a_folder_of_the_user_is_no_cache(tmp_path: Path) -> None:
    """AIGC_CACHE may point at a home: what has not the cache's own names stays."""
    names = ("demo/talk.key", "demo/demo.jpg", "features/list.md", "features/api/index.html", "engines/car.onnx")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"mine")
    clear_cache(tmp_path)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()) == sorted(names)


def test_foreign_files_in_an_item_stay(root: Path) -> None:
    (folder,) = (root / "features").iterdir()
    (folder / "thesis.txt").write_text("mine")
    clear_cache(root)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 kB"), (1500, "1.5 kB"), (35_000_000, "35 MB"), (2.5e9, "2.5 GB"), (1.2e12, "1,200 GB")]
)
def test_sizes_for_a_person(count: float, shown: str) -> None:
    assert format_size(count) == shown
