"""What an ablation found: means, paired differences, and the page that says it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aigc_cli.metrics.bootstrap import is_constant
from aigc_cli.metrics.by_name import Estimate, fold_mean, interval, verdict
from aigc_cli.metrics.formulas import auc, partial_srocc
from aigc_cli.uncertainty.consistency import recalibration
from aigc_cli.workflows.experiment.folds import Cell
from aigc_cli.workflows.experiment.predictions import Failure
from aigc_cli.workflows.experiment.rated import TARGETS

ZERO_SHOT = "zero-shot cosine"


@dataclass(frozen=True)
class Summary:
    """One variant over all folds and seeds.

    Attributes:
        variant: its name.
        srocc: {target: mean SROCC over folds with its 95% interval}; value None with a reason where a fold failed.
        difference: {target: paired difference of mean SROCC to the first variant, with its interval}.
        verdict: {target: better, worse or can't tell at this n}.
        seed_spread: {target: standard deviation over seeds of the mean over folds}; empty with one seed.
        seconds: training time of one fold, mean; None where all failed.
        trainable: parameters that were trained; None where all failed.
        reading: None where a fold has no other prompt, or a side that is constant or unrated.
        recalibrated: None without other folds or without a reading.
    """

    variant: str
    srocc: dict[str, Estimate]
    difference: dict[str, Estimate]
    verdict: dict[str, str]
    seed_spread: dict[str, float]
    seconds: float | None
    trainable: int | None
    reading: "Reading | None" = None
    recalibrated: "Recalibrated | None" = None


@dataclass(frozen=True)
class Reading:
    """Whether a variant's consistency reads the prompt; means over its cells.

    Attributes:
        auc: the chance that a matched prompt scores above another one on an image of about the same quality; 0.5 is
            chance.
        partial: SROCC of consistency with the human scores after human quality was taken out of both.
    """

    auc: float
    partial: float


@dataclass(frozen=True)
class Recalibrated:
    """Consistency of each fold as the others show that it should be read: what `--calibrate-folds` makes of a model.

    Attributes:
        srocc: mean over folds.
        difference: paired, to consistency as the models of folds said it.
        reading: of consistency so read.
    """

    srocc: Estimate
    difference: Estimate | None
    reading: Reading


def zero_shot(cell: Cell) -> Cell:
    """The baseline beside every variant: the raw cosine for consistency, nothing for quality."""
    predicted = {"quality": np.zeros_like(cell.cosine), "consistency": cell.cosine}
    return replace(cell, predicted=predicted, seconds=0.0, trainable=0, mismatched=None)


def summarise(results: Mapping[str, Sequence[Cell | Failure]]) -> list[Summary]:
    """Means with intervals, and each variant's paired difference to the first; the bootstrap draws are shared."""
    summaries: list[Summary] = []
    first: dict[str, tuple[Estimate, Any]] = {}
    for name, cells in results.items():
        found = {target: _mean(cells, target) for target in TARGETS}
        pairs = {target: _difference(found[target], first[target]) for target in first}
        difference = {target: pair for target, pair in pairs.items() if pair is not None}
        verdicts = {target: verdict(pair) for target, pair in difference.items()}
        first = first or found
        srocc = {target: estimate for target, (estimate, _) in found.items()}
        done = [cell for cell in cells if isinstance(cell, Cell)]
        whole = done if len(done) == len(cells) else []
        seconds = float(np.mean([cell.seconds for cell in done])) if done else None
        spread = _seed_spread(whole)
        summaries.append(
            Summary(
                name,
                srocc,
                difference,
                verdicts,
                spread,
                seconds,
                done[0].trainable if done else None,
                _reading(whole),
                _recalibrated(whole, found["consistency"]),
            )
        )
    return summaries


def _mean(cells: Sequence[Cell | Failure], target: str) -> tuple[Estimate, Any]:
    """Mean SROCC over cells with its bootstrap draws; without a value when a cell failed, for it would flatter."""
    failures = [cell for cell in cells if isinstance(cell, Failure)]
    done = [cell for cell in cells if isinstance(cell, Cell)]
    if failures:
        reason = f"{len(failures)} of {len(cells)} failed: {failures[0].reason}"
        return Estimate(None, None, None, sum(len(cell.names) for cell in done), reason), np.full(1, np.nan)
    return fold_mean("srocc", [cell.rated(target) for cell in done], [cell.fold for cell in done])


def _reading(cells: Sequence[Cell]) -> Reading | None:
    """None where a cell has no other prompt, or where a side is constant or unrated."""
    found = []
    for cell in cells:
        human_q, human_c = cell.human["quality"], cell.human["consistency"]
        rows = np.flatnonzero(~np.isnan(human_q) & ~np.isnan(human_c))
        if cell.mismatched is None or len(rows) < 2:
            return None
        predicted = cell.predicted["consistency"]
        if any(is_constant(side[rows]) for side in (predicted, human_q, human_c)):
            return None
        found.append((auc(predicted, cell.mismatched), partial_srocc(predicted[rows], human_c[rows], human_q[rows])))
    means = np.mean(found, axis=0) if found else np.array([np.nan])
    return Reading(*means.tolist()) if np.isfinite(means).all() else None


def _recalibrated(cells: Sequence[Cell], said: tuple[Estimate, Any]) -> Recalibrated | None:
    read = []
    for cell in cells:
        others = [other for other in cells if other.seed == cell.seed and other.fold != cell.fold]
        if not others or cell.mismatched is None:
            return None
        c, q = (np.concatenate([other.predicted[target] for other in others]) for target in ("consistency", "quality"))
        human = np.concatenate([other.human["consistency"] for other in others])
        by_others = recalibration(c, q, human, [group for other in others for group in other.groups])
        quality = cell.predicted["quality"]
        predicted = {**cell.predicted, "consistency": by_others(cell.predicted["consistency"], quality)}
        read.append(replace(cell, predicted=predicted, mismatched=by_others(cell.mismatched, quality)))
    reading = _reading(read)
    if reading is None:
        return None
    found = _mean(read, "consistency")
    return Recalibrated(found[0], _difference(found, said), reading)


def _seed_spread(cells: Sequence[Cell]) -> dict[str, float]:
    """Training noise: how far the mean over folds moves from seed to seed."""
    seeds = sorted({cell.seed for cell in cells})
    spread = {}
    for target in TARGETS if len(seeds) > 1 else ():
        means = [
            fold_mean("srocc", [c.rated(target) for c in cells if c.seed == s], resamples=1)[0].value for s in seeds
        ]
        if None not in means:
            spread[target] = float(np.std(np.array(means, dtype=float), ddof=1))
    return spread


def _difference(one: tuple[Estimate, Any], first: tuple[Estimate, Any]) -> Estimate | None:
    """The paired difference of two means with their draws; without an interval where one of them has none."""
    (estimate, draws), (reference, reference_draws) = one, first
    if estimate.value is None or reference.value is None:
        return None
    point = estimate.value - reference.value
    if estimate.low is None or reference.low is None:
        return Estimate(point, None, None, estimate.n, estimate.reason or reference.reason)
    return Estimate(point, *interval(draws - reference_draws), estimate.n)


def shown(estimate: Estimate | None, signed: bool = False, digits: int = 3) -> str:
    """`0.812 [0.790, 0.833]`, the interval with so many digits, or a dash."""
    if estimate is None or estimate.value is None:
        return "-"
    sign = "+" if signed else ""
    form = f"{sign}.{digits}f"
    span = "" if estimate.low is None or estimate.high is None else f" [{estimate.low:{form}}, {estimate.high:{form}}]"
    return f"{estimate.value:{sign}.3f}{span}"


def points(summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """What the plot draws: one point for each variant and target that has a value."""
    return [
        {"variant": s.variant, "target": target, "seconds": s.seconds, "value": e.value, "low": e.low, "high": e.high}
        for s in summaries
        for target, e in s.srocc.items()
        if e.value is not None
    ]


def markdown(summaries: Sequence[Summary], images: int, data: str, folds: int, seeds: Sequence[int]) -> str:
    """The result as a page.

    Args:
        images: how many images the folds hold together.
        data: what they are.
    """
    lines = [
        "# Ablation",
        "",
        f"{images:,} images of {data}, {folds} prompt-disjoint folds, seeds "
        f"{', '.join(map(str, seeds))}. SROCC is the mean over folds; intervals are 95% bootstrap intervals over "
        "prompts; differences are paired with the first variant.",
        "",
        "| variant | SROCC quality | SROCC consistency | difference in quality | difference in consistency | "
        "seconds per fold | trainable parameters |",
        "|---|---|---|---|---|---|---|",
    ]
    for summary in summaries:
        differences = [
            f"{shown(summary.difference[target], signed=True)} {summary.verdict[target]}"
            if target in summary.difference
            else "-"
            for target in TARGETS
        ]
        seconds = "-" if summary.seconds is None else f"{summary.seconds:.0f}"
        trainable = "-" if summary.trainable is None else f"{summary.trainable:,}"
        lines.append(
            f"| {summary.variant} | {shown(summary.srocc['quality'])} | {shown(summary.srocc['consistency'])} | "
            f"{differences[0]} | {differences[1]} | {seconds} | {trainable} |"
        )
    lines += ["", *_notes(summaries)]
    return "\n".join(lines).rstrip() + "\n"


def _notes(summaries: Sequence[Summary]) -> list[str]:
    """What the table alone doesn't say: training noise, and why a value is missing."""
    notes = []
    for summary in summaries:
        if summary.seed_spread:
            spread = ", ".join(f"{target} {value:.3f}" for target, value in summary.seed_spread.items())
            notes.append(f"- {summary.variant}: standard deviation between seeds: {spread}.")
        if summary.reading:
            notes.append(
                f"- {summary.variant}: a matched prompt scores above another image's, of about the same quality, in "
                f"{summary.reading.auc:.1%} of pairs (chance 50%); SROCC of consistency with human quality taken out "
                f"{summary.reading.partial:.3f}."
            )
        if summary.recalibrated:
            again = summary.recalibrated
            notes.append(
                f"- {summary.variant}, consistency read as the other folds show: SROCC {shown(again.srocc)}, "
                f"{shown(again.difference, signed=True)}; {again.reading.auc:.1%} of pairs; "
                f"{again.reading.partial:.3f} with human quality taken out."
            )
        reasons = {estimate.reason for estimate in summary.srocc.values() if estimate.reason}
        notes += [f"- {summary.variant}: {reason}" for reason in sorted(reasons) if summary.variant != ZERO_SHOT]
    return notes
