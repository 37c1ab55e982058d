"""A training that ends in any way at any moment is resumed to the same results, byte for byte."""

import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from killing import KILLED, SEED, Ending, Forge, check_whole, draw_moments, read_results

from aigc_cli.storage.checkpoints import load_checkpoint
from aigc_cli.storage.locks import own_folder

pytestmark = pytest.mark.slow
KILLS, POLLS = 10, 30
Whole = tuple[dict[str, Any], int]
RESUME = "train --resume run --device cpu"


@pytest.fixture(scope="module")
def line(rated: Path, tiny_folder: Path) -> str:
    """A training of 4 epochs of 4 steps: a part of the backbone, dropout, and the best checkpoint."""
    model = f"--backbone local-dir:{tiny_folder} --freeze partial --freeze-depth 0.75 --hidden-q 8 --hidden-c 8"
    course = "--epochs 4 --batch-size 8 --views 2 --lr 1e-3 --checkpoint best --val-fraction 0.25"
    return f"train --data {rated} --device cpu -o run {model} {course}"


@pytest.fixture(scope="module")
def whole(forge: Forge, line: str, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The results of an uninterrupted training, and its number of events."""
    folder = tmp_path_factory.mktemp("whole") / "work"
    ending = forge.run(folder, line)
    assert ending.code == 0, ending.err
    return read_results(folder / "run"), ending.events


def resume_run(forge: Forge, folder: Path, line: str, **order: Any) -> Ending:
    """Resumes the training, or starts it if the kill came before its plan was written."""
    begun = (folder / "run" / "training").exists() or (folder / "run" / "run.json").exists()
    return forge.run(folder, RESUME if begun else line, **order)


def test_killed_at_random_moments(forge: Forge, line: str, whole: Whole, tmp_path: Path) -> None:
    expected, events = whole
    moments, kills, stages, chain = draw_moments(events, KILLS), 0, Counter[str](), 0
    while kills < KILLS:
        folder, chain = tmp_path / f"chain{chain}", chain + 1
        often = {"save_every": 0} if chain % 2 else {}  # every second chain saves after each step
        while True:
            at = moments[kills] if kills < KILLS else 0
            ending = resume_run(forge, folder, line, at=at, **often)
            check_whole(folder / "run")
            if ending.code == 0:
                break
            assert ending.code == KILLED, (SEED, kills, ending)
            kills += 1
            stages[find_stage(folder / "run")] += 1
        assert read_results(folder / "run") == expected, (SEED, kills)
    assert len(stages) > 1, stages


def find_stage(run: Path) -> str:
    """What a killed training was doing."""
    states = run / "training"
    if not states.exists():
        return "start"
    if any(path.name.startswith(".aigc-") for path in states.iterdir()):
        return "save"
    return "epochs" if any(states.glob("epoch-*")) else "preparation"


def test_killed_while_it_saves(forge: Forge, line: str, whole: Whole, tmp_path: Path) -> None:
    """Each kill comes a little later: a state is created, filled, renamed, and the earlier one is removed."""
    folder, only = tmp_path / "work", "/run/training/"
    for at in (*range(7, 16), 3):
        ending = resume_run(forge, folder, line, at=at, only=only)
        check_whole(folder / "run")
        if ending.code == 0:
            break
        assert ending.code == KILLED
    assert resume_run(forge, folder, line).code == 0
    assert read_results(folder / "run") == whole[0]


def test_every_visible_file_is_whole_at_any_moment(forge: Forge, line: str, tmp_path: Path) -> None:
    draw, folder, polls, files = random.Random(SEED), tmp_path / "work", 0, 0
    while polls < POLLS:
        forge.begin(folder, f"{line} --overwrite", save_every=0)
        while forge.is_busy():
            time.sleep(draw.uniform(0, 0.1))
            files += check_whole(folder / "run")
            polls += 1
        assert forge.end(folder).code == 0
    assert files > polls


# --- signals


@pytest.mark.parametrize(
    ("share", "do", "code"),
    [(0.3, "interrupt", 130), (0.8, "terminate", 143)],
)
def test_a_signal_keeps_what_was_trained(
    share: float, do: str, code: int, forge: Forge, line: str, whole: Whole, tmp_path: Path
) -> None:
    expected, events = whole
    folder = tmp_path / "work"
    ending = forge.run(folder, line, at=int(share * events), do=do)
    assert ending.code == code
    assert "kept in run." in ending.err
    assert "`aigc train --resume run`" in ending.err
    check_whole(folder / "run")
    assert forge.run(folder, RESUME).code == 0
    assert read_results(folder / "run") == expected


def test_a_signal_when_all_is_written(forge: Forge, line: str, whole: Whole, tmp_path: Path) -> None:
    expected, events = whole
    folder = tmp_path / "work"
    ending = forge.run(folder, line, at=events - 5, do="interrupt")
    assert (ending.code, "aigc: Interrupted; the results in run are" in ending.err) == (130, True)
    assert forge.run(folder, RESUME).code == 0
    assert read_results(folder / "run") == expected


def test_a_second_signal_ends_at_once(forge: Forge, line: str, whole: Whole, tmp_path: Path) -> None:
    expected, events = whole
    folder, begun = tmp_path / "work", time.monotonic()
    assert forge.run(folder, line, at=events // 2, do="interrupt_twice").code == -signal.SIGINT
    assert time.monotonic() - begun < 50  # the handler sleeps for 60 seconds
    assert forge.run(folder, RESUME).code == 0
    assert read_results(folder / "run") == expected


# --- faults


def test_a_full_disk_keeps_the_earlier_state(forge: Forge, line: str, whole: Whole, tmp_path: Path) -> None:
    expected, events = whole
    folder = tmp_path / "work"
    ending = forge.run(folder, line, **{"at": events // 2, "do": "fill_disk", "with": 100_000})
    assert ending.code == 4
    assert "could not be written: " in ending.err
    assert "`aigc train --resume run`" in ending.err
    (state,) = (folder / "run" / "training").glob("epoch-*")
    check_whole(folder / "run")
    assert not state.name.startswith("epoch-1-")
    assert forge.run(folder, RESUME).code == 0
    assert read_results(folder / "run") == expected


def test_a_loss_that_is_not_a_number(forge: Forge, line: str, whole: Whole, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    ending = forge.run(folder, line, at=whole[1] // 2, do="spoil_loss", save_every=1000)
    assert ending.code == 6
    assert "aigc: Training diverged: the loss became nan in epoch " in ending.err
    check_whole(folder / "run")
    found = load_checkpoint(folder / "run")  # raises if a weight is not finite
    assert found.description["kept_epoch"] >= 1
    assert not (folder / "run" / "training").exists()
    again = forge.run(folder, RESUME)
    assert (again.code, "ended: diverged: the loss became nan" in again.err) == (6, True)


def test_an_image_that_vanishes_while_nothing_is_stored(forge: Forge, line: str, rated: Path, tmp_path: Path) -> None:
    images, work = tmp_path / "images", tmp_path / "work"
    shutil.copytree(rated.parent, images)
    moved = line.replace(str(rated), str(images / "ratings.csv"))
    expected = forge.run(tmp_path / "whole", f"{moved} --no-cache")
    image = next(images.glob("*.jpg"))
    ending = forge.run(work, f"{moved} --no-cache", **{"at": expected.events // 2, "do": "remove", "with": str(image)})
    assert ending.code == 4
    assert f"Expected {image.name}" in ending.err
    assert "missing_file" in ending.err
    assert "`aigc train --resume run`" in ending.err
    again = forge.run(work, f"{RESUME} --no-cache")
    assert (again.code, "found changes in the images, prompts or scores" in again.err) == (2, True)
    shutil.copy(rated.parent / image.name, image)
    assert forge.run(work, f"{RESUME} --no-cache").code == 0
    assert read_results(work / "run") == read_results(tmp_path / "whole" / "run")


def test_an_output_that_cannot_be_written(
    forge: Forge, line: str, rated: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    """The error comes before the backbone is loaded: this one has no weights."""
    if os.getuid() != 0:
        pytest.skip("only root can change to a user without rights")
    (tmp_path / "work" / "locked").mkdir(parents=True, mode=0o755)
    (tmp_path / "clip").mkdir(mode=0o755)
    shutil.copy(tiny_folder / "open_clip_config.json", tmp_path / "clip")
    weightless = line.replace("-o run", "-o locked/run").replace(str(tiny_folder), str(tmp_path / "clip"))
    assert weightless != line
    for place in (rated.parent, tmp_path, *tmp_path.parents):
        if str(place).startswith(f"{tempfile.gettempdir()}/"):
            place.chmod(0o755)  # pytest lets nobody else in
    ending = forge.run(tmp_path / "work", weightless, uid=65534)
    assert ending.code == 4
    assert "is not writable" in ending.err


# --- one process per folder


def test_a_second_run_in_the_same_folder(forge: Forge, line: str, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    ablation = line.replace("train ", "ablate ").partition(" --backbone")[0]
    with own_folder(folder / "run"):
        before = sorted(folder.rglob("*"))
        for arguments in (line, f"{line} --overwrite", RESUME, ablation):
            ending = forge.run(folder, arguments)
            wanted = 2 if arguments == RESUME else 5  # nothing to resume
            assert ending.code == wanted, ending.err
            assert wanted == 2 or f"found it held by process {os.getpid()}." in ending.err
        assert sorted(set(folder.rglob("*")) - {folder / "out.txt", folder / "err.txt"}) == before
    assert not (folder / "run").exists()


def test_a_finished_training_is_left_alone(forge: Forge, line: str, whole: Whole, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    assert forge.run(folder, line).code == 0
    ending = forge.run(folder, RESUME)
    assert (ending.code, "The training in run is finished" in ending.err) == (0, True)
    assert read_results(folder / "run") == whole[0]


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
    assert forge.run(folder, line, at=60).code == KILLED
    text = rated.read_text().splitlines()
    first = text[1].split(",")
    changed = ",".join([*first[:-1], "1.5"])
    (rated.parent / "scores.csv").write_text("\n".join([text[0], changed, *text[2:]]) + "\n")
    ending = forge.run(folder, f"{RESUME} {more.replace('scores.csv', str(rated.parent / 'scores.csv'))}")
    assert ending.code == 2
    assert found in ending.err
