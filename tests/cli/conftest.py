"""What the tests of the command line share: a user's folder with a trained run, and an empty folder to work in."""

import csv
from pathlib import Path

import pytest
from harness import Work, aigc

from aigc_cli.images.sample import Sample


@pytest.fixture(scope="session")
def work(demo: list[Sample], tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Work:
    folder = tmp_path_factory.mktemp("work")
    images = folder / "images"
    images.mkdir()
    rows = [("image", "prompt", "mos_quality", "mos_align", "distortion")]
    for s in demo:
        (images / s.name).write_bytes(s.path.read_bytes())
        rows.append((s.name, s.prompt or "", str(s.mos_quality), str(s.mos_align), s.groups["distortion"]))
    with (folder / "ratings.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    quick = "--recipe quick --epochs 2 --batch-size 16 --views 1 --device cpu --columns image=name"
    options = (*quick.split(), "--backbone", f"local-dir:{tiny_folder}", "--images", str(images))
    trained = aigc("train", "--data", folder / "ratings.csv", *options, "-o", folder / "run", "--json")
    return Work(folder / "ratings.csv", images, folder / "run", trained, options)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
