"""SIGINT and SIGTERM for work that ends at a good place of its own choosing."""

import contextlib
import signal
from collections.abc import Iterator

_MEANT = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether somebody asked for an end.

    Attributes:
        by: the signal that did, None so far.
    """

    by: int | None = None

    def ending(self) -> BaseException:
        """What the signal would have raised, for `errors.Interrupted`."""
        return KeyboardInterrupt() if self.by == signal.SIGINT else SystemExit(128 + (self.by or signal.SIGTERM))


@contextlib.contextmanager
def stoppable() -> Iterator[Stop]:
    """Within the block the first SIGINT or SIGTERM is only noted; a second one ends the process at once.

    Elsewhere than in the main thread, which alone may handle signals, nothing changes.
    """
    stop = Stop()

    def note(number: int, _: object) -> None:
        stop.by = number
        for meant in _MEANT:
            signal.signal(meant, signal.SIG_DFL)  # the system's own: it does not wait for a long computation

    before = {}
    with contextlib.suppress(ValueError):
        for meant in _MEANT:
            before[meant] = signal.signal(meant, note)
    try:
        yield stop
    finally:
        for meant, handler in before.items():
            signal.signal(meant, handler)
