"""`aigc plot`: draws a run or a table of results as figures for papers."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from aigc_cli.errors import AigcError
from aigc_cli.images.sample import MOS_COLUMNS, TARGETS
from aigc_cli.metrics.bins import make_bins
from aigc_cli.metrics.by_name import estimate_metric
from aigc_cli.mos_scale import DEFAULT_SCALE, MosScale
from aigc_cli.report import plots
from aigc_cli.report.numbers import format_interval
from aigc_cli.storage.atomic_files import check_output
from aigc_cli.storage.rating_tables import read_ratings
from aigc_cli.storage.results import Row, detect_kind, iterate_rows, read_table_metadata
from aigc_cli.storage.schemas import Kind
from aigc_cli.text import to_printable
from aigc_cli.workflows.ablate.summary import ZERO_SHOT, make_plot_points, make_zero_shot, summarise_variants
from aigc_cli.workflows.experiment.predictions import (
    ABLATION_PLAN,
    FOLDS_FOLDER,
    FoldFailure,
    FoldResult,
    load_fold,
    make_fold_rows,
)
from aigc_cli.workflows.experiment.source import Source

PLOT_FORMATS = ("png", "svg", "pdf")
PLOT_KINDS: tuple[Kind, ...] = ("predictions", "scores", "metrics", "epochs", "comparison", "stress")
MAX_PANELS = 6  # variants with panels of their own
Drawing = Callable[[Sequence[Path]], None]


@dataclass(frozen=True)
class PlotResult:
    """The pictures that were drawn, and notes for their reader, such as what was left out."""

    files: list[Path]
    notes: list[str]


def draw_plots(
    place: Path,
    *,
    output: Path | None = None,
    source: Source | None = None,
    formats: Sequence[str] = ("png", "svg"),
    overwrite: bool = False,
) -> PlotResult:
    """Draws what `place` holds: training curves, agreement and calibration, an ablation, metrics or differences.

    Args:
        place: a run folder of train or ablate, a folder with predictions.parquet or metrics.parquet, or a table.
        output: the folder for the pictures; None: `plots` in the run folder, or `NAME-plots` beside the table.
        source: ratings for a table of scores without ratings.

    Raises:
        AigcError: nothing there can be drawn, or a picture exists. Nothing is written then.
        EnvironmentProblem: the pictures can't be written.
    """
    if not formats or set(formats) - set(PLOT_FORMATS):
        raise AigcError(
            f"Expected formats out of {', '.join(PLOT_FORMATS)}, found {','.join(formats)}.", "Use png,svg."
        )
    folder = output or (place / "plots" if place.is_dir() else place.with_name(f"{place.stem}-plots"))
    if source is not None and source.data is not None and place.is_dir():
        raise AigcError(f"Expected a table of scores beside --data, found the folder {place}.", "Leave out --data.")
    notes: list[str] = []
    drawings = _draw_folder(place, notes) if place.is_dir() else _draw_table(place, source, notes)
    planned = {name: [folder / f"{name}.{kind}" for kind in formats] for name in drawings}
    files = [path for paths in planned.values() for path in paths]
    check_output(folder, overwrite=True, suffixes=())
    for path in files if folder.is_dir() else ():
        check_output(path, overwrite=overwrite, suffixes=[f".{kind}" for kind in formats])
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in drawings.items():
        draw(planned[name])
    return PlotResult(files, notes)


def _draw_folder(place: Path, notes: list[str]) -> dict[str, Drawing]:
    found: dict[str, Drawing] = {}
    if (place / ABLATION_PLAN).is_file():
        return _draw_ablation(place, notes)
    if (place / "epochs.parquet").is_file():
        found["training"] = _draw_training(place / "epochs.parquet")
    elif (place / "metrics.parquet").is_file():
        found["metrics"] = _draw_metrics(place / "metrics.parquet")
    predictions = place / "predictions.parquet"
    if predictions.is_file() and next(iterate_rows(predictions, "predictions"), None):
        found |= _draw_predictions(predictions, notes)
    elif "training" in found:
        notes.append("No predictions of a validation part in this run: only its curves are drawn.")
    if not found:
        raise AigcError(
            f"Expected a finished run of train or ablate in {to_printable(str(place), 200)}, or predictions.parquet or "
            "metrics.parquet of eval; found none.",
            "Continue an unfinished training with `aigc train --resume`; give the path of a table to draw it.",
        )
    return found


def _draw_table(place: Path, source: Source | None, notes: list[str]) -> dict[str, Drawing]:
    kind = detect_kind(place, PLOT_KINDS)
    if kind == "predictions":
        return _draw_predictions(place, notes)
    if kind == "scores":
        return _draw_agreement({"": _read_scores(place, source, notes)}, _find_limits(place), notes, alone="all images")
    if kind == "metrics":
        return {"metrics": _draw_metrics(place)}
    if kind == "epochs":
        return {"training": _draw_training(place)}
    rows = list(iterate_rows(place, kind))
    if kind == "comparison":
        return {"comparison": partial(plots.draw_comparison, rows)}
    lines = [_make_line(row, row["perturbation"], "change") for row in rows]
    return {"stress": lambda paths: plots.draw_forest(lines, paths, "change in MOS, 95% interval", zero=True)}


def _make_line(row: Row, label: str, value: str) -> dict[str, Any]:
    ends = {"low": row["ci_low"], "high": row["ci_high"]}
    return {"target": row["target"], "label": label, "value": row[value], **ends}


def _draw_training(table: Path) -> Drawing:
    rows = list(iterate_rows(table, "epochs"))
    run = table.with_name("run.json")
    kept = json.loads(run.read_text(encoding="utf-8")).get("kept_epoch") if run.is_file() else None
    return partial(plots.draw_training, rows, kept)


def _draw_metrics(table: Path) -> Drawing:
    rows = [row for row in iterate_rows(table, "metrics") if row["metric"] == "srocc"]
    splits = {row["split"] for row in rows}
    lines = []
    for row in rows:
        parts = [row["split"] if len(splits) > 1 or row["group"] == "all" else "", row["group"]]
        lines.append(_make_line(row, ", ".join(part for part in parts if part and part != "all"), "value"))
    return lambda paths: plots.draw_forest(lines, paths, "SROCC, 95% interval")


def _draw_ablation(place: Path, notes: list[str]) -> dict[str, Drawing]:
    plan = json.loads((place / ABLATION_PLAN).read_text(encoding="utf-8"))
    kept: dict[str, dict[tuple[int, int], FoldResult]] = {name: {} for name in plan["variants"]}
    for path in sorted((place / FOLDS_FOLDER).glob("*.parquet")):
        variant, found = read_table_metadata(path).get("variant", ""), load_fold(path)
        if variant in kept:
            kept[variant][found.seed, found.fold] = found
    wanted = [(seed, fold) for seed in plan["seeds"] for fold in range(plan["folds"])]
    whole = {name: [folds[key] for key in wanted] for name, folds in kept.items() if folds.keys() >= set(wanted)}
    if not whole:
        raise AigcError(f"Expected a variant with all its trainings in {place}, found none.", "Use `ablate --resume`.")
    notes += [f"{name}: left out, since some of its trainings are missing." for name in kept if name not in whole]
    results = {
        name: [folds.get(key) or FoldFailure(key[1], key[0], "not trained") for key in wanted]
        for name, folds in kept.items()
    }
    reference = [make_zero_shot(found) for found in next(iter(whole.values()))]
    summaries = summarise_variants({**results, ZERO_SHOT: reference})
    differences = []
    for one in summaries[1:]:
        for target, by in one.difference.items():
            names = {"table": one.variant, "baseline": summaries[0].variant, "target": target, "group": "all"}
            differences.append({**names, "difference": by.value, "ci_low": by.low, "ci_high": by.high})
    drawn: dict[str, Drawing] = {"ablation": partial(plots.draw_ablation, make_plot_points(summaries))}
    if any(row["difference"] is not None for row in differences):
        drawn["differences"] = partial(plots.draw_comparison, differences, what="paired difference of SROCC")
    if len(whole) > MAX_PANELS:
        notes.append(f"Agreement and calibration show the first {MAX_PANELS} of {len(whole)} variants.")
    if len(plan["seeds"]) > 1:
        notes.append(f"Agreement and calibration show seed {plan['seeds'][0]} only.")
    shown = {
        name: [row for fold in folds if fold.seed == plan["seeds"][0] for row in make_fold_rows(fold)]
        for name, folds in list(whole.items())[:MAX_PANELS]
    }
    return drawn | _draw_agreement(shown, None, notes)


def _draw_predictions(table: Path, notes: list[str]) -> dict[str, Drawing]:
    by_split: dict[str, list[Row]] = {}
    repeated = 0
    for row in iterate_rows(table, "predictions"):
        if (row.get("repeat") or "0") == "0":
            by_split.setdefault(row.get("split") or "", []).append(row)
        else:
            repeated += 1
    if repeated:
        notes.append(f"Only the first repeat is drawn; {repeated:,} predictions of the others are left out.")
    return _draw_agreement(by_split, _find_limits(table), notes)


def _read_scores(table: Path, source: Source | None, notes: list[str]) -> list[dict[str, Any]]:
    """Rows of a table of scores with human ratings: from its own columns, or joined by name from `source`."""
    rows = [{**row, "group": row["prompt"] or row["name"]} for row in iterate_rows(table) if row["status"] == "ok"]
    if source is None or source.data is None:
        for row in rows:
            for target, column in MOS_COLUMNS.items():
                row.setdefault(f"human_{target}", _parse_float(row.get(column)))
        if all(row[f"human_{target}"] is None for row in rows for target in TARGETS):
            raise AigcError(
                f"Expected human ratings beside the scores in {to_printable(str(table), 200)}, found none.",
                "Give the table of ratings: --data ratings.csv",
            )
        return rows
    samples = read_ratings(
        source.data,
        source.images or source.data.parent,
        scale=_find_limits(table) or DEFAULT_SCALE,
        columns=source.columns,
        sep=source.sep,
        without_images=True,
    )
    human = {sample.name: {f"human_{target}": sample.get_mos(target) for target in TARGETS} for sample in samples}
    matched = [row for row in rows if row["name"] in human]
    if not matched:
        raise AigcError(
            f"Expected the names of {to_printable(str(table), 200)} in {source.data}, found none of them.",
            f"The scores have {to_printable(rows[0]['name'], 80) if rows else 'no scored row'}, "
            f"the ratings have {to_printable(next(iter(human)), 80)}.",
        )
    if len(matched) < len(rows):
        notes.append(f"{len(rows) - len(matched):,} scored images are not in {source.data.name}: left out.")
    return [row | human[row["name"]] for row in matched]


def _parse_float(value: Any) -> float | None:
    """A number from a further column, which CSV holds as text; None if it is not one."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _find_limits(table: Path) -> MosScale | None:
    try:
        metadata = read_table_metadata(table)
        return MosScale(float(metadata["mos_min"]), float(metadata["mos_max"]))
    except (AigcError, KeyError, ValueError):
        return None


