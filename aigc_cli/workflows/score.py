"""`aigc score`: rate a folder of images."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aigc_cli import __version__
from aigc_cli.errors import AigcError
from aigc_cli.io.files import check_output
from aigc_cli.io.images import list_images
from aigc_cli.io.results import TableWriter
from aigc_cli.io.tables import read_prompts
from aigc_cli.io.text import printable
from aigc_cli.progress import Progress, Silent
from aigc_cli.workflows.models import load_model
from aigc_cli.workflows.scorer import BATCH, Entry, Scorer, prompt_or_none

SHOWN = 5


@dataclass(frozen=True)
class ScoreSummary:
    """What a scoring run did.

    Attributes:
        output: the table.
        rows, failed: how many images were in it, and how many of them have no score.
        best, worst: the rows of highest and lowest quality.
        means: {score: mean over the rows that have it}.
        reasons: {reason: rows}.
    """

    output: Path
    rows: int
    failed: int
    best: list[dict[str, Any]]
    worst: list[dict[str, Any]]
    means: dict[str, float | None]
    reasons: dict[str, int]


def entries_of(folder: Path, prompts: Mapping[str, str] | None, prompt: str | None) -> list[Entry]:
    """What `aigc score` rates: the folder's images by name, then the table's rows that have no image.

    Args:
        folder: searched for images, not below.
        prompts: {image name: prompt} from a table; it comes before `prompt`.
        prompt: one text for every image that the table has none for.
    """
    known, names = dict(prompts or {}), list_images(folder)
    prompt = prompt_or_none(prompt)
    entries = []
    for name in names:
        text, origin = (known[name], "table") if name in known else (prompt, "argument" if prompt else None)
        entries.append(Entry(name, folder / name, text, origin))
    there = set(names)
    entries += [Entry(name, folder / name, text, "table") for name, text in known.items() if name not in there]
    return entries


def score_folder(
    folder: Path,
    output: Path,
    *,
    prompts: Path | None = None,
    prompt: str | None = None,
    columns: Mapping[str, str] | None = None,
    sep: str = ",",
    model: Path | None = None,
    device: str = "auto",
    engine: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ScoreSummary:
    """Scores every image of a folder into one table; memory does not grow with the folder's images.

    Raises:
        AigcError: the folder, the table of prompts, the model or the output is not as it should be.
        EnvironmentProblem: the output can't be written.
    """
    progress = progress or Silent()
    check_output(output, overwrite=overwrite)
    if prompt and prompt != prompt.encode("utf-8", "replace").decode():
        raise AigcError(f"Expected --prompt as UTF-8 text, found {printable(prompt, 80)}.", "Type it again.")
    table = read_prompts(prompts, columns=columns, sep=sep) if prompts else None
    entries = entries_of(folder, table, prompt)
    scorer = Scorer(load_model(model, device), engine)
    scorer.expect(len(entries), progress)
    summary = _Summary()
    progress.start("scoring", len(entries))
    metadata = {"aigc_version": __version__, **scorer.model.metadata()}
    with TableWriter(output, "scores", metadata) as writer:
        for rows in _batched(scorer.rows(entries), BATCH):
            writer.write(rows)
            summary.add(rows)
            progress.advance(len(rows))
    return summary.result(output)


def _batched(rows: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    iterator = iter(rows)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


class _Summary:
    """Keeps what the terminal shows while rows stream past."""

    def __init__(self) -> None:
        self.rows = self.failed = 0
        self.best: list[dict[str, Any]] = []
        self.worst: list[dict[str, Any]] = []
        self.sums = {"quality": [0, 0.0], "consistency": [0, 0.0]}
        self.reasons: dict[str, int] = {}

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows += len(rows)
        scored = [row for row in rows if row["status"] == "ok"]
        self.failed += len(rows) - len(scored)
        for row in rows:
            if row["reason"]:
                self.reasons[row["reason"]] = self.reasons.get(row["reason"], 0) + 1
        for name, total in self.sums.items():
            values = [row[name] for row in scored if row[name] is not None]
            total[0] += len(values)
            total[1] += sum(values)
        quality: Callable[[dict[str, Any]], float] = lambda row: row["quality"]  # noqa: E731
        judged = [row for row in scored if row["quality"] is not None]
        self.best = sorted(self.best + judged, key=quality, reverse=True)[:SHOWN]
        self.worst = sorted(self.worst + judged, key=quality)[:SHOWN]

    def result(self, output: Path) -> ScoreSummary:
        means = {name: total / count if count else None for name, (count, total) in self.sums.items()}
        return ScoreSummary(output, self.rows, self.failed, self.best, self.worst, means, self.reasons)
