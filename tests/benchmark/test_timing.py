import itertools

import pytest

from lambda_keras.benchmark import timing
from lambda_keras.benchmark.timing import time_steps


@pytest.mark.parametrize(
    ("seconds", "steps", "count"),
    [(0.095, 50, 10), (10.0, 7, 7), (0.001, 50, 3), (10.0, 1, 3)],
    ids=["time is up", "enough steps", "at least some", "more than one"],
)
def test_when_steps_are_enough(seconds, steps, count, monkeypatch):
    clock = itertools.count()
    # Each step takes 10 ms, by a clock that is looked at twice.
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock) * 0.01)
    calls = []
    times = time_steps(lambda: calls.append(1), seconds, steps)
    assert len(times) == len(calls) == count
    assert times == pytest.approx([0.01] * count)
