"""Callbacks that make a run survive: record, checkpoints, best model."""

import contextlib
import csv
import dataclasses
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from lambda_keras.files import write_aside
from lambda_keras.training.checkpoints import Checkpoint
from lambda_keras.training.checkpoints import capture
from lambda_keras.training.checkpoints import to_host
from lambda_keras.training.checkpoints import write_checkpoint
from lambda_keras.training.stopping import StopRequest


@dataclasses.dataclass
class Record:
    """What a run has done so far; kept in its checkpoints as JSON.

    Args:
        step: The number of steps taken.
        history: For each epoch that has ended, its losses, metrics, learning
            rate, seconds, and images per second and device.
        best_epoch: The number of the epoch behind `best.keras`, from 1; 0
            before there is one.
        seconds: Wall-clock seconds of training, over all its processes.
        epoch_seconds: Those of the epoch that is under way.
        timed_steps: The number of steps whose time was taken: all but the
            first of each epoch and process, which compiles, or waits for the
            first images.
        timed_seconds: The seconds that those took.
        resumed: How often the run was continued.
    """

    step: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best_epoch: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    timed_steps: int = 0
    timed_seconds: float = 0.0
    resumed: int = 0

    @property
    def epoch(self) -> int:
        """The number of epochs that have ended."""
        return len(self.history)


class Bookkeeper(keras.callbacks.Callback):
    """Counts steps and time, and ends training when the loss is no number.

    It comes first: the others rely on its count.

    Args:
        record: What it keeps.
        images_per_step: The number of images that a device sees per step.
        schedule: Function of the number of steps that gives the learning rate
            of the next one. The optimizer's own is computed from a variable,
            which on JAX all processes have to do together.
    """

    def __init__(
        self,
        record: Record,
        images_per_step: float,
        schedule: Callable[[int], Any],
    ):
        super().__init__()
        self.record = record
        self.images_per_step = images_per_step
        self.schedule = schedule

    def learning_rate(self, later: int = 0) -> float:
        """The learning rate of the next step, or of one that is later."""
        # Steps that overflow in float16 do not count.
        steps = int(to_host(self.model.optimizer.iterations))
        rate = self.schedule(max(0, steps + later))
        return float(keras.ops.convert_to_numpy(rate))

    def where(self) -> str:
        """Says for an error at which step the run is."""
        return (
            f"at step {self.record.step}, "
            f"learning_rate={self.learning_rate(later=-1):.6g}"
        )

    def images_per_second(self) -> float | None:
        """The speed of a device so far, or None while it is not known."""
        return self._speed(self.record.timed_steps, self.record.timed_seconds)

    def _speed(self, steps, seconds):
        return self.images_per_step * steps / seconds if steps else None

    def on_epoch_begin(self, epoch, logs=None):
        record = self.record
        self._first_step = record.step
        # An epoch that another process began goes on.
        self._started_at = time.monotonic() - record.epoch_seconds
        self._earlier_seconds = record.seconds - record.epoch_seconds
        self._timed = record.timed_steps, record.timed_seconds
        self._last_end: float | None = None

    def on_train_batch_end(self, batch, logs=None):
        record, now = self.record, time.monotonic()
        # `batch` is the last of those that one execution covers.
        step = self._first_step + batch + 1
        if self._last_end is not None:
            record.timed_steps += step - record.step
            record.timed_seconds += now - self._last_end
        self._last_end = now
        record.step = step
        self._count_seconds()
        self._check_finite("loss", logs)

    def _check_finite(self, name, logs):
        if not math.isfinite(logs[name]):
            raise FloatingPointError(
                "The loss must stay finite; a lower learning rate or a longer "
                f"warm-up may help. Received: {name}={logs[name]} "
                f"{self.where()}"
            )

    def on_epoch_end(self, epoch, logs=None):
        self._check_finite("val_loss", logs)
        record = self.record
        self._count_seconds()
        steps, seconds = self._timed
        speed = self._speed(
            record.timed_steps - steps, record.timed_seconds - seconds
        )
        record.history.append(
            {
                **{name: float(value) for name, value in logs.items()},
                "learning_rate": self.learning_rate(),
                "images_per_second": speed,
                "seconds": record.epoch_seconds,
            }
        )
        record.epoch_seconds = 0.0

    def _count_seconds(self):
        self.record.epoch_seconds = time.monotonic() - self._started_at
        self.record.seconds = self._earlier_seconds + self.record.epoch_seconds


class HistoryFile(keras.callbacks.Callback):
    """Writes one row per epoch to a CSV file, complete after every epoch.

    Args:
        path: The file to write.
        record: Where the rows are.
    """

    def __init__(self, path: str | os.PathLike[str], record: Record):
        super().__init__()
        self.path = Path(path)
        self.record = record

    def on_epoch_end(self, epoch, logs=None):
        rows = [
            {
                "epoch": number,
                **{
                    name: "" if value is None else f"{value:.6g}"
                    for name, value in row.items()
                },
                "seconds": f"{row['seconds']:.3f}",
            }
            for number, row in enumerate(self.record.history, start=1)
        ]
        with (
            write_aside(self.path) as temporary,
            open(temporary, "w", newline="") as file,
        ):
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


