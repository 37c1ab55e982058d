"""Errors that a user can see, each with the exit code of the program."""

import contextlib
from collections.abc import Iterator

from aigc_cli.text import to_printable


class AigcError(Exception):
    """Bad usage or bad input; nothing was written yet (exit code 2).

    Args:
        message: what was expected and what was found.
        hint: what the user can do about it.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        # Names, prompts and settings of strangers are in it, and it may reach a terminal from any program.
        message, hint = ("\n".join(map(to_printable, text.split("\n"))) for text in (message, hint))
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class EnvironmentProblem(AigcError):
    """The machine cannot do the work: weights are missing, the disk is full, a folder is read-only (exit code 4)."""

    exit_code = 4


@contextlib.contextmanager
def explain_os_errors(failure: str, hint: str) -> Iterator[None]:
    """Turn an OSError in the block into an EnvironmentProblem: `<failure>: <the system's reason>.`"""
    try:
        yield
    except OSError as error:
        raise EnvironmentProblem(f"{failure}: {error.strerror or error}.", hint) from error


class FolderConflict(AigcError):
    """Another process holds the folder (exit code 5)."""

    exit_code = 5


class Divergence(AigcError):
    """The training loss became NaN or infinite; the last good checkpoint is kept (exit code 6)."""

    exit_code = 6


class Interruption(AigcError):
    """A signal ended the work; finished results are kept (exit code 130 for SIGINT, 143 for SIGTERM).

    Args:
        kept: what is kept; the message is `Interrupted; <kept>` or `Terminated; <kept>`.
        hint: how to continue.
        ending: KeyboardInterrupt for SIGINT, or a SystemExit that carries the exit code of another signal.
    """

    def __init__(self, kept: str, hint: str, ending: BaseException) -> None:
        super().__init__(f"{'Interrupted' if isinstance(ending, KeyboardInterrupt) else 'Terminated'}; {kept}", hint)
        code = ending.code if isinstance(ending, SystemExit) else 130
        self.exit_code = code if isinstance(code, int) else 130
