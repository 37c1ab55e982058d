"""`aigc plot`: the figures of each run and table, the notes on what is left out, and what is refused."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aigc_cli.errors import AigcError
from aigc_cli.storage.results import write_table
from aigc_cli.workflows.experiment.predictions import ABLATION_PLAN, FOLDS_FOLDER, FoldResult, save_fold
from aigc_cli.workflows.experiment.source import Source
from aigc_cli.workflows.plot import draw_plots

pytestmark = pytest.mark.usefixtures("few_resamples")

SCALE = {"mos_min": "0", "mos_max": "5"}


def predictions(count: int = 60, **more: Any) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {"name": f"{i}.png", "group": f"prompt {i // 4}", "clip_cosine": 0.1}
        | {"quality": float(q), "consistency": float(c)}
        | {"human_quality": float(np.clip(q + rng.normal(0, 0.4), 0, 5)), "human_consistency": float(5 - c), **more}
        for i, (q, c) in enumerate(rng.uniform(0, 5, (count, 2)))
    ]  # fmt: skip


def epochs(count: int = 3, **more: Any) -> list[dict[str, Any]]:
    known = {"loss": 0.3, "srocc_q": 0.5, "srocc_c": 0.4, "saturated_q": 0.1, "saturated_c": 0.0} | more
    return [
        {"run": "r", "epoch": epoch, "split": split, **known}
        for epoch in range(1, count + 1)
        for split in ("train", "val")
    ]


def names(files: Sequence[Path]) -> list[str]:
    return [path.name for path in files]


def text(files: Sequence[Path], name: str) -> str:
    return next(path for path in files if path.name == f"{name}.svg").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_training_run(tmp_path: Path) -> None:
    write_table(tmp_path / "epochs.parquet", "epochs", epochs(), {})
    write_table(tmp_path / "predictions.parquet", "predictions", predictions(), SCALE)
    (tmp_path / "run.json").write_text(json.dumps({"kept_epoch": 2}))
    found = draw_plots(tmp_path)
    assert names(found.files) == [f"{n}.{k}" for n in ("training", "agreement", "calibration") for k in ("png", "svg")]
    assert {path.parent for path in found.files} == {tmp_path / "plots"}
    assert found.notes == []
    for path in found.files[::2]:
        with Image.open(path) as picture:
            assert len(picture.convert("RGB").getcolors(10**6) or []) > 20
    curves = text(found.files, "training")
    for words in ("loss", "SROCC of quality", "share of saturated corrections", "validation", "weights kept"):
        assert words in curves
    assert "60 images, 15 prompts" in text(found.files, "agreement")
    assert "SROCC -1.000 [-1.000, -1.000]" in text(found.files, "agreement")
    assert "validation part" in text(found.files, "calibration")


@pytest.mark.slow
def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    metric = {"run": "r", "split": "unseen", "metric": "srocc", "value": 0.2, "n": 9, "group": "all"}
    table = tmp_path / "m.parquet"
    write_table(table, "metrics", [metric | {"target": "quality", "ci_low": 0.1, "ci_high": 0.3}], {})
    one, two = (draw_plots(table, output=tmp_path / name, formats=["png", "svg", "pdf"]).files for name in "ab")
    assert names(one) == names(two)
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


@pytest.mark.slow
def test_many_dots_are_pixels_in_an_svg(tmp_path: Path) -> None:
    write_table(tmp_path / "p.parquet", "predictions", predictions(1200), SCALE)
    one, two = (draw_plots(tmp_path / "p.parquet", output=tmp_path / name, formats=["svg"]).files for name in "ab")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    assert (tmp_path / "a" / "agreement.svg").stat().st_size < 200_000


@pytest.mark.slow
def test_what_is_missing_is_left_out_and_said(tmp_path: Path) -> None:
    rows = epochs(1, srocc_c=None, saturated_q=None, saturated_c=None)
    write_table(tmp_path / "epochs.parquet", "epochs", [row for row in rows if row["split"] == "train"], {})
    write_table(tmp_path / "predictions.parquet", "predictions", [], SCALE)
    found = draw_plots(tmp_path, formats=["svg"])
    assert names(found.files) == ["training.svg"]
    assert found.notes == ["No predictions of a validation part in this run: only its curves are drawn."]
    curves = text(found.files, "training")
    assert "validation" not in curves
    assert "SROCC of consistency" not in curves
    table = tmp_path / "half.csv"
    write_table(table, "predictions", predictions(human_consistency=None), SCALE)
    half = draw_plots(table, formats=["svg"])
    assert half.notes == ["consistency: left out: no image has both a prediction and a human score."]
    assert "consistency" not in text(half.files, "agreement")
    assert half.files[0].parent == tmp_path / "half-plots"


@pytest.mark.slow
def test_splits_have_panels_of_their_own_and_one_repeat_is_drawn(tmp_path: Path) -> None:
    rows = predictions(split="unseen", repeat="0") + predictions(split="unseen", repeat="1")
    rows += predictions(split="train", repeat="0")
    write_table(tmp_path / "p.jsonl", "predictions", rows, SCALE, ["split", "repeat"])
    found = draw_plots(tmp_path / "p.jsonl", formats=["svg"])
    assert found.notes == ["Only the first repeat is drawn; 60 predictions of the others are left out."]
    for words in ("quality, unseen", "consistency, train"):
        assert words in text(found.files, "agreement")


def test_predicted_intervals_are_drawn_with_their_coverage(tmp_path: Path) -> None:
    rows = [
        row | {"quality_low": str(row["quality"] - 5), "quality_high": str(row["quality"] + 5)} for row in predictions()
    ]
    rows[0]["quality_high"] = None  # this one has none
    write_table(tmp_path / "p.parquet", "predictions", rows, SCALE, ["quality_low", "quality_high"])
    drawn = text(draw_plots(tmp_path / "p.parquet", formats=["svg"]).files, "agreement")
    assert "100% within the predicted interval" in drawn
    assert "predicted interval" in drawn


def scores(folder: Path) -> Path:
    rows = [
        {"name": f"{i}.png", "prompt": f"p{i // 3}", "quality": i / 8, "consistency": None, "status": "ok"}
        for i in range(30)
    ]
    write_table(folder / "scores.csv", "scores", [*rows, {"name": "bad.png", "status": "failed"}], SCALE)
    return folder / "scores.csv"


def test_scores_are_joined_with_ratings_by_name(tmp_path: Path) -> None:
    lines = ["name,prompt,MOS", *(f"{i}.png,p{i // 3},{i / 10}" for i in range(25))]
    (tmp_path / "ratings.csv").write_text("\n".join(lines))
    source = Source(tmp_path / "ratings.csv", columns={"MOS": "mos_quality"})
    found = draw_plots(scores(tmp_path), source=source, formats=["svg"])
    assert "5 scored images are not in ratings.csv: left out." in found.notes
    assert "SROCC 1.000 [1.000, 1.000]" in text(found.files, "agreement")
    assert "25 images, 9 prompts" in text(found.files, "agreement")
    assert "all images" in text(found.files, "calibration")
    assert "validation part" not in text(found.files, "calibration")


def test_scores_without_ratings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AigcError, match=r"human ratings beside the scores in .*scores\.csv, found none") as error:
        draw_plots(scores(tmp_path))
    assert "--data ratings.csv" in error.value.hint
    (tmp_path / "other.csv").write_text("name,prompt,mos_quality\nelse.png,p,1\n")
    with pytest.raises(AigcError, match=r"scores\.csv in .*other\.csv, found none of them") as error:
        draw_plots(scores(tmp_path), source=Source(tmp_path / "other.csv"))
    assert error.value.hint == "The scores have 0.png, the ratings have else.png."
    assert not (tmp_path / "scores-plots").exists()


def ablation(folder: Path, cells: Sequence[tuple[str, int]]) -> Path:
    folder.mkdir()
    variants = {"plain": {}, "$residual$ <b>": {}, "部分冻结": {}}
    plan = {"data": "d", "folds": 2, "seeds": [0], "variants": variants}
    (folder / ABLATION_PLAN).write_text(json.dumps(plan))
    rng = np.random.default_rng(1)
    for number, (variant, fold) in enumerate(cells):
        human = rng.uniform(0, 5, (2, 30))
        seen = {"quality": human[0] + rng.normal(0, 1, 30), "consistency": human[1]}
        cell = FoldResult(
            fold, 0, [f"{i}" for i in range(30)], [f"{fold}-{i // 3}" for i in range(30)], seen,
            {"quality": human[0], "consistency": np.where(np.arange(30) < 2, np.nan, human[1])}, human[1] / 5, 9.0, 100,
        )  # fmt: skip
        save_fold(folder / FOLDS_FOLDER / f"{number}.parquet", cell, {"variant": variant})
    return folder


@pytest.mark.slow
def test_an_ablation(tmp_path: Path) -> None:
    cells = [(name, fold) for name in ("plain", "$residual$ <b>") for fold in (0, 1)]
    run = ablation(tmp_path / "run", [*cells, ("部分冻结", 0), ("unknown", 0)])
    found = draw_plots(run, formats=["svg"])
    assert names(found.files) == ["ablation.svg", "differences.svg", "agreement.svg", "calibration.svg"]
    assert found.notes == ["部分冻结: left out, since some of its trainings are missing."]
    assert "$residual$ &lt;b&gt;" in text(found.files, "ablation")
    assert "$residual$ &lt;b&gt; - plain" in text(found.files, "differences")
    assert "56 images, 20 prompts" in text(found.files, "agreement")
    assert "部分冻结" not in text(found.files, "calibration")


def test_an_ablation_without_a_whole_variant_is_refused(tmp_path: Path) -> None:
    run = ablation(tmp_path / "run", [("plain", 0)])
    with pytest.raises(AigcError, match=r"a variant with all its trainings in .*run, found none"):
        draw_plots(run)


def test_metrics_comparisons_and_stress_are_forests(tmp_path: Path) -> None:
    shared = {"target": "quality", "ci_low": 0.1, "ci_high": 0.3}
    metric = {"run": "r", "split": "unseen", "metric": "srocc", "value": 0.2, "n": 9, **shared}
    tables: dict[Any, list[dict[str, Any]]] = {
        "metrics": [{**metric, "group": "all"}, {**metric, "group": "sampler=ddim"}],
        "comparison": [{"table": "b", "baseline": "a", "group": "all", "difference": 0.2, **shared}],
        "stress": [{"perturbation": "blur", "change": -0.5, **shared}, {"perturbation": "none", "change": None}],
    }
    words = {"metrics": "sampler=ddim", "comparison": "b - a", "stress": "blur"}
    for kind, rows in tables.items():
        write_table(tmp_path / f"{kind}.parquet", kind, rows, {})
        found = draw_plots(tmp_path / f"{kind}.parquet", formats=["svg"])
        assert names(found.files) == [f"{kind}.svg"]
        assert words[kind] in text(found.files, kind)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.parquet").write_bytes((tmp_path / "metrics.parquet").read_bytes())
    assert names(draw_plots(tmp_path / "run", formats=["png"]).files) == ["metrics.png"]


def test_a_picture_that_exists_is_kept(tmp_path: Path) -> None:
    write_table(tmp_path / "epochs.parquet", "epochs", epochs(), {})
    first = draw_plots(tmp_path, formats=["svg"]).files[0]
    before = first.read_bytes()
    write_table(tmp_path / "epochs.parquet", "epochs", epochs(9), {})
    with pytest.raises(AigcError, match=r"training\.svg exists"):
        draw_plots(tmp_path, formats=["svg"])
    assert first.read_bytes() == before
    assert draw_plots(tmp_path, formats=["svg"], overwrite=True).files == [first]
    assert first.read_bytes() != before


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("empty", "Expected a finished run of train or ablate in .*empty, or predictions.parquet"),
        ("none.parquet", "Expected a table of results at .*none.parquet, found none"),
        ("splits.parquet", "Expected a table of predictions, .* at .*splits.parquet, found other columns"),
        ("text.csv", "Expected a table of predictions, .* at .*text.csv, found other columns"),
        ("broken.parquet", "Expected a Parquet table at .*broken.parquet"),
    ],
)
def test_what_can_not_be_drawn_is_named(tmp_path: Path, place: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    write_table(tmp_path / "splits.parquet", "splits", [{"name": "a"}], {})
    (tmp_path / "text.csv").write_text("a,b\n1,2\n")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(AigcError, match=message):
        draw_plots(tmp_path / place)
    assert sorted(tmp_path.rglob("*")) == before


def test_unknown_formats_and_ratings_for_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AigcError, match="Expected formats out of png, svg, pdf, found gif"):
        draw_plots(tmp_path, formats=["gif"])
    with pytest.raises(AigcError, match="Expected a table of scores beside --data, found the folder"):
        draw_plots(tmp_path, source=Source(tmp_path / "ratings.csv"))
