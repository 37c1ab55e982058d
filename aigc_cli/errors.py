"""Every error a user can meet, with the exit code it ends the program with."""


class AigcError(Exception):
    """Bad usage or input, found before anything was written (exit code 2).

    `message` says what was expected and what was found; `hint` says what to do about it.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class EnvironmentProblem(AigcError):
    """The machine cannot do it: no weights, disk full, unwritable folder (exit code 4)."""

    exit_code = 4


class RunHeld(AigcError):
    """Another process works in the folder (exit code 5)."""

    exit_code = 5


class Diverged(AigcError):
    """Training reached a loss that is not finite; the last good checkpoint is kept (exit code 6)."""

    exit_code = 6


class Interrupted(AigcError):
    """A signal ended it; what was finished is kept (exit code 130, or that of the SystemExit that ended it).

    Args:
        kept: what is left, said after the word for the signal.
        ending: KeyboardInterrupt (SIGINT), or the SystemExit that another signal was made into.
    """

    def __init__(self, kept: str, hint: str, ending: BaseException) -> None:
        super().__init__(f"{'Interrupted' if isinstance(ending, KeyboardInterrupt) else 'Terminated'}; {kept}", hint)
        code = ending.code if isinstance(ending, SystemExit) else 130
        self.exit_code = code if isinstance(code, int) else 130
