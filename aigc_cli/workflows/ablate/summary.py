"""The results of an ablation: means, paired differences, and the page that shows them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aigc_cli.images.sample import TARGETS
from aigc_cli.metrics.bootstrap import is_constant
from aigc_cli.metrics.by_name import Draws, Estimate, compute_interval, estimate_fold_mean, judge_difference
from aigc_cli.metrics.formulas import auc, partial_srocc
from aigc_cli.report.numbers import MISSING, format_interval
from aigc_cli.workflows.experiment.predictions import FoldFailure, FoldResult

ZERO_SHOT = "zero-shot cosine"


@dataclass(frozen=True)
class PromptReading:
    """How well a variant's consistency reads the prompt; means over its folds."""

    auc: float  # the probability that an image scores higher with its own prompt than with a swapped one; 0.5 is chance
    partial: float  # partial SROCC of consistency with the human scores, controlled for human quality


@dataclass(frozen=True)
class VariantSummary:
    """One variant over all folds and seeds.

    Attributes:
        srocc: {target: mean SROCC over folds with its 95% interval}; value None with a reason when a fold failed.
        difference: {target: paired difference of mean SROCC to the first variant, with its interval}.
        verdict: {target: better, worse or can't tell at this n}.
        seed_spread: {target: standard deviation over seeds of the mean over folds}; empty with one seed.
        seconds, trainable: mean training time of a fold, number of trained parameters; None when all folds failed.
        reading: None when a fold has one prompt only, constant scores or no human scores of a target.
    """

    variant: str
    srocc: dict[str, Estimate]
    difference: dict[str, Estimate]
    verdict: dict[str, str]
    seed_spread: dict[str, float]
    seconds: float | None
    trainable: int | None
    reading: PromptReading | None = None

    def list_reasons(self) -> list[str]:
        return sorted({estimate.reason for estimate in self.srocc.values() if estimate.reason})


def make_zero_shot(found: FoldResult) -> FoldResult:
    """The reference of every ablation: the raw cosine as consistency, zeros as quality."""
    predicted = {"quality": np.zeros_like(found.cosine), "consistency": found.cosine}
    return replace(found, predicted=predicted, seconds=0.0, trainable=0, mismatched=None)


def summarise_variants(results: Mapping[str, Sequence[FoldResult | FoldFailure]]) -> list[VariantSummary]:
    """Means with intervals, and each variant's paired difference to the first, from the same bootstrap samples."""
    summaries: list[VariantSummary] = []
    first: dict[str, tuple[Estimate, Draws]] = {}
    for name, folds in results.items():
        found = {target: _average_folds(folds, target) for target in TARGETS}
        pairs = {target: _subtract(found[target], first[target]) for target in first}
        difference = {target: pair for target, pair in pairs.items() if pair is not None}
        first = first or found
        done = [fold for fold in folds if isinstance(fold, FoldResult)]
        whole = done if len(done) == len(folds) else []
        summaries.append(
            VariantSummary(
                variant=name,
                srocc={target: estimate for target, (estimate, _) in found.items()},
                difference=difference,
                verdict={target: judge_difference(pair) for target, pair in difference.items()},
                seed_spread=_measure_seed_spread(whole),
                seconds=float(np.mean([fold.seconds for fold in done])) if done else None,
                trainable=done[0].trainable if done else None,
                reading=_measure_reading(whole),
            )
        )
    return summaries


def _average_folds(folds: Sequence[FoldResult | FoldFailure], target: str) -> tuple[Estimate, Draws]:
    """Mean SROCC over folds with its bootstrap draws; no value when a fold failed, because folds are not alike."""
    failures = [fold for fold in folds if isinstance(fold, FoldFailure)]
    done = [fold for fold in folds if isinstance(fold, FoldResult)]
    if failures:
        reason = f"{len(failures)} of {len(folds)} failed: {failures[0].reason}"
        return Estimate(None, None, None, sum(len(fold.names) for fold in done), reason), np.full(1, np.nan)
    return estimate_fold_mean("srocc", [fold.select_rated(target) for fold in done])


