"""The executable: joins the commands and turns every ending into an exit code."""

import difflib
import io
import os
import signal
import sys
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from aigc_cli.errors import AigcError

TERMINATED = 143
_ClickException: Any = typer.BadParameter.__mro__[2]  # Typer carries its own copy of Click and exports only this child


class Commands(TyperGroup):
    """The list of commands, without Rich: loading it takes longer than everything else that `aigc --help` does."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**{**attributes, "rich_markup_mode": None})

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Each command with the first paragraph of its help, whole."""
        texts = {name: (command.help or "").partition("\n\n")[0] for name, command in self.commands.items()}
        with formatter.section("Commands"):
            formatter.write_dl([(name, " ".join(text.split())) for name, text in texts.items()])


app = typer.Typer(
    name="aigc",
    cls=Commands,
    invoke_without_command=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(shown: bool) -> None:
    if shown:
        from aigc_cli import __version__

        typer.echo(f"aigc {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an unexpected error."),
) -> None:
    """Which of these generated images are good, and do they show what was asked?"""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Runs `aigc` and exits with the code that README lists."""
    from aigc_cli.cli import commands

    commands.register(app)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: where there is no UTF-8, escapes are no crash
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # temporary files are removed on the way out
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]  # accepted anywhere on the line
    try:
        code: Any = typer.main.get_command(app)(arguments, prog_name="aigc", standalone_mode=False)
        sys.stdout.flush()
        if code == 130:  # Typer's own answer to Ctrl-C
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except AigcError as error:
        return _complain(error.message, error.hint, error.exit_code)
    except typer.Exit as error:
        return error.exit_code
    except _ClickException as error:
        unknown_option = getattr(error, "option_name", None) is not None and hasattr(error, "possibilities")
        return _complain(error.message if unknown_option else error.format_message(), _usage_hint(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        return _complain("Interrupted; no result was written.", "", 130)
    except (BrokenPipeError, SystemExit) as ending:  # Typer exits by itself when a pipe is closed
        if isinstance(ending, SystemExit) and ending.code == TERMINATED:
            return _complain("Terminated; no result was written.", "", TERMINATED)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader left; nobody waits for the rest
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _unexpected(error)


def _unexpected(error: Exception) -> int:
    # PyTorch's own for a GPU and a RuntimeError for a CPU, told without importing it
    no_memory = type(error).__name__ == "OutOfMemoryError" or "enough memory: you tried to allocate" in str(error)
    if isinstance(error, MemoryError) or no_memory:
        return _complain("Out of memory; what was finished before is kept.", "Close other programs and try again.", 4)
    name = f"{type(error).__name__}: {error}".splitlines()[0]
    return _complain(f"A bug in aigc: {name}", "Run again with --debug and report what it shows.", 1)


def _usage_hint(error: Any) -> str:
    """The nearest option to one that does not exist, else where to look."""
    context = getattr(error, "ctx", None)
    if context is None:
        return "`aigc --help` lists what there is."
    unknown = getattr(error, "option_name", None)
    if unknown:
        known = [name for parameter in context.command.params for name in parameter.opts + parameter.secondary_opts]
        if near := difflib.get_close_matches(unknown, known, 1):
            return f"Did you mean {near[0]}?"
    return f"`{context.command_path} --help` lists what there is."


def _complain(message: str, hint: str, code: int) -> int:
    from aigc_cli.text import printable

    lines = [f"aigc: {message}", *([f"      {hint}"] if hint else [])]
    for line in lines:
        print("\n".join(printable(part) for part in line.split("\n")), file=sys.stderr)
    return code
