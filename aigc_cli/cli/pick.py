"""`aigc pick`: its options, and the picks on the terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from aigc_cli.cli import options
from aigc_cli.cli.console import Terminal, number, print_json, print_table, print_text, terminal
from aigc_cli.cli.streams import STREAM, print_paths, table_out, tables_in
from aigc_cli.errors import AigcError
from aigc_cli.text import counted, printable

NOTES = 5  # picks that are no clear choice, and named
SHOWN = 40
LEFT = 3  # exit code: done, but not all of it
PLACE = "What to do with them"
Output = Annotated[
    Optional[Path], typer.Option("-o", "--output", help="Table of the picks (.parquet .csv .jsonl, or - for CSV).")
]


def _place(text: str, *flags: str) -> Any:
    return typer.Option(*flags, help=text, rich_help_panel=PLACE, show_default=False)


def pick(
    table: Annotated[
        Optional[Path], typer.Argument(help="What `aigc score` wrote (.parquet .csv .jsonl), or - for stdin.")
    ] = None,
    by: Annotated[str, typer.Option(help="quality, consistency, or both: their mean with --weights.")] = "quality",
    weights: Annotated[str, typer.Option(help="Of quality and consistency, for --by both.")] = "0.5,0.5",
    group: Annotated[str, typer.Option(help="The best of each prompt, folder or COLUMN; none: of all.")] = "prompt",
    keep: Annotated[Optional[int], typer.Option("-k", "--keep", help="How many of each (default 1).")] = None,
    top_share: Annotated[Optional[float], typer.Option(help="Instead: the best share of each, as 0.1.")] = None,
    min_quality: Annotated[Optional[float], typer.Option(help="None below this quality.")] = None,
    min_consistency: Annotated[Optional[float], typer.Option(help="None below this consistency.")] = None,
    images: Annotated[Optional[Path], typer.Option(help="The images' folder; default: the table's paths.")] = None,
    copy: Annotated[Optional[Path], _place("Copy them into this folder.")] = None,
    link: Annotated[Optional[Path], _place("Link them into this folder.")] = None,
    symbolic: Annotated[bool, _place("With --link: symbolic links, not hard ones.", "--symbolic")] = False,
    move: Annotated[Optional[Path], _place("Move them into this folder.")] = None,
    dry_run: Annotated[bool, _place("Only look whether it can be done, and say where each goes.", "--dry-run")] = False,
    undo: Annotated[Optional[Path], _place("Take back what this list, undo-*.json, says.")] = None,
    paths: Annotated[bool, typer.Option("--paths", help="Print paths alone, one a line.")] = False,
    null: Annotated[bool, typer.Option("--null", help="Paths end in NUL, for xargs -0.")] = False,
    output: Output = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Keep the best: the images of highest score of each prompt.

    Lists them, or copies, links or moves them. Nothing is overwritten, and --undo takes it back.
    """
    from aigc_cli.workflows.pick import Choice, write_picks
    from aigc_cli.workflows.pick import pick as run_pick

    if undo is not None:
        _undo(undo, table, quiet)
        return
    if table is None:
        raise AigcError("Expected a table of scores, found none.", "Example: aigc pick scores.parquet")
    actions = {"copy": copy, "symlink" if symbolic else "link": link, "move": move}
    _check(actions, keep, top_share, symbolic, dry_run)
    _check_output(output, overwrite, [paths or null, as_json, output == STREAM])
    choice = Choice(by, _weights(weights), group, 1 if keep is None else keep, top_share, min_quality, min_consistency)
    with tables_in([table]) as (read,), terminal(quiet) as progress:
        picks = run_pick(read, choice)
        for reason, count in sorted(picks.left_out.items()):
            progress.say(f"{count} not picked: {reason}")
        needed = paths or null or as_json or any(actions.values())
        files = _placed(picks, actions, images, dry_run, progress) if needed else []
        with table_out(output) as place:
            if place is not None:
                write_picks(picks, read, place)
    if paths or null:
        print_paths(files, null)
    elif as_json:
        print_json(_json(picks, files))
    elif output != STREAM:
        _show(picks, choice)


