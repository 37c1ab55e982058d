"""The real-data run: human opinions of AGIQA-3K, where they lie beside the checkout."""

import csv
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from aigc_cli.progress import Silent
from aigc_cli.recipe import resolve
from aigc_cli.storage.schemas import SCHEMAS
from aigc_cli.workflows.experiment.source import Source
from aigc_cli.workflows.train.train import TrainResult, train

AGIQA = Path(__file__).parents[2] / "shared" / "agiqa3k"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not AGIQA.is_dir(), reason=f"no human scores at {AGIQA.name} beside the checkout"),
]
# Two views instead of four: this is the short form of the run that README reports.
SETTINGS = {"views": 2}


@pytest.fixture(autouse=True, scope="module")
def _all_cores() -> Iterator[None]:
    """The real images are many: unlike the tiny models of the other tests, they gain from every core."""
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(before)


def trained(run: Path, data: Path) -> TrainResult:
    return train(resolve(SETTINGS, "small"), Source(data, AGIQA / "images"), run, progress=Silent())


def srocc(result: TrainResult) -> dict[str, float]:
    rows = [row for row in result.metrics if (row["metric"], row["split"], row["group"]) == ("srocc", "val", "all")]
    return {row["target"]: row["value"] for row in rows if row["value"] is not None}


def test_small_learns_human_opinion(tmp_path: Path) -> None:
    result = trained(tmp_path / "run", AGIQA / "data.csv")
    found = srocc(result)
    assert result.n_train + result.n_val == 2383
    assert not result.chosen_on_val
    assert found["quality"] >= 0.74
    assert found["consistency"] >= 0.56
    assert found["consistency"] > found["zero_shot_cosine"] + 0.1


def test_random_labels_teach_nothing(tmp_path: Path) -> None:
    with (AGIQA / "data.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    scores = [(row["mos_quality"], row["mos_align"]) for row in rows]
    random.Random(0).shuffle(scores)
    shuffled = tmp_path / "shuffled.csv"
    with shuffled.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["name", "prompt", "mos_quality", "mos_align"])
        writer.writerows([row["name"], row["prompt"], *pair] for row, pair in zip(rows, scores, strict=True))
    found = srocc(trained(tmp_path / "run", shuffled))
    assert abs(found["quality"]) < 0.1
    assert abs(found["consistency"]) < 0.1


def test_scoring_a_folder_loses_no_row(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from aigc_cli.workflows.score.score import score_folder

    folder, prompts, output = tmp_path / "images", tmp_path / "prompts.csv", tmp_path / "scores.parquet"
    folder.mkdir()
    with (AGIQA / "data.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))[::20]
    for row in rows:
        (folder / row["name"]).symlink_to(AGIQA / "images" / row["name"])
    with prompts.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["name", "prompt"])
        writer.writerows([row["name"], row["prompt"]] for row in rows)
    summary = score_folder(folder, output, prompts=prompts)
    table = pq.read_table(output)
    assert table.schema.remove_metadata() == SCHEMAS["scores"]
    assert table["name"].to_pylist() == [row["name"] for row in rows]
    assert table["prompt"].to_pylist() == [row["prompt"] for row in rows]
    assert (summary.rows, summary.failed) == (len(rows), 0)
    assert all(0 <= value <= 5 for value in table["quality"].to_pylist() + table["consistency"].to_pylist())
