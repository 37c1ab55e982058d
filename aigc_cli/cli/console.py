"""What appears on the terminal: bars and notes on stderr, results on stdout."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aigc_cli.io.text import printable


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
            self._bars.console.print(printable(message), markup=False, highlight=False)
        else:
            print(printable(message), file=sys.stderr)


@contextlib.contextmanager
def terminal(quiet: bool) -> Iterator[Terminal]:
    """A `Terminal` for the length of a command."""
    shown = Terminal(quiet)
    if quiet or not sys.stderr.isatty():
        yield shown
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        shown._bars = bars
        yield shown


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout, plain in a pipe; the text of its cells is never taken for markup."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*[Text(printable(cell)) for cell in row])
    Console(markup=False, highlight=False).print(table)


def print_json(value: Any) -> None:
    """JSON on stdout; null where a number is not defined."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def number(value: float | None, form: str = ".3f") -> str:
    """A number, or a dash for one that is not defined."""
    return "-" if value is None else f"{value:{form}}"


def metric_cells(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[list[str]]:
    """Rows of the metrics table as cells: one line for each split, group and target, with these columns of it."""
    lines: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in rows:
        key = {"split": row["split"], "group": row["group"], "target": row["target"].replace("_", " ")}
        line = lines.setdefault(tuple(key.values()), {**key, "n": str(row["n"])})
        span = "" if row["ci_low"] is None else f" [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"
        line[row["metric"]] = number(row["value"]) + (span if row["metric"] == "srocc" else "")
    return [[line.get(column, "-") for column in columns] for line in lines.values()]
