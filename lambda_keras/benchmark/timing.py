"""How long steps take."""

import time
from collections.abc import Callable

LEAST_STEPS = 3


def time_steps(
    step: Callable[[], None],
    seconds: float,
    steps: int,
    least: int = LEAST_STEPS,
) -> list[float]:
    """Times steps one by one.

    Args:
        step: Runs one, and returns when its results are in host memory.
        seconds: After how long to stop.
        steps: After how many steps to stop.
        least: Before how many steps not to stop.

    Returns:
        The seconds of each step.
    """
    times: list[float] = []
    while len(times) < least or (len(times) < steps and sum(times) < seconds):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return times
