"""Plots for papers, drawn off screen: readable in grey and by colour-blind eyes, the same bytes every time."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aigc_cli.storage.files import whole_file

# Okabe and Ito's colours, dark ones first (https://jfly.uni-koeln.de/color/); in grey, markers and dashes tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vP*X<>ph"
_DASHES = ("-", "--", "-.", ":")
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "aigc",  # so that the same plot has the same bytes
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a name is text
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
_FALLBACK = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "Arial Unicode MS", "PingFang SC", "SimHei")
CLOUD = 1_000  # points; more are drawn as pixels also in an SVG, which would take megabytes


@contextmanager
def _drawing(columns: int, rows: int = 1, *, width: float = 3.5, height: float = 3.3) -> Iterator[tuple[Any, Any]]:
    """A figure in our style and its axes [row][column]."""
    from cycler import cycler
    from matplotlib import font_manager, rc_context
    from matplotlib.figure import Figure

    known = set(font_manager.get_font_names())
    fonts = ["DejaVu Sans", *(name for name in _FALLBACK if name in known)]
    with rc_context({**_STYLE, "font.family": fonts, "axes.prop_cycle": cycler(color=COLOURS)}):
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        yield figure, figure.subplots(rows, columns, squeeze=False)


def save_figure(figure: Any, paths: Sequence[Path]) -> None:
    """Writes a Matplotlib figure whole, in the format of each path's suffix; the same figure gives the same bytes."""
    for path in paths:
        kind = path.suffix.removeprefix(".")
        with whole_file(path, "wb") as stream, warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph \d+")  # no font here has it: a box in a PNG, text in an SVG
            undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
            figure.savefig(stream, format=kind, dpi=150, bbox_inches="tight", metadata=undated)


