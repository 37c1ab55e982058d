"""Draws plots for papers: readable in grey and with colour blindness; the same data gives the same bytes."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aigc_cli.storage.atomic_files import open_atomic

# Colours of Okabe and Ito (https://jfly.uni-koeln.de/color/), dark ones first; in grey, markers and dashes differ.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vP*X<>ph"
_DASHES = ("-", "--", "-.", ":")
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "aigc",  # without it, ids in an SVG are random
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a name must not start a formula
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
_FALLBACK = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "Arial Unicode MS", "PingFang SC", "SimHei")
CLOUD = 1_000  # points; above this an SVG holds them as one picture, because vectors would take megabytes


@contextmanager
def _open_figure(
    paths: Sequence[Path], columns: int, rows: int = 1, *, width: float = 3.5, height: float = 3.3, legend: bool = False
) -> Iterator[Any]:
    """Yields the axes of a figure, [row][column], then writes it to each path in the format of its suffix.

    `legend` puts one legend for all axes below them.
    """
    from cycler import cycler
    from matplotlib import font_manager, rc_context
    from matplotlib.figure import Figure

    known = set(font_manager.get_font_names())
    fonts = ["DejaVu Sans", *(name for name in _FALLBACK if name in known)]
    with rc_context({**_STYLE, "font.family": fonts, "axes.prop_cycle": cycler(color=COLOURS)}):
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        yield figure.subplots(rows, columns, squeeze=False)
        entries = [axis.get_legend_handles_labels() for axis in figure.axes]
        handles = {label: handle for pair in entries for handle, label in zip(*pair, strict=True)}
        if legend and handles:
            across = max(1, int(figure.get_figwidth() / 2.1))
            figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=across)
        for path in paths:
            kind = path.suffix.removeprefix(".")
            undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
            with open_atomic(path, "wb") as stream, warnings.catch_warnings():
                # No installed font has some character: a PNG shows a box, an SVG keeps the text.
                warnings.filterwarnings("ignore", r"Glyph \d+")
                figure.savefig(stream, format=kind, dpi=150, bbox_inches="tight", metadata=undated)


def _choose_style(n: int) -> dict[str, Any]:
    """Colour, marker and dashes of the n-th series."""
    colour, marker, dashes = (looks[n % len(looks)] for looks in (COLOURS, _MARKERS, _DASHES))
    return {"color": colour, "marker": marker, "linestyle": dashes}


def _make_error_bars(*spans: tuple[float, float | None, float | None]) -> list[list[float]]:
    """Lengths below and above each (value, low, high), as `errorbar` takes them; 0 if there is no interval."""
    below = [0.0 if low is None else max(0.0, value - low) for value, low, _ in spans]
    above = [0.0 if high is None else max(0.0, high - value) for value, _, high in spans]
    return [below, above]


def draw_ablation(points: Sequence[Mapping[str, Any]], paths: Sequence[Path]) -> None:
    """Draws mean SROCC of both targets, with intervals, against training time.

    Args:
        points: with variant, target, seconds (of one fold; 0 if untrained), value, low, high (both None: no interval).
    """
    targets = list(dict.fromkeys(point["target"] for point in points))
    names = list(dict.fromkeys(point["variant"] for point in points))
    with _open_figure(paths, max(1, len(targets)), width=4.2, height=3.4, legend=True) as axes:
        for axis, target in zip(axes[0], targets, strict=False):
            for point in (p for p in points if p["target"] == target):
                look = _choose_style(names.index(point["variant"])) | {"linestyle": "none"}
                bars = _make_error_bars((point["value"], point["low"], point["high"]))
                axis.errorbar([point["seconds"]], [point["value"]], bars, capsize=3, label=point["variant"], **look)
            axis.set(title=target, xlabel="training time of one fold (s)", ylabel="SROCC, 95% interval")
            if max(point["seconds"] for point in points) > 1:  # shows seconds and hours on one axis
                axis.set_xscale("symlog", linthresh=1)
                axis.xaxis.set_major_formatter(lambda seconds, _: f"{seconds:g}")
                axis.set_xlim(left=-0.2)
            else:
                axis.set_xlim(-0.1, 1.1)
            axis.grid(alpha=0.25)


def draw_comparison(
    rows: Sequence[Mapping[str, Any]], paths: Sequence[Path], what: str = "difference of means (MOS)"
) -> None:
    """Draws differences with their intervals and a line at 0; one column for each target.

    Args:
        rows: of the comparison table (`storage.schemas`); rows without a difference are left out.
        what: name of the difference, for the axis.
    """
    lines = []
    for row in rows:
        label = f"{row['table']} - {row['baseline']}" + ("" if row["group"] == "all" else f", {row['group']}")
        interval = {"value": row["difference"], "low": row["ci_low"], "high": row["ci_high"]}
        lines.append({"target": row["target"], "label": label, **interval})
    draw_forest(lines, paths, f"{what}, 95% interval", zero=True)


def draw_forest(lines: Sequence[Mapping[str, Any]], paths: Sequence[Path], what: str, *, zero: bool = False) -> None:
    """Draws values and intervals as a forest plot: one line for each label, one column for each target.

    A value without an interval has a hollow marker.

    Args:
        lines: with target, label, value, low, high; lines without a value are left out.
        what: name of the values, for the axis.
        zero: draw a line at 0.
    """
    lines = [line for line in lines if line["value"] is not None]
    targets = list(dict.fromkeys(line["target"] for line in lines))
    labels = list(dict.fromkeys(line["label"] for line in lines))
    columns, height = max(1, len(targets)), 1.4 + 0.3 * len(labels)
    with _open_figure(paths, columns, width=3.4 + 1.5 / columns, height=height) as axes:
        for number, (axis, target) in enumerate(zip(axes[0], targets, strict=False)):
            for line in (line for line in lines if line["target"] == target):
                hollow = {"markerfacecolor": "none"} if line["low"] is None else {}
                bars = _make_error_bars((line["value"], line["low"], line["high"]))
                place = [labels.index(line["label"])]
                axis.errorbar([line["value"]], place, xerr=bars, fmt="o", color=COLOURS[0], capsize=3, **hollow)
            if zero:
                axis.axvline(0, color="0.5", linewidth=1)
            axis.set(title=target.replace("_", " "), xlabel=what)
            shown = [label if len(label) <= 60 else f"{label[:57]}..." for label in labels]
            axis.set_yticks(range(len(labels)), shown if number == 0 else [""] * len(labels))
            axis.set_ylim(len(labels) - 0.5, -0.5)
            axis.grid(alpha=0.25, axis="x")


def draw_training(rows: Sequence[Mapping[str, Any]], kept: int | None, paths: Sequence[Path]) -> None:
    """Draws loss, SROCC and the share of saturated corrections by epoch, for training and validation.

    Args:
        rows: of the epochs table; a missing value is a gap, a panel without any value is left out.
        kept: epoch whose weights were kept; None draws no line.
    """
    panels = {
        "loss": [("loss", "")],
        "SROCC of quality": [("srocc_q", "")],
        "SROCC of consistency": [("srocc_c", "")],
        "share of saturated corrections": [("saturated_q", "quality, "), ("saturated_c", "consistency, ")],
    }
    filled = {key for row in rows for key, value in row.items() if value is not None}
    known = {title: [pair for pair in keys if pair[0] in filled] for title, keys in panels.items()}
    known = {title: keys for title, keys in known.items() if keys}
    across = min(2, max(1, len(known)))
    with _open_figure(paths, across, max(1, -(-len(known) // across)), width=3.8, height=2.7) as axes:
        flat = [axis for line in axes for axis in line]
        for axis, (title, keys) in zip(flat, known.items(), strict=False):
            for number, (key, name) in enumerate(keys):
                for split, dashes in (("train", "-"), ("val", "--")):
                    points = [(row["epoch"], row[key]) for row in rows if row["split"] == split]
                    points = [(epoch, value) for epoch, value in points if value is not None]
                    if not points:
                        continue
                    look = _choose_style(number + (len(keys) == 1 and split == "val")) | {"linestyle": dashes}
                    label = name + {"train": "training", "val": "validation"}[split]
                    axis.plot(*zip(*points, strict=True), label=label, markersize=3, **look)
            if kept is not None:
                axis.axvline(kept, color="0.5", linewidth=1, linestyle=":", label="weights kept")
            axis.set(title=title, xlabel="epoch")
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.grid(alpha=0.25)
            axis.legend(fontsize=7, handlelength=3.5)  # long enough to show dashes
        for axis in flat[len(known) :]:
            axis.set_axis_off()


def draw_agreement(panels: Sequence[Sequence[Mapping[str, Any]]], paths: Sequence[Path]) -> None:
    """Draws human against predicted scores: one dot for each image, and the means of bins with their intervals.

    Args:
        panels: rows of panels. A panel has title, note (text below the title), predicted and human (n,), bins
            (of `metrics.bins`) and limits (low, high) of both axes.
    """
    with _open_figure(paths, max(map(len, panels)), len(panels), height=4.0, legend=True) as axes:
        many = sum(len(panel["predicted"]) for found in panels for panel in found) > CLOUD
        for line, found in zip(axes, panels, strict=True):
            for axis, panel in zip(line, found, strict=False):
                _draw_cloud(axis, panel, many)
            for axis in line[len(found) :]:
                axis.set_axis_off()


def _draw_cloud(axis: Any, panel: Mapping[str, Any], as_pixels: bool) -> None:
    bins, count = panel["bins"], len(panel["predicted"])
    spans = [one for one in bins if one.low is not None]
    if spans:
        ends = [[one.predicted for one in spans], [one.low for one in spans], [one.high for one in spans]]
        if len(spans) > 1:
            axis.fill_between(*ends, color="0.88", linewidth=0, label="predicted interval")
        else:
            axis.vlines(*ends, color="0.8", linewidth=6, label="predicted interval")
    axis.plot(panel["limits"], panel["limits"], color="0.4", linewidth=1, linestyle=":", label="human = predicted")
    size, alpha = (14, 0.6) if count <= 200 else (6, 0.35)
    axis.scatter(
        panel["predicted"], panel["human"], s=size, alpha=alpha, color=COLOURS[0], linewidths=0,
        rasterized=as_pixels, label="image",
    )  # fmt: skip
    look = {"color": COLOURS[1], "marker": "s", "linestyle": "none"}
    _draw_bins(axis, bins, [one.human.value for one in bins], label="mean of a bin, 95% interval", **look)
    axis.set_title(f"{panel['title']}\n{panel['note']}", fontsize=8)
    axis.set(xlabel="predicted (MOS)", ylabel="human score (MOS)")
    axis.set(xlim=panel["limits"], ylim=panel["limits"], aspect="equal", anchor="N")
    axis.set_xticks([tick for tick in axis.get_yticks() if panel["limits"][0] <= tick <= panel["limits"][1]])
    axis.grid(alpha=0.25)


def _draw_bins(axis: Any, bins: Sequence[Any], values: Sequence[float], **look: Any) -> None:
    """Draws one value for each bin with the interval of the human mean, where there is one."""
    bars = _make_error_bars(*((one.human.value, one.human.low, one.human.high) for one in bins))
    axis.errorbar([one.predicted for one in bins], values, bars, capsize=2, markersize=4, linewidth=1.2, **look)


def draw_calibration(panels: Sequence[Mapping[str, Any]], paths: Sequence[Path]) -> None:
    """Draws human mean score minus predicted score for each bin; at 0 predictions agree with people on average.

    Args:
        panels: with title, and lines: {label: bins of `metrics.bins`}.
    """
    with _open_figure(paths, len(panels), width=3.8, legend=True) as axes:
        for axis, panel in zip(axes[0], panels, strict=True):
            axis.axhline(0, color="0.4", linewidth=1, linestyle=":", label="human = predicted")
            for number, (label, bins) in enumerate(panel["lines"].items()):
                off = [one.human.value - one.predicted for one in bins]
                _draw_bins(axis, bins, off, label=label, **_choose_style(number))
            axis.set(title=panel["title"], xlabel="predicted (MOS)", ylabel="human mean - predicted (MOS)")
            axis.grid(alpha=0.25)
