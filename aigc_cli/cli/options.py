"""Options that several commands share.

An option is the default of a parameter. A parameter whose type is a bundle stands for several, see `add_bundles`.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from aigc_cli.cli.completion import list_models
from aigc_cli.cli.console import print_json
from aigc_cli.cli.help import EXTRA
from aigc_cli.cli.streams import STREAM
from aigc_cli.errors import AigcError
from aigc_cli.text import show_path

if TYPE_CHECKING:
    from aigc_cli.report.page_output import PageOutput
    from aigc_cli.workflows.experiment.source import Compute, Source
    from aigc_cli.workflows.score.plan import ScoringPlan

INPUT, OUTPUT, MACHINE, TABLE, TRAINING = "Input", "Output", "Machine", "Table format", "Training"
RATED_COLUMNS = "name, prompt, mos_quality, mos_align"


def make_option(
    group: str, text: str, *flags: str, default: Any = None, metavar: str = "TEXT", extra: bool = False, **more: Any
) -> Any:
    """An option in a group of the help; without flags it is named as its parameter.

    Args:
        text: its help; a default other than None and False is added, and a period.
        metavar: what stands for its value: PATH, NUMBER or TEXT; empty for a flag.
        extra: whether only `--help-all` shows it.
    """
    if default is not None and default is not False and "default" not in text:
        text += f" (default {format_value(default)})"
    more |= {"metavar": metavar or None, "rich_help_panel": f"{EXTRA}{group}" if extra else group}
    return typer.Option(default, *flags, help=f"{text.removesuffix('.')}.", show_default=False, **more)


def format_value(value: object) -> str:
    """A value as a person types it: `on`, `1e-4`, `0.5`."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float) and 0 < abs(value) < 0.01:
        digits, exponent = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value:g}" if isinstance(value, float) else str(value)


make_path = functools.partial(make_option, metavar="PATH")
make_number = functools.partial(make_option, metavar="NUMBER")
make_flag = functools.partial(make_option, metavar="", default=False)

IMAGES = make_path(INPUT, "Folder of the images; default: the table's folder")
TABLE_IMAGES = make_path(INPUT, "Folder of the images; default: the paths in the table")
MODEL = make_path(INPUT, "Run or model folder, or accurate (default) or fast, which ship", autocompletion=list_models)
PAIRS = make_path(INPUT, "Table of choices: prompt, image_a, image_b, preferred")
GROUP_BY = make_option(INPUT, "Also report each value of this column or setting")
MOS_MIN = make_number(INPUT, "Lowest score of the rating scale (default 0)")
MOS_MAX = make_number(INPUT, "Highest score of the rating scale (default 5)")
SAMPLE_SEED = make_number(INPUT, "Seed of the random sample", default=0, extra=True)
COLUMNS = make_option(TABLE, "THEIRS=OURS renames a column; repeatable", extra=True)
SEPARATOR = make_option(TABLE, "Delimiter of the table (default: a comma)", default=",", extra=True)
DEVICE = make_option(MACHINE, "auto, cpu, cuda or mps", default="auto")
TABLE_OUTPUT = make_path(OUTPUT, "Table (.parquet .csv .jsonl); - prints CSV", "-o", "--output")
RESULTS_FOLDER = make_path(OUTPUT, "Folder; default: a new one in runs/", "-o", "--output")
RESUME = make_flag(OUTPUT, "Continue an interrupted run; give the same -o", "--resume")
REPORT = make_path(OUTPUT, "Write a report page: FILE.html")
OVERWRITE = make_flag(OUTPUT, "Replace existing output", "--overwrite")
JSON = make_flag(OUTPUT, "Print the result as JSON", "--json")


class RatedOptions(NamedTuple):
    """Rated images."""

    data: Path | None = make_path(INPUT, f"Table with {RATED_COLUMNS}; default: the demonstration set")
    images: Path | None = IMAGES
    columns: list[str] | None = COLUMNS
    sep: str = SEPARATOR

    def make_source(self, splits: Path | None = None, pairs: Path | None = None) -> "Source":
        """The source of the rated images, not checked."""
        from aigc_cli.workflows.experiment.source import Source

        return Source(self.data, self.images, parse_renames(self.columns), self.sep, splits, pairs)


class ScoringOptions(NamedTuple):
    """How folders of images are scored."""

    model: Path | None = MODEL
    prompts: Path | None = make_path(INPUT, "Table with name, prompt (.csv .parquet .jsonl)")
    prompt: str | None = make_option(INPUT, "Prompt of every image that has none in --prompts")
    recursive: bool = make_flag(INPUT, "Include subfolders; links are not followed", "--recursive")
    include: list[str] | None = make_option(INPUT, "Only these names, such as '*.png'; repeatable")
    exclude: list[str] | None = make_option(INPUT, "Skip these names and folders; repeatable")
    columns: list[str] | None = COLUMNS
    sep: str = SEPARATOR

    def make_plan(self, device: str, engine: str = "auto") -> "ScoringPlan":
        """The plan of a scoring; AigcError if there is no such model or device."""
        renames = parse_renames(self.columns)
        check_model(self.model, device)
        from aigc_cli.workflows.score.plan import ScoringPlan, Selection

        selection = Selection(self.recursive, self.include or (), self.exclude or ())
        return ScoringPlan(self.prompts, self.prompt, renames, self.sep, selection, self.model, device, engine)