def _look(number: int) -> dict[str, Any]:
    """Colour, marker and dashes of the so manieth thing."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "linestyle": _DASHES[number % len(_DASHES)],
    }


def _bars(value: float, low: float | None, high: float | None) -> list[list[float]]:
    """What errorbar takes; no interval is one of no length."""
    return [[max(0.0, value - (value if low is None else low))], [max(0.0, (value if high is None else high) - value)]]


def _shared_legend(figure: Any) -> None:
    """One legend of all axes under them."""
    handles: dict[str, Any] = {}
    for axis in figure.axes:
        handles |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    if handles:
        columns = max(1, int(figure.get_figwidth() / 2.1))
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns)


def ablation_plot(points: Sequence[Mapping[str, Any]], paths: Sequence[Path]) -> None:
    """Mean SROCC of both targets, with intervals, against training time.

    Args:
        points: variant, target, seconds (of one fold; 0 for what is not trained), value, low and high (or None).
    """
    targets = list(dict.fromkeys(point["target"] for point in points))
    names = list(dict.fromkeys(point["variant"] for point in points))
    with _drawing(max(1, len(targets)), width=4.2, height=3.4) as (figure, axes):
        for axis, target in zip(axes[0], targets, strict=False):
            for point in (p for p in points if p["target"] == target):
                look = _look(names.index(point["variant"])) | {"linestyle": "none"}
                bars = _bars(point["value"], point["low"], point["high"])
                axis.errorbar([point["seconds"]], [point["value"]], bars, capsize=3, label=point["variant"], **look)
            axis.set(title=target, xlabel="training time of one fold (s)", ylabel="SROCC, 95% interval")
            if max(point["seconds"] for point in points) > 1:  # from nothing to hours, on one axis
                axis.set_xscale("symlog", linthresh=1)
                axis.xaxis.set_major_formatter(lambda seconds, _: f"{seconds:g}")
                axis.set_xlim(left=-0.2)
            else:
                axis.set_xlim(-0.1, 1.1)
            axis.grid(alpha=0.25)
        _shared_legend(figure)
        save_figure(figure, paths)


def comparison_plot(
    rows: Sequence[Mapping[str, Any]], paths: Sequence[Path], what: str = "difference of means (MOS)"
) -> None:
    """Differences with their intervals beside zero, both targets side by side.

    Args:
        rows: of the comparison table, see `results.SCHEMAS`; those without a difference are left out.
        what: is different.
    """
    lines = [
        {
            "target": row["target"],
            "label": f"{row['table']} - {row['baseline']}" + ("" if row["group"] == "all" else f", {row['group']}"),
            "value": row["difference"],
            "low": row["ci_low"],
            "high": row["ci_high"],
        }
        for row in rows
    ]
    forest_plot(lines, paths, f"{what}, 95% interval", zero=True)


def forest_plot(lines: Sequence[Mapping[str, Any]], paths: Sequence[Path], what: str, *, zero: bool = False) -> None:
    """Values with their intervals one below the other, a column for each target; hollow where there is no interval.

    Args:
        lines: target, label, value, low, high; those without a value are left out.
        what: the values are, for the axis.
        zero: draw a line there.
    """
    lines = [line for line in lines if line["value"] is not None]
    targets = list(dict.fromkeys(line["target"] for line in lines))
    labels = list(dict.fromkeys(line["label"] for line in lines))
    height = 1.4 + 0.3 * len(labels)
    with _drawing(max(1, len(targets)), width=3.4 + 1.5 / max(1, len(targets)), height=height) as (figure, axes):
        for number, (axis, target) in enumerate(zip(axes[0], targets, strict=False)):
            for line in (line for line in lines if line["target"] == target):
                hollow = {"markerfacecolor": "none"} if line["low"] is None else {}
                bars = _bars(line["value"], line["low"], line["high"])
                place = [labels.index(line["label"])]
                axis.errorbar([line["value"]], place, xerr=bars, fmt="o", color=COLOURS[0], capsize=3, **hollow)
            if zero:
                axis.axvline(0, color="0.5", linewidth=1)
            axis.set(title=target.replace("_", " "), xlabel=what)
            shown = [label if len(label) <= 60 else f"{label[:57]}..." for label in labels]
            axis.set_yticks(range(len(labels)), shown if number == 0 else [""] * len(labels))
            axis.set_ylim(len(labels) - 0.5, -0.5)
            axis.grid(alpha=0.25, axis="x")
        save_figure(figure, paths)


def training_plot(rows: Sequence[Mapping[str, Any]], kept: int | None, paths: Sequence[Path]) -> None:
    """Loss, SROCC of both targets and the share of saturated corrections, epoch by epoch, of both parts.

    Args:
        rows: of the epochs table; what a row lacks is a gap, and a panel that nothing is known of is left out.
        kept: the epoch whose weights were kept.
    """
    panels = {
        "loss": [("loss", "")],
        "SROCC of quality": [("srocc_q", "")],
        "SROCC of consistency": [("srocc_c", "")],
        "share of saturated corrections": [("saturated_q", "quality, "), ("saturated_c", "consistency, ")],
    }
    known = {
        title: [(key, name) for key, name in keys if any(row[key] is not None for row in rows)]
        for title, keys in panels.items()
    }
    known = {title: keys for title, keys in known.items() if keys}
    across = min(2, max(1, len(known)))
    with _drawing(across, max(1, -(-len(known) // across)), width=3.8, height=2.7) as (figure, axes):
        flat = [axis for line in axes for axis in line]
        for axis, (title, keys) in zip(flat, known.items(), strict=False):
            for number, (key, name) in enumerate(keys):
                for split, dashes in (("train", "-"), ("val", "--")):
                    points = [(row["epoch"], row[key]) for row in rows if row["split"] == split]
                    points = [(epoch, value) for epoch, value in points if value is not None]
                    if not points:
                        continue
                    look = _look(number + (len(keys) == 1 and split == "val")) | {"linestyle": dashes}
                    label = name + {"train": "training", "val": "validation"}[split]
                    axis.plot(*zip(*points, strict=True), label=label, markersize=3, **look)
            if kept is not None:
                axis.axvline(kept, color="0.5", linewidth=1, linestyle=":", label="weights kept")
            axis.set(title=title, xlabel="epoch")
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.grid(alpha=0.25)
            axis.legend(fontsize=7)
        for axis in flat[len(known) :]:
            axis.set_axis_off()
        save_figure(figure, paths)


def agreement_plot(panels: Sequence[Sequence[Mapping[str, Any]]], paths: Sequence[Path]) -> None:
    """People's scores against predicted ones, every image a dot, with the means of bins and their intervals.

    Args:
        panels: rows of panels, each panel: title, note (lines under it), predicted and human (n,), low and high (n,) or
            None (ends of each image's predicted interval), bins (of `core.bins`), and limits, the range of both axes.
    """
    with _drawing(max(map(len, panels)), len(panels), height=4.0) as (figure, axes):
        many = sum(len(panel["predicted"]) for found in panels for panel in found) > CLOUD
        for line, found in zip(axes, panels, strict=True):
            for axis, panel in zip(line, found, strict=False):
                _cloud(axis, panel, many)
            for axis in line[len(found) :]:
                axis.set_axis_off()
        _shared_legend(figure)
        save_figure(figure, paths)


def _cloud(axis: Any, panel: Mapping[str, Any], as_pixels: bool) -> None:
    bins, count = panel["bins"], len(panel["predicted"])
    spans = [one for one in bins if one.low is not None]
    if spans:
        ends = [[one.predicted for one in spans], [one.low for one in spans], [one.high for one in spans]]
        if len(spans) > 1:
            axis.fill_between(*ends, color="0.88", linewidth=0, label="predicted interval")
        else:
            axis.vlines(*ends, color="0.8", linewidth=6, label="predicted interval")
    axis.plot(panel["limits"], panel["limits"], color="0.4", linewidth=1, linestyle=":", label="as predicted")
    size, alpha = (14, 0.6) if count <= 200 else (6, 0.35)
    axis.scatter(
        panel["predicted"], panel["human"], s=size, alpha=alpha, color=COLOURS[0], linewidths=0,
        rasterized=as_pixels, label="image",
    )  # fmt: skip
    look = {"color": COLOURS[1], "marker": "s", "linestyle": "none"}
    _binned(axis, bins, [one.human.value for one in bins], label="mean of a bin, 95% interval", **look)
    axis.set_title(f"{panel['title']}\n{panel['note']}", fontsize=8)
    axis.set(xlabel="predicted (MOS)", ylabel="people's score (MOS)")
    axis.set(xlim=panel["limits"], ylim=panel["limits"], aspect="equal")
    axis.set_xticks([tick for tick in axis.get_yticks() if panel["limits"][0] <= tick <= panel["limits"][1]])
    axis.grid(alpha=0.25)


def _binned(axis: Any, bins: Sequence[Any], values: Sequence[float], **look: Any) -> None:
    """A value of each bin with the interval of people's mean; one without an interval is bare."""
    bars = [_bars(one.human.value, one.human.low, one.human.high) for one in bins]
    lengths = [[bar[side][0] for bar in bars] for side in (0, 1)]
    axis.errorbar([one.predicted for one in bins], values, lengths, capsize=2, markersize=4, linewidth=1.2, **look)


def calibration_plot(panels: Sequence[Mapping[str, Any]], paths: Sequence[Path]) -> None:
    """People's mean score less the predicted one, bin by bin; on the line at 0 a prediction means what it says.

    Args:
        panels: title, and lines: {label: bins of `core.bins`}.
    """
    with _drawing(len(panels), width=3.8) as (figure, axes):
        for axis, panel in zip(axes[0], panels, strict=True):
            axis.axhline(0, color="0.4", linewidth=1, linestyle=":", label="as predicted")
            for number, (label, bins) in enumerate(panel["lines"].items()):
                off = [one.human.value - one.predicted for one in bins]
                _binned(axis, bins, off, label=label, **_look(number))
            axis.set(title=panel["title"], xlabel="predicted (MOS)", ylabel="people's mean - predicted (MOS)")
            axis.grid(alpha=0.25)
        _shared_legend(figure)
        save_figure(figure, paths)
