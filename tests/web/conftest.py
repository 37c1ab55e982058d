"""A folder of small images with prompts, and a session of rating over it without a server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from sessions import PROMPTS, Open

from aigc_cli.progress import SilentProgress
from aigc_cli.workflows.rate.session import RatingSession
from aigc_cli.workflows.score.plan import ScoringPlan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """20 images of 4 prompts, one image without a prompt, one damaged file and one that is no image."""
    place = tmp_path / "images"
    place.mkdir()
    rows = ["name,prompt"]
    for number in range(20):
        name = f"{number:02}.png"
        Image.new("RGB", (24, 16), (number * 12, 90, 200 - number * 9)).save(place / name)
        rows.append(f"{name},{PROMPTS[number % len(PROMPTS)]}")
    Image.new("RGB", (24, 16), "blue").save(place / "bare.tiff")
    (place / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    (place / "secret.txt").write_text("of nobody's business")
    (tmp_path / "prompts.csv").write_text("\n".join(rows) + "\n")
    return place


@pytest.fixture
def open_session(folder: Path, tmp_path: Path) -> Iterator[Open]:
    opened: list[RatingSession] = []

    def run(pairs: bool = False, chosen: bool = True, seed: int = 0) -> RatingSession:
        plan = ScoringPlan(tmp_path / "prompts.csv")
        table = tmp_path / ("pairs.csv" if pairs else "ratings.csv")
        opened.append(RatingSession.open(folder, table, plan, pairs, chosen, seed, SilentProgress()))
        return opened[-1]

    yield run
    for session in opened:
        session.close()
