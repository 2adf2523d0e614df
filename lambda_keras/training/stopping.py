"""How a run is stopped from outside: when its state is saved."""

import contextlib
import signal
import threading
from collections.abc import Iterator

from lambda_keras.training.processes import count_processes
from lambda_keras.training.processes import gather

# How many batches several processes take between asking each other to stop.
AGREE_EVERY = 16


class Stopped(KeyboardInterrupt):
    """A signal asked the run to stop.

    Args:
        signal_number: Which one.
        by_all: Whether all processes stop with this one.
    """

    def __init__(self, signal_number: int, by_all: bool = False):
        super().__init__()
        self.signal_number = signal_number
        self.by_all = by_all


class StopRequest:
    """Notes SIGTERM and SIGINT (Ctrl-C) until the run can act on them.

    Attributes:
        can_wait: Whether there is something to save first. Where there is
            not, and at the second signal, the run stops at once.
        agreed: The signal that all processes have agreed to stop for, or
            None.
    """

    def __init__(self):
        self.can_wait = False
        self.agreed: int | None = None
        # What came to this process; only the handler changes it.
        self._noted: int | None = None
        self._asked_at = 0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Listens within the block, where Python allows it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        earlier = {
            number: signal.signal(number, self._note)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)

    def _note(self, number, frame):
        if self._noted is not None or not self.can_wait:
            raise Stopped(number)
        self._noted = number

    def agree(self, batch: int | None = None) -> bool:
        """Says whether to save and stop now: all processes, or none.

        A signal may reach one process alone, or each at another step.

        Args:
            batch: The number of the batch that has ended, the same in all
                processes, which then ask each other now and then; by default
                they do.
        """
        if count_processes() > 1 and batch is not None:
            if batch // AGREE_EVERY == self._asked_at:
                return False
            self._asked_at = batch // AGREE_EVERY
        self.agreed = max(gather(self._noted or 0)) or None
        return self.agreed is not None

    def raise_if_agreed(self) -> None:
        """Raises `Stopped` if the run is to stop."""
        if self.agreed is not None:
            raise Stopped(self.agreed, by_all=True)
