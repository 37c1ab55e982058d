"""Writes the pages of docs/ that are made from the program: options.md and reasons.md.

    python tools/write_reference.py

Options come from the commands and from the settings in recipe.py, reasons from io/images.py, exit codes from README.
"""

import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.models import ArgumentInfo

from aigc_cli.cli import commands
from aigc_cli.images.reader import NOTES, REASONS
from aigc_cli.recipe import FIELDS, field_type

ROOT = Path(__file__).parents[1]
BELOW = "<!-- Written by tools/write_reference.py: change the program, then run it again. -->"
KINDS = {bool: "on or off", int: "whole number", float: "number", str: "text"}
WORDS = {Path: "PATH", int: "INTEGER", float: "NUMBER", str: "TEXT"}


def pages() -> dict[str, str]:
    """{file name in docs/: what it should hold}."""
    return {"options.md": _options(), "reasons.md": _reasons()}


def _options() -> str:
    app = typer.Typer(name="aigc")
    commands.register(app)
    lines = [
        "# Every option",
        "",
        BELOW,
        "",
        "Of every command, then the [settings](#settings) of a recipe, which are options of `train` as well. "
        "`aigc COMMAND --help` shows the same on a terminal. Before any command: `--version`; anywhere on the line: "
        "`--debug`, which shows the traceback of an unexpected error.",
        "",
    ]
    for title, function in _commands(app):
        lines += _command(title, function)
    lines += _settings()
    return "\n".join(lines).rstrip() + "\n"


def _commands(app: typer.Typer, before: str = "") -> Iterator[tuple[str, Any]]:
    """What is typed for each command, and its function."""
    for command in app.registered_commands:
        yield f"{before}{command.name or getattr(command.callback, '__name__', '')}", command.callback
    for group in app.registered_groups:
        if group.typer_instance is not None:
            yield from _commands(group.typer_instance, f"{before}{group.typer_instance.info.name} ")


def _command(title: str, function: Any) -> list[str]:
    parameters = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.name not in FIELDS]
    if title != "train":
        parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    found = [(p, *_parts(p.annotation)) for p in parameters]
    typed = "".join(f" {_typed(p, kind)}" for p, kind, info in found if isinstance(info, ArgumentInfo))
    lines = [f"## aigc {title}", "", f"    aigc {title}{typed} [OPTIONS]", ""]
    lines += [*inspect.cleandoc(function.__doc__ or "").splitlines(), "", "| | | default |", "|---|---|---|"]
    for parameter, kind, info in found:
        shown = _typed(parameter, kind) if isinstance(info, ArgumentInfo) else _flags(parameter, kind, info)
        lines.append(f"| `{shown}` | {_cell(info.help or '')} | {_default(parameter)} |")
    if title == "train":
        lines += ["", "And every one of the [settings](#settings), as `--lr 1e-4` or `--no-residual`."]
    return [*lines, ""]


def _parts(annotation: Any) -> tuple[Any, Any]:
    """(the type without None, what Typer is told) of a parameter."""
    kind, info = typing.get_args(annotation)[:2]
    inner = [part for part in typing.get_args(kind) if part is not type(None)]
    return (inner[0] if inner and typing.get_origin(kind) is not list else kind), info


def _typed(parameter: inspect.Parameter, kind: Any) -> str:
    name = parameter.name.upper() + ("..." if typing.get_origin(kind) is list else "")
    return name if parameter.default is inspect.Parameter.empty else f"[{name}]"


def _flags(parameter: inspect.Parameter, kind: Any, info: Any) -> str:
    flag = f"--{parameter.name.replace('_', '-')}"
    both = f"{flag} / --no-{flag[2:]}" if kind is bool else flag
    first = [info.default] if str(info.default).startswith("-") else []  # in Annotated, Typer's first word is a flag
    flags = ", ".join([*first, *(info.param_decls or ())] or [both])
    flags = flags if " / " in flags else flags.replace("/", " / ")
    inner = typing.get_args(kind)[0] if typing.get_origin(kind) is list else kind
    return flags if kind is bool else f"{flags} {WORDS[inner]}"


def _default(parameter: inspect.Parameter) -> str:
    value = parameter.default
    if value is None or value is False or value is inspect.Parameter.empty:
        return ""
    return "on" if value is True else f"`{value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[").replace("\n", " ")


def _settings() -> list[str]:
    lines = ["## Settings", ""]
    lines += [
        "Keys of a recipe file, options of `train` (`freeze_depth` is `--freeze-depth`), variables "
        "(`AIGC_FREEZE_DEPTH`), and `--set freeze_depth=0.9` of `eval --protocol`. Outside its sensible range a "
        "setting warns; outside what is possible it is an error.",
        "",
    ]
    for group in dict.fromkeys(field.metadata["group"] for field in FIELDS.values()):
        lines += [f"### {group}", "", "| setting | | default | sensible | possible |", "|---|---|---|---|---|"]
        lines += [_setting(name) for name, field in FIELDS.items() if field.metadata["group"] == group]
        lines.append("")
    return lines


def _setting(name: str) -> str:
    meta, default, (kind, _) = FIELDS[name].metadata, FIELDS[name].default, field_type(name)
    shown = "" if default is None else "on" if default is True else "off" if default is False else f"`{default}`"
    sensible = "{:g} to {:g}".format(*meta["sensible"]) if meta["sensible"] else ""
    low, high = (None if meta[end] is None else f"{meta[end]:g}" for end in ("low", "high"))
    possible = f"{low} to {high}" if low and high else f"from {low}" if low else KINDS[kind]
    if meta["choices"]:
        possible = ", ".join(f"`{choice}`" for choice in meta["choices"])
    return f"| `{name}` | {_cell(meta['help'])} | {shown} | {sensible} | {possible} |"


def _reasons() -> str:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^\| exit code \|.*?(?=\n\n)", readme, re.M | re.S)
    assert found is not None, "README has no table of exit codes"
    failures = {name: text for name, text in REASONS.items() if name not in NOTES}
    lines = ["# Reasons and exit codes", "", BELOW, "", "## Why an image has no scores", ""]
    lines += [
        "A row whose `status` is `failed` has no scores and one of these words as its `reason`. It never stops or "
        "changes the others; `aigc score --resume` tries it again, and `--fail-on-bad` makes the run exit with 3.",
        "",
        "| reason | in words |",
        "|---|---|",
        *(f"| `{name}` | {_cell(text)} |" for name, text in failures.items()),
        "",
        "## Notes beside a score",
        "",
        "These rows have the status `ok`. Several reasons have commas between them.",
        "",
        "| reason | in words |",
        "|---|---|",
        *(f"| `{name}` | {_cell(REASONS[name])} |" for name in REASONS if name in NOTES),
        "",
        "## Exit codes",
        "",
        found[0],
        "",
        "With anything but 0 and 3, the last lines on stderr say what was expected, what was found and what to do. An "
        "error that is no fault of yours is one line and the code 1; `--debug` shows where it came from.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for name, text in pages().items():
        (ROOT / "docs" / name).write_text(text, encoding="utf-8")
