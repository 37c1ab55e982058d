"""A training that ends at any moment, however it ends, is resumed to what it would have left, byte for byte."""

import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from killing import KILLED, Ending, Forge, check_whole, results

from aigc_cli.storage.checkpoints import load_checkpoint
from aigc_cli.storage.locks import owned

SEED = int(os.environ.get("KILL_SEED", random.randrange(10**6)))
KILLS, POLLS = 20, 50
Whole = tuple[dict[str, Any], int]
RESUME = "train --resume run --device cpu"


@pytest.fixture(scope="module")
def line(rated: Path, tiny_folder: Path) -> str:
    """A training of 4 epochs of 4 steps, with weights of the backbone, dropout, and a checkpoint that is chosen."""
    model = f"--backbone local-dir:{tiny_folder} --freeze partial --freeze-depth 0.75 --hidden-q 8 --hidden-c 8"
    course = "--epochs 4 --batch-size 8 --views 2 --lr 1e-3 --checkpoint best --val-fraction 0.25"
    return f"train --data {rated} --device cpu -o run {model} {course}"


@pytest.fixture(scope="module")
def whole(forge: Forge, line: str, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """What the uninterrupted training leaves, and how many events it sees."""
    folder = tmp_path_factory.mktemp("whole") / "work"
    ending = forge(folder, line)
    assert ending.code == 0, ending.err
    return results(folder / "run"), ending.events


def go_on(forge: Forge, folder: Path, line: str, **order: Any) -> Ending:
    """Resumes, or begins again where nothing was begun."""
    begun = (folder / "run" / "training").exists() or (folder / "run" / "run.json").exists()
    return forge(folder, RESUME if begun else line, **order)


def test_killed_at_random_moments(forge: Forge, line: str, whole: Whole, tmp_path: Path) -> None:
    expected, events = whole
    print(f"KILL_SEED={SEED}")
    chosen, kills, stages, chain = random.Random(SEED), 0, Counter[str](), 0
    while kills < KILLS:
        folder, chain = tmp_path / f"chain{chain}", chain + 1
        often = {"save_every": 0} if chain % 2 else {}  # every other one saves after every step
        while True:
            at = chosen.randint(1, events) if kills < KILLS else 0
            ending = go_on(forge, folder, line, at=at, **often)
            check_whole(folder / "run")
            if ending.code == 0:
                break
            assert ending.code == KILLED, (SEED, kills, ending)
            kills += 1
            stages[stage(folder / "run")] += 1
        assert results(folder / "run") == expected, (SEED, kills)
    print(stages)


def stage(run: Path) -> str:
    """Where a killed training stood."""
    states = run / "training"
    if not states.exists():
        return "start"
    if any(path.name.startswith(".aigc-") for path in states.iterdir()):
        return "save"
    return "epochs" if any(states.glob("epoch-*")) else "preparation"


def test_killed_while_it_saves(forge: Forge, line: str, whole: Whole, tmp_path: Path) -> None:
    """Each kill comes a little later in the life of a state: made, filled, renamed, the earlier one removed."""
    folder, only = tmp_path / "work", "/run/training/"
    for at in (*range(7, 16), 3):
        ending = go_on(forge, folder, line, at=at, only=only)
        check_whole(folder / "run")
        if ending.code == 0:
            break
        assert ending.code == KILLED
    assert go_on(forge, folder, line).code == 0
    assert results(folder / "run") == whole[0]


def test_every_visible_file_is_whole_at_any_moment(forge: Forge, line: str, tmp_path: Path) -> None:
    print(f"KILL_SEED={SEED}")
    chosen, folder, polls, files = random.Random(SEED), tmp_path / "work", 0, 0
    while polls < POLLS:
        forge.begin(folder, f"{line} --overwrite", save_every=0)
        while forge.busy():
            time.sleep(chosen.uniform(0, 0.1))
            files += check_whole(folder / "run")
            polls += 1
        assert forge.end(folder).code == 0
    assert files > polls


# --- endings that are asked for


@pytest.mark.parametrize(
    ("share", "do", "code"),
    [(0.2, "interrupt", 130), (0.5, "interrupt", 130), (0.7, "terminate", 143), (0.9, "terminate", 143)],
)
def test_a_signal_keeps_what_was_trained(
    share: float, do: str, code: int, forge: Forge, line: str, whole: Whole, tmp_path: Path
) -> None:
    expected, events = whole
    folder = tmp_path / "work"
    ending = forge(folder, line, at=int(share * events), do=do)
    assert ending.code == code
    assert ending.err.endswith("; the training so far is kept in run.\n      Go on with `aigc train --resume run`.\n")
    check_whole(folder / "run")
    assert forge(folder, RESUME).code == 0
    assert results(folder / "run") == expected


def test_a_signal_when_all_is_written(forge: Forge, line: str, whole: Whole, tmp_path: Path) -> None:
    expected, events = whole
    folder = tmp_path / "work"
    ending = forge(folder, line, at=events - 5, do="interrupt")
    assert (ending.code, ending.err.splitlines()[-1]) == (130, "aigc: Interrupted; the results in run are whole.")
    assert forge(folder, RESUME).code == 0
    assert results(folder / "run") == expected


def test_a_second_signal_ends_at_once(forge: Forge, line: str, whole: Whole, tmp_path: Path) -> None:
    expected, events = whole
    folder, begun = tmp_path / "work", time.monotonic()
    assert forge(folder, line, at=events // 2, do="interrupt_twice").code == -signal.SIGINT
    assert time.monotonic() - begun < 50  # a step would have taken 60 seconds
    assert forge(folder, RESUME).code == 0
    assert results(folder / "run") == expected


# --- endings that are not


def test_a_full_disk_keeps_the_earlier_state(forge: Forge, line: str, whole: Whole, tmp_path: Path) -> None:
    expected, events = whole
    folder = tmp_path / "work"
    ending = forge(folder, line, **{"at": events // 2, "do": "fill_disk", "with": 100_000})
    assert ending.code == 4
    assert "could not be written: " in ending.err
    assert "Free some space. Then go on with `aigc train --resume run`." in ending.err
    (state,) = (folder / "run" / "training").glob("epoch-*")
    check_whole(folder / "run")
    assert not state.name.startswith("epoch-1-")
    assert forge(folder, RESUME).code == 0
    assert results(folder / "run") == expected


def test_a_loss_that_is_not_a_number(forge: Forge, line: str, whole: Whole, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    ending = forge(folder, line, at=whole[1] // 2, do="spoil", save_every=1000)
    assert ending.code == 6
    assert "aigc: Training diverged: the loss became nan in epoch " in ending.err
    check_whole(folder / "run")
    found = load_checkpoint(folder / "run")  # refuses what is not finite
    assert found.description["kept_epoch"] >= 1
    assert not (folder / "run" / "training").exists()
    again = forge(folder, RESUME)
    assert (again.code, "ended: diverged: the loss became nan" in again.err) == (6, True)


def test_an_image_that_vanishes_while_nothing_is_stored(forge: Forge, line: str, rated: Path, tmp_path: Path) -> None:
    images, work = tmp_path / "images", tmp_path / "work"
    shutil.copytree(rated.parent, images)
    moved = line.replace(str(rated), str(images / "ratings.csv"))
    expected = forge(tmp_path / "whole", f"{moved} --no-cache")
    image = next(images.glob("*.jpg"))
    ending = forge(work, f"{moved} --no-cache", **{"at": expected.events // 2, "do": "remove", "with": str(image)})
    assert ending.code == 4
    assert f"Expected {image.name} as it was at the start, found missing_file." in ending.err
    assert "Put the image back. Then go on with `aigc train --resume run`." in ending.err
    again = forge(work, f"{RESUME} --no-cache")
    assert (again.code, "found changes in the images, prompts or scores" in again.err) == (2, True)
    shutil.copy(rated.parent / image.name, image)
    assert forge(work, f"{RESUME} --no-cache").code == 0
    assert results(work / "run") == results(tmp_path / "whole" / "run")


def test_an_output_that_cannot_be_written(forge: Forge, line: str, tmp_path: Path) -> None:
    """Found before the backbone is looked for: here it is one that does not exist."""
    if os.getuid() != 0:
        pytest.skip("only root can become somebody who may not write here")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "locked").mkdir(mode=0o755)
    nowhere = line.replace("-o run", "-o locked/run").replace("local-dir:", "local-dir:/nowhere")
    for place in (tmp_path, *tmp_path.parents[:2]):
        place.chmod(0o755)
    ending = forge(tmp_path / "work", nowhere, uid=65534)
    assert ending.code == 4
    assert "can't be written" in ending.err


# --- one owner


def test_a_second_run_in_the_same_folder(forge: Forge, line: str, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    ablation = line.replace("train ", "ablate ").partition(" --backbone")[0]
    with owned(folder / "run"):
        before = sorted(folder.rglob("*"))
        for arguments in (line, f"{line} --overwrite", RESUME, ablation):
            ending = forge(folder, arguments)
            wanted = 2 if arguments == RESUME else 5  # there is nothing to resume
            assert ending.code == wanted, ending.err
            assert wanted == 2 or f"found it held by process {os.getpid()}." in ending.err
        assert sorted(set(folder.rglob("*")) - {folder / "out.txt", folder / "err.txt"}) == before
    assert not (folder / "run").exists()


def test_a_finished_training_is_left_alone(forge: Forge, line: str, whole: Whole, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    assert forge(folder, line).code == 0
    ending = forge(folder, RESUME)
    assert (ending.code, ending.err) == (0, "The training in run is finished: there is nothing to do.\n")
    assert results(folder / "run") == whole[0]


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ("--lr 1e-4", "lr (0.001 then, 0.0001 now)"),
        ("--recipe small", "freeze (partial then, all now)"),
        ("--data scores.csv", "the images, prompts or scores"),
        ("-o other", "Expected --resume without -o"),
    ],
)
def test_what_changed_is_refused(more: str, found: str, forge: Forge, line: str, rated: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    assert forge(folder, line, at=60).code == KILLED
    text = rated.read_text().splitlines()
    first = text[1].split(",")
    changed = ",".join([*first[:-1], "1.5"])
    (rated.parent / "scores.csv").write_text("\n".join([text[0], changed, *text[2:]]) + "\n")
    ending = forge(folder, f"{RESUME} {more.replace('scores.csv', str(rated.parent / 'scores.csv'))}")
    assert ending.code == 2
    assert found in ending.err
