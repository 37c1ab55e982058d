"""`aigc compare`: its options, and the differences on the terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from aigc_cli.cli import options
from aigc_cli.cli.console import number, print_json, print_table, print_text, terminal
from aigc_cli.cli.streams import STREAM, table_out, tables_in

Tables = Annotated[
    list[Path],
    typer.Argument(help="Tables of `aigc score` or folders of images; the first is what the others are held to."),
]


def compare(
    tables: Tables,
    by: Annotated[Optional[str], typer.Option(help="Also compare the rows of each value of this column.")] = None,
    pair: Annotated[str, typer.Option(help="By image or prompt; auto: by image where all are the same.")] = "auto",
    prompts: options.Prompts = None,
    prompt: options.Prompt = None,
    recursive: options.Recursive = False,
    include: options.Include = None,
    exclude: options.Exclude = None,
    columns: options.Columns = None,
    sep: options.Separator = ",",
    model: options.Model = None,
    output: Annotated[
        Optional[Path], typer.Option("-o", "--output", help="Table (.parquet .csv .jsonl, or - for CSV).")
    ] = None,
    plot: Annotated[Optional[Path], typer.Option(help="Draw the differences (.png .svg).")] = None,
    report: options.Report = None,
    thumbs: options.Thumbs = None,
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Which images score higher, and can the data tell? Two models, samplers or checkpoints, in pairs.

    Differences of means in MOS and shares of prompts won, with 95% bootstrap intervals over prompts.

    Folders are scored first, as by `aigc score` with the same options, and their scores are not kept.
    """
    from aigc_cli.workflows import compare as workflow

    options.check_report(report, thumbs, overwrite)
    chosen = (recursive, include or (), exclude or ())
    scoring = workflow.Scoring(prompts, prompt, options.renames(columns), sep, *chosen, model, device)
    labels = workflow.labels_of([Path("stdin") if table == STREAM else table for table in tables])
    with terminal(quiet) as progress, tables_in(tables) as read, table_out(output) as place:
        found = workflow.compare(
            read,
            by=by,
            pair=pair,
            labels=labels,
            output=place,
            plot=plot,
            overwrite=overwrite,
            scoring=scoring,
            progress=progress,
        )
        for note in found.notes:
            progress.say(note)
        if report is not None:
            from aigc_cli.workflows.reports import report_comparison

            report_comparison(found, report, progress, thumbs)
    if as_json:
        print_json({name: getattr(found, name) for name in ("labels", "paired_by", "rows", "notes")})
    elif output != STREAM:
        _show(found)


def _show(found: Any) -> None:
    """A table for each target, each within 80 columns."""
    from aigc_cli.metrics.by_name import UNTOLD

    first = found.labels[0]
    for target in dict.fromkeys(row["target"] for row in found.rows):
        rows = [row for row in found.rows if row["target"] == target]
        grouped = any(row["group"] != "all" for row in rows)
        named = not grouped or len(found.labels) > 2
        cells = [
            [
                *([row["table"]] if named else []),
                *([row["group"]] if grouped else []),
                _spanned(row, "difference", "ci_low", "ci_high", "+z.2f"),
                _spanned(row, "win_rate", "win_low", "win_high", ".0%"),
                str(row["prompts"]),
                row["verdict"].replace(UNTOLD, "can't tell"),
            ]
            for row in rows
        ]
        labels = [*(["table"] if named else []), *(["group"] if grouped else [])]
        head = [*labels, "difference [95%]", "wins [95%]", "prompts", "verdict"]
        means = ", ".join(
            f"{label} {number(mean, '.2f')}"
            for label, mean in [(first, rows[0]["baseline_mean"])]
            + [(row["table"], row["mean"]) for row in rows if row["group"] == "all"]
        )
        print_table(f"{target}, against {first}; means {means}", head, cells, texts=labels)
        for reason in dict.fromkeys(row["reason"] for row in rows if row["reason"]):
            print_text(f"  {reason}")
    how = "image by image" if found.paired_by == "image" else "prompt by prompt (the mean of each prompt's images)"
    print(f"Paired {how}.\nWins: the share of prompts that score higher, ties half.")


def _spanned(row: Mapping[str, Any], value: str, low: str, high: str, form: str) -> str:
    span = "" if row[low] is None else f" [{row[low]:{form}}, {row[high]:{form}}]"
    return number(row[value], form) + span
