"""Ratings without prompts: quality is trained and measured, consistency is not."""

from dataclasses import replace
from pathlib import Path

import pytest
from rated import write_table

from aigc_cli.images.sample import Sample
from aigc_cli.progress import SilentProgress
from aigc_cli.recipe import resolve_recipe
from aigc_cli.storage.atomic_files import Output
from aigc_cli.storage.checkpoints import load_checkpoint
from aigc_cli.storage.results import read_parquet_rows
from aigc_cli.workflows.evaluate import EvaluationPlan, evaluate_model
from aigc_cli.workflows.experiment.source import Compute, Source
from aigc_cli.workflows.train.calibrate import HeldOutSource
from aigc_cli.workflows.train.train import train_model

pytestmark = pytest.mark.usefixtures("few_resamples")


def test_quality_alone_from_the_table_to_the_metrics(demo: list[Sample], tiny_folder: Path, tmp_path: Path) -> None:
    bare = [replace(sample, prompt=None, mos_align=None) for sample in demo]
    data = write_table(tmp_path / "ratings.csv", bare)
    text = data.read_text().splitlines()
    assert text[0].startswith("name,prompt,mos_quality")
    source = Source(data, demo[0].path.parent)
    chosen = {"backbone": f"local-dir:{tiny_folder}", "freeze": "all", "views": "1", "epochs": "2", "lr": "3e-3"}
    result = train_model(
        resolve_recipe(chosen), source, Output(tmp_path / "run"), HeldOutSource(), Compute("cpu"), SilentProgress()
    )
    assert result.n_train + result.n_val == len(demo)
    assert result.n_val > len(demo) // 10, "every image is a group of its own"
    assert load_checkpoint(result.run).description["targets"] == ["quality"]
    plan = EvaluationPlan(result.run, predictions=tmp_path / "predictions.parquet")
    found = evaluate_model(source, plan, Compute("cpu"), SilentProgress())
    values = {(row["split"], row["target"], row["metric"]): row["value"] for row in found.metrics}
    assert values["val", "quality", "srocc"] is not None
    assert values["val", "consistency", "srocc"] is None
    rows = read_parquet_rows(tmp_path / "predictions.parquet")
    assert all(row["consistency"] is None and row["clip_cosine"] is None for row in rows)
    assert all(row["quality"] is not None for row in rows)
