"""The executable `aigc`: joins the commands and turns errors into messages and exit codes."""

import contextlib
import errno
import importlib
import io
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import typer

from aigc_cli.cli.help import COMMAND_GROUPS, SHOW_ALL, CommandList, HelpfulCommand
from aigc_cli.errors import AigcError
from aigc_cli.text import show_path, to_printable

if TYPE_CHECKING:
    from typer._click import ClickException, Command, Context

INTERRUPTED, TERMINATED = 130, 143
MOVED_OPTIONS = {  # options of earlier versions, and what to type instead
    "eval": dict.fromkeys(
        ("--protocol", "--recipe", "--epochs", "--set", "--folds", "--repeats", "--seed", "--splits", "--splits-out"),
        "Use `aigc crossval` instead of `aigc eval --protocol`.",
    ),
    "ablate": dict.fromkeys(("--stress", "--model"), "Use `aigc stress` instead of `aigc ablate --stress`."),
}
# Typer has its own copy of Click and does not export this class, only its child BadParameter.
_USAGE_ERROR: "type[ClickException]" = typer.BadParameter.__mro__[2]


class Commands(Mapping[str, "Command"]):
    """Click's commands by name. A command is made, and its module imported, when it is looked up."""

    def __init__(self) -> None:
        self._names = [name for group in COMMAND_GROUPS.values() for name in group]
        self._made: dict[str, Command] = {}

    def __getitem__(self, name: str) -> "Command":
        if name not in self._names:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = _make_command(name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _make_command(name: str) -> "Command":
    from aigc_cli.cli.options import add_bundles

    module = importlib.import_module(f"aigc_cli.cli.{name}")  # of the command and its function
    if name == "cache":
        return typer.main.get_command(module.cache_app)
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    alone.command(name, cls=HelpfulCommand)(add_bundles(getattr(module, name)))
    return typer.main.get_command(alone)


class _Root(CommandList):
    """`aigc` itself."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = Commands()  # type: ignore[assignment]  # nothing adds a command to it


app = typer.Typer(
    name="aigc",
    cls=_Root,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from aigc_cli import __version__

        typer.echo(f"aigc {__version__}")
        raise typer.Exit


@app.callback()
def _start(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an unexpected error."),
) -> None:
    """Predict how people rate AI-generated images: their quality, and how well they match the prompt.

    `aigc COMMAND --help` shows the main options of a command, `aigc COMMAND --help-all` all of them.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


class _PandasBlocker:
    """Keeps pandas out of the process: no command needs it, and pyarrow would spend 0.3 s on importing it.

    None in `sys.modules` does not do it: pyarrow takes it for the module. PyTorch may find pandas: it looks for many
    packages, and an error ends it.
    """

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname == "pandas" and "torch" not in sys.modules:
            raise ModuleNotFoundError("No command needs pandas.", name="pandas")


def main() -> None:
    """Runs `aigc` and exits with a code of docs/reasons.md."""
    _open_closed_streams()
    sys.meta_path.insert(0, _PandasBlocker())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr does: print an escape where UTF-8 is missing
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # unwinds the stack, which removes temporary files
    sys.exit(run(sys.argv[1:]))


def _open_closed_streams() -> None:
    """Puts the null device in place of standard streams that are closed.

    Otherwise the next file that is opened would take their place, and what a library prints would go into it.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def run(arguments: list[str]) -> int:
    """Runs a command line of `app`, prints errors on stderr and returns the exit code."""
    debug, show_all = "--debug" in arguments, "--help-all" in arguments
    arguments = ["--help" if a == "--help-all" else a for a in arguments if a != "--debug"]  # anywhere on the line
    try:
        command = typer.main.get_command(app)
        code: object = command(arguments, prog_name="aigc", standalone_mode=False, obj={SHOW_ALL: show_all})
        sys.stdout.flush()
        if code == INTERRUPTED:  # Typer catches Ctrl-C itself
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except AigcError as error:
        return _print_error(error.message, error.hint, error.exit_code)
    except typer.Exit as error:
        return error.exit_code
    except _USAGE_ERROR as error:
        # without Typer's own list of similar options
        message = error.message if _find_unknown_option(error) else error.format_message()
        return _print_error(message, _hint_usage(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        return _print_error("Interrupted; no result was written.", "", INTERRUPTED)
    except (BrokenPipeError, SystemExit) as ending:  # Typer calls sys.exit after a completion, or if a pipe is closed
        return _end_early(ending.code if isinstance(ending, SystemExit) else 1)
    except Exception as error:
        if debug:
            import traceback

            traceback.print_exc()
        return _explain_unexpected(error)


def _end_early(code: object) -> int:
    if code == TERMINATED:
        return _print_error("Terminated; no result was written.", "", TERMINATED)
    if code:
        _drop_output()  # the reader of the pipe is gone
    return 0


def _drop_output() -> None:
    """Drops what is still buffered for standard output, which can't be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _explain_unexpected(error: Exception) -> int:
    # PyTorch raises OutOfMemoryError for a GPU and RuntimeError for a CPU; recognised without importing it
    no_memory = type(error).__name__ == "OutOfMemoryError" or "enough memory: you tried to allocate" in str(error)
    if isinstance(error, MemoryError) or no_memory:
        return _print_error("Out of memory; finished parts are kept.", "Close other programs and try again.", 4)
    if isinstance(error, ModuleNotFoundError) and (package := (error.name or "").partition(".")[0]) != "aigc_cli":
        message = f"Expected the package {package}, found it not installed."
        return _print_error(message, "Install everything with: pip install aigc-cli", 4)
    if isinstance(error, PermissionError) and error.filename:  # even asking whether a path exists may be forbidden
        message = f"Expected access to {show_path(os.fsdecode(error.filename))}, found it forbidden."
        return _print_error(message, "Change the permissions of its folders, or use another path.", 4)
    if isinstance(error, OSError) and error.filename is None and error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        _drop_output()
        message = f"Standard output could not be written: {error.strerror}."
        return _print_error(message, "Free some space; files that were named with -o are complete.", 4)
    name = f"{type(error).__name__}: {error}".splitlines()[0]
    return _print_error(f"A bug in aigc: {name}", "Run again with --debug and report the output.", 1)


def _find_unknown_option(error: "ClickException") -> str:
    """The option that does not exist, an empty string for other errors of usage."""
    return str(getattr(error, "option_name", None) or "") if hasattr(error, "possibilities") else ""


def _hint_usage(error: "ClickException") -> str:
    """What to type instead of an unknown option, else where to look."""
    context: Context | None = getattr(error, "ctx", None)
    if context is None:
        return "See `aigc --help`."
    if unknown := _find_unknown_option(error):
        moved = MOVED_OPTIONS.get(context.info_name or "", {})
        if unknown in moved:
            return moved[unknown]
        import difflib

        from aigc_cli.recipe import FORMER_SETTINGS

        if (setting := unknown.removeprefix("--").replace("-", "_")) in FORMER_SETTINGS:
            return FORMER_SETTINGS[setting].replace("residual_scale_", "--residual-scale-")
        known = []
        for parameter in context.command.params:
            if parameter.param_type_name == "option":
                known += parameter.opts + parameter.secondary_opts
            elif unknown == f"--{parameter.name}":
                return f"Give it without {unknown}: `{context.command_path} {unknown.removeprefix('--').upper()}`."
        if near := difflib.get_close_matches(unknown, known, 1):
            return f"Did you mean {near[0]}?"
    return f"See `{context.command_path} --help`."


def _print_error(message: str, hint: str, code: int) -> int:
    lines = [f"aigc: {message}", *([f"      {hint}"] if hint else [])]
    for line in lines:
        print("\n".join(to_printable(part) for part in line.split("\n")), file=sys.stderr)
    return code
