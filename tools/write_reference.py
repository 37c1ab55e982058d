"""Writes the pages of docs/ that are made from the program: architecture.md, options.md and reasons.md.

    python tools/write_reference.py

Options come from the commands and from the settings in recipe.py, reasons from images/reader.py, exit codes from
errors.py, modules from their docstrings.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from aigc_cli.cli import main
from aigc_cli.cli.help import EXTRA, GENERAL
from aigc_cli.errors import AigcError
from aigc_cli.images.reader import NOTE_REASONS, REASONS
from aigc_cli.recipe import FIELDS, get_field_type

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "aigc_cli"
WRITTEN = "<!-- Written by tools/write_reference.py: change the program, then run it again. -->"
KINDS = {bool: "on or off", int: "whole number", float: "number", str: "text"}

# Bottom up, as tests/test_layering.py holds them; an empty name is the package itself.
FOLDERS = (
    *("", "prompts", "images", "storage", "metrics", "uncertainty", "runtime"),
    *("model", "training", "report", "workflows", "cli"),
)
TORCH = ("model", "training", "workflows")

SCORING = (
    ("cli.score.score", "reads the options and makes a `ScoringPlan` of them"),
    ("workflows.score.score.score_folder", "takes the lock of the output and opens `OUTPUT.parts`"),
    (
        "workflows.score.inputs.list_entries",
        "lists the images with the prompts of the table, the option or sidecars",
    ),
    ("workflows.score.plan.ScoringPlan.load_scorer", "reads the model folder and chooses what computes the scores"),
    ("runtime.saved.read_model", "reads what the model folder says: recipe, scale, preprocessing, calibration"),
    ("workflows.score.networks.load_network", "chooses ONNX Runtime with the model's graphs, or PyTorch"),
    ("runtime.graphs.open_graph", "checks a graph that did not come with the package, and loads it"),
    ("workflows.score.scorer.Scorer.iterate_batches", "works through the images; decoding runs ahead in threads"),
    ("images.decoder.decode_file", "reads the file in a process of its own, which may die without harm"),
    ("images.reader.decode_image", "checks and decodes the bytes; every fault is an `ImageFault` with a reason"),
    ("prompts.embedded.read_embedded", "finds the prompt that a generator wrote into the image"),
    ("images.preprocess.Preprocessing.fit_size", "resizes the image, in the same process"),
    ("runtime.network.GraphNetwork.start", "embeds the prompt, a long one in parts, and runs the image graph"),
    ("uncertainty.calibration.Calibration.describe_scores", "adds intervals, percentiles and `out_of_domain`"),
    ("storage.partial_table.PartialTable.append", "writes finished rows as a shard"),
    ("storage.partial_table.PartialTable.publish", "renames the joined table to its place"),
)
TRAINING = (
    ("recipe.resolve_recipe", "merges options, variables, `aigc.yaml`, recipe and defaults"),
    ("cli.train.train", "makes the `Source` of the ratings and chooses the run folder"),
    ("workflows.train.train.train_model", "takes the lock of the run folder"),
    ("workflows.experiment.rated.read_rated", "reads the ratings, or renders the demonstration set"),
    ("model.loading.load_backbone", "loads the backbone by its name"),
    ("training.loop.make_model", "puts fresh heads on it and freezes what the recipe says"),
    ("workflows.experiment.rated.freeze_images", "computes what is frozen, once for each image, and keeps it"),
    ("metrics.splits.hold_out", "holds out whole prompts for validation"),
    ("training.loop.fit_model", "is the training loop, which folds use too"),
    ("training.rates.compute_learning_rates", "applies the backbone's factors to `lr`"),
    ("training.loop.compute_batch_loss", "computes the loss of a batch"),
    ("workflows.train.resume.StateSaver", "saves the state, from which `--resume` goes on"),
    ("training.diagnosis.describe_diagnosis", "says what the curves show and what to change next"),
    ("workflows.train.calibrate.calibrate_model", "fits intervals on images that the model was not trained on"),
    ("model.export.keep_graphs", "makes the graphs that score without PyTorch"),
    ("workflows.train.train.write_run", "writes the run folder: model, curves, metrics, predictions, parts"),
)


def make_pages() -> dict[str, str]:
    """{file name in docs/: what it should hold}."""
    made = {"architecture.md": _write_architecture, "options.md": _write_options, "reasons.md": _write_reasons}
    return {name: write() for name, write in made.items()}


# --- architecture.md


def _write_architecture() -> str:
    lines = [
        "# Architecture",
        "",
        WRITTEN,
        "",
        "Every folder of the package is one subject. A folder imports only from itself and from folders above it in "
        "this list; `tests/test_layering.py` holds the order.",
        "",
        "## Folders and modules",
        "",
    ]
    for folder in FOLDERS:
        if (PACKAGE / folder).is_dir():
            lines += _list_folder(folder)
    lines += ["## One image through `aigc score`", "", *_number(SCORING), ""]
    lines += ["## One recipe through `aigc train`", "", *_number(TRAINING), ""]
    lines += [
        "`aigc ablate`, `aigc crossval` and `--calibrate-folds` train folds by one driver, "
        "`workflows.experiment.folds.FoldDriver`, which keeps every finished fold on disk.",
        "",
    ]
    return "\n".join([*lines, *_list_tiers()]) + "\n"


def _list_folder(folder: str) -> list[str]:
    """Heading, subject and a line for each module of a folder."""
    place = PACKAGE / folder
    title = f"`{folder}/`" if folder else "the package itself"
    torch = " Imports PyTorch where needed." if folder in TORCH else ""
    found = place.rglob("*.py") if folder else place.glob("*.py")
    modules = sorted(path for path in found if path.name not in ("__init__.py", "__main__.py"))
    rows = [f"| `{path.relative_to(place).as_posix()}` | {_cell(_read_summary(path))} |" for path in modules]
    return [f"### {title}", "", f"{_read_summary(place / '__init__.py')}{torch}", "", "| | |", "|---|---|", *rows, ""]


def _read_summary(path: Path) -> str:
    """The first paragraph of a module's docstring, on one line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def _number(steps: tuple[tuple[str, str], ...]) -> list[str]:
    return [f"{number}. `{name}` {what}." for number, (name, what) in enumerate(steps, 1)]


