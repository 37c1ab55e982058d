"""Options that several commands share, and those that are made from the recipe's fields."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from aigc_cli.cli import completion
from aigc_cli.errors import AigcError
from aigc_cli.recipe import FIELDS, field_type

Data = Annotated[
    Optional[Path], typer.Option(help="CSV with name, prompt, mos_quality, mos_align; without it: the demonstration.")
]
Images = Annotated[Optional[Path], typer.Option(help="Folder of the images; default: the table's own folder.")]
Prompts = Annotated[Optional[Path], typer.Option(help="CSV with name, prompt.")]
Prompt = Annotated[Optional[str], typer.Option(help="One prompt for every image that has none there.")]
Recursive = Annotated[bool, typer.Option("--recursive", help="Also the folders below; links are not followed.")]
Include = Annotated[Optional[list[str]], typer.Option(help="Only names that fit, as '*.png'; may be repeated.")]
Exclude = Annotated[Optional[list[str]], typer.Option(help="No names or folders that fit; may be repeated.")]
Columns = Annotated[Optional[list[str]], typer.Option(help="THEIRS=OURS renames a column; may be repeated.")]
Separator = Annotated[str, typer.Option("--sep", help="The table's delimiter.")]
Model = Annotated[
    Optional[Path],
    typer.Option(help="Run or model folder; default: the shipped scorer.", autocompletion=completion.models),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Cache = Annotated[bool, typer.Option("--cache/--no-cache", help="Keep what is frozen in the feature store.")]
CacheLimit = Annotated[Optional[float], typer.Option("--cache-gb", help="GB that the feature store may take.")]
Report = Annotated[
    Optional[Path], typer.Option(help="Also write a page to look at: FILE.html, which needs nothing else.")
]
Thumbs = Annotated[
    Optional[Path], typer.Option(help="With --report: thumbnails into this folder; so it is past 2,000 images.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Errors only on stderr.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def check_report(report: Path | None, thumbs: Path | None, overwrite: bool) -> None:
    """Refuses what can't be written for --report and --thumbs, before anything is computed."""
    if report is None:
        if thumbs is not None:
            raise AigcError("Expected --report beside --thumbs, found none.", "Example: --report report.html")
        return
    from aigc_cli.report.page import check_report as check

    check(report, thumbs, overwrite=overwrite)


def cache_use(cache: bool, limit: float | None) -> bool | float:
    """What --cache and --cache-gb say together: whether the feature store is used, or the GB that it may take."""
    if limit is not None and not limit >= 0:
        raise AigcError(f"Expected --cache-gb of 0 or more, found {limit:g}.", "Leave it out for no limit.")
    return cache if limit is None or not cache else limit


def renames(columns: list[str] | None) -> dict[str, str] | None:
    """{their column: ours} from `THEIRS=OURS` arguments, commas allowed between several."""
    if not columns:
        return None
    pairs = [pair.partition("=") for text in columns for pair in text.split(",")]
    for theirs, equals, ours in pairs:
        if not (theirs and equals and ours):
            raise AigcError(
                f"Expected --columns THEIRS=OURS, found '{theirs}{equals}{ours}'.", "Example: score=mos_quality"
            )
    return {theirs: ours for theirs, _, ours in pairs}


def settings_of(given: list[str] | None) -> dict[str, str]:
    """{setting: value} from `SETTING=VALUE` arguments; the recipe checks both."""
    pairs = [text.partition("=") for text in given or ()]
    for name, equals, value in pairs:
        if not (name and equals and value):
            raise AigcError(f"Expected --set SETTING=VALUE, found '{name}{equals}{value}'.", "Example: --set lr=1e-4")
    return {name.replace("-", "_"): value for name, _, value in pairs}


def with_recipe_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds one option for each recipe field to a command that takes `settings`, a dict of those that were given."""

    @functools.wraps(function)
    def command(**given: Any) -> Any:
        settings = {name: given.pop(name) for name in FIELDS}
        return function(**given, settings=settings)

    own = [p for name, p in inspect.signature(function).parameters.items() if name != "settings"]
    made = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(name))
        for name in FIELDS
    ]
    keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    command.__signature__ = inspect.Signature([*keyword, *made])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in (*own, *made)}
    return command


def _option(name: str) -> Any:
    meta, (kind, _) = FIELDS[name].metadata, field_type(name)
    flag = name.replace("_", "-")
    words = [f"{meta['help']}:" if meta["choices"] or meta["sensible"] else meta["help"]]
    if meta["choices"]:
        words.append(", ".join(meta["choices"]))
    if meta["sensible"]:
        words.append("{:g} to {:g}".format(*meta["sensible"]))
    if FIELDS[name].default is not None:
        default = FIELDS[name].default
        words.append(f"(default {('on' if default else 'off') if kind is bool else default})")
    flags = f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}"
    option = typer.Option(flags, help=" ".join(words), rich_help_panel=meta["group"], show_default=False)
    wanted = kind if kind is bool else str  # the recipe converts and checks, so that every source has the same errors
    metavar = {int: "INTEGER", float: "NUMBER", str: "TEXT"}.get(kind)
    option.metavar = metavar
    return Annotated[Optional[wanted], option]
