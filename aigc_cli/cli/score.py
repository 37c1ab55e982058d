"""What `aigc score` shows at its end: how the scores are spread, and the best and worst images."""

import sys
from pathlib import Path
from typing import Any

from aigc_cli.cli.console import number, print_table, print_text
from aigc_cli.text import counted, printable

BAR = 24
PROMPT = 20  # characters of a prompt, where the names leave as many
ROOM = 42  # of 80 columns, for name and prompt beside two scores with their intervals


def show_scores(summary: Any) -> None:
    """Both histograms, the best rows, then the worst ones that are not among them."""
    for line in histograms(summary.histograms, summary.scale, _full()):
        print(line)
    among = {row["name"] for row in summary.best}
    rows = summary.best + [row for row in summary.worst[::-1] if row["name"] not in among]
    left = min(PROMPT, max(10, ROOM - max((len(printable(row["name"])) for row in rows), default=0)))
    cells = [
        [_linked(row), _barred(row, "quality"), _barred(row, "consistency"), _short(row["prompt"], left)]
        for row in rows
    ]
    barred = any(row.get("quality_low") is not None for row in rows)
    title = "Best and worst by quality" + ", with 90% intervals" * barred
    print_table(title, ("image", "quality", "consistency", "prompt"), cells, texts=("image", "prompt"))
    means = ", ".join(f"mean {name} {number(mean, '.2f')}" for name, mean in summary.means.items())
    if summary.unusual:
        print_text(
            f"Farther from the training images than 95% of those (out_of_domain > 0.95): "
            f"{counted(summary.unusual, 'image')}. Take such scores, and their intervals, with care."
        )
    print_text(f"{counted(summary.rows, 'image')}, {summary.failed:,} failed, {means}; scores in {summary.output}")


def _barred(row: dict[str, Any], target: str) -> str:
    """`3.41 [2.6, 4.2]`; without the interval where there is none."""
    low, high = row.get(f"{target}_low"), row.get(f"{target}_high")
    return number(row[target], ".2f") + ("" if low is None else f" [{low:.1f}, {high:.1f}]")


def histograms(counts: dict[str, list[int]], scale: tuple[float, float], full: str) -> list[str]:
    """Bars side by side, high scores first, from the highest part of the scale that holds a score to the lowest.

    Args:
        counts: {score: rows in each of equal parts of the scale}.
        full: what bars are made of.
    """
    drawn = {name: bins for name, bins in counts.items() if any(bins)}
    filled = [index for bins in drawn.values() for index, count in enumerate(bins) if count]
    if not filled:
        return []
    step = (scale[1] - scale[0]) / len(next(iter(drawn.values())))
    lines = [" " * 13 + "".join(f"{name:<{BAR + 9}}" for name in drawn).rstrip()]
    for index in range(max(filled), min(filled) - 1, -1):
        line = f"{scale[0] + index * step:4.3g} - {scale[0] + (index + 1) * step:<4.3g}  "
        for bins in drawn.values():
            length = round(BAR * bins[index] / max(bins)) or int(bins[index] > 0)
            line += f"{full * length + f' {bins[index]}' if bins[index] else '':<{BAR + 9}}"
        lines.append(line.rstrip())
    return [*lines, ""]


def _full() -> str:
    """A block where standard output can show one."""
    return "█" if (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf") else "#"


def _linked(row: dict[str, Any]) -> Any:
    """The image's name; on a terminal a click opens the file."""
    from rich.style import Style
    from rich.text import Text

    place = Path(row["path"]).absolute().as_uri() if row["path"] else None
    return Text(printable(row["name"]), style=Style(link=place))


def _short(text: str | None, width: int) -> str:
    """Its beginning, of `width` columns: a Chinese character takes two of them."""
    from rich.cells import cell_len, set_cell_size

    if text is None:
        return "-"
    shown = printable(text[: 4 * width])
    return shown if cell_len(shown) <= width else set_cell_size(shown, width - 3).rstrip() + "..."
