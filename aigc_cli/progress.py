"""The interface by which a long computation reports progress. The command line draws bars from these calls."""

from typing import Protocol


class Progress(Protocol):
    """Receives the progress reports of a long computation."""

    def start(self, task: str, total: int | None) -> None:
        """Starts a task of `total` steps (None: unknown). The task ends when the next one starts."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Reports that `steps` more steps are done; `note` is a short status such as the current loss."""

    def say(self, message: str) -> None:
        """Shows one line of text to the user."""


class SilentProgress:
    """A Progress that shows nothing."""

    def start(self, task: str, total: int | None) -> None: ...

    def advance(self, steps: int = 1, note: str = "") -> None: ...

    def say(self, message: str) -> None: ...
