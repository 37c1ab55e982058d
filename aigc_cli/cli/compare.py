"""`aigc compare`: tests which of several sets of images scores higher."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from aigc_cli.cli import options
from aigc_cli.cli.console import print_table, print_text, show_progress
from aigc_cli.cli.options import OUTPUT, make_option, make_path
from aigc_cli.cli.streams import STREAM, receive_table, send_tables
from aigc_cli.report.numbers import format_interval, format_number

if TYPE_CHECKING:
    from aigc_cli.workflows.compare import Comparison

COMPARISON = "Comparison"


def compare(
    *,
    tables: list[Path] = typer.Argument(
        metavar="TABLE", help="Tables of `aigc score` or folders of images; the first is the baseline."
    ),
    by: str | None = make_option(COMPARISON, "Also compare the rows of each value of this column"),
    pair: str = make_option(
        COMPARISON, "Pair by image, prompt or auto: by image if all tables hold the same images", default="auto"
    ),
    scoring: options.ScoringOptions,
    output: Path | None = options.TABLE_OUTPUT,
    plot: Path | None = make_path(OUTPUT, "Figure of the differences (.png .svg)"),
    page: options.PageOptions,
    overwrite: bool = options.OVERWRITE,
    screen: options.ScreenOptions,
    device: str = options.DEVICE,
) -> None:
    """Test which of several sets of images scores higher.

    Reports differences of mean MOS and the share of prompts won, with 95% bootstrap intervals over prompts. Folders
    are scored first, with the options of `aigc score`; their scores are not kept.
    """
    options.check_inputs("a table of scores or a folder of images", *tables)
    report = page.check(overwrite)
    options.check_outputs(overwrite, output)
    options.check_outputs(overwrite, plot, suffixes=(".png", ".svg"), option="--plot")
    scored = scoring.make_plan(device)

    from aigc_cli.workflows.compare import ComparisonPlan, compare_tables, label_tables
    from aigc_cli.workflows.score.plan import ScoringPlan

    labels = label_tables([Path("stdin") if table == STREAM else table for table in tables])
    with show_progress(screen.quiet) as progress, send_tables(tables) as sent, receive_table(output) as place:
        asked = None if scored == ScoringPlan() else scored
        found = compare_tables(sent, ComparisonPlan(by, pair, labels, place, plot, overwrite, asked), progress)
        for note in found.notes:
            progress.say(note)
        if report is not None:
            from aigc_cli.workflows.reports import report_comparison

            report_comparison(found, report, progress)
    facts = {"labels": found.labels, "paired_by": found.paired_by, "rows": found.rows, "notes": found.notes}
    screen.print_result(facts, lambda: _show(found), output)


def _show(found: "Comparison") -> None:
    """Prints a table for each target, in 80 columns."""
    from aigc_cli.metrics.by_name import UNDECIDED

    first = found.labels[0]
    for target in dict.fromkeys(row["target"] for row in found.rows):
        rows = [row for row in found.rows if row["target"] == target]
        grouped = any(row["group"] != "all" for row in rows)
        named = not grouped or len(found.labels) > 2
        cells = [
            [
                *([row["table"]] if named else []),
                *([row["group"]] if grouped else []),
                format_interval(row["difference"], row["ci_low"], row["ci_high"], "+z.2f"),
                format_interval(row["win_rate"], row["win_low"], row["win_high"], ".0%"),
                str(row["prompts"]),
                row["verdict"].replace(UNDECIDED, "can't tell"),
            ]
            for row in rows
        ]
        labels = [*(["table"] if named else []), *(["group"] if grouped else [])]
        head = [*labels, "difference [95%]", "wins [95%]", "prompts", "verdict"]
        named_means = [(row["table"], row["mean"]) for row in rows if row["group"] == "all"]
        named_means = [(first, rows[0]["baseline_mean"]), *named_means]
        means = ", ".join(f"{label} {format_number(mean, '.2f')}" for label, mean in named_means)
        print_table(f"{target}, baseline {first}; means {means}", head, cells, texts=labels)
        for reason in dict.fromkeys(row["reason"] for row in rows if row["reason"]):
            print_text(f"  {reason}")
    how = "image by image" if found.paired_by == "image" else "prompt by prompt (the mean of each prompt's images)"
    print(f"Paired {how}.\nWins: share of prompts that score higher than the baseline; a tie counts half.")
