"""`aigc rate`: rates images in the browser."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from aigc_cli.cli import options
from aigc_cli.cli.console import print_text, show_progress
from aigc_cli.cli.options import OUTPUT, make_flag, make_number, make_option, make_path
from aigc_cli.errors import AigcError, EnvironmentProblem, Interruption
from aigc_cli.images.folders import check_folder
from aigc_cli.text import format_count

if TYPE_CHECKING:
    from aigc_cli.workflows.rate.raters import AnswersSummary
    from aigc_cli.workflows.rate.session import RatingSession
    from aigc_cli.workflows.score.plan import ScoringPlan

QUESTIONS, PAGE = "Questions", "Page"
PORT = 8421


def rate(
    *,
    folder: Path = typer.Argument(metavar="FOLDER", help="Folder of images."),
    output: Path | None = make_path(OUTPUT, "Table (default ratings.csv or pairs.csv)", "-o", "--output"),
    pairs: bool = make_flag(QUESTIONS, "Compare two images of one prompt", "--pairs"),
    order: str = make_option(QUESTIONS, "chosen, or random for science", default="chosen"),
    rater: list[str] | None = make_option(QUESTIONS, "Name of a rater; repeatable, each gets an address"),
    repeats: bool = make_flag(
        QUESTIONS, "Ask a tenth of the questions twice", "--repeats/--no-repeats", default=True, extra=True
    ),
    seed: int = make_number(QUESTIONS, "Seed of what is drawn at random", default=0, extra=True),
    scoring: options.ScoringOptions,
    port: int = make_number(PAGE, f"Port of the page (default {PORT}; 0: any)", default=PORT),
    host: str = make_option(
        PAGE, "Address to listen at; another one lets other machines in", default="127.0.0.1", extra=True
    ),
    browser: bool = make_flag(PAGE, "Open the page in the browser", "--browser/--no-browser", default=True, extra=True),
    summary: bool = make_flag(OUTPUT, "Print what the answers say and ask nothing", "--summary"),
    page: options.PageOptions,
    screen: options.ScreenOptions,
    device: str = options.DEVICE,
) -> None:
    """Rate your images in the browser, for `aigc train`.

    Every answer is on disk before the next image shows. End with Ctrl-C; the same command goes on. The table of ratings
    is written from RATINGS.answers.csv, which holds every single answer.
    """
    if order not in ("chosen", "random"):
        raise AigcError(f"Expected --order chosen or random, found {order}.", "Leave it out for chosen.")
    output = output or Path("pairs.csv" if pairs else "ratings.csv")
    if output.suffix != ".csv":
        raise AigcError(f"Expected a table ending in .csv, found {output}.", "Change -o.")
    options.check_least("--port", port, 0)
    report = page.check(overwrite=True)
    check_folder(folder)
    options.check_outputs(True, output, suffixes=(".csv",))
    if summary:
        options.check_inputs("answers", output.with_suffix(".answers.csv"))
    plan = scoring.make_plan(device)
    names = _read_names(rater)

    from aigc_cli.storage.locks import own_folder
    from aigc_cli.workflows.rate.raters import summarise_answers
    from aigc_cli.workflows.rate.session import RatingSession

    with show_progress(screen.quiet) as progress, own_folder(output.with_suffix(".rating")):
        session = RatingSession.open(folder, output, plan, pairs, order == "chosen", seed, progress)
        session.repeats = repeats
        try:
            if not summary:
                _serve(session, names, (host, port), plan, browser)
        finally:
            session.close()
        found = summarise_answers(session.log.rows)
        if report is not None:
            from aigc_cli.workflows.rate.report import report_answers

            report_answers(found, session, report, progress)
    facts = {"ratings": str(output), "answers": str(session.log.path), "summary": found}
    screen.print_result(facts, lambda: _show(found, session, plan.model, folder))


def _read_names(raters: list[str] | None) -> list[str]:
    names = list(dict.fromkeys(raters or ["me"]))
    if wrong := [name for name in names if not name.isprintable() or not name.strip() or len(name) > 60]:
        raise AigcError(f"Expected a name of up to 60 characters, found {wrong[0]!r}.", "Change --rater.")
    return names


def _serve(
    session: "RatingSession", names: list[str], place: tuple[str, int], plan: "ScoringPlan", browser: bool
) -> None:
    """Serves the page until Ctrl-C; meanwhile the images are scored."""
    try:
        from aigc_cli.web.app import LOOPBACK, make_tokens, open_socket, serve
        from aigc_cli.web.rating import make_rating_app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "aigc_cli":
            raise
        raise EnvironmentProblem(
            f"Expected the package {error.name}, found it not installed.", "pip install 'aigc-cli[web]'"
        ) from error
    from aigc_cli.storage.cache import find_cache_folder

    tokens = make_tokens(names, find_cache_folder() / "web.key", str(session.ratings.resolve()))
    host, port = place
    listening = open_socket(host, port)
    shown = f"[{host}]" if ":" in host else host
    urls = {name: f"http://{shown}:{listening.getsockname()[1]}/{token}/" for token, name in tokens.items()}
    for name, url in urls.items():
        print(f"Rate at {url}" if len(urls) == 1 else f"{name} rates at {url}", file=sys.stderr)
    if host not in LOOPBACK:
        print("Anybody in the network who has an address can rate. It is not encrypted.", file=sys.stderr)
    print("End with Ctrl-C.", file=sys.stderr, flush=True)
    if browser and _has_screen():
        import webbrowser

        webbrowser.open(next(iter(urls.values())))
    session.start_learning(plan)
    try:
        serve(make_rating_app(session, tokens, host), listening)
    except KeyboardInterrupt:  # the usual end
        print(file=sys.stderr)
    except SystemExit as ending:
        kept = f"all answers are saved in {session.log.path}."
        raise Interruption(kept, "The same command goes on.", ending) from ending


def _has_screen() -> bool:
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _show(found: "AnswersSummary", session: "RatingSession", model: Path | None, folder: Path) -> None:
    for one in found.raters:
        parts = [format_count(one.answers, "answer")]
        if one.per_minute is not None:
            parts[0] += f", {one.per_minute:.0f} a minute"
        if one.bias:
            parts.append("bias " + ", ".join(f"{target} {bias:+.2f}" for target, bias in one.bias.items()))
        if one.kept:
            same = ", ".join(f"{target} {share:.0%}" for target, share in one.kept.items())
            parts.append(f"{one.repeated} asked twice, same answer: {same}")
        print_text(f"{one.rater}: {'; '.join(parts)}")
    between = "between raters" if len(found.raters) > 1 else "between a rater's answers to the same question"
    for target, alpha in found.alpha.items():
        ceiling = f", noise ceiling {found.ceiling[target]:.2f}" if target in found.ceiling else ""
        print_text(f"Agreement {between}, {target}: Krippendorff's alpha {alpha:.2f}{ceiling}")
    if session.worth:
        print_text(session.worth)
    print(f"{format_count(found.questions, 'pair' if session.pairs else 'image')} judged: {session.ratings}")
    if found.questions:
        start = f"--start-from {model or 'accurate'}"
        table = f"--pairs {session.ratings}" if session.pairs else f"--data {session.ratings} --mos-min 1"
        print(f"Next: aigc train --recipe small {start} {table} --images {folder}")