def _draw_agreement(
    parts: Mapping[str, Sequence[Row]], limits: MosScale | None, notes: list[str], alone: str = "validation part"
) -> dict[str, Drawing]:
    """Agreement and calibration of each part (a split or variant), for each target with predictions and ratings.

    A single part without a name is called `alone`.
    """
    found = [[p for target in TARGETS if (p := _make_panel(target, label, rows))] for label, rows in parts.items()]
    lines: dict[str, dict[str, Any]] = {}
    for label, row in zip(parts, found, strict=True):
        for panel in row:
            name = label or (alone if len(parts) == 1 else "all")
            lines.setdefault(panel["target"], {})[name] = panel["bins"]
    for target in TARGETS:
        if target not in lines:
            notes.append(f"{target}: left out: no image has both a prediction and a human score.")
    panels = [row for row in found if row]
    if not panels:
        raise AigcError("Expected images with both a prediction and a human score, found none.", "Check the table.")
    every = [panel for row in panels for panel in row]
    ends = [value for panel in every for side in ("predicted", "human") for value in panel[side]]
    low, high = (limits.low, limits.high) if limits else (min(ends), max(ends))
    for panel in every:
        panel["limits"] = (low - 0.02 * (high - low), high + 0.02 * (high - low))
    shown = [{"title": target, "lines": found} for target, found in lines.items()]
    return {"agreement": partial(plots.draw_agreement, panels), "calibration": partial(plots.draw_calibration, shown)}


