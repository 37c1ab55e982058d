"""Training and scoring with the human ratings of AGIQA-3K, if the data set lies beside the checkout."""

import csv
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from aigc_cli.progress import SilentProgress
from aigc_cli.recipe import resolve_recipe
from aigc_cli.storage.atomic_files import Output
from aigc_cli.storage.schemas import SCHEMAS
from aigc_cli.workflows.experiment.source import Compute, Source
from aigc_cli.workflows.score.plan import ScoringPlan
from aigc_cli.workflows.score.score import score_folder
from aigc_cli.workflows.train.calibrate import HeldOutSource
from aigc_cli.workflows.train.train import TrainResult, train_model

AGIQA = Path(__file__).parents[2] / "shared" / "agiqa3k"
COLUMNS = ("name", "prompt", "mos_quality", "mos_align")
# Half of the prompts, and half of these for validation: 600 images to train on, 600 to measure on. Each image is
# encoded once.
SETTINGS = {"views": 1, "plain_view": True, "val_fraction": 0.5}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not AGIQA.is_dir(), reason=f"no {AGIQA.name} beside the checkout"),
]


@pytest.fixture(autouse=True, scope="module")
def _all_cores() -> Iterator[None]:
    """Uses all cores: unlike the tiny models of other tests, `mini` on real images gains from them."""
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(before)


def read_ratings() -> list[dict[str, str]]:
    with (AGIQA / "data.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def ratings() -> list[tuple[str, ...]]:
    """The ratings of every second prompt."""
    rows = read_ratings()
    prompts = set(sorted({row["prompt"] for row in rows})[::2])
    return [tuple(row[name] for name in COLUMNS) for row in rows if row["prompt"] in prompts]


def train_small(folder: Path, rows: Sequence[Sequence[str]]) -> TrainResult:
    data = folder / "ratings.csv"
    with data.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([COLUMNS, *rows])
    source, output = Source(data, AGIQA / "images"), Output(folder / "run")
    return train_model(resolve_recipe(SETTINGS, "small"), source, output, HeldOutSource(), Compute(), SilentProgress())


def find_srocc(result: TrainResult) -> dict[str, float]:
    rows = [row for row in result.metrics if (row["metric"], row["split"], row["group"]) == ("srocc", "val", "all")]
    return {row["target"]: row["value"] for row in rows if row["value"] is not None}


def test_small_learns_human_ratings(ratings: list[tuple[str, ...]], tmp_path: Path) -> None:
    result = train_small(tmp_path, ratings)
    found = find_srocc(result)
    assert result.n_train + result.n_val == len(ratings)
    assert not result.chosen_on_val
    assert found["quality"] >= 0.68
    assert found["consistency"] >= 0.5
    assert found["consistency"] > found["zero_shot_cosine"] + 0.1


def test_random_ratings_teach_nothing(ratings: list[tuple[str, ...]], tmp_path: Path) -> None:
    scores = [row[2:] for row in ratings]
    random.Random(0).shuffle(scores)
    found = find_srocc(train_small(tmp_path, [(*row[:2], *pair) for row, pair in zip(ratings, scores, strict=True)]))
    assert abs(found["quality"]) < 0.12
    assert abs(found["consistency"]) < 0.12


def test_scoring_a_folder_loses_no_row(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    folder, prompts, output = tmp_path / "images", tmp_path / "prompts.csv", tmp_path / "scores.parquet"
    folder.mkdir()
    rows = read_ratings()[::20]
    for row in rows:
        (folder / row["name"]).symlink_to(AGIQA / "images" / row["name"])
    with prompts.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("name", "prompt"), *((row["name"], row["prompt"]) for row in rows)])
    summary = score_folder(folder, Output(output), ScoringPlan(prompts=prompts))
    table = pq.read_table(output)
    assert table.schema.remove_metadata() == SCHEMAS["scores"]
    assert table["name"].to_pylist() == [row["name"] for row in rows]
    assert table["prompt"].to_pylist() == [row["prompt"] for row in rows]
    assert (summary.rows, summary.failed) == (len(rows), 0)
    assert all(0 <= value <= 5 for value in table["quality"].to_pylist() + table["consistency"].to_pylist())
