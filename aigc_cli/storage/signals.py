"""Delays signals, so that a long computation can stop at a safe point."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def hold_signals() -> Iterator[Callable[[], BaseException | None]]:
    """Delay the first Ctrl-C or SIGTERM inside the block; a second one ends the process at once.

    Yields a function that returns the exception of the delayed signal: KeyboardInterrupt, SystemExit(143), or None. A
    signal takes its usual effect when the block ends without an exception. Outside the main thread, where Python
    handles no signals, nothing is delayed.
    """
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for each in STOP_SIGNALS:
            signal.signal(each, signal.SIG_DFL)

    def get_ending() -> BaseException | None:
        if not received:
            return None
        return KeyboardInterrupt() if received[0] == signal.SIGINT else SystemExit(128 + received[0])

    if threading.current_thread() is not threading.main_thread():
        yield get_ending
        return
    usual = {each: signal.signal(each, remember) for each in STOP_SIGNALS}
    try:
        yield get_ending
    finally:
        for each, handler in usual.items():
            signal.signal(each, handler)
    if received:
        signal.raise_signal(received[0])
