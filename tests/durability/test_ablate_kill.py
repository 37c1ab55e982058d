"""An ablation that is killed at random moments and resumed leaves the same results."""

import random
import time
from pathlib import Path

import pytest
from killing import KILLED, SEED, Forge, check_whole, draw_moments, read_results

pytestmark = pytest.mark.slow
KILLS, POLLS = 8, 30
FIGURES = (".md", ".png", ".svg")  # these show seconds, which differ between runs


@pytest.fixture(scope="module")
def line(rated: Path, tiny_folder: Path) -> str:
    """Two variants on two folds; one variant fine-tunes the backbone."""
    (rated.parent / "variants.yaml").write_text(
        f"heads: {{backbone: 'local-dir:{tiny_folder}', freeze: all, views: 1}}\n"
        f"blocks: {{backbone: 'local-dir:{tiny_folder}', freeze: partial, views: 1}}\n"
    )
    settings = "--recipe quick --epochs 1 --folds 2 --device cpu -o run"
    return f"ablate --data {rated} --variants {rated.parent / 'variants.yaml'} {settings}"


def test_killed_at_random_moments(forge: Forge, line: str, tmp_path: Path) -> None:
    ending = forge.run(tmp_path / "whole", line)
    assert ending.code == 0, ending.err
    expected = read_results(tmp_path / "whole" / "run", FIGURES)
    assert len(list((tmp_path / "whole" / "run" / "cells").iterdir())) == 4
    moments, kills, chain = draw_moments(ending.events, KILLS), 0, 0
    while kills < KILLS:
        folder, chain = tmp_path / f"chain{chain}", chain + 1
        while True:
            begun = (folder / "run" / "ablation.json").exists()
            at = moments[kills] if kills < KILLS else 0
            ending = forge.run(folder, f"{line} --resume" if begun else line, at=at)
            check_whole(folder / "run")
            if ending.code == 0:
                break
            assert ending.code == KILLED, (SEED, kills, ending)
            kills += 1
        assert read_results(folder / "run", FIGURES) == expected, (SEED, kills)


def test_every_visible_file_is_whole_at_any_moment(forge: Forge, line: str, tmp_path: Path) -> None:
    draw, folder, polls, files = random.Random(SEED), tmp_path / "work", 0, 0
    while polls < POLLS:
        forge.begin(folder, f"{line} --overwrite")
        while forge.is_busy():
            time.sleep(draw.uniform(0, 0.1))
            files += check_whole(folder / "run")
            polls += 1
        ending = forge.end(folder)
        assert ending.code == 0, ending.err
    assert files > polls
