"""The content of each command's `--report`; `report.page` draws it."""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_cli import __version__
from aigc_cli.images.folders import leads_outside
from aigc_cli.images.sample import TARGETS, Sample
from aigc_cli.progress import Progress
from aigc_cli.report.numbers import MISSING, format_interval
from aigc_cli.report.page import CATEGORIES, Page, PageFigure, PageTable, write_page
from aigc_cli.report.page_output import PageOutput
from aigc_cli.report.plots import draw_comparison
from aigc_cli.storage.results import iterate_rows, read_scale, read_table_metadata
from aigc_cli.workflows.ablate.summary import ZERO_SHOT, VariantSummary, format_estimate

if TYPE_CHECKING:
    from aigc_cli.workflows.compare import Comparison
    from aigc_cli.workflows.crossval import CrossvalResult
    from aigc_cli.workflows.evaluate import EvaluationResult

HASH_SHOWN = 16  # hexadecimal digits


def report_scores(table: Path, output: PageOutput, progress: Progress) -> None:
    """Writes the gallery of a table of scores; AigcError if the table does not exist."""
    metadata = read_table_metadata(table)
    rows, scale = list(iterate_rows(table)), read_scale(metadata)
    write_page(output, Page(f"Scores of {table.name}", _list_facts(metadata), rows=rows, scale=scale), progress)


def report_evaluation(
    found: "EvaluationResult | CrossvalResult",
    output: PageOutput,
    progress: Progress,
    title: str = "Agreement with people",
    notes: Sequence[str] = (),
) -> None:
    """Writes the agreement table, and the images with both scores, largest errors first."""
    targets = list(dict.fromkeys(str(row["target"]) for row in found.metrics))
    lines: dict[tuple[str, str, str], dict[str, Mapping[str, Any]]] = {}
    for row in found.metrics:
        lines.setdefault((row["split"], row["group"], row["metric"]), {})[row["target"]] = row
    cells = []
    for key, by_target in lines.items():
        counts = " / ".join(dict.fromkeys(f"{row['n']:,}" for row in by_target.values()))
        cells.append([*key, *(_format_metric(by_target.get(target)) for target in targets), counts])
    columns = ("images", "group", "metric", *(target.replace("_", " ") for target in targets), "n")
    table = PageTable("Agreement", columns, cells, "Intervals are 95% bootstrap intervals over prompts.")
    facts, scale = _list_facts(found.metadata), read_scale(found.metadata)
    write_page(output, Page(title, facts, notes, [table], rows=found.images, scale=scale), progress)


def report_ablation(
    summaries: Sequence[VariantSummary], place: Path, data: str, output: PageOutput, progress: Progress
) -> None:
    """Writes the table of the variants, and the plot that the ablation wrote to the folder `place`."""
    scores = [name for target in TARGETS for name in (f"SROCC {target}", "difference")]
    columns = ["variant", *scores, "seconds per fold", "trained parameters"]
    cells = []
    for summary in summaries:
        line = [summary.variant]
        for target in TARGETS:
            difference = format_estimate(summary.difference.get(target), "+.3f")
            line += [format_estimate(summary.srocc[target]), f"{difference} {summary.verdict.get(target, '')}".strip()]
        line.append(MISSING if summary.seconds is None else f"{summary.seconds:.0f}")
        cells.append([*line, MISSING if summary.trainable is None else f"{summary.trainable:,}"])
    note = (
        "SROCC is the mean over prompt-disjoint folds with its 95% bootstrap interval over prompts; differences are "
        f"paired with the first variant. {ZERO_SHOT} is the reference: nothing is trained."
    )
    table = PageTable("Variants", columns, cells, note)
    figure = PageFigure("Agreement against training time", (place / "ablation.png").read_bytes())
    facts = {"Data": data, "Version": __version__}
    write_page(output, Page("Ablation", facts, tables=[table], figures=[figure]), progress)


def report_comparison(found: "Comparison", output: PageOutput, progress: Progress) -> None:
    """Writes the differences, their plot, and the images of all tables, which a filter shows by table."""
    columns = ("against", "table", "score", "rows", "difference", "wins", "prompts", "verdict")
    cells = []
    for row in found.rows:
        difference = format_interval(row["difference"], row["ci_low"], row["ci_high"], "+.2f")
        wins = format_interval(row["win_rate"], row["win_low"], row["win_high"], ".0%")
        names = [row[name] for name in ("baseline", "table", "target", "group")]
        cells.append([*names, difference, wins, str(row["prompts"]), row["verdict"]])
    note = f"Differences of means in MOS, paired by {found.paired_by}; wins: the share of prompts that score higher."
    with tempfile.TemporaryDirectory(prefix="aigc-") as scratch:
        plot = Path(scratch) / "comparison.png"
        draw_comparison(found.rows, [plot])
        figure = PageFigure("Differences with their 95% intervals", plot.read_bytes())
    rows = [
        {**_hide_outside(row, scores.base), "table": scores.label} for scores in found.scores for row in scores.all_rows
    ]
    facts = {"Tables": ", ".join(found.labels), "Version": __version__}
    table, scale = PageTable("Differences", columns, cells, note), read_scale(found.scores[0].metadata)
    write_page(output, Page("Comparison", facts, found.notes, [table], [figure], rows, scale), progress)


def _hide_outside(row: Mapping[str, Any], base: Path | None) -> Mapping[str, Any]:
    """The row without its path if that leads out of the folder `base` of its table, which may come from a stranger."""
    if base is None or row["path"] is None or not leads_outside(Path(row["path"]), base):
        return row
    return {**row, "path": None}


def _list_facts(metadata: Mapping[str, str]) -> dict[str, str]:
    facts = {
        "Data": metadata.get("data"),
        "Model": metadata.get("model"),
        "Weights": metadata.get("model_hash", "")[:HASH_SHOWN],
        "Backbone": metadata.get("backbone"),
        "Backbone weights": metadata.get("backbone_hash", "")[:HASH_SHOWN],
        "Scale": str(read_scale(metadata)) if "mos_min" in metadata else "",
        "Preprocessing": metadata.get("preprocessing", "").strip("{}").replace("'", ""),
        "Version": metadata.get("aigc_version"),
    }
    return {name: text for name, text in facts.items() if text}


def make_evaluation_gallery(
    samples: Iterable[Sample], predicted: Mapping[str, Any], splits: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows for `report_evaluation`, from {column of the scores table: (n,) in MOS, NaN where an image has none}."""
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


def _format_metric(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    if row["value"] is None:
        return f"{MISSING} ({row.get('reason') or 'not defined'})"
    return format_interval(row["value"], row["ci_low"], row["ci_high"], ".3f")
