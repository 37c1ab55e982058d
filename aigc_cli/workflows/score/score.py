"""`aigc score`: scores a folder of images into one table."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa

from aigc_cli import __version__
from aigc_cli.errors import AigcError, EnvironmentProblem, Interruption
from aigc_cli.images.decoder import POOL
from aigc_cli.images.prefetch import count_workers
from aigc_cli.images.sample import TARGETS
from aigc_cli.mos_scale import MosScale
from aigc_cli.progress import Progress, SilentProgress
from aigc_cli.storage.atomic_files import Output
from aigc_cli.storage.locks import own_folder
from aigc_cli.storage.partial_table import PartialTable, split_batches
from aigc_cli.storage.results import TableWriter, iterate_rows, read_table_metadata
from aigc_cli.storage.signals import hold_signals
from aigc_cli.workflows.score.inputs import (
    describe_scoring,
    explain_unmatched,
    find_changes,
    hash_inputs,
    list_entries,
    list_inputs,
    refuse_scoring_changes,
    restore_order,
)
from aigc_cli.workflows.score.plan import ScoringPlan
from aigc_cli.workflows.score.scorer import ImageEntry, Scorer

SHOWN_ROWS = 5
BINS = 10
UNUSUAL = 0.95  # `out_of_domain` above which a score should not be trusted
SHARD_SECONDS = 10.0  # a crash loses at most this much work; the first shard is written after one batch
SHARD_ROWS = 2048
ROW_GROUP = 2048


@dataclass
class ScoreSummary:
    """The result of a scoring; `add` collects it from rows that are not kept.

    Attributes:
        model: the name of the model.
        rows, failed: number of rows, and of those without a score.
        best, worst: the rows of highest and lowest quality.
        sums: {score: sum in MOS over the rows that have it}.
        histograms: {score: rows in each of `BINS` equal parts of the scale, from its lower end}.
        reasons, sources: {reason or prompt_source: rows}.
        unusual: rows with `out_of_domain` above `UNUSUAL`; None for a model without calibration.
    """

    output: Path
    scale: MosScale
    model: str = ""
    rows: int = 0
    failed: int = 0
    best: list[dict[str, Any]] = field(default_factory=list)
    worst: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TARGETS, 0.0))
    histograms: dict[str, list[int]] = field(default_factory=lambda: {name: [0] * BINS for name in TARGETS})
    reasons: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    unusual: int | None = None

    @property
    def means(self) -> dict[str, float | None]:
        """{score: mean in MOS over the rows that have it; None if there are none}."""
        counts = {name: sum(bins) for name, bins in self.histograms.items()}
        return {name: total / counts[name] if counts[name] else None for name, total in self.sums.items()}

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Counts further rows of the table."""
        scored = [row for row in rows if row["status"] == "ok"]
        self.rows += len(rows)
        self.failed += len(rows) - len(scored)
        self.sources.update(row["prompt_source"] for row in rows)
        self.reasons.update(row["reason"] for row in rows if row["reason"])
        for name in self.sums:
            values = [row[name] for row in scored if row[name] is not None]
            self.sums[name] += sum(values)
            for value in values:
                self.histograms[name][min(BINS - 1, max(0, int(self.scale.to_unit(value) * BINS)))] += 1
        if shares := [row["out_of_domain"] for row in scored if row.get("out_of_domain") is not None]:
            self.unusual = (self.unusual or 0) + sum(share > UNUSUAL for share in shares)
        judged = [row for row in scored if row["quality"] is not None]
        quality = itemgetter("quality")
        self.best = sorted(self.best + judged, key=quality, reverse=True)[:SHOWN_ROWS]
        self.worst = sorted(self.worst + judged, key=quality)[:SHOWN_ROWS]


def score_folder(folder: Path, output: Output, plan: ScoringPlan, progress: Progress | None = None) -> ScoreSummary:
    """Scores every image of a folder into one table; `list_entries` says where prompts come from.

    Finished rows are kept in `<output>.parts` and joined at the end. `output.resume` continues an interrupted scoring:
    it tries failed rows again and keeps all others. The table is byte-identical to that of an uninterrupted scoring,
    unless an image became readable in between: then the batches differ, and scores agree to 1e-4 MOS.

    Raises:
        AigcError: an input or the output is invalid, or changed since the interrupted scoring began.
        FolderConflict: another process scores to the same output.
        EnvironmentProblem: the output can't be written.
        Interruption: a signal stopped it; finished rows are kept.
    """
    progress = progress or SilentProgress()
    parts = PartialTable(output.path)
    output.check()
    parts.check()
    plan.check()
    prompts = plan.read_prompts([folder])
    entries = list_entries(folder, prompts, plan)
    if plan.prompts and (unmatched := entries.unmatched):
        problem = explain_unmatched(plan.prompts, len(prompts), unmatched, entries)
        if len(unmatched) == len(prompts):
            raise AigcError(problem, "Write the images' names into the table, or add --recursive.")
        progress.say(problem)
    with own_folder(parts.folder):
        try:
            if parts.planned and not (output.overwrite or output.resume):
                raise AigcError(
                    f"An interrupted scoring to {output.path} is unfinished.",
                    "Add --resume to go on, or --overwrite to start again.",
                )
            POOL.start(count_workers(len(entries)))  # they start while the model is loaded
            scorer = plan.load_scorer(progress)
            settings = describe_scoring(scorer, folder)
            if output.resume and not output.overwrite and output.path.exists() and not parts.planned:
                digest = hash_inputs(settings, list_inputs(entries))
                return _summarise_complete(
                    ScoreSummary(output.path, scorer.saved.recipe.scale, scorer.saved.name), digest
                )
            return _ScoringRun(parts, scorer, settings, progress).run(entries, output.resume)
        except EnvironmentProblem as error:
            if parts.planned:
                error.hint += " Then add --resume to go on."
            raise
        finally:
            if not parts.planned:
                parts.remove()


