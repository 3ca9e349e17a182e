"""The first signal raises, and those that come on its heels are not heard."""

import signal
import threading

import pytest

from pipeline import stop_signals
from pipeline.stop_signals import STOPS, stopped_by_signals, told_to_stop


def end_of(number):
    """Expect the exception that a signal becomes."""
    is_ctrl_c = number == signal.SIGINT
    return pytest.raises(KeyboardInterrupt) if is_ctrl_c else pytest.raises(SystemExit, match=f"{128 + number}")


@pytest.fixture(autouse=True)
def handlers_as_before():
    numbers = [*STOPS, signal.SIGCHLD]
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before
    assert told_to_stop() is None


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_ends_the_block_with_the_status_that_a_shell_gives_it(number):
    with end_of(number), stopped_by_signals():
        signal.raise_signal(number)
    with end_of(number), stopped_by_signals():  # another block knows nothing of it
        signal.raise_signal(number)


def strike_again():
    """Say whether each of the signals is heard after the first one."""
    with stopped_by_signals():
        with pytest.raises(SystemExit, match="143"), stopped_by_signals():
            signal.raise_signal(signal.SIGTERM)
        assert told_to_stop() == signal.SIGTERM
        for number in STOPS:
            signal.raise_signal(number)


def test_more_signals_do_not_disturb_what_closes():
    strike_again()


def test_they_are_heard_again_where_that_takes_too_long(monkeypatch):
    monkeypatch.setattr(stop_signals, "GRACE", 0)
    with pytest.raises(KeyboardInterrupt):
        strike_again()


def test_what_the_process_ignores_is_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopped_by_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_worker_that_the_same_signal_ends_does_not_raise():
    def raise_as_torch_does(number, frame):
        raise RuntimeError

    before = signal.signal(signal.SIGCHLD, raise_as_torch_does)
    try:
        with stopped_by_signals():
            with pytest.raises(RuntimeError):
                signal.raise_signal(signal.SIGCHLD)
            with pytest.raises(SystemExit):
                signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGCHLD)
        assert signal.getsignal(signal.SIGCHLD) is raise_as_torch_does
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_thread_which_no_signal_reaches_may_have_such_a_block():
    found = []

    def enter():
        with stopped_by_signals():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]