class MachineOptions(NamedTuple):
    """Where a command computes."""

    device: str = DEVICE
    cache: bool = make_flag(MACHINE, "Store features of frozen layers", "--cache/--no-cache", default=True, extra=True)
    cache_gb: float | None = make_number(MACHINE, "Largest size of the feature store in GB", extra=True)

    def make_compute(self) -> "Compute":
        """Device and feature store; imports no PyTorch."""
        from aigc_cli.workflows.experiment.source import Compute

        check_least("--cache-gb", self.cache_gb, 0)
        return Compute(self.device, self.cache if self.cache_gb is None or not self.cache else self.cache_gb)


class PageOptions(NamedTuple):
    """A report page."""

    report: Path | None = REPORT
    thumbs: Path | None = make_path(OUTPUT, "Folder for the thumbnails of --report; default: in the page", extra=True)

    def check(self, overwrite: bool) -> "PageOutput | None":
        """Where the page goes; AigcError for --thumbs without --report, and if one of them can't be written."""
        if self.report is None:
            if self.thumbs is not None:
                raise AigcError("Expected --report beside --thumbs, found none.", "Example: --report report.html")
            return None
        from aigc_cli.report.page_output import PageOutput

        output = PageOutput(self.report, self.thumbs)
        output.check(overwrite=overwrite)
        return output


class ScreenOptions(NamedTuple):
    """What a command prints."""

    quiet: bool = make_flag(OUTPUT, "Hide progress and notes", "-q", "--quiet")
    as_json: bool = JSON

    def print_result(self, result: object, show: Callable[[], None], output: Path | None = None) -> None:
        """Prints the result: as JSON, or by `show` unless stdout holds the table."""
        if self.as_json:
            print_json(result)
        elif output != STREAM:
            show()


def add_bundles(function: Callable[..., None]) -> Callable[..., None]:
    """Replaces each parameter whose type is a bundle by the bundle's options; the command receives the bundle.

    A bundle is a class derived from tuple or dict, whose signature lists the options.
    """
    outer = inspect.signature(function).parameters
    types = {name: parameter.annotation for name, parameter in outer.items()}
    bundles = {name: kind for name, kind in types.items() if isinstance(kind, type) and issubclass(kind, tuple | dict)}
    inner = {name: inspect.signature(bundle).parameters for name, bundle in bundles.items()}

    @functools.wraps(function)
    def command(**given: Any) -> None:
        for name, bundle in bundles.items():
            given[name] = bundle(**{field: given.pop(field) for field in inner[name]})
        function(**given)

    found = [field for name, parameter in outer.items() for field in inner.get(name, {name: parameter}).values()]
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in found]
    parameters.sort(key=lambda parameter: parameter.default in (COLUMNS, SEPARATOR))  # the table's format comes last
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def check_inputs(wanted: str, *paths: Path | None) -> None:
    """Refuses paths where there is nothing, before anything heavy is imported; `wanted` says what is expected there."""
    for path in paths:
        try:
            if path is not None and path != STREAM:
                path.stat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise AigcError(
                f"Expected {wanted} at {show_path(path)}, found nothing there.", "Check the path."
            ) from error
        except PermissionError:
            raise
        except OSError:  # such as a loop of links: the reader of the file explains it
            pass


def check_model(model: Path | None, device: str) -> None:
    """Refuses a folder without a model, and a device of an unknown name, before anything heavy is imported."""
    from aigc_cli.runtime.devices import check_device
    from aigc_cli.storage.checkpoints import find_checkpoint

    check_device(device)
    find_checkpoint(model)


def check_outputs(
    overwrite: bool, *paths: Path | None, suffixes: Sequence[str] | None = None, option: str = "-o"
) -> None:
    """Refuses outputs that can't be written, before anything heavy is imported; see `check_output`.

    Args:
        paths: of tables; None and - are left out.
        suffixes: of other files; empty for folders.
        option: the option that named them.
    """
    from aigc_cli.storage.atomic_files import LOCK, TABLE_SUFFIXES, check_output

    for path in paths:
        if path is not None and path != STREAM and not (path / LOCK).exists():  # who holds a folder is said later
            allowed = TABLE_SUFFIXES if suffixes is None else suffixes
            check_output(path, overwrite=overwrite, suffixes=allowed, option=option)


def check_resume(resume: bool, output: Path | None) -> None:
    """Refuses --resume without -o, the folder of the interrupted run."""
    if resume and output is None:
        raise AigcError("Expected -o beside --resume, found none.", "Name the folder of the interrupted run: -o FOLDER")


def check_least(name: str, value: float | None, least: int) -> None:
    """Refuses the value of an option below `least`, before anything heavy is imported; NaN is refused too."""
    if value is not None and not value >= least:
        raise AigcError(f"Expected {name} of {least} or more, found {value:g}.", "Leave it out for the default.")


def parse_renames(columns: Iterable[str] | None) -> dict[str, str] | None:
    """{their column: ours} from arguments `THEIRS=OURS` or `THEIRS=OURS,THEIRS=OURS`; None without any."""
    pairs = [pair for text in columns or () for pair in text.split(",")]
    return _parse_pairs(pairs, "--columns THEIRS=OURS", "score=mos_quality") or None


def parse_settings(given: Iterable[str] | None) -> dict[str, str]:
    """{setting: value} from `SETTING=VALUE` arguments; the recipe checks both."""
    pairs = _parse_pairs(given or (), "--set SETTING=VALUE", "--set lr=1e-4")
    return {name.replace("-", "_"): value for name, value in pairs.items()}


def _parse_pairs(texts: Iterable[str], wanted: str, example: str) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for name, equals, value in pairs:
        if not (name and equals and value):
            raise AigcError(f"Expected {wanted}, found '{name}{equals}{value}'.", f"Example: {example}")
    return {name: value for name, _, value in pairs}
