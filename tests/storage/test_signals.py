"""Signals are held back until somebody looks."""

import contextlib
import os
import signal
import threading

import pytest

from aigc_cli.storage.signals import graceful


@pytest.mark.parametrize(("sent", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_the_first_signal_is_held_back(sent: signal.Signals, kind: type[BaseException]) -> None:
    usual = signal.getsignal(sent)
    found = None
    with contextlib.suppress(ZeroDivisionError), graceful() as ending:
        assert ending() is None
        os.kill(os.getpid(), sent)
        found = ending()
        assert signal.getsignal(signal.SIGINT) == signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        raise ZeroDivisionError
    assert isinstance(found, kind)
    assert getattr(found, "code", 143) == 143
    assert signal.getsignal(sent) == usual


def test_a_signal_that_nobody_looked_at_takes_its_effect() -> None:
    with pytest.raises(KeyboardInterrupt), graceful():
        os.kill(os.getpid(), signal.SIGINT)


def test_other_threads_get_no_signals() -> None:
    found: list[object] = []

    def work() -> None:
        with graceful() as ending:
            found.append(ending())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [None]