def _summarise_complete(summary: ScoreSummary, digest: str) -> ScoreSummary:
    """Adds a complete table to its summary; refuses one that was made from other inputs."""
    if read_table_metadata(summary.output).get("inputs") != digest:
        raise AigcError(
            f"The output {summary.output} is complete, but was made from other images, prompts, settings or another "
            "model.",
            "Use --overwrite instead of --resume, or choose another place with -o.",
        )
    for rows in split_batches(iterate_rows(summary.output), ROW_GROUP):
        summary.add(rows)
    return summary


class _ScoringRun:
    def __init__(self, parts: PartialTable, scorer: Scorer, settings: Mapping[str, str], progress: Progress) -> None:
        self.parts, self.scorer, self.settings, self.progress = parts, scorer, settings, progress

    def run(self, entries: Sequence[ImageEntry], resume: bool) -> ScoreSummary:
        with hold_signals() as self.ending:
            if resume and self.parts.planned:
                entries, inputs, status = self._read_interrupted(entries)
                self._retry(entries, status)
            else:
                inputs = list_inputs(entries)
                self.parts.begin(self.settings, inputs)
            digest = hash_inputs(self.settings, inputs)
            del inputs  # of a large folder it takes megabytes
            self.progress.start("scoring", len(entries))
            self.progress.advance(sum(self.parts.counts))
            if not self.parts.finished:
                self._score(entries)
                self.parts.finish()
            summary = self._join(digest)
            self._stop_if_asked()
        self.parts.remove()
        return summary

    def _read_interrupted(self, entries: Sequence[ImageEntry]) -> tuple[list[ImageEntry], pa.Table, list[str]]:
        """The entries in their first order, their inputs, and the status of each row that is finished."""
        settings, inputs = self.parts.read_plan()
        status = [row["status"] for row in self.parts.iterate_rows()]
        entries = restore_order(inputs, entries, self.parts.folder)
        now = list_inputs(entries)
        failed = {i for i, found in enumerate(status) if found == "failed"}
        refuse_scoring_changes(self.parts.folder, find_changes((settings, inputs), (self.settings, now), failed))
        if failed and inputs != now:
            self.parts.update(now)  # from now on the images tried again must not change
        return entries, now, status

    def _retry(self, entries: Sequence[ImageEntry], status: list[str]) -> None:
        """Tries failed rows again, shard by shard; a shard is rewritten only if one of its rows now has a score."""
        start = 0
        for number, count in enumerate(self.parts.counts):
            failed = [i for i in range(start, start + count) if status[i] == "failed"]
            again = list(self.scorer.iterate_rows([entries[i] for i in failed]))
            if any(row["status"] == "ok" for row in again):
                rows = self.parts.read_shard(number)
                for i, row in zip(failed, again, strict=True):
                    rows[i - start], status[i] = row, row["status"]
                self.parts.replace(number, rows)
            start += count
            self._stop_if_asked()

    def _score(self, entries: Sequence[ImageEntry]) -> None:
        waiting, begun = list[dict[str, Any]](), time.monotonic()
        for rows in self.scorer.iterate_batches(entries[sum(self.parts.counts) :]):
            waiting += rows
            late = time.monotonic() - begun >= SHARD_SECONDS
            if late or len(waiting) >= SHARD_ROWS or not self.parts.counts or self.ending():
                self.parts.append(waiting)
                waiting, begun = [], time.monotonic()
            self.progress.advance(len(rows))
            self._stop_if_asked()
        if waiting:
            self.parts.append(waiting)

    def _join(self, digest: str) -> ScoreSummary:
        """Joins the shards into one table, whose row groups do not depend on the shards."""
        summary = ScoreSummary(self.parts.output, self.scorer.saved.recipe.scale, self.scorer.saved.name)
        metadata = {"aigc_version": __version__, **self.scorer.saved.make_metadata(), "inputs": digest}
        with TableWriter(self.parts.joined, "scores", metadata) as writer:
            for rows in split_batches(self.parts.iterate_rows(), ROW_GROUP):
                writer.write(rows)
                summary.add(rows)
                self._stop_if_asked()
        self.parts.publish()
        return summary

    def _stop_if_asked(self) -> None:
        if ending := self.ending():
            raise Interruption(
                f"{sum(self.parts.counts)} rows are finished and kept in {self.parts.folder}.",
                "Run the same command with --resume to continue.",
                ending,
            )
