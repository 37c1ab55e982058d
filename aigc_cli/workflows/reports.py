"""What each command puts into its `--report`; `io.report` draws it."""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

from aigc_cli import __version__
from aigc_cli.images.sample import Sample
from aigc_cli.progress import Progress
from aigc_cli.report.page import CATEGORIES, Figure, Report, Table, write_report
from aigc_cli.report.plots import comparison_plot
from aigc_cli.storage.results import iter_rows, read_metadata, scale_of
from aigc_cli.workflows.ablate.summary import ZERO_SHOT, Summary, shown
from aigc_cli.workflows.compare import Comparison
from aigc_cli.workflows.experiment.rated import TARGETS

HASH_SHOWN = 16  # hexadecimal digits


def report_scores(table: Path, report: Path, progress: Progress, thumbs: Path | None = None) -> None:
    """The gallery of a table of scores, as `aigc score` writes it.

    Raises:
        AigcError: there is no such table.
        EnvironmentProblem: the report can't be written.
    """
    metadata = read_metadata(table)
    page = Report(f"Scores of {table.name}", facts_of(metadata), rows=list(iter_rows(table)), scale=scale_of(metadata))
    write_report(report, page, progress, thumbs)


def report_evaluation(
    metrics: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    metadata: Mapping[str, str],
    report: Path,
    progress: Progress,
    thumbs: Path | None = None,
    title: str = "Agreement with people",
    notes: Sequence[str] = (),
) -> None:
    """The agreement table, and the images with both scores, worst misses first.

    Args:
        metrics: rows of the metrics table.
        rows: of `evaluation_gallery`.
        notes: what a reader of the figures must know.
    """
    targets = list(dict.fromkeys(str(row["target"]) for row in metrics))
    lines: dict[tuple[str, str, str], dict[str, Mapping[str, Any]]] = {}
    for row in metrics:
        lines.setdefault((row["split"], row["group"], row["metric"]), {})[row["target"]] = row
    cells = [
        [
            *key,
            *(_estimate(found.get(target)) for target in targets),
            " / ".join(dict.fromkeys(f"{row['n']:,}" for row in found.values())),
        ]
        for key, found in lines.items()
    ]
    columns = ("images", "group", "metric", *(target.replace("_", " ") for target in targets), "n")
    note = "Intervals are 95% bootstrap intervals over prompts."
    table = Table("Agreement", columns, cells, note)
    page = Report(title, facts_of(metadata), notes, [table], rows=rows, scale=scale_of(metadata))
    write_report(report, page, progress, thumbs)


def report_ablation(summaries: Sequence[Summary], place: Path, data: str, report: Path, progress: Progress) -> None:
    """The table of the variants, and the plot that the ablation wrote to `place`."""
    columns = ["variant"]
    for target in TARGETS:
        columns += [f"SROCC {target}", "difference"]
    cells = []
    for summary in summaries:
        line = [summary.variant]
        for target in TARGETS:
            difference = shown(summary.difference.get(target), signed=True)
            line += [shown(summary.srocc[target]), f"{difference} {summary.verdict.get(target, '')}".strip()]
        seconds = "–" if summary.seconds is None else f"{summary.seconds:.0f}"
        cells.append([*line, seconds, "–" if summary.trainable is None else f"{summary.trainable:,}"])
    note = (
        "SROCC is the mean over prompt-disjoint folds with its 95% bootstrap interval over prompts; differences are "
        f"paired with the first variant. {ZERO_SHOT} is the baseline: nothing is trained."
    )
    table = Table("Variants", [*columns, "seconds per fold", "trained parameters"], cells, note)
    figure = Figure("Agreement against training time", (place / "ablation.png").read_bytes())
    facts = {"Data": data, "Version": __version__}
    write_report(report, Report("Ablation", facts, tables=[table], figures=[figure]), progress)


def report_comparison(found: Comparison, report: Path, progress: Progress, thumbs: Path | None = None) -> None:
    """The differences, their plot, and the images of all tables, to be filtered by table."""
    columns = ("against", "table", "score", "rows", "difference", "wins", "prompts", "verdict")
    cells = [
        [
            row["baseline"],
            row["table"],
            row["target"],
            row["group"],
            _spanned(row, "difference", "ci_low", "ci_high", "+.2f"),
            _spanned(row, "win_rate", "win_low", "win_high", ".0%"),
            str(row["prompts"]),
            row["verdict"],
        ]
        for row in found.rows
    ]
    note = f"Differences of means in MOS, paired by {found.paired_by}; wins: the share of prompts that score higher."
    with tempfile.TemporaryDirectory(prefix="aigc-") as scratch:
        plot = Path(scratch) / "comparison.png"
        comparison_plot(found.rows, [plot])
        figure = Figure("Differences with their 95% intervals", plot.read_bytes())
    rows = [{**row, "table": scores.label} for scores in found.scores for row in scores.every]
    facts = {"Tables": ", ".join(found.labels), "Version": __version__}
    page = Report("Comparison", facts, found.notes, [Table("Differences", columns, cells, note)], [figure], rows)
    write_report(report, replace(page, scale=scale_of(found.scores[0].made_by)), progress, thumbs)


def _spanned(row: Mapping[str, Any], value: str, low: str, high: str, form: str) -> str:
    """A value with its interval where it has one; a dash where it is not defined."""
    if row[value] is None:
        return "–"
    return f"{row[value]:{form}}" + ("" if row[low] is None else f" [{row[low]:{form}}, {row[high]:{form}}]")


def facts_of(metadata: Mapping[str, str]) -> dict[str, str]:
    """The head of a page, out of what a result table says of its making."""
    named = {
        "Data": metadata.get("data"),
        "Model": metadata.get("model"),
        "Weights": metadata.get("model_hash", "")[:HASH_SHOWN],
        "Backbone": metadata.get("backbone"),
        "Backbone weights": metadata.get("backbone_hash", "")[:HASH_SHOWN],
        "Scale": "{:g} to {:g}".format(*scale_of(metadata)) if "mos_min" in metadata else "",
        "Preprocessing": metadata.get("preprocessing", "").strip("{}").replace("'", ""),
        "Version": metadata.get("aigc_version"),
    }
    return {name: text for name, text in named.items() if text}


def evaluation_gallery(
    samples: Iterable[Sample], predicted: Mapping[str, Any], splits: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows for `report_evaluation`.

    Args:
        samples: the rated images.
        predicted: {column of the scores table: (n,) in MOS units, NaN where an image has none}.
        splits: of each image, see `EvalResult` and `ProtocolResult`.
    """
    return [
        {
            "name": sample.name,
            "path": str(sample.path),
            "prompt": sample.prompt,
            "human_quality": sample.mos_quality,
            "human_consistency": sample.mos_align,
            "split": split,
            **{name: sample.groups[name] for name in CATEGORIES if sample.groups.get(name)},
            **{name: float(values[i]) if isfinite(values[i]) else None for name, values in predicted.items()},
        }
        for i, (sample, split) in enumerate(zip(samples, splits, strict=True))
    ]


def _estimate(row: Mapping[str, Any] | None) -> str:
    """A metric with its interval, or a dash with the reason."""
    if row is None:
        return ""
    if row["value"] is None:
        return f"– ({row.get('reason') or 'not defined'})"
    span = "" if row["ci_low"] is None else f" [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
    return f"{row['value']:.3f}{span}"
