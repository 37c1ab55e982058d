"""`aigc pick`: lists, copies, links or moves the best images."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from aigc_cli.cli import options
from aigc_cli.cli.console import Terminal, confirm, print_table, print_text, show_progress
from aigc_cli.cli.options import OUTPUT, make_flag, make_number, make_option, make_path
from aigc_cli.cli.streams import STREAM, print_paths, receive_table, send_tables
from aigc_cli.errors import AigcError
from aigc_cli.report.numbers import format_number
from aigc_cli.text import format_count, to_printable

if TYPE_CHECKING:
    from aigc_cli.storage.placed_files import Action
    from aigc_cli.workflows.pick import Choice, Picks

SHOWN_NOTES = 5  # notes on picks that are hardly better than the next image
SHOWN_PICKS = 40
FILES_LEFT = 3  # exit code: some files could not be put back
CHOICE, FILES = "Choice", "Files"


def pick(
    *,
    table: Path | None = typer.Argument(
        None, metavar="TABLE", help="Table of `aigc score` (.parquet .csv .jsonl); - reads stdin."
    ),
    by: str = make_option(CHOICE, "Rank by quality, consistency, or both: their weighted mean", default="quality"),
    weights: str = make_option(CHOICE, "Weights QUALITY,CONSISTENCY for --by both", default="0.5,0.5"),
    group: str = make_option(
        CHOICE, "Pick from each prompt, folder or value of COLUMN; none: from all", default="prompt"
    ),
    keep: int | None = make_number(CHOICE, "Images to pick per group (default 1)", "-k", "--keep"),
    top_share: float | None = make_number(CHOICE, "Share to pick per group instead, such as 0.1"),
    min_quality: float | None = make_number(CHOICE, "Lowest quality to pick, in MOS"),
    min_consistency: float | None = make_number(CHOICE, "Lowest consistency to pick, in MOS"),
    images: Path | None = options.TABLE_IMAGES,
    copy: Path | None = make_path(FILES, "Copy the picks into this folder"),
    link: Path | None = make_path(FILES, "Link the picks into this folder"),
    symbolic: bool = make_flag(FILES, "With --link: symbolic links instead of hard links", "--symbolic", extra=True),
    move: Path | None = make_path(FILES, "Move the picks into this folder"),
    dry_run: bool = make_flag(FILES, "Show what would be done and do nothing", "--dry-run"),
    undo: Path | None = make_path(FILES, "Undo the actions listed in undo-*.json"),
    yes: bool = make_flag(FILES, "Move or undo without asking", "-y", "--yes", extra=True),
    output: Path | None = options.TABLE_OUTPUT,
    paths: bool = make_flag(OUTPUT, "Print paths only, one per line", "--paths"),
    null: bool = make_flag(OUTPUT, "Print paths that end in NUL, for xargs -0", "--null", extra=True),
    overwrite: bool = options.OVERWRITE,
    screen: options.ScreenOptions,
) -> None:
    """List, copy, link or move the best images of each prompt.

    Nothing is overwritten. On a terminal, moves and undos ask first. Images count only below the table or in --images.
    """
    if undo is not None:
        _undo(undo, table, screen.quiet, yes)
        return
    table = _check_table(table)
    actions: dict[Action, Path | None] = {"copy": copy, "symlink" if symbolic else "link": link, "move": move}
    _check_actions(actions, symbolic, dry_run)
    if keep is not None and top_share is not None:
        raise AigcError("Expected either --keep or --top-share, found both.", "Keep one of them.")
    _check_output(output, overwrite, [paths or null, screen.as_json, output == STREAM])
    options.check_least("--keep", keep, 1)
    parts = _parse_weights(weights)

    from aigc_cli.workflows.pick import Choice, pick_images, write_picks

    choice = Choice(by, parts, group, 1 if keep is None else keep, top_share, min_quality, min_consistency)
    with send_tables([table]) as (sent,), show_progress(screen.quiet) as progress, receive_table(output) as place:
        picks = pick_images(sent, choice)
        for reason, count in sorted(picks.left_out.items()):
            progress.say(f"{count} not picked: {reason}")
        needed = paths or null or screen.as_json or any(actions.values())
        files = _place(picks, actions, table.parent, images, dry_run, yes, progress) if needed else []
        if place is not None:
            write_picks(picks, sent, place)
    if paths or null:
        print_paths(files, null)
    else:
        facts = _make_json(picks, files) if screen.as_json else None
        screen.print_result(facts, lambda: _show(picks, choice), output)


def _place(
    picks: "Picks",
    actions: "Mapping[Action, Path | None]",
    base: Path,
    images: Path | None,
    dry_run: bool,
    yes: bool,
    progress: Terminal,
) -> list[Path]:
    """Does the action that was asked for and returns the paths of the picks after it; see `find_files` for `base`."""
    from aigc_cli.workflows.pick import find_files, place_picks

    files = find_files(picks.rows, base, images)
    if (target := actions["move"]) is not None and not (yes or dry_run):
        confirm(f"Move {format_count(len(files), 'file')} to {target}?")
    for action, folder in actions.items():
        if folder is not None:
            done = place_picks(action, files, folder, dry_run=dry_run, progress=progress)
            if not dry_run:
                return [target for _, target in done.pairs]
            for source, target in done.pairs:
                progress.say(f"Would {action} {source} to {target}")
    return files


def _check_table(table: Path | None) -> Path:
    if table is None:
        raise AigcError("Expected a table of scores, found none.", "Example: aigc pick scores.parquet")
    options.check_inputs("a table of scores", table)
    return table


def _check_output(output: Path | None, overwrite: bool, on_stdout: list[bool]) -> None:
    if sum(on_stdout) > 1:
        raise AigcError("Expected one of --paths, --json and -o -, found several.", "Keep one of them.")
    options.check_outputs(overwrite, output)


def _check_actions(actions: "Mapping[Action, Path | None]", symbolic: bool, dry_run: bool) -> None:
    """Refuses more than one action, and --symbolic or --dry-run without one."""
    given = [f"--{'link' if name == 'symlink' else name}" for name, folder in actions.items() if folder is not None]
    if len(given) > 1:
        raise AigcError(f"Expected one of --copy, --link and --move, found {' and '.join(given)}.", "Keep one of them.")
    if (symbolic and "--link" not in given) or (dry_run and not given):
        flag, needed = ("--symbolic", "--link") if symbolic else ("--dry-run", "--copy, --link or --move")
        raise AigcError(f"Expected {needed} beside {flag}, found none.", "Without an action the picks are only listed.")


def _parse_weights(text: str) -> tuple[float, float]:
    try:
        quality, consistency = (float(part) for part in text.split(","))
    except ValueError as error:
        raise AigcError(f"Expected --weights QUALITY,CONSISTENCY, found '{text}'.", "Example: 0.7,0.3") from error
    return quality, consistency


def _undo(record: Path, table: Path | None, quiet: bool, yes: bool) -> None:
    from aigc_cli.storage.placed_files import describe_undo, undo_placement

    if table is not None:
        raise AigcError("Expected --undo without a table, found both.", "The undo list names the files.")
    plan = describe_undo(record)
    asked = not yes and confirm(f"{plan}?")
    if not asked and not quiet:
        print(f"{to_printable(plan)}.", file=sys.stderr)
    count, left = undo_placement(record)
    if not quiet:
        print(f"{format_count(count, 'file')} undone.")
    if left:
        with show_progress(False) as progress:
            progress.say(f"Not undone, and kept in the list: {format_count(len(left), 'file')}.")
            for path, why in left:
                progress.say(f"  {to_printable(str(path))}: {why}")
        raise typer.Exit(FILES_LEFT)


def _make_json(picks: "Picks", files: list[Path]) -> dict[str, Any]:
    rows = [
        {"file": str(file).encode(errors="backslashreplace").decode()}
        | {k: v for k, v in row.items() if k.startswith("pick_") or k in ("name", "prompt", "quality", "consistency")}
        for row, file in zip(picks.rows, files, strict=True)
    ]
    return {"images": picks.images, "groups": picks.groups, "left_out": picks.left_out, "picks": rows}


def _show(picks: "Picks", choice: "Choice") -> None:
    """Prints the first picks, group by group."""
    grouped = choice.group != "none"
    cells = [
        [
            row["name"],
            format_number(row["quality"], ".2f"),
            format_number(row["consistency"], ".2f"),
            *([format_number(row["pick_score"], ".2f")] if choice.by == "both" else []),
            *([to_printable(row["pick_group"], 20)] if grouped else []),
        ]
        for row in picks.rows[:SHOWN_PICKS]
    ]
    columns = ["image", "quality", "consistency", *(["both"] if choice.by == "both" else [])]
    print_table("", [*columns, *([choice.group] if grouped else [])], cells, texts=("image", choice.group))
    if len(picks.rows) > SHOWN_PICKS:
        print(f"... and {len(picks.rows) - SHOWN_PICKS:,} more; --paths or -o lists all of them.")
    notes = [(row["name"], row["pick_note"]) for row in picks.rows if row["pick_note"]]
    for name, note in notes[:SHOWN_NOTES]:
        print_text(f"{name}: {note}")
    if len(notes) > SHOWN_NOTES:
        print(f"... and {len(notes) - SHOWN_NOTES:,} more with a note; -o writes all of them to pick_note.")
    what = choice.by
    if choice.by == "both":
        share = choice.weights[0] / sum(choice.weights)
        what = f"{share:.2f} x quality + {1 - share:.2f} x consistency"
    of = f"{len(picks.rows):,} of {format_count(picks.images, 'image')} picked"
    print(f"{of} from {format_count(picks.groups, 'group')} by {what}")
