"""Terminal output: progress bars and notes on stderr, results on stdout."""

import contextlib
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aigc_cli.errors import AigcError
from aigc_cli.report.numbers import format_interval
from aigc_cli.text import to_printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID
    from rich.text import Text


class Terminal:
    """Shows progress on stderr: bars on a terminal, otherwise one line per task.

    Args:
        quiet: whether to show nothing.
        bars: Rich's progress bars; None prints lines.
    """

    def __init__(self, quiet: bool, bars: "RichProgress | None" = None) -> None:
        self.quiet = quiet
        self._bars = bars
        self._task: TaskID | None = None
        self._begun, self._done = time.monotonic(), 0

    def start(self, task: str, total: int | None) -> None:
        if self.quiet:
            return
        self._begun, self._done, task = time.monotonic(), 0, to_printable(task)
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
        if self._bars is not None and self._task is not None:
            rate = self._done / max(1e-9, time.monotonic() - self._begun)
            self._bars.update(self._task, advance=steps, rate=f"{rate:.0f}/s")
            if note:
                self._bars.update(self._task, note=to_printable(note))
        elif note:
            print(to_printable(note), file=sys.stderr)

    def say(self, message: str) -> None:
        if self.quiet:
            return
        if self._bars is not None:
            self._bars.console.print(to_printable(message))
        else:
            print(to_printable(message), file=sys.stderr)


@contextlib.contextmanager
def show_progress(quiet: bool) -> Iterator[Terminal]:
    """A `Terminal` that lasts as long as a command."""
    if quiet or not sys.stderr.isatty():
        yield Terminal(quiet)
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
    with Progress(*columns, console=_make_console(stderr=True), transient=True) as bars:
        yield Terminal(quiet, bars)


def _make_console(stderr: bool = False) -> "Console":
    """Rich's console, with markup and names of emoji switched off: prompts and file names are shown as they are."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def print_text(text: str) -> None:
    """Prints sentences on stdout: wrapped on a terminal, one line in a pipe."""
    _make_console().print(to_printable(text), soft_wrap=not sys.stdout.isatty())


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence["str | Text"]], texts: Collection[str] | None = None
) -> None:
    """Prints a table on stdout, without colours in a pipe.

    Args:
        rows: cells; markup in a string is shown as text, Rich's `Text` keeps its style.
        texts: columns of words: left-aligned, and wrapped before columns of numbers are. Default: the first.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    texts = columns[:1] if texts is None else texts
    table = Table(
        title=to_printable(title) or None,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )
    for column in columns:
        words = column in texts
        table.add_column(to_printable(column), justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for row in rows:
        table.add_row(*[cell if isinstance(cell, Text) else Text(to_printable(cell), no_wrap=False) for cell in row])
    _make_console().print(table)


def confirm(question: str) -> bool:
    """Asks on a terminal whether to go on; in a script, where nobody can answer, it goes on and returns False.

    Raises:
        AigcError: the answer is not yes.
    """
    if sys.stdin is None or sys.stderr is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print(f"{to_printable(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise AigcError("Nothing was changed.", "Answer y to go on, or add --yes.")
    return True


def print_json(value: object) -> None:
    """Prints JSON on stdout; an undefined number is null."""
    import json

    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


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
    "choices": "choices foreseen",
    "choices_close": "  the closer half",
    "choices_clear": "  the clearer half",
    "choices_raters": "  by another rater",
    "ties": "ties",
    "coverage90": "in 90% interval",
    "width90": "  its width (MOS)",
}
SPLIT_TITLES = {
    "unseen": "Unseen prompts",
    "val": "Prompts of the validation part",
    "train": "Prompts seen in training",
}


def print_metrics(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints the metrics of each split, with a column for each target, then the SROCC of each group."""
    print(to_printable(title))
    for split in dict.fromkeys(row["split"] for row in rows):
        of_split = [row for row in rows if row["split"] == split]
        whole = [row for row in of_split if row["group"] == "all"]
        _print_split(SPLIT_TITLES.get(split, split), whole)
        if groups := [row for row in of_split if row["group"] != "all" and row["metric"] == "srocc"]:
            cells = [[row["group"], _name_target(row), _format_metric(row), str(row["n"])] for row in groups]
            print_table("By group", ("group", "target", "SROCC [95%]", "n"), cells, texts=("group", "target"))


def _print_split(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    of = {(row["metric"], _name_target(row)): row for row in rows}
    targets = list(dict.fromkeys(_name_target(row) for row in rows))
    cells = [
        [label, *(_format_metric(of[metric, target]) if (metric, target) in of else "" for target in targets)]
        for metric, label in METRIC_LABELS.items()
        if any((metric, target) in of for target in targets)
    ]
    for metric, label in (("srocc", "images"), ("best_of_n", "prompts"), ("choices", "decided choices")):
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


def _name_target(row: Mapping[str, Any]) -> str:
    return str(row["target"]).replace("_", " ")


def _format_metric(row: Mapping[str, Any]) -> str:
    """`0.812 [0.79, 0.83]`, or a dash."""
    return format_interval(row["value"], row["ci_low"], row["ci_high"], "z.3f", "z.2f")
