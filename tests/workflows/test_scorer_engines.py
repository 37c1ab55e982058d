"""The shipped scorer: engines agree, and a score depends on nothing beside its image, to the bit."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

from aigc_cli import Scorer
from aigc_cli.workflows.score import scorer as module

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.jpg"))
PROMPTS = [path.stem.replace("-", " ") for path in EXAMPLES]
SCORES = ["quality", "consistency"]


@pytest.fixture(scope="module")
def scorers() -> dict[str, Scorer]:
    return {engine: Scorer.load(device="cpu", engine=engine) for engine in ("eager", "onnx")}


@pytest.fixture
def _three_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(threads)


def scores(scorer: Scorer, order: list[int]) -> pd.DataFrame:
    """Both scores of the examples in `order`, by name."""
    table = scorer.score(images=[EXAMPLES[i] for i in order], prompts=[PROMPTS[i] for i in order])
    assert list(table["name"]) == [EXAMPLES[i].name for i in order]
    return table.set_index("name")[SCORES]


def gap(one: pd.DataFrame, other: pd.DataFrame) -> float:
    return float((one - other.loc[one.index]).abs().max().max())


def test_onnx_agrees_with_eager(scorers: dict[str, Scorer]) -> None:
    everything = list(range(len(EXAMPLES)))
    eager = scores(scorers["eager"], everything)
    assert gap(eager, scores(scorers["onnx"], everything)) <= 1e-4
    assert (eager.max() - eager.min()).min() > 0.1  # there was something to agree on


@pytest.mark.parametrize("engine", ["eager", "onnx"])
@pytest.mark.usefixtures("_three_threads")
def test_nothing_beside_an_image_matters(
    engine: str, scorers: dict[str, Scorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer, everything = scorers[engine], list(range(len(EXAMPLES)))
    together = scores(scorer, everything)
    assert gap(scores(scorer, everything[::-1]), together) == 0
    assert gap(scores(scorer, [4]), together) == 0
    monkeypatch.setattr(module, "BATCH", 5)
    torch.set_num_threads(1)
    assert gap(scores(scorer, everything), together) == 0
