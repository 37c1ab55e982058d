"""Signals that ask a long computation to stop at the next good moment."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

ASKING = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def graceful() -> Iterator[Callable[[], BaseException | None]]:
    """Holds back the first Ctrl-C or SIGTERM; a second one ends the process at once.

    Yields a function that says how the process was asked to end: KeyboardInterrupt, SystemExit(143), or None so far. A
    signal that nobody looked at takes its usual effect when the block ends. Outside the main thread, which alone gets
    signals, nothing is held back.
    """
    asked: list[int] = []

    def first(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        for each in ASKING:
            signal.signal(each, signal.SIG_DFL)

    def ending() -> BaseException | None:
        if not asked:
            return None
        return KeyboardInterrupt() if asked[0] == signal.SIGINT else SystemExit(128 + asked[0])

    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    usual = {each: signal.signal(each, first) for each in ASKING}
    try:
        yield ending
    finally:
        for each, handler in usual.items():
            signal.signal(each, handler)
    if asked:
        signal.raise_signal(asked[0])
