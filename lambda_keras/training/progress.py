"""What a run shows while it lasts: bar, speed, time left, TensorBoard."""

import os
import time
from pathlib import Path
from typing import Any

import keras

from lambda_keras.training.callbacks import Bookkeeper


class ProgressBar(keras.callbacks.ProgbarLogger):
    """Keras' bar, of a run that `Model.fit` may be called twice for.

    A run that goes on in the middle of an epoch first fits the rest of it.
    The bar shows that as what it is, a part of one epoch of the run.

    Args:
        epochs: The number of epochs of the run.
        steps_per_epoch: The number of steps in each of them.
    """

    def __init__(self, epochs: int, steps_per_epoch: int):
        super().__init__()
        self.run = {"epochs": epochs, "steps": steps_per_epoch}

    def set_params(self, params):
        self._steps_before = self.run["steps"] - params["steps"]
        super().set_params({**params, **self.run})

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(self._steps_before + batch, logs)


class Progress(keras.callbacks.Callback):
    """Says now and then how fast the run is and how long it will take.

    Args:
        books: What counts steps and time.
        total_steps: The number of steps of the run.
        seconds: The least time between two lines, which is why a run of
            seconds has none.
        within_epochs: Whether lines may come before an epoch ends, where
            there is no bar that they would break.
    """

    def __init__(
        self,
        books: Bookkeeper,
        total_steps: int,
        seconds: float = 60.0,
        within_epochs: bool = False,
    ):
        super().__init__()
        self.books = books
        self.total_steps = total_steps
        self.seconds = seconds
        self.within_epochs = within_epochs
        self._first: tuple[int, float] | None = None
        self._said_at = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        if self._first is None:
            # From here on, so that compilation does not count.
            self._first = self.books.record.step, time.monotonic()
        if self.within_epochs:
            self._say(f", loss {logs['loss']:.4f}")

    def on_epoch_end(self, epoch, logs=None):
        self._say("")

    def _say(self, more):
        now = time.monotonic()
        speed = self.books.images_per_second()
        if now - self._said_at < self.seconds or speed is None:
            return
        self._said_at = now
        step = self.books.record.step
        first_step, first_time = self._first
        # With validation and all else that lies between the steps.
        each = (now - first_time) / max(1, step - first_step)
        left = show_duration(each * (self.total_steps - step))
        print(
            f"Step {step:,} of {self.total_steps:,}{more}: {speed:,.0f} "
            f"images/s per device, {left} left.",
            flush=True,
        )


def show_duration(seconds: float) -> str:
    """Says a time in its two largest units.

    Example:

    >>> show_duration(59), show_duration(3700), show_duration(200_000)
    ('59 s', '1 h 1 min', '2 d 7 h')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


class Scalars(keras.callbacks.Callback):
    """Writes losses, metrics and speed for TensorBoard, by step of the run.

    Keras' own callback counts steps from the start of the process, and the
    curves of a run that was continued would lie on top of each other.

    Args:
        directory: Where to write.
        books: What counts steps and time.
        every: The number of steps between two points within an epoch.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        books: Bookkeeper,
        every: int = 100,
    ):
        super().__init__()
        self.directory = Path(directory)
        self.books = books
        self.every = every
        self._writers: dict[str, Any] = {}
        self._step = 0

    def on_train_batch_begin(self, batch, logs=None):
        self._step = self.books.record.step

    def on_train_batch_end(self, batch, logs=None):
        if self.books.record.step // self.every > self._step // self.every:
            self._write("train", {f"step_{k}": v for k, v in logs.items()})

    def on_epoch_end(self, epoch, logs=None):
        train = {k: v for k, v in logs.items() if not k.startswith("val_")}
        train["learning_rate"] = self.books.learning_rate()
        speed = self.books.images_per_second()
        if speed is not None:
            train["images_per_second_per_device"] = speed
        self._write("train", train)
        self._write(
            "validation",
            {
                k.removeprefix("val_"): v
                for k, v in logs.items()
                if k.startswith("val_")
            },
        )

    def _write(self, name, scalars):
        import tensorflow as tf

        if name not in self._writers:
            self._writers[name] = tf.summary.create_file_writer(
                os.fspath(self.directory / name)
            )
        with self._writers[name].as_default(step=self.books.record.step):
            for key, value in scalars.items():
                tf.summary.scalar(key, value)
        self._writers[name].flush()


class ProfileWindow(keras.callbacks.Callback):
    """Profiles some steps of the run, for TensorBoard's profiler.

    Args:
        directory: Where to write.
        books: What counts the steps.
        window: The first and the last step, as `"10,20"`.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        books: Bookkeeper,
        window: str,
    ):
        super().__init__()
        self.directory = os.fspath(directory)
        self.books = books
        self.first, self.last = map(int, window.split(","))
        self._is_running = False

    def on_train_batch_begin(self, batch, logs=None):
        coming = self.books.record.step + 1
        if not self._is_running and self.first <= coming <= self.last:
            start, _ = _profiler()
            start(self.directory)
            self._is_running = True

    def on_train_batch_end(self, batch, logs=None):
        if self._is_running and self.books.record.step >= self.last:
            self._stop()

    def on_train_end(self, logs=None):
        if self._is_running:
            self._stop()

    def _stop(self):
        _, stop = _profiler()
        stop()
        self._is_running = False


def _profiler():
    if keras.backend.backend() == "jax":
        import jax

        return jax.profiler.start_trace, jax.profiler.stop_trace
    import tensorflow as tf

    profiler = tf.profiler.experimental
    return profiler.start, profiler.stop
