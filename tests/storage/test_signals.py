"""Delayed signals."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from aigc_cli.storage.signals import hold_signals


@pytest.mark.parametrize(("sent", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_the_first_signal_is_delayed(sent: signal.Signals, kind: type[BaseException]) -> None:
    usual = signal.getsignal(sent)
    found = None
    with contextlib.suppress(ZeroDivisionError), hold_signals() as get_ending:
        assert get_ending() is None
        os.kill(os.getpid(), sent)
        found = get_ending()
        assert signal.getsignal(signal.SIGINT) == signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        raise ZeroDivisionError
    assert isinstance(found, kind)
    assert getattr(found, "code", 143) == 143
    assert signal.getsignal(sent) == usual


@pytest.fixture(autouse=True)
def _usual_interrupt() -> Iterator[None]:
    """Python's own handler of Ctrl-C: a shell starts what runs in the background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_delayed_signal_takes_effect_when_the_block_ends() -> None:
    with pytest.raises(KeyboardInterrupt), hold_signals():
        os.kill(os.getpid(), signal.SIGINT)


def test_other_threads_delay_no_signals() -> None:
    found: list[object] = []

    def work() -> None:
        with hold_signals() as get_ending:
            found.append(get_ending())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [None]