def _measure_reading(folds: Sequence[FoldResult]) -> PromptReading | None:
    """None when a fold has one prompt only, constant scores or no human scores of a target."""
    found = []
    for fold in folds:
        human_q, human_c = fold.human["quality"], fold.human["consistency"]
        rows = np.flatnonzero(~np.isnan(human_q) & ~np.isnan(human_c))
        if fold.mismatched is None or len(rows) < 2:
            return None
        predicted = fold.predicted["consistency"]
        if any(is_constant(side[rows]) for side in (predicted, human_q, human_c)):
            return None
        found.append((auc(predicted, fold.mismatched), partial_srocc(predicted[rows], human_c[rows], human_q[rows])))
    means = np.mean(found, axis=0) if found else np.array([np.nan])
    return PromptReading(*means.tolist()) if np.isfinite(means).all() else None


def _measure_seed_spread(folds: Sequence[FoldResult]) -> dict[str, float]:
    """Training noise: the standard deviation over seeds of the mean over folds, for each target."""
    seeds = sorted({fold.seed for fold in folds})
    spread = {}
    for target in TARGETS if len(seeds) > 1 else ():
        by_seed = [[fold.select_rated(target) for fold in folds if fold.seed == seed] for seed in seeds]
        means = [estimate_fold_mean("srocc", of_seed, resamples=1)[0].value for of_seed in by_seed]
        if None not in means:
            spread[target] = float(np.std(np.array(means, dtype=float), ddof=1))
    return spread


def _subtract(one: tuple[Estimate, Draws], first: tuple[Estimate, Draws]) -> Estimate | None:
    """The paired difference of two means with their draws; without an interval when one of them has none."""
    (estimate, draws), (reference, reference_draws) = one, first
    if estimate.value is None or reference.value is None:
        return None
    point = estimate.value - reference.value
    if estimate.low is None or reference.low is None:
        return Estimate(point, None, None, estimate.n, estimate.reason or reference.reason)
    return Estimate(point, *compute_interval(draws - reference_draws), estimate.n)


def format_estimate(estimate: Estimate | None, form: str = ".3f", ends: str | None = None) -> str:
    """`0.812 [0.790, 0.833]`, or a dash."""
    if estimate is None:
        return MISSING
    return format_interval(estimate.value, estimate.low, estimate.high, form, ends)


def make_plot_points(summaries: Sequence[VariantSummary]) -> list[dict[str, Any]]:
    """The points of the plot: one for each variant and target with a value."""
    return [
        {"variant": s.variant, "target": target, "seconds": s.seconds, "value": e.value, "low": e.low, "high": e.high}
        for s in summaries
        for target, e in s.srocc.items()
        if e.value is not None
    ]


def format_ablation_page(summaries: Sequence[VariantSummary], data: str, folds: int, seeds: Sequence[int]) -> str:
    """The result as a page of Markdown; `data` has the number of images and the name of the data."""
    lines = [
        "# Ablation",
        "",
        f"{data}, {folds} prompt-disjoint folds, seeds {', '.join(map(str, seeds))}. SROCC is the mean over folds; "
        "intervals are 95% bootstrap intervals over prompts; differences are paired with the first variant.",
        "",
        "| variant | SROCC quality | SROCC consistency | difference in quality | difference in consistency | "
        "seconds per fold | trainable parameters |",
        "|---|---|---|---|---|---|---|",
    ]
    for summary in summaries:
        cells = [summary.variant, *(format_estimate(summary.srocc[target]) for target in TARGETS)]
        for target in TARGETS:
            difference = format_estimate(summary.difference.get(target), "+.3f")
            cells.append(f"{difference} {summary.verdict.get(target, '')}".strip())
        cells.append(MISSING if summary.seconds is None else f"{summary.seconds:.0f}")
        cells.append(MISSING if summary.trainable is None else f"{summary.trainable:,}")
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *_list_notes(summaries)]
    return "\n".join(lines).rstrip() + "\n"


def _list_notes(summaries: Sequence[VariantSummary]) -> list[str]:
    notes = []
    for summary in summaries:
        name = f"- {summary.variant}"
        if summary.seed_spread:
            spread = ", ".join(f"{target} {value:.3f}" for target, value in summary.seed_spread.items())
            notes.append(f"{name}: standard deviation between seeds: {spread}.")
        if summary.reading:
            notes.append(
                f"{name}: images with their own prompt score above images with the prompt of an image of about the "
                f"same quality in {summary.reading.auc:.1%} of pairs (chance 50%); partial SROCC of consistency, "
                f"controlled for human quality: {summary.reading.partial:.3f}."
            )
        if summary.variant != ZERO_SHOT:
            notes += [f"{name}: {reason}" for reason in summary.list_reasons()]
    return notes
