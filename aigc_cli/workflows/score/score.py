"""`aigc score`: rate a folder of images."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from aigc_cli import __version__
from aigc_cli.errors import AigcError, EnvironmentProblem, Interrupted
from aigc_cli.model.trained import load_model
from aigc_cli.progress import Progress, Silent
from aigc_cli.storage.csv_tables import read_prompts
from aigc_cli.storage.files import check_output
from aigc_cli.storage.locks import owned
from aigc_cli.storage.partial_table import Parts, batched
from aigc_cli.storage.results import TableWriter, iter_rows, read_metadata
from aigc_cli.storage.signals import graceful
from aigc_cli.workflows.score.plan import (
    Selection,
    check_unchanged,
    digest_of_inputs,
    entries_of,
    in_the_order_of,
    inputs_of,
    settings_of,
)
from aigc_cli.workflows.score.scorer import Entry, Scorer, Texts

SHOWN = 5
BINS = 10
UNUSUAL = 0.95
SHARD_SECONDS = 10.0  # the most work that a crash costs; the first shard is written after one batch
SHARD_ROWS = 4096
ROW_GROUP = 4096


@dataclass(frozen=True)
class ScoreSummary:
    """What a scoring run did.

    Attributes:
        output: the table.
        rows, failed: how many images were in it, and how many of them have no score.
        best, worst: the rows of highest and lowest quality.
        means: {score: mean over the rows that have it}.
        scale: the lowest and the highest score there can be, MOS.
        histograms: {score: rows in each of `BINS` equal parts of the scale, from its lower end}.
        reasons: {reason: rows}.
        unusual: how many rows lie farther from the training images than `UNUSUAL` of those; None where it is not known.
        sources: {where prompts come from: rows}.
    """

    output: Path
    rows: int
    failed: int
    best: list[dict[str, Any]]
    worst: list[dict[str, Any]]
    means: dict[str, float | None]
    scale: tuple[float, float]
    histograms: dict[str, list[int]]
    reasons: dict[str, int]
    unusual: int | None
    sources: dict[str, int]


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
    resume: bool = False,
    selection: Selection | None = None,
    progress: Progress | None = None,
) -> ScoreSummary:
    """Scores every image of a folder into one table; memory does not grow with the folder's images.

    The prompt of an image is that of the table `prompts`, else `prompt`, else of the text file beside it, else the one
    that a generator wrote into the image.

    Rows are kept in `<output>.parts` while it goes on, and joined at the end. With `resume` a scoring that was
    interrupted goes on: failed rows are tried again, all others are kept, and the table is byte for byte that of a
    scoring without interruption. Where an image became readable in between, its score and those behind it are equal to
    1e-4 only, since another batch changes the last bits.

    Raises:
        AigcError: the folder, the table of prompts, the model or the output is not as it should be, or not as it was
            when the interrupted scoring began.
        RunHeld: another process scores to the same output.
        EnvironmentProblem: the output can't be written.
        Interrupted: a signal ended it; what was finished is kept.
    """
    progress = progress or Silent()
    parts = Parts(output)
    check_output(output, overwrite=overwrite or resume)
    parts.check()
    table = read_prompts(prompts, columns=columns, sep=sep) if prompts else None
    entries = entries_of(folder, table, prompt, selection)
    with owned(parts.folder):
        try:
            if parts.planned and not (overwrite or resume):
                raise AigcError(
                    f"An interrupted scoring to {output} is unfinished.",
                    "Add --resume to go on, or --overwrite to start again.",
                )
            scorer = Scorer(load_model(model, device), engine, progress)
            settings = settings_of(scorer, folder)
            if resume and not overwrite and output.exists() and not parts.planned:
                return _complete(output, settings, entries)
            return _Job(parts, scorer, settings, progress).run(entries, resume)
        except EnvironmentProblem as error:
            if parts.planned:
                error.hint += " Then add --resume to go on."
            raise
        finally:
            if not parts.planned:
                parts.remove()


def _complete(output: Path, settings: Mapping[str, str], entries: Sequence[Entry]) -> ScoreSummary:
    """The summary of a table that there is nothing left to do for, if it is the one that would be made now."""
    found = read_metadata(output).get("inputs")
    if found != digest_of_inputs(settings, inputs_of(entries)):
        raise AigcError(
            f"The output {output} is complete, but of other images, prompts, settings or another model than these.",
            "Replace --resume by --overwrite, or choose another place with -o.",
        )
    summary = _Summary(settings)
    for rows in batched(iter_rows(output), ROW_GROUP):
        summary.add(rows)
    return summary.result(output)


class _Job:
    """One scoring: begun or gone on with, and joined."""

    def __init__(self, parts: Parts, scorer: Scorer, settings: Mapping[str, str], progress: Progress) -> None:
        self.parts, self.scorer, self.settings, self.progress = parts, scorer, settings, progress

    def run(self, entries: Sequence[Entry], resume: bool) -> ScoreSummary:
        with graceful() as self.ending:
            if resume and self.parts.planned:
                inputs, before = self._go_on(entries)
                entries = in_the_order_of(inputs, entries)
                self._retry(entries, before)
                self.progress.start("scoring", len(entries))
                self.progress.advance(len(before))
            else:
                inputs, before = inputs_of(entries), []
                self.parts.begin(self.settings, inputs)
                self.progress.start("scoring", len(entries))
            if not self.parts.finished:
                self.scorer.texts.catch_up(row["prompt"] for row in self.parts.rows() if row["status"] == "ok")
                self._score(entries)
                self.parts.finish()
            summary = self._join(digest_of_inputs(self.settings, inputs))
            self._heed()
        self.parts.remove()
        return summary

    def _go_on(self, entries: Sequence[Entry]) -> tuple[pa.Table, list[str]]:
        """The inputs of the interrupted scoring, and the status of each row that it finished."""
        settings, inputs = self.parts.plan()
        status = [row["status"] for row in self.parts.rows()]
        now = inputs_of(in_the_order_of(inputs, entries))
        failed = {i for i, found in enumerate(status) if found == "failed"}
        check_unchanged((settings, inputs), (self.settings, now), failed)
        if failed and inputs != now:
            self.parts.update(now)  # so that the image which is tried now counts as the one that must not change
        return now, status

    def _retry(self, entries: Sequence[Entry], status: list[str]) -> None:
        """Tries failed rows again, those of a shard at a time; one that still fails leaves its shard as it is."""
        start = 0
        for number, count in enumerate(self.parts.counts):
            failed = [i for i in range(start, start + count) if status[i] == "failed"]
            again = list(self.scorer.rows([entries[i] for i in failed], Texts(self.scorer.model.judge)))
            if any(row["status"] == "ok" for row in again):
                rows = self.parts.read(number)
                for i, row in zip(failed, again, strict=True):
                    rows[i - start], status[i] = row, row["status"]
                self.parts.replace(number, rows)
            start += count
            self._heed()

    def _score(self, entries: Sequence[Entry]) -> None:
        waiting: list[dict[str, Any]] = []
        begun = time.monotonic()
        for rows in self.scorer.batches(entries[sum(self.parts.counts) :]):
            waiting += rows
            late = time.monotonic() - begun >= SHARD_SECONDS
            if late or len(waiting) >= SHARD_ROWS or not self.parts.counts or self.ending():
                self.parts.append(waiting)
                waiting, begun = [], time.monotonic()
            self.progress.advance(len(rows))
            self._heed()
        if waiting:
            self.parts.append(waiting)

    def _join(self, digest: str) -> ScoreSummary:
        """The shards as one table, in row groups that do not depend on the shards."""
        summary = _Summary(self.settings)
        metadata = {"aigc_version": __version__, **self.scorer.model.metadata(), "inputs": digest}
        with TableWriter(self.parts.joined, "scores", metadata) as writer:
            for rows in batched(self.parts.rows(), ROW_GROUP):
                writer.write(rows)
                summary.add(rows)
                self._heed()
        self.parts.publish()
        return summary.result(self.parts.output)

    def _heed(self) -> None:
        """Ends here if a signal asked for it."""
        if ending := self.ending():
            raise Interrupted(
                f"{sum(self.parts.counts)} rows are finished and kept in {self.parts.folder}.",
                "The same command with --resume goes on.",
                ending,
            )


class _Summary:
    """Keeps what the terminal shows while rows stream past."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self.scale = (float(settings["mos_min"]), float(settings["mos_max"]))
        self.rows = self.failed = 0
        self.best: list[dict[str, Any]] = []
        self.worst: list[dict[str, Any]] = []
        self.sums = {"quality": [0, 0.0], "consistency": [0, 0.0]}
        self.histograms = {name: [0] * BINS for name in self.sums}
        self.reasons: dict[str, int] = {}
        self.unusual: int | None = None
        self.sources: dict[str, int] = {}

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows += len(rows)
        scored = [row for row in rows if row["status"] == "ok"]
        self.failed += len(rows) - len(scored)
        for row in rows:
            self.sources[row["prompt_source"]] = self.sources.get(row["prompt_source"], 0) + 1
            if row["reason"]:
                self.reasons[row["reason"]] = self.reasons.get(row["reason"], 0) + 1
        for name, total in self.sums.items():
            values = [row[name] for row in scored if row[name] is not None]
            total[0] += len(values)
            total[1] += sum(values)
            for value in values:
                self.histograms[name][self._bin(value)] += 1
        if shares := [row["out_of_domain"] for row in scored if row.get("out_of_domain") is not None]:
            self.unusual = (self.unusual or 0) + sum(share > UNUSUAL for share in shares)
        quality: Callable[[dict[str, Any]], float] = lambda row: row["quality"]  # noqa: E731
        judged = [row for row in scored if row["quality"] is not None]
        self.best = sorted(self.best + judged, key=quality, reverse=True)[:SHOWN]
        self.worst = sorted(self.worst + judged, key=quality)[:SHOWN]

    def _bin(self, value: float) -> int:
        low, high = self.scale
        return min(BINS - 1, max(0, int((value - low) / (high - low) * BINS)))

    def result(self, output: Path) -> ScoreSummary:
        means = {name: total / count if count else None for name, (count, total) in self.sums.items()}
        return ScoreSummary(
            output,
            self.rows,
            self.failed,
            self.best,
            self.worst,
            means,
            self.scale,
            self.histograms,
            self.reasons,
            self.unusual,
            self.sources,
        )
