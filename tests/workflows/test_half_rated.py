"""Tables with scores of one target: the model predicts this target and has no scores of the other."""

import csv
import json
import math
from pathlib import Path

import pytest
from rated import RecordingProgress

from aigc_cli.errors import AigcError, EnvironmentProblem
from aigc_cli.images.sample import Sample
from aigc_cli.mos_scale import MosScale
from aigc_cli.progress import Progress, SilentProgress
from aigc_cli.recipe import resolve_recipe
from aigc_cli.storage.atomic_files import Output
from aigc_cli.workflows.experiment.rated import read_rated
from aigc_cli.workflows.experiment.source import Compute, Source
from aigc_cli.workflows.score.scorer import Scorer
from aigc_cli.workflows.train.calibrate import HeldOutSource
from aigc_cli.workflows.train.train import TrainResult, train_model

pytestmark = pytest.mark.usefixtures("few_resamples")


def table(path: Path, samples: list[Sample], column: str) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        rows = [(s.name, s.prompt, getattr(s, column)) for s in samples]
        csv.writer(stream).writerows([("name", "prompt", column), *rows])
    return path


def train(backbone: Path, data: Path, images: Path, run: Path, progress: Progress) -> TrainResult:
    resolved = resolve_recipe({"backbone": f"local-dir:{backbone}", "freeze": "all", "epochs": 1, "views": 1})
    return train_model(resolved, Source(data, images), Output(run), HeldOutSource(), Compute("cpu"), progress)


@pytest.mark.parametrize(
    ("column", "rated", "other"), [("mos_quality", "quality", "consistency"), ("mos_align", "consistency", "quality")]
)
def test_a_target_that_was_not_rated_gets_no_score(
    column: str, rated: str, other: str, tiny_folder: Path, demo: list[Sample], tmp_path: Path
) -> None:
    data, progress = table(tmp_path / "ratings.csv", demo, column), RecordingProgress()
    result = train(tiny_folder, data, demo[0].path.parent, tmp_path / "run", progress)
    assert f"No {other} scores in ratings.csv: a model trained on it gives none." in progress.lines
    assert json.loads((tmp_path / "run/checkpoint/model.json").read_text())["targets"] == [rated]
    assert {row["target"]: row["value"] for row in result.metrics if row["metric"] == "rmse"}[other] is None
    scores = Scorer.load(tmp_path / "run").score(images=[demo[0].path], prompts=[demo[0].prompt]).iloc[0]
    assert 0 <= scores[rated] <= 5
    assert math.isnan(scores[other])
    assert math.isnan(scores[f"{other}_base"])
    assert scores["status"] == "ok"


def test_the_frame_has_the_schemas_types(tiny_folder: Path, demo: list[Sample], tmp_path: Path) -> None:
    data = table(tmp_path / "ratings.csv", demo, "mos_quality")
    train(tiny_folder, data, demo[0].path.parent, tmp_path / "run", SilentProgress())
    scorer = Scorer.load(tmp_path / "run")
    for frame in (scorer.score(images=[]), scorer.score(images=[demo[0].path])):
        kinds = {name: str(kind) for name, kind in frame.dtypes.items()}
        assert (kinds["quality"], kinds["consistency"], kinds["clip_cosine"]) == ("float64",) * 3
        assert (kinds["width"], kinds["prompt_split"]) == ("Int64", "boolean")
    with pytest.raises(AigcError, match=r"^Expected a list of images, found one path\.\nWrite images=\[path\]\.$"):
        scorer.score(images=str(demo[0].path))


def test_a_cache_folder_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AIGC_CACHE", str(tmp_path / "file"))
    with pytest.raises(EnvironmentProblem) as caught:
        read_rated(Source(), MosScale(0, 5), SilentProgress())
    expected = f"The cache folder {tmp_path / 'file' / 'demo'} can't be made: Not a directory."
    assert caught.value.message == expected
    assert caught.value.exit_code == 4


def test_an_unknown_loss_is_found_in_the_recipe_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("loss: l1+foo\n")
    with pytest.raises(AigcError) as caught:
        resolve_recipe({}, str(tmp_path / "mine.yaml"))
    assert (
        caught.value.message == f"Expected losses out of mse, l1, plcc, rank in {tmp_path / 'mine.yaml'}, found 'foo'."
    )
