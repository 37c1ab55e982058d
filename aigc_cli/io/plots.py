"""Plots for papers and pages, drawn off screen."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aigc_cli.io.files import whole_file

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "aigc",  # so that the same plot has the same bytes
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_MARKERS = "osD^vP*X<>ph"


def save_figure(figure: Any, paths: Sequence[Path]) -> None:
    """Writes a Matplotlib figure whole, in the format of each path's suffix; the same figure gives the same bytes."""
    for path in paths:
        kind = path.suffix.removeprefix(".")
        with whole_file(path, "wb") as stream:
            nameless = {"Date": None} if kind in ("svg", "pdf") else {}
            figure.savefig(stream, format=kind, dpi=150, bbox_inches="tight", metadata=nameless)


def ablation_plot(points: Sequence[Mapping[str, Any]], paths: Sequence[Path]) -> None:
    """Mean SROCC of both targets, with intervals, against training time.

    Args:
        points: variant, target, seconds (of one fold; 0 for what is not trained), value, low and high (or None).
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    targets = list(dict.fromkeys(point["target"] for point in points))
    names = list(dict.fromkeys(point["variant"] for point in points))
    with rc_context(_STYLE):
        figure = Figure(figsize=(4.2 * max(1, len(targets)), 3.4), layout="constrained")
        for axis, target in zip(figure.subplots(1, max(1, len(targets)), squeeze=False)[0], targets, strict=False):
            for point in (p for p in points if p["target"] == target):
                which = names.index(point["variant"])
                low, high = (point["value"] if point[k] is None else point[k] for k in ("low", "high"))
                bars = [[max(0.0, point["value"] - low)], [max(0.0, high - point["value"])]]
                marker, colour = _MARKERS[which % len(_MARKERS)], f"C{which % 10}"
                axis.errorbar(
                    [point["seconds"]], [point["value"]], bars, fmt=marker, color=colour, capsize=3,
                    label=point["variant"],
                )  # fmt: skip
            axis.set(title=target, xlabel="training time of one fold (s)", ylabel="SROCC, 95% interval")
            axis.set_xscale("symlog", linthresh=1)
            axis.set_xlim(left=-0.2)
            axis.grid(alpha=0.25)
        handles: dict[str, Any] = {}
        for axis in figure.axes:
            handles |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
        if handles:
            figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, frameon=False)
        save_figure(figure, paths)


def comparison_plot(rows: Sequence[Mapping[str, Any]], paths: Sequence[Path]) -> None:
    """Differences of means with their intervals beside zero, both targets side by side.

    Args:
        rows: of the comparison table, see `results.SCHEMAS`; those without a difference are left out.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows = [row for row in rows if row["difference"] is not None]
    targets = list(dict.fromkeys(row["target"] for row in rows))
    labels = list(dict.fromkeys(_comparison_label(row) for row in rows))
    with rc_context(_STYLE):
        figure = Figure(figsize=(1.5 + 3.4 * max(1, len(targets)), 1.4 + 0.3 * len(labels)), layout="constrained")
        axes = figure.subplots(1, max(1, len(targets)), squeeze=False, sharey=True)[0]
        for axis, target in zip(axes, targets, strict=False):
            for row in (row for row in rows if row["target"] == target):
                value, height = row["difference"], labels.index(_comparison_label(row))
                low, high = (value if row[end] is None else row[end] for end in ("ci_low", "ci_high"))
                bars = [[max(0.0, value - low)], [max(0.0, high - value)]]
                hollow = {"markerfacecolor": "none"} if row["ci_low"] is None else {}  # no interval
                axis.errorbar([value], [height], xerr=bars, fmt="o", color="C0", capsize=3, **hollow)
            axis.axvline(0, color="0.5", linewidth=1)
            axis.set(title=target, xlabel="difference of means (MOS), 95% interval")
            axis.set_yticks(range(len(labels)), labels)
            axis.set_ylim(len(labels) - 0.5, -0.5)
            axis.grid(alpha=0.25, axis="x")
        save_figure(figure, paths)


def _comparison_label(row: Mapping[str, Any]) -> str:
    """`B - A`, and of which images; a dollar sign is text here, not mathematics."""
    text = f"{row['table']} - {row['baseline']}" + ("" if row["group"] == "all" else f", {row['group']}")
    return (text if len(text) <= 60 else f"{text[:57]}...").replace("$", r"\$")
