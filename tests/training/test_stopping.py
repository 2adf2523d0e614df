import os
import signal

import pytest

from lambda_keras.training import stopping
from lambda_keras.training.stopping import AGREE_EVERY
from lambda_keras.training.stopping import Stopped
from lambda_keras.training.stopping import StopRequest


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_until_the_state_is_saved(number):
    stop, before = StopRequest(), signal.getsignal(number)
    with stop.listening():
        stop.can_wait = True
        assert not stop.agree()
        send(number)
        assert stop.agree()
        with pytest.raises(Stopped) as stopped:
            stop.raise_if_agreed()
    assert stopped.value.signal_number == number
    assert signal.getsignal(number) is before


def test_it_does_not_wait_when_there_is_nothing_to_save():
    stop = StopRequest()
    with pytest.raises(Stopped), stop.listening():
        send(signal.SIGTERM)


def test_the_second_signal_stops_at_once():
    stop = StopRequest()
    with pytest.raises(Stopped), stop.listening():
        stop.can_wait = True
        send(signal.SIGINT)
        send(signal.SIGINT)


def test_processes_stop_together(monkeypatch):
    """A signal of another process, at a step that all of them ask at."""
    answers = [[0, 0], [0, signal.SIGTERM]]
    monkeypatch.setattr(stopping, "count_processes", lambda: 2)
    monkeypatch.setattr(stopping, "gather", lambda number: answers.pop(0))
    stop = StopRequest()
    stop.can_wait = True
    with stop.listening():
        agreed = [stop.agree(step) for step in range(1, 2 * AGREE_EVERY + 1)]
        assert agreed == [False] * (2 * AGREE_EVERY - 1) + [True]
        # The first signal to this process itself still waits for the save.
        send(signal.SIGTERM)
        with pytest.raises(Stopped):
            stop.raise_if_agreed()


def test_a_signal_that_comes_while_they_ask_is_not_lost(monkeypatch):
    monkeypatch.setattr(stopping, "count_processes", lambda: 2)

    def gather(number):
        if not number:
            send(signal.SIGTERM)
        return [number, 0]

    monkeypatch.setattr(stopping, "gather", gather)
    stop = StopRequest()
    stop.can_wait = True
    with stop.listening():
        assert not stop.agree(AGREE_EVERY)
        assert stop.agree(2 * AGREE_EVERY)
