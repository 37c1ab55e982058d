"""`aigc plot`: the figures of a run or a table of results, for papers."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from aigc_cli.errors import AigcError
from aigc_cli.metrics.bins import binned
from aigc_cli.metrics.by_name import estimate
from aigc_cli.report import plots
from aigc_cli.storage.csv_tables import read_ratings
from aigc_cli.storage.files import check_output
from aigc_cli.storage.results import iter_rows, kind_of, read_metadata
from aigc_cli.storage.schemas import Kind
from aigc_cli.text import printable
from aigc_cli.workflows.ablate.summary import ZERO_SHOT, points, summarise, zero_shot
from aigc_cli.workflows.experiment.folds import Cell
from aigc_cli.workflows.experiment.predictions import CELLS, PLAN, Failure, load_cell
from aigc_cli.workflows.experiment.rated import TARGETS
from aigc_cli.workflows.experiment.source import Source

FORMATS = ("png", "svg", "pdf")
KINDS: tuple[Kind, ...] = ("predictions", "scores", "metrics", "epochs", "comparison", "stress")
MOST = 6  # variants with panels of their own
Row = Mapping[str, Any]
Drawing = Callable[[Sequence[Path]], None]


@dataclass
class Plotted:
    """What was drawn.

    Attributes:
        files: the pictures.
        notes: what a reader of them should know, such as what was left out.
    """

    files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def plot(
    place: Path,
    *,
    output: Path | None = None,
    source: Source | None = None,
    formats: Sequence[str] = ("png", "svg"),
    overwrite: bool = False,
) -> Plotted:
    """Draws what `place` holds: curves of a training, agreement and calibration, an ablation, metrics, differences.

    Args:
        place: a run folder of train or ablate, a folder with predictions.parquet or metrics.parquet, or a table.
        output: the folder for the pictures; None: `plots` in the run folder, or `NAME-plots` beside the table.
        source: ratings for a table of scores that has none itself.
        formats: one or more of `FORMATS`.

    Raises:
        AigcError: nothing there can be drawn, or a picture exists; nothing was written.
        EnvironmentProblem: the pictures can't be written.
    """
    if not formats or set(formats) - set(FORMATS):
        raise AigcError(f"Expected formats out of {', '.join(FORMATS)}, found {','.join(formats)}.", "Use png,svg.")
    folder = output or (place / "plots" if place.is_dir() else place.with_name(f"{place.stem}-plots"))
    found = Plotted()
    if source is not None and source.data is not None and place.is_dir():
        raise AigcError(f"Expected a table of scores beside --data, found the folder {place}.", "Leave out --data.")
    drawings = _of_folder(place, found.notes) if place.is_dir() else _of_table(place, source, found.notes)
    planned = {name: [folder / f"{name}.{kind}" for kind in formats] for name in drawings}
    check_output(folder, overwrite=True, suffixes=())
    for path in (path for paths in planned.values() for path in paths if folder.is_dir()):
        check_output(path, overwrite=overwrite, suffixes=[f".{kind}" for kind in formats])
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in drawings.items():
        draw(planned[name])
        found.files += planned[name]
    return found


def _of_folder(place: Path, notes: list[str]) -> dict[str, Drawing]:
    """The figures of a run folder."""
    found: dict[str, Drawing] = {}
    if (place / PLAN).is_file():
        return _ablation(place, notes)
    if (place / "epochs.parquet").is_file():
        found["training"] = _training(place / "epochs.parquet")
    elif (place / "metrics.parquet").is_file():
        found["metrics"] = _metrics(place / "metrics.parquet")
    predictions = place / "predictions.parquet"
    if predictions.is_file() and next(iter_rows(predictions, "predictions"), None):
        found |= _predictions(predictions, notes)
    elif "training" in found:
        notes.append("No predictions of a validation part in this run: only its curves are drawn.")
    if not found:
        raise AigcError(
            f"Expected a finished run of train or ablate in {printable(str(place), 200)}, or predictions.parquet or "
            "metrics.parquet of eval; found none.",
            "An unfinished training goes on with `aigc train --resume`; a table is named by its own path.",
        )
    return found


def _of_table(place: Path, source: Source | None, notes: list[str]) -> dict[str, Drawing]:
    """The figures of one table of results."""
    kind = kind_of(place, KINDS)
    if kind == "predictions":
        return _predictions(place, notes)
    if kind == "scores":
        return _agreement({"": _scored(place, source, notes)}, _limits(place), notes, alone="all images")
    if kind == "metrics":
        return {"metrics": _metrics(place)}
    if kind == "epochs":
        return {"training": _training(place)}
    rows = list(iter_rows(place, kind))
    if kind == "comparison":
        return {"comparison": partial(plots.comparison_plot, rows)}
    lines = [_line(row, row["perturbation"], "change") for row in rows]
    return {"stress": lambda paths: plots.forest_plot(lines, paths, "change in MOS, 95% interval", zero=True)}


def _line(row: Row, label: str, value: str) -> dict[str, Any]:
    return {
        "target": row["target"],
        "label": label,
        "value": row[value],
        "low": row["ci_low"],
        "high": row["ci_high"],
    }


def _training(table: Path) -> Drawing:
    rows = list(iter_rows(table, "epochs"))
    run = table.with_name("run.json")
    kept = json.loads(run.read_text(encoding="utf-8")).get("kept_epoch") if run.is_file() else None
    return partial(plots.training_plot, rows, kept)


def _metrics(table: Path) -> Drawing:
    """SROCC of every split and group."""
    rows = [row for row in iter_rows(table, "metrics") if row["metric"] == "srocc"]
    splits = {row["split"] for row in rows}
    lines = []
    for row in rows:
        parts = [row["split"] if len(splits) > 1 or row["group"] == "all" else "", row["group"]]
        lines.append(_line(row, ", ".join(part for part in parts if part and part != "all"), "value"))
    return lambda paths: plots.forest_plot(lines, paths, "SROCC, 95% interval")


def _ablation(place: Path, notes: list[str]) -> dict[str, Drawing]:
    """What the kept trainings of an ablation show; a variant that lacks some has no mean."""
    plan = json.loads((place / PLAN).read_text(encoding="utf-8"))
    kept: dict[str, dict[tuple[int, int], Cell]] = {name: {} for name in plan["variants"]}
    for path in sorted((place / CELLS).glob("*.parquet")):
        variant, cell = read_metadata(path).get("variant", ""), load_cell(path)
        if variant in kept:
            kept[variant][cell.seed, cell.fold] = cell
    wanted = [(seed, fold) for seed in plan["seeds"] for fold in range(plan["folds"])]
    results: dict[str, list[Cell | Failure]] = {
        name: [cells.get(key) or Failure(key[1], key[0], "not trained") for key in wanted]
        for name, cells in kept.items()
    }
    whole = {name: cells for name, cells in results.items() if all(isinstance(cell, Cell) for cell in cells)}
    if not whole:
        raise AigcError(f"Expected a variant with all its trainings in {place}, found none.", "Use ablate --resume.")
    notes += [f"{name}: left out, for not all of its trainings are there." for name in results if name not in whole]
    baseline = [zero_shot(cell) for cell in next(iter(whole.values())) if isinstance(cell, Cell)]
    summaries = summarise({**results, ZERO_SHOT: baseline})
    first = summaries[0].variant
    differences = [
        {"table": one.variant, "baseline": first, "target": target, "group": "all", "difference": found.value}
        | {"ci_low": found.low, "ci_high": found.high}
        for one in summaries[1:]
        for target, found in one.difference.items()
    ]
    drawn: dict[str, Drawing] = {"ablation": partial(plots.ablation_plot, points(summaries))}
    if any(row["difference"] is not None for row in differences):
        drawn["differences"] = partial(plots.comparison_plot, differences, what="paired difference of SROCC")
    if len(whole) > MOST:
        notes.append(f"Agreement and calibration are drawn of the first {MOST} of {len(whole)} variants.")
    if len(plan["seeds"]) > 1:
        notes.append(f"Agreement and calibration are of seed {plan['seeds'][0]}.")
    shown = {name: list(_cell_rows(cells, plan["seeds"][0])) for name, cells in list(whole.items())[:MOST]}
    return drawn | _agreement(shown, None, notes)


def _cell_rows(cells: Sequence[Cell | Failure], seed: int) -> Iterator[dict[str, Any]]:
    for cell in cells:
        if isinstance(cell, Cell) and cell.seed == seed:
            for row, (name, group) in enumerate(zip(cell.names, cell.groups, strict=True)):
                sides = {target: cell.predicted[target][row] for target in TARGETS}
                yield {"name": name, "group": group, **sides} | {
                    f"human_{target}": None if cell.human[target][row] != cell.human[target][row]
                    else cell.human[target][row] for target in TARGETS
                }  # fmt: skip


def _predictions(table: Path, notes: list[str]) -> dict[str, Drawing]:
    rows = list(iter_rows(table, "predictions"))
    if repeated := [row for row in rows if (row.get("repeat") or "0") != "0"]:
        notes.append(f"Drawn of the first repeat; {len(repeated):,} predictions of the others are left out.")
    by_split: dict[str, list[Row]] = {}
    for row in rows:
        if (row.get("repeat") or "0") == "0":
            by_split.setdefault(row.get("split") or "", []).append(row)
    return _agreement(by_split, _limits(table), notes)


def _scored(table: Path, source: Source | None, notes: list[str]) -> list[dict[str, Any]]:
    """The rows of a table of scores with people's: its own columns, or those of `source` joined by name."""
    rows = [{**row, "group": row["prompt"] or row["name"]} for row in iter_rows(table) if row["status"] == "ok"]
    if source is None or source.data is None:
        for row in rows:
            for target, column in TARGETS.items():
                row.setdefault(f"human_{target}", _number(row.get(column)))
        if all(row[f"human_{target}"] is None for row in rows for target in TARGETS):
            raise AigcError(
                f"Expected people's scores beside the model's in {printable(str(table), 200)}, found none.",
                "Name the table that has them: --data ratings.csv",
            )
        return rows
    low, high = _limits(table) or (0.0, 5.0)
    samples = read_ratings(
        source.data,
        source.images or source.data.parent,
        mos_min=low,
        mos_max=high,
        columns=source.columns,
        sep=source.sep,
        without_images=True,
    )
    human = {sample.name: (sample.mos_quality, sample.mos_align) for sample in samples}
    matched = [row for row in rows if row["name"] in human]
    if not matched:
        raise AigcError(
            f"Expected the names of {printable(str(table), 200)} in {source.data}, found none of them.",
            f"There is {printable(rows[0]['name'], 80) if rows else 'no scored row'} in the one, "
            f"{printable(next(iter(human)), 80)} in the other.",
        )
    if len(matched) < len(rows):
        notes.append(f"{len(rows) - len(matched):,} scored images are not in {source.data.name}: left out.")
    return [
        row | {f"human_{target}": mos for target, mos in zip(TARGETS, human[row["name"]], strict=True)}
        for row in matched
    ]


