"""The feature store: it returns what was stored, ignores damaged shards, and works for two processes at once."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aigc_cli.errors import EnvironmentProblem
from aigc_cli.storage import feature_bank as store
from aigc_cli.storage.cache import find_cache_folder
from aigc_cli.storage.feature_bank import Arrays, FeatureBank

KEY = {"backbone": "tiny", "boundary": 3}


def make_arrays(*values: float) -> Arrays:
    column = np.array(values, dtype=np.float32)
    return {
        "hidden": (column[:, None, None] * np.ones((1, 2, 3))).astype(np.float16),
        "levels": column[:, None] + np.arange(4, dtype=np.float32),
    }


def find_shard(bank: FeatureBank) -> Path:
    (shard,) = (path for path in bank.folder.iterdir() if path.is_dir())
    return shard


def test_entries_are_read_in_the_requested_order(tmp_path: Path) -> None:
    bank = FeatureBank(tmp_path, KEY)
    bank.append(["a", "b"], make_arrays(1, 2))
    bank.append(["c"], make_arrays(3))
    for reader in (bank, FeatureBank(tmp_path, KEY)):
        found = reader.read(["c", "a", "b", "a"])
        for name, expected in make_arrays(3, 1, 2, 1).items():
            assert found[name].dtype == expected.dtype
            np.testing.assert_array_equal(found[name], expected)


def test_missing_entries_are_listed_once_and_in_order(tmp_path: Path) -> None:
    bank = FeatureBank(tmp_path, KEY)
    assert bank.list_missing(["b", "a", "b"]) == ["b", "a"]
    bank.append(["a"], make_arrays(1))
    assert bank.list_missing(["b", "a", "b", "c"]) == ["b", "c"]
    assert bank.list_missing(["a", "b"]) == ["b"]
    with pytest.raises(KeyError, match="b"):
        bank.read(["a", "b"])


def test_nothing_is_written_before_the_first_shard(tmp_path: Path) -> None:
    bank = FeatureBank(tmp_path / "not yet", KEY)
    assert bank.list_missing(["a"]) == ["a"]
    assert bank.read([]) == {}
    assert list(tmp_path.iterdir()) == []


def test_another_key_is_another_bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FeatureBank(tmp_path, KEY).append(["a"], make_arrays(1))
    assert FeatureBank(tmp_path, dict(reversed(KEY.items()))).list_missing(["a"]) == []
    assert FeatureBank(tmp_path, {**KEY, "boundary": 4}).list_missing(["a"]) == ["a"]
    monkeypatch.setattr(store, "BANK_VERSION", store.BANK_VERSION + 1)
    assert FeatureBank(tmp_path, KEY).list_missing(["a"]) == ["a"]


def test_the_key_is_stored(tmp_path: Path) -> None:
    bank = FeatureBank(tmp_path, KEY)
    bank.append(["a"], make_arrays(1))
    assert json.loads((bank.folder / "key.json").read_text()) == {"format_version": store.BANK_VERSION, **KEY}


def test_two_banks_on_a_folder_see_each_other_after_a_refresh(tmp_path: Path) -> None:
    one, other = FeatureBank(tmp_path, KEY), FeatureBank(tmp_path, KEY)
    one.append(["a"], make_arrays(1))
    other.append(["b"], make_arrays(2))
    assert one.list_missing(["a", "b"]) == ["b"]
    assert other.list_missing(["a", "b"]) == ["a"]
    for bank in (one, other):
        bank.refresh()
        bank.refresh()  # loads nothing twice
        np.testing.assert_array_equal(bank.read(["a", "b"])["levels"], make_arrays(1, 2)["levels"])


def test_an_entry_stored_twice_keeps_its_first_value(tmp_path: Path) -> None:
    one, other = FeatureBank(tmp_path, KEY), FeatureBank(tmp_path, KEY)
    one.append(["a"], make_arrays(1))
    other.append(["a"], make_arrays(1))
    one.refresh()
    np.testing.assert_array_equal(one.read(["a"])["levels"], make_arrays(1)["levels"])


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no keys": lambda shard: (shard / "keys.json").unlink(),
    "empty keys": lambda shard: (shard / "keys.json").write_text(""),
    "half the keys": lambda shard: cut_in_half(shard / "keys.json"),
    "keys that are no list": lambda shard: (shard / "keys.json").write_text("3"),
    "fewer keys than rows": lambda shard: (shard / "keys.json").write_text(
        '{"entries": ["a"], "fields": ["hidden", "levels"]}'
    ),
    "keys that are no text": lambda shard: (shard / "keys.json").write_text(
        '{"entries": [[], []], "fields": ["hidden"]}'
    ),
    "half an array": lambda shard: cut_in_half(shard / "hidden.npy"),
    "an array without its header": lambda shard: (shard / "hidden.npy").write_bytes(b"\x93NUM"),
    "an empty array file": lambda shard: (shard / "levels.npy").write_bytes(b""),
    "an array without rows": lambda shard: np.save(shard / "levels.npy", np.float32(1)),
    "an array of objects": lambda shard: np.save(shard / "levels.npy", np.array([{}, {}]), allow_pickle=True),
    "one array missing": lambda shard: (shard / "levels.npy").unlink(),
    "all arrays missing": lambda shard: [path.unlink() for path in shard.glob("*.npy")],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_is_computed_again(tmp_path: Path, damage: str) -> None:
    writer = FeatureBank(tmp_path, KEY)
    writer.append(["a", "b"], make_arrays(1, 2))
    DAMAGE[damage](find_shard(writer))
    bank = FeatureBank(tmp_path, KEY)
    assert bank.list_missing(["a", "b", "c"]) == ["a", "b", "c"]
    bank.append(["a", "b", "c"], make_arrays(1, 2, 3))
    for reader in (bank, FeatureBank(tmp_path, KEY)):
        found = reader.read(["c", "b", "a"])
        assert set(found) == {"hidden", "levels"}
        np.testing.assert_array_equal(found["levels"], make_arrays(3, 2, 1)["levels"])
        np.testing.assert_array_equal(found["hidden"], make_arrays(3, 2, 1)["hidden"])


def test_a_changed_array_is_computed_again(tmp_path: Path) -> None:
    bank = FeatureBank(tmp_path, KEY)
    bank.append(["a"], make_arrays(1.0))
    file = next(find_shard(bank).glob("*.npy"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert FeatureBank(tmp_path, KEY).list_missing(["a"]) == ["a"]


@pytest.mark.parametrize("fields", [["levels"], {"5": 1}, [5], "levels", None, {"../key": "x"}])
def test_an_index_of_another_form_is_computed_again(fields: object, tmp_path: Path) -> None:
    bank = FeatureBank(tmp_path, KEY)
    bank.append(["a"], make_arrays(1.0))
    index = find_shard(bank) / "keys.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "fields": fields}))
    assert FeatureBank(tmp_path, KEY).list_missing(["a"]) == ["a"]


@pytest.mark.parametrize("what", ["bank", "shard", "array"])
def test_features_of_another_user_are_not_used(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = FeatureBank(tmp_path, KEY)
    bank.append(["a"], make_arrays(1.0))
    shard = find_shard(bank)
    place = {"bank": bank.folder, "shard": shard, "array": next(shard.glob("*.npy"))}[what]
    if os.getuid() == 0:
        os.chown(place, 54321, 54321)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert FeatureBank(tmp_path, KEY).list_missing(["a"]) == ["a"]


@pytest.mark.parametrize("what", ["shard", "array"])
def test_features_through_links_are_not_used(what: str, tmp_path: Path) -> None:
    bank = FeatureBank(tmp_path / "cache", KEY)
    bank.append(["a"], make_arrays(1.0))
    shard = find_shard(bank)
    place = {"shard": shard, "array": next(shard.glob("*.npy"))}[what]
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    assert FeatureBank(tmp_path / "cache", KEY).list_missing(["a"]) == ["a"]


def test_unfinished_shards_are_not_read(tmp_path: Path) -> None:
    writer = FeatureBank(tmp_path, KEY)
    writer.append(["a"], make_arrays(1))
    elsewhere = FeatureBank(tmp_path / "elsewhere", KEY)
    elsewhere.append(["b"], make_arrays(2))
    shutil.copytree(find_shard(elsewhere), writer.folder / ".tmp-0123")
    (writer.folder / "stray.txt").write_text("hello")
    (writer.folder / "empty").mkdir()
    assert FeatureBank(tmp_path, KEY).list_missing(["a", "b"]) == ["b"]


def test_arrays_without_columns_are_stored(tmp_path: Path) -> None:
    """Before the first level there are no pooled features: shape (n, 0)."""
    bank = FeatureBank(tmp_path, KEY)
    bank.append(["a", "b"], {"hidden": np.ones((2, 3)), "levels": np.empty((2, 0), dtype=np.float32)})
    for reader in (bank, FeatureBank(tmp_path, KEY)):
        assert reader.list_missing(["a", "b"]) == []
        assert reader.read(["b"])["levels"].shape == (1, 0)


def test_a_full_disk_leaves_earlier_shards_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = FeatureBank(tmp_path, KEY)
    bank.append(["a"], make_arrays(1))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(EnvironmentProblem) as caught:
        bank.append(["b"], make_arrays(2))
    assert str(caught.value) == (
        f"Features could not be stored in {bank.folder}: No space left on device.\n"
        "Free some space, or set AIGC_CACHE to a writable folder."
    )
    assert caught.value.exit_code == 4
    assert sorted(path.name for path in bank.folder.iterdir()) == sorted(["key.json", find_shard(bank).name])
    assert FeatureBank(tmp_path, KEY).list_missing(["a", "b"]) == ["b"]


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "features").write_text("in the way")
    with pytest.raises(EnvironmentProblem, match=r"Features could not be stored in .*features/"):
        FeatureBank(tmp_path, KEY).append(["a"], make_arrays(1))


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIGC_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert find_cache_folder() == tmp_path / "own"
    monkeypatch.delenv("AIGC_CACHE")
    assert find_cache_folder() == tmp_path / "xdg" / "aigc"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_cache_folder() == tmp_path / ".cache" / "aigc"