def _placed(
    picks: Any, actions: Mapping[Any, Path | None], images: Path | None, dry_run: bool, progress: Terminal
) -> list[Path]:
    """The picks' files, where they are after the one thing that is to be done with them."""
    from aigc_cli.workflows.pick import carry_out, files_of

    files = files_of(picks.rows, images)
    for action, folder in actions.items():
        if folder is not None:
            done = carry_out(action, files, folder, dry_run=dry_run, progress=progress)
            if not dry_run:
                return [target for _, target in done.pairs]
            for source, target in done.pairs:
                progress.say(f"would {action} {source} to {target}")
    return files


def _check_output(output: Path | None, overwrite: bool, on_stdout: list[bool]) -> None:
    from aigc_cli.storage.files import check_output

    if sum(on_stdout) > 1:
        raise AigcError("Expected one of --paths, --json and -o -, found several.", "Keep one of them.")
    if output is not None and output != STREAM:
        check_output(output, overwrite=overwrite)


def _check(
    actions: dict[str, Path | None],
    keep: int | None,
    share: float | None,
    symbolic: bool,
    dry_run: bool,
) -> None:
    """Options that don't go together."""
    given = [f"--{'link' if name == 'symlink' else name}" for name, folder in actions.items() if folder is not None]
    if len(given) > 1:
        raise AigcError(f"Expected one thing to do with the picks, found {' and '.join(given)}.", "Keep one of them.")
    if (symbolic and "--link" not in given) or (dry_run and not given):
        flag, needed = ("--symbolic", "--link") if symbolic else ("--dry-run", "--copy, --link or --move")
        raise AigcError(f"Expected {needed} beside {flag}, found none.", "Without them the picks are only listed.")
    if keep is not None and share is not None:
        raise AigcError("Expected either --keep or --top-share, found both.", "Keep one of them.")


def _weights(text: str) -> tuple[float, float]:
    try:
        quality, consistency = (float(part) for part in text.split(","))
    except ValueError as error:
        raise AigcError(f"Expected --weights QUALITY,CONSISTENCY, found '{text}'.", "Example: 0.7,0.3") from error
    return quality, consistency


def _undo(record: Path, table: Path | None, quiet: bool) -> None:
    from aigc_cli.storage.placed_files import undo

    if table is not None:
        raise AigcError("Expected --undo without a table, found both.", "The list says which files.")
    count, left = undo(record)
    if not quiet:
        print(f"{counted(count, 'file')} taken back.")
    if left:
        with terminal(False) as progress:
            progress.say(f"Left as they are, and so is the list: {counted(len(left), 'file')}.")
            for path, why in left:
                progress.say(f"  {printable(str(path))}: {why}")
        raise typer.Exit(LEFT)


def _json(picks: Any, files: list[Path]) -> dict[str, Any]:
    rows = [
        {"file": str(file).encode(errors="backslashreplace").decode()}
        | {k: v for k, v in row.items() if k.startswith("pick_") or k in ("name", "prompt", "quality", "consistency")}
        for row, file in zip(picks.rows, files, strict=True)
    ]
    return {"images": picks.images, "groups": picks.groups, "left_out": picks.left_out, "picks": rows}


def _show(picks: Any, choice: Any) -> None:
    """The first picks; rows of one group beneath each other."""
    grouped = choice.group != "none"
    cells = [
        [
            row["name"],
            number(row["quality"], ".2f"),
            number(row["consistency"], ".2f"),
            *([number(row["pick_score"], ".2f")] if choice.by == "both" else []),
            *([printable(row["pick_group"], 20)] if grouped else []),
        ]
        for row in picks.rows[:SHOWN]
    ]
    columns = ["image", "quality", "consistency", *(["both"] if choice.by == "both" else [])]
    print_table("", [*columns, *([choice.group] if grouped else [])], cells, texts=("image", choice.group))
    if len(picks.rows) > SHOWN:
        print(f"... and {len(picks.rows) - SHOWN:,} more; --paths or -o lists all of them.")
    notes = [(row["name"], row["pick_note"]) for row in picks.rows if row["pick_note"]]
    for name, note in notes[:NOTES]:
        print_text(f"{name}: {note}")
    if len(notes) > NOTES:
        print(f"... and {len(notes) - NOTES:,} more without a clear choice; -o names them in pick_note.")
    what = choice.by
    if choice.by == "both":
        share = choice.weights[0] / sum(choice.weights)
        what = f"{share:.2f} x quality + {1 - share:.2f} x consistency"
    of = f"{len(picks.rows):,} of {counted(picks.images, 'image')} picked"
    print(f"{of} from {counted(picks.groups, 'group')} by {what}")
