"""What appears on the terminal: bars and notes on stderr, results on stdout."""

import contextlib
import json
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from aigc_cli.text import printable


class Terminal:
    """Shows progress on stderr: bars when it is a terminal, one line for each task otherwise."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self._bars: Any = None
        self._task: Any = None
        self._label = ""

    def start(self, task: str, total: int | None) -> None:
        if self.quiet:
            return
        self._label = task
        self._begun, self._done = time.monotonic(), 0
        if self._bars is not None:
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._task = self._bars.add_task(task, total=total, note="", rate="")
        else:
            print(f"{task}: {total}" if total is not None else task, file=sys.stderr)

    def advance(self, steps: int = 1, note: str = "") -> None:
        if self.quiet:
            return
        self._done += steps
        if self._bars is not None:
            rate = self._done / max(1e-9, time.monotonic() - self._begun)
            update = {"note": printable(note)} if note else {}
            self._bars.update(self._task, advance=steps, rate=f"{rate:.0f}/s", **update)
        elif note:
            print(printable(note), file=sys.stderr)

    def say(self, message: str) -> None:
        if self.quiet:
            return
        if self._bars is not None:
            self._bars.console.print(printable(message))
        else:
            print(printable(message), file=sys.stderr)


@contextlib.contextmanager
def terminal(quiet: bool) -> Iterator[Terminal]:
    """A `Terminal` for the length of a command."""
    shown = Terminal(quiet)
    if quiet or not sys.stderr.isatty():
        yield shown
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=_console(stderr=True), transient=True) as bars:
        shown._bars = bars
        yield shown


def _console(stderr: bool = False) -> Any:
    """Rich's, taking no text for markup or for the name of an emoji."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def print_text(text: str) -> None:
    """Sentences on stdout: broken between words on a terminal, a line in a pipe."""
    _console().print(printable(text), soft_wrap=not sys.stdout.isatty())


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], texts: Collection[str] | None = None
) -> None:
    """A table on stdout, plain in a pipe; no text in it is ever taken for markup, a cell that is Rich's stays so.

    Args:
        texts: The columns that hold words: left-aligned, and folded before a number is. Default: the first.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    texts = columns[:1] if texts is None else texts
    table = Table(
        title=printable(title) or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False, collapse_padding=True
    )
    for column in columns:
        words = column in texts
        table.add_column(printable(column), justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for row in rows:
        table.add_row(*[cell if isinstance(cell, Text) else Text(printable(cell), no_wrap=False) for cell in row])
    _console().print(table)


def print_json(value: Any) -> None:
    """JSON on stdout; null where a number is not defined."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def number(value: float | None, form: str = "z.3f") -> str:
    """A number, or a dash for one that is not defined."""
    return "-" if value is None else f"{value:{form}}"


METRIC_LABELS = {
    "srocc": "SROCC",
    "plcc": "PLCC",
    "plcc_logistic": "PLCC, logistic",
    "krocc": "KROCC",
    "pairwise": "pairs in order",
    "rmse": "RMSE (MOS)",
    "best_of_n": "best of prompt",
    "best_of_n_chance": "  by chance",
    "regret": "  regret (MOS)",
    "within_srocc": "SROCC in prompt",
    "within_pairwise": "pairs in prompt",
    "coverage90": "in 90% interval",
    "width90": "  its width (MOS)",
}
SPLIT_TITLES = {
    "unseen": "Unseen prompts",
    "val": "Prompts of the validation part",
    "train": "Prompts seen in training",
}


def print_metrics(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """For each split every metric of the whole, a column for each target, then the SROCC of each group."""
    print(printable(title))
    for split in dict.fromkeys(row["split"] for row in rows):
        of_split = [row for row in rows if row["split"] == split]
        whole = [row for row in of_split if row["group"] == "all"]
        _print_whole(SPLIT_TITLES.get(split, split), whole)
        if groups := [row for row in of_split if row["group"] != "all" and row["metric"] == "srocc"]:
            cells = [[row["group"], _target(row), _valued(row), str(row["n"])] for row in groups]
            print_table("By group", ("group", "target", "SROCC [95%]", "n"), cells, texts=("group", "target"))


def _print_whole(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    of = {(row["metric"], _target(row)): row for row in rows}
    targets = list(dict.fromkeys(_target(row) for row in rows))
    cells = [
        [label, *(_valued(of[metric, target]) if (metric, target) in of else "" for target in targets)]
        for metric, label in METRIC_LABELS.items()
        if any((metric, target) in of for target in targets)
    ]
    for metric, label in (("srocc", "images"), ("best_of_n", "prompts")):
        if any((metric, target) in of for target in targets):
            cells.append([label, *(str(of[metric, t]["n"]) if (metric, t) in of else "" for t in targets)])
    print_table(title, ("", *targets), cells)
    for target in targets:
        reasons: dict[str, list[str]] = {}
        for metric, label in METRIC_LABELS.items():
            if reason := of.get((metric, target), {}).get("reason"):
                reasons.setdefault(reason, []).append(label.strip())
        for reason, labels in reasons.items():
            which = "" if len(labels) == sum(t == target for _, t in of) else f", {', '.join(labels)}"
            print(f"  {target}{which}: {reason}")


def _target(row: Mapping[str, Any]) -> str:
    return str(row["target"]).replace("_", " ")


def _valued(row: Mapping[str, Any]) -> str:
    """`0.812 [0.79, 0.83]`, or a dash."""
    span = "" if row["ci_low"] is None else f" [{row['ci_low']:z.2f}, {row['ci_high']:z.2f}]"
    return number(row["value"]) + span