def _make_panel(target: str, label: str, rows: Sequence[Row]) -> dict[str, Any] | None:
    keys = (target, f"human_{target}")
    both = [row for row in rows if not any(row[key] is None or isnan(float(row[key])) for key in keys)]
    if not both:
        return None
    predicted, human = ([float(row[key]) for row in both] for key in keys)
    groups = [str(row["group"]) for row in both]
    low, high = ([_parse_float(row.get(f"{target}_{end}")) for row in both] for end in ("low", "high"))
    spans = [(h, a, b) for h, a, b in zip(human, low, high, strict=True) if a is not None and b is not None]
    bounds = np.array([low, high], dtype=float) if spans else ()  # None becomes NaN
    bins = make_bins(predicted, human, groups, *bounds)
    srocc = estimate_metric("srocc", predicted, human, groups)
    note = f"SROCC {format_interval(srocc.value, srocc.low, srocc.high, '.3f')}"
    note += f"\n{len(both):,} images, {len(set(groups)):,} prompts"
    if spans:
        note += f"\n{sum(a <= h <= b for h, a, b in spans) / len(spans):.0%} within the predicted interval"
    title = f"{target}, {label}" if label else target
    return {"target": target, "title": title, "note": note, "predicted": predicted, "human": human, "bins": bins}