def _number(value: Any) -> float | None:
    """A column that is not ours, which a table of text holds as text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _limits(table: Path) -> tuple[float, float] | None:
    """The range of scores that a table says."""
    try:
        made_by = read_metadata(table)
        return float(made_by["mos_min"]), float(made_by["mos_max"])
    except (AigcError, KeyError, ValueError):
        return None


def _agreement(
    parts: Mapping[str, Sequence[Row]],
    limits: tuple[float, float] | None,
    notes: list[str],
    alone: str = "validation part",
) -> dict[str, Drawing]:
    """Agreement and calibration of each part (a split, a variant) for each target that both sides have.

    Args:
        alone: what the only part is called where it has no name.
    """
    panels: list[list[dict[str, Any]]] = []
    lines: dict[str, dict[str, Any]] = {}
    for label, rows in parts.items():
        found = [panel for target in TARGETS if (panel := _panel(target, label, rows)) is not None]
        if found:
            panels.append(found)
        for panel in found:
            name = label or (alone if len(parts) == 1 else "all")
            lines.setdefault(panel["target"], {})[name] = panel["bins"]
    for target in TARGETS:
        if target not in lines:
            notes.append(f"{target}: left out, for there are no images with both a prediction and people's score.")
    if not panels:
        raise AigcError("Expected images with both a prediction and people's score, found none.", "Check the table.")
    ends = [value for line in panels for panel in line for side in ("predicted", "human") for value in panel[side]]
    span = limits or (min(ends), max(ends))
    for panel in (panel for line in panels for panel in line):
        panel["limits"] = (span[0] - 0.02 * (span[1] - span[0]), span[1] + 0.02 * (span[1] - span[0]))
    calibration = [{"title": target, "lines": found} for target, found in lines.items()]
    return {
        "agreement": partial(plots.agreement_plot, panels),
        "calibration": partial(plots.calibration_plot, calibration),
    }


def _panel(target: str, label: str, rows: Sequence[Row]) -> dict[str, Any] | None:
    both = [row for row in rows if row[target] is not None and row[f"human_{target}"] is not None]
    if not both:
        return None
    predicted, human = ([float(row[key]) for row in both] for key in (target, f"human_{target}"))
    groups = [str(row["group"]) for row in both]
    low, high = ([_number(row.get(f"{target}_{end}")) for row in both] for end in ("low", "high"))
    spans = [(h, a, b) for h, a, b in zip(human, low, high, strict=True) if a is not None and b is not None]
    nothing = float("nan")
    bounds = [[nothing if end is None else end for end in side] for side in (low, high)] if spans else ()
    bins = binned(predicted, human, groups, *bounds)
    srocc = estimate("srocc", predicted, human, groups)
    said = "SROCC " + ("not defined" if srocc.value is None else f"{srocc.value:.3f}")
    said += "" if srocc.low is None else f" [{srocc.low:.3f}, {srocc.high:.3f}]"
    said += f"\n{len(both):,} images, {len(set(groups)):,} prompts"
    if spans:
        said += f"\n{sum(a <= h <= b for h, a, b in spans) / len(spans):.0%} within the predicted interval"
    title = f"{target}, {label}" if label else target
    return {"target": target, "title": title, "note": said, "predicted": predicted, "human": human, "bins": bins}
