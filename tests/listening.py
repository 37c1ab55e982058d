"""A progress that collects what it is told."""

from aigc_cli.progress import SilentProgress


class Listener(SilentProgress):
    """Collects messages."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)