def _list_tiers() -> list[str]:
    """Which tests belong to which tier, and where they are."""
    folders: dict[str, list[Path]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        folders.setdefault(path.parent.relative_to(ROOT).as_posix(), []).append(path)
    lines = [
        "## Tests",
        "",
        "`tests/` mirrors the package. `pytest` runs the fast tier, which covers every module, and the examples in "
        "docstrings. `pytest -m slow` runs the slow tier: processes that are killed, a browser, a terminal, real data, "
        "fuzzing, and every command of the documentation. `.ci/run` runs both. A test is slow when it, or its file, "
        "has the mark `slow`.",
        "",
        "| folder | fast only | some or all slow |",
        "|---|---|---|",
    ]
    for folder, paths in folders.items():
        slow = [path for path in paths if _has_slow_mark(path)]
        cells = (", ".join(f"`{path.stem}`" for path in part) for part in ([p for p in paths if p not in slow], slow))
        lines.append(f"| `{folder}/` | {' | '.join(cells)} |")
    return lines


def _has_slow_mark(path: Path) -> bool:
    return re.search(r"\bmark\.slow\b", path.read_text(encoding="utf-8")) is not None


# --- options.md


def _write_options() -> str:
    lines = [
        "# Every option",
        "",
        WRITTEN,
        "",
        "The options of every command, then the [settings](#settings) of a recipe, which are also options of `train`. "
        "`aigc COMMAND --help` shows those that most people need, `aigc COMMAND --help-all` shows all. "
        "`aigc --version` prints the version. `--debug`, anywhere on the line, shows the traceback of an unexpected "
        "error.",
        "",
    ]
    for title, command in list_commands(typer.main.get_command(main.app)):
        lines += _describe_command(title, command)
    lines += _list_settings()
    return "\n".join(lines).rstrip() + "\n"


def list_commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """(what is typed, Click's command) for each command below a group, in order."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from list_commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def _describe_command(title: str, command: Any) -> list[str]:
    context = command.make_context(title, [], resilient_parsing=True)
    usage = " ".join(part for part in command.collect_usage_pieces(context) if part != "[OPTIONS]")
    about = "\n".join(line for line in (command.help or "").splitlines() if line != "\b")
    lines = [f"## aigc {title}", "", f"    aigc {title} {f'{usage} ' if usage else ''}[OPTIONS]", "", about, ""]
    lines += ["| | | group |", "|---|---|---|"]
    for parameter in command.get_params(context):
        if parameter.name == "help" or (title == "train" and parameter.name in FIELDS):
            continue
        if parameter.param_type_name == "argument":
            shown, group = str(parameter.metavar), "argument"
        else:
            panel = parameter.rich_help_panel or GENERAL
            shown = parameter.get_help_record(context)[0].replace(" / ", "/").replace("/", " / ")
            group = panel.removeprefix(EXTRA).lower() + (", `--help-all`" if panel.startswith(EXTRA) else "")
        lines.append(f"| `{shown}` | {_cell(parameter.help or '')} | {group} |")
    if title == "train":
        lines += ["", "And every one of the [settings](#settings), as `--lr 1e-4` or `--no-residual`."]
    return [*lines, ""]


def _cell(text: str) -> str:
    """A text in one cell of a table; what stands in backquotes is shown as it is."""
    parts = text.replace("\n", " ").replace("|", "\\|").split("`")
    return "`".join(p if i % 2 else p.replace("<", "&lt;").replace("[", "\\[") for i, p in enumerate(parts))


def _list_settings() -> list[str]:
    lines = ["## Settings", ""]
    lines += [
        "A setting is a key of a recipe file, an option of `train` (`freeze_depth` is `--freeze-depth`), a variable "
        "(`AIGC_FREEZE_DEPTH`), and a value for `crossval --set` and `ablate --vary`. A value outside the sensible "
        "range gives a warning, one outside the possible range is an error.",
        "",
    ]
    for group in dict.fromkeys(field.metadata["group"] for field in FIELDS.values()):
        lines += [f"### {group}", "", "| setting | | default | sensible | possible |", "|---|---|---|---|---|"]
        lines += [_describe_setting(name) for name, field in FIELDS.items() if field.metadata["group"] == group]
        lines.append("")
    return lines


def _describe_setting(name: str) -> str:
    meta, default, (kind, _) = FIELDS[name].metadata, FIELDS[name].default, get_field_type(name)
    shown = "" if default is None else "on" if default is True else "off" if default is False else f"`{default}`"
    sensible = "{:g} to {:g}".format(*meta["sensible"]) if meta["sensible"] else ""
    sensible += "; 0 turns it off" if meta["off"] else ""
    low, high = (None if meta[end] is None else f"{meta[end]:g}" for end in ("low", "high"))
    possible = f"{low} to {high}" if low and high else f"from {low}" if low else KINDS[kind]
    if meta["choices"]:
        possible = ", ".join(f"`{choice}`" for choice in meta["choices"])
    return f"| `{name}` | {_cell(meta['help'])} | {shown} | {sensible.removeprefix('; ')} | {possible} |"


# --- reasons.md


def _write_reasons() -> str:
    failures = {name: text for name, text in REASONS.items() if name not in NOTE_REASONS}
    notes = {name: text for name, text in REASONS.items() if name in NOTE_REASONS}
    lines = ["# Reasons and exit codes", "", WRITTEN, "", "## Why an image has no scores", ""]
    lines += [
        "A row whose `status` is `failed` has no scores and one of these words as its `reason`. It never stops or "
        "changes the others. `aigc score --resume` tries it again, and `--fail-on-bad` makes the run exit with 3.",
        "",
        "| reason | meaning |",
        "|---|---|",
        *(f"| `{name}` | {_cell(text)} |" for name, text in failures.items()),
        "",
        "## Notes beside a score",
        "",
        "These rows have the status `ok`. Commas separate several reasons.",
        "",
        "| reason | meaning |",
        "|---|---|",
        *(f"| `{name}` | {_cell(text)} |" for name, text in notes.items()),
        "",
        "## Exit codes",
        "",
        "| exit code | meaning |",
        "|---|---|",
        *(f"| {code} | {text} |" for code, text in _list_exit_codes().items()),
        "",
        "With any code but 0 and 3, the last lines on stderr say what was expected, what was found and what to do. A "
        "bug is reported in one line; `--debug` shows its traceback.",
    ]
    return "\n".join(lines) + "\n"


def _list_exit_codes() -> dict[str, str]:
    """{exit code: meaning}; those of errors from the first lines of their docstrings."""
    errors: list[type[AigcError]] = [AigcError]
    errors += [error for error in AigcError.__subclasses__() if "exit_code" in vars(error)]
    summaries = {e.exit_code: (e.__doc__ or "").split("\n")[0].partition(" (exit code")[0] for e in errors}
    by_code = {0: "Done", 1: "A bug in aigc", **summaries}
    by_code[3] = (
        "Done, but rows failed and `--fail-on-bad` asked, `verify` found other scores, or `pick --undo` left files"
    )
    ended = {"130, 143": "Interrupted (Ctrl-C) or terminated (SIGTERM); what was finished is kept"}
    return {str(code): by_code[code] for code in sorted(by_code)} | ended


if __name__ == "__main__":
    for page, text in make_pages().items():
        (ROOT / "docs" / page).write_text(text, encoding="utf-8")