class BestModel(keras.callbacks.Callback):
    """Saves the model as `best.keras` when validation improves.

    Keras' `ModelCheckpoint` writes over the file in place: a run that is
    stopped meanwhile loses its best model. Here the file is replaced when the
    next one is complete. Equal accuracies are common on a small validation
    split; the lower loss then decides.

    Args:
        path: The file to write.
        record: What the run has done; `best_epoch` is set here.
        averages: The `WeightAverages` to save in the place of the weights,
            if there are any.
        writes: Whether this process is the one that writes.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        record: Record,
        averages: Any = None,
        writes: bool = True,
    ):
        super().__init__()
        self.path = Path(path)
        self.record = record
        self.averages = averages
        self.writes = writes

    def on_epoch_end(self, epoch, logs=None):
        history, best = self.record.history, self.record.best_epoch
        if best and self._merit(history[-1]) <= self._merit(history[best - 1]):
            return
        self.record.best_epoch = len(history)
        save_model(self.model, self.path, self.averages, self.writes)

    def _merit(self, row):
        return row["val_accuracy"], -row["val_loss"]


def save_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    averages: Any = None,
    writes: bool = True,
) -> None:
    """Saves a model, whole or not at all.

    Args:
        model: The model.
        path: A path that ends in `.keras`.
        averages: The `WeightAverages` to save in the place of its weights.
        writes: Whether this process is the one that writes. The others call
            this too: on JAX, weights are set by all processes together.
    """
    with averages.applied() if averages else contextlib.nullcontext():
        if writes:
            with write_aside(path) as temporary, _undistributed():
                model.save(temporary)


@contextlib.contextmanager
def _undistributed():
    """Keeps what `save` makes for itself from being spread over processes."""
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


class Checkpoints(keras.callbacks.Callback):
    """Saves all of a run's state between two steps, now and when asked to.

    It comes after whatever changes the state at the end of a step.

    Args:
        directory: Where to write.
        books: What knows how far the run has come.
        seconds: The least time between two checkpoints; 0 is every step.
        keep: How many to keep.
        facts: Returns what else to keep in each of them.
        averages: The `WeightAverages`, if there are any.
        stop: Says whether the run has been asked to stop; it then does, when
            its state is saved.
        writes: Whether this process is the one that writes.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        books: Bookkeeper,
        *,
        seconds: float,
        keep: int,
        facts: Callable[[], dict[str, Any]],
        averages: Any = None,
        stop: StopRequest | None = None,
        writes: bool = True,
    ):
        super().__init__()
        self.directory = Path(directory)
        self.books = books
        self.seconds = seconds
        self.keep = keep
        self.facts = facts
        self.averages = averages
        self.stop = stop or StopRequest()
        self.writes = writes
        self._saved_at = time.monotonic()
        self._metrics: Checkpoint | None = None
        self._before_validation: Checkpoint | None = None

    def restore_metrics(self, checkpoint: Checkpoint) -> None:
        """Lets the next epoch go on with the metrics of a checkpoint.

        Keras resets them when an epoch begins.
        """
        self._metrics = checkpoint

    def on_epoch_begin(self, epoch, logs=None):
        if self._metrics is not None:
            self._metrics.assign("metrics", self.model.metrics_variables)
            self._metrics = None

    def on_train_batch_end(self, batch, logs=None):
        self.stop.can_wait = True
        stops = self.stop.agree(self.books.record.step)
        due = stops or time.monotonic() - self._saved_at >= self.seconds
        is_last = batch + 1 == self.params["steps"]
        if self.writes and (due or is_last):
            state = self._capture()
            if due:
                self._write(state)
            # Validation resets the metrics and may swap the weights.
            self._before_validation = state if is_last and not due else None
        self.stop.raise_if_agreed()

    def on_test_batch_end(self, batch, logs=None):
        if self.stop.agree(batch) and self._before_validation is not None:
            self._write(self._before_validation)
        self.stop.raise_if_agreed()

    def save(self) -> None:
        """Saves the state as it is now; for between epochs."""
        if self.writes:
            self._write(self._capture())

    def _capture(self):
        record = self.books.record
        try:
            return capture(
                self.model,
                self.averages.get_state() if self.averages else (),
                record.step,
                {**self.facts(), "record": dataclasses.asdict(record)},
            )
        except FloatingPointError as error:
            raise FloatingPointError(f"{error} {self.books.where()}") from None

    def _write(self, state):
        write_checkpoint(self.directory, state, self.keep)
        self._saved_at = time.monotonic()
