"""An ablation that is killed at random moments and resumed leaves the same table."""

import os
import random
import time
from pathlib import Path

import pytest
from killing import KILLED, Forge, check_whole, results

SEED = int(os.environ.get("KILL_SEED", random.randrange(10**6)))
KILLS, POLLS = 20, 50
DRAWN = (".md", ".png", ".svg")  # these show the seconds


@pytest.fixture(scope="module")
def line(rated: Path, tiny_folder: Path) -> str:
    """Two variants on two folds, one of which fine-tunes the backbone."""
    (rated.parent / "variants.yaml").write_text(
        f"heads: {{backbone: 'local-dir:{tiny_folder}', freeze: all}}\n"
        f"blocks: {{backbone: 'local-dir:{tiny_folder}', freeze: partial}}\n"
    )
    settings = "--recipe quick --epochs 2 --folds 2 --device cpu -o run"
    return f"ablate --data {rated} --variants {rated.parent / 'variants.yaml'} {settings}"


def test_killed_at_random_moments(forge: Forge, line: str, tmp_path: Path) -> None:
    print(f"KILL_SEED={SEED}")
    ending = forge(tmp_path / "whole", line)
    assert ending.code == 0, ending.err
    expected, events = results(tmp_path / "whole" / "run", DRAWN), ending.events
    assert len(list((tmp_path / "whole" / "run" / "cells").iterdir())) == 4
    chosen, kills, chain = random.Random(SEED), 0, 0
    while kills < KILLS:
        folder, chain = tmp_path / f"chain{chain}", chain + 1
        while True:
            begun = (folder / "run" / "ablation.json").exists()
            at = chosen.randint(1, events) if kills < KILLS else 0
            ending = forge(folder, f"{line} --resume" if begun else line, at=at)
            check_whole(folder / "run")
            if ending.code == 0:
                break
            assert ending.code == KILLED, (SEED, kills, ending)
            kills += 1
        assert results(folder / "run", DRAWN) == expected, (SEED, kills)


def test_every_visible_file_is_whole_at_any_moment(forge: Forge, line: str, tmp_path: Path) -> None:
    print(f"KILL_SEED={SEED}")
    chosen, folder, polls, files = random.Random(SEED), tmp_path / "work", 0, 0
    while polls < POLLS:
        forge.begin(folder, f"{line} --overwrite")
        while forge.busy():
            time.sleep(chosen.uniform(0, 0.1))
            files += check_whole(folder / "run")
            polls += 1
        ending = forge.end(folder)
        assert ending.code == 0, ending.err
    assert files > polls
