"""How a long computation tells whoever started it how far it is. The command line draws bars from it."""

from typing import Protocol


class Progress(Protocol):
    """Receives the steps of a long computation."""

    def start(self, task: str, total: int | None) -> None:
        """A new task of `total` steps (None: not known) begins; it ends when the next one starts."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """`steps` more are done; `note` says how it is going."""

    def say(self, message: str) -> None:
        """One line for the person who waits."""


class Silent:
    """Listens and shows nothing."""

    def start(self, task: str, total: int | None) -> None: ...

    def advance(self, steps: int = 1, note: str = "") -> None: ...

    def say(self, message: str) -> None: ...
