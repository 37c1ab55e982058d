"""`aigc score`: scores a folder of images."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from aigc_cli.cli import options
from aigc_cli.cli.console import print_table, print_text, show_progress
from aigc_cli.cli.options import MACHINE, OUTPUT, make_flag, make_option, make_path
from aigc_cli.cli.streams import STREAM, receive_table
from aigc_cli.errors import AigcError
from aigc_cli.images.folders import check_folder
from aigc_cli.mos_scale import MosScale
from aigc_cli.progress import Progress
from aigc_cli.report.numbers import MISSING, format_interval, format_number
from aigc_cli.text import format_count, to_printable

if TYPE_CHECKING:
    from rich.text import Text

    from aigc_cli.workflows.score.score import ScoreSummary

IMAGES_FAILED = 3  # exit code
BAR_WIDTH = 24
MAX_PROMPT_WIDTH = 20
TEXT_WIDTH = 42  # of 80 columns: what two scores with their intervals leave for name and prompt


def score(
    *,
    folder: Path = typer.Argument(metavar="FOLDER", help="Folder of images."),
    scoring: options.ScoringOptions,
    output: Path = make_path(
        OUTPUT, "Table (.parquet .csv .jsonl); - prints CSV", "-o", "--output", default=Path("scores.parquet")
    ),
    resume: bool = options.RESUME,
    overwrite: bool = options.OVERWRITE,
    page: options.PageOptions,
    fail_on_bad: bool = make_flag(OUTPUT, "Exit with 3 if an image failed", "--fail-on-bad"),
    screen: options.ScreenOptions,
    device: str = options.DEVICE,
    engine: str = make_option(MACHINE, "Engine of the image tower: auto, eager or onnx", default="auto", extra=True),
) -> None:
    """Score the quality and prompt consistency of images.

    An image's prompt comes from --prompts, else --prompt, else a text file beside the image, else its metadata.
    """
    if output == STREAM and (resume or screen.as_json):
        raise AigcError("Expected -o - without --resume and --json, found both.", "Name a file with -o.")
    report = page.check(overwrite or resume)
    options.check_outputs(overwrite or resume, output)
    check_folder(folder)
    plan = scoring.make_plan(device, engine)

    from aigc_cli.storage.atomic_files import Output
    from aigc_cli.workflows.score.score import score_folder

    with show_progress(screen.quiet) as progress, receive_table(output) as place:
        assert place is not None
        summary = score_folder(folder, Output(place, overwrite, resume), plan, progress)
        if report is not None:
            from aigc_cli.workflows.reports import report_scores  # imports the statistics, which takes seconds

            report_scores(place, report, progress)
        _say_notes(summary, progress)
    facts = {name: getattr(summary, name) for name in ("rows", "failed", "means", "reasons", "sources")}
    screen.print_result({"output": str(output), **facts}, lambda: show_scores(summary), output)
    if fail_on_bad and summary.failed:
        raise typer.Exit(IMAGES_FAILED)


def _say_notes(summary: "ScoreSummary", progress: Progress) -> None:
    """Says where the prompts come from, and why images failed or have no consistency."""
    from aigc_cli.images.reader import REASONS

    counts = [f"{count} {source}" for source, count in sorted(summary.sources.items())]
    progress.say(f"Prompts: {', '.join(counts)}.")
    for reason, count in sorted(summary.reasons.items()):
        progress.say(f"{count} x {reason}: {'; '.join(REASONS.get(part, part) for part in reason.split(','))}")


def show_scores(summary: "ScoreSummary") -> None:
    """Prints both histograms, and the rows of highest and lowest quality."""
    block = "█" if (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf") else "#"
    for line in draw_histograms(summary.histograms, summary.scale, block):
        print(line)
    best_names = {row["name"] for row in summary.best}
    rows = summary.best + [row for row in summary.worst[::-1] if row["name"] not in best_names]
    name_width = max((len(to_printable(row["name"])) for row in rows), default=0)
    prompt_width = min(MAX_PROMPT_WIDTH, max(10, TEXT_WIDTH - name_width))
    cells: list[list[str | Text]] = [
        [
            _link_image(row),
            _format_score(row, "quality"),
            _format_score(row, "consistency"),
            _shorten(row["prompt"], prompt_width),
        ]
        for row in rows
    ]
    has_intervals = any(row.get("quality_low") is not None for row in rows)
    title = "Best and worst by quality" + ", with 90% intervals" * has_intervals
    print_table(title, ("image", "quality", "consistency", "prompt"), cells, texts=("image", "prompt"))
    means = ", ".join(f"mean {name} {format_number(mean, '.2f')}" for name, mean in summary.means.items())
    if summary.unusual:
        print_text(
            f"Unusual for this model (out_of_domain above 0.95): {format_count(summary.unusual, 'image')}. "
            "Do not trust their scores and intervals."
        )
    counts = f"{format_count(summary.rows, 'image')} by {to_printable(summary.model)}, {summary.failed:,} failed"
    print_text(f"{counts}, {means}; scores in {summary.output}")


def _format_score(row: Mapping[str, Any], target: str) -> str:
    """`3.41 [2.6, 4.2]`; only the score where there is no interval."""
    return format_interval(row[target], row.get(f"{target}_low"), row.get(f"{target}_high"), ".2f", ".1f")


def draw_histograms(counts: Mapping[str, Sequence[int]], scale: MosScale, block: str) -> list[str]:
    """Lines with the histograms of all scores side by side, the highest scores first; empty without a score.

    Args:
        counts: {score: images in each of n equal parts of the scale, from its lower end}.
        scale: of the scores.
        block: the character that bars are made of.
    """
    drawn = {name: bins for name, bins in counts.items() if any(bins)}
    filled = [index for bins in drawn.values() for index, count in enumerate(bins) if count]
    if not filled:
        return []
    step = scale.span / len(next(iter(drawn.values())))
    lines = [" " * 13 + "".join(f"{name:<{BAR_WIDTH + 9}}" for name in drawn).rstrip()]
    for index in range(max(filled), min(filled) - 1, -1):
        line = f"{scale.low + index * step:4.3g} - {scale.low + (index + 1) * step:<4.3g}  "
        for bins in drawn.values():
            length = round(BAR_WIDTH * bins[index] / max(bins)) or int(bins[index] > 0)
            line += f"{block * length + f' {bins[index]}' if bins[index] else '':<{BAR_WIDTH + 9}}"
        lines.append(line.rstrip())
    return [*lines, ""]


def _link_image(row: Mapping[str, Any]) -> "Text":
    """The image's name; on a terminal it is a link to the file."""
    from rich.style import Style
    from rich.text import Text

    place = Path(row["path"]).absolute().as_uri() if row["path"] else None
    return Text(to_printable(row["name"]), style=Style(link=place))


def _shorten(text: str | None, width: int) -> str:
    """The beginning of a text in `width` terminal columns; a Chinese character takes two."""
    from rich.cells import cell_len, set_cell_size

    if text is None:
        return MISSING
    shown = to_printable(text[: 4 * width])
    return shown if cell_len(shown) <= width else set_cell_size(shown, width - 3).rstrip() + "..."
