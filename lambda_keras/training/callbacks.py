"""Callbacks that keep a run's checkpoints and history, each file whole."""

import csv
import os
import time
from pathlib import Path

import keras
import numpy as np

from lambda_keras.files import write_aside


class Checkpoints(keras.callbacks.Callback):
    """Saves the model as `last.keras`, and as `best.keras` when it improves.

    Keras' `ModelCheckpoint` writes over the file in place: a run that is
    stopped meanwhile loses its best model. Here a file is replaced when the
    next one is complete. Equal accuracies are common on a small validation
    split; the lower loss then decides.

    Args:
        directory: Where to write.
        save_seconds: The least time between two writes of `last.keras`, for
            epochs that take less time than saving; it is always written when
            training ends.

    Attributes:
        best_epoch: The number of the epoch behind `best.keras`, from 1;
            0 before there is one.
    """

    def __init__(
        self, directory: str | os.PathLike[str], save_seconds: float = 30.0
    ):
        super().__init__()
        self.directory = Path(directory)
        self.save_seconds = save_seconds
        self.best_epoch = 0
        self._best = None
        self._saved_at = -float("inf")

    def on_epoch_end(self, epoch, logs=None):
        merit = (logs["val_accuracy"], -logs["val_loss"])
        if self._best is None or merit > self._best:
            self._best, self.best_epoch = merit, epoch + 1
            self._save("best.keras")
        if time.monotonic() - self._saved_at >= self.save_seconds:
            self._save("last.keras")
            self._saved_at = time.monotonic()

    def on_train_end(self, logs=None):
        self._save("last.keras")

    def _save(self, name):
        with write_aside(self.directory / name) as temporary:
            self.model.save(temporary)


class HistoryFile(keras.callbacks.Callback):
    """Writes one row per epoch to a CSV file, complete after every epoch.

    Args:
        path: The file to write.
    """

    def __init__(self, path: str | os.PathLike[str]):
        super().__init__()
        self.path = Path(path)
        self._rows: list[dict[str, object]] = []

    def on_epoch_begin(self, epoch, logs=None):
        self._started_at = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        learning_rate = self.model.optimizer.learning_rate
        self._rows.append(
            {
                "epoch": epoch + 1,
                **{name: f"{value:.6g}" for name, value in logs.items()},
                "learning_rate": f"{float(learning_rate):.6g}",
                "seconds": f"{time.monotonic() - self._started_at:.3f}",
            }
        )
        with (
            write_aside(self.path) as temporary,
            open(temporary, "w", newline="") as file,
        ):
            writer = csv.DictWriter(file, self._rows[0])
            writer.writeheader()
            writer.writerows(self._rows)


class FailOnDivergence(keras.callbacks.Callback):
    """Ends training with an error once the loss is no longer finite.

    Raised within the epoch, before a checkpoint could take the place of one
    that still works.
    """

    def on_train_batch_end(self, batch, logs=None):
        if not np.isfinite(logs["loss"]):
            raise FloatingPointError(
                "The loss must stay finite; a lower learning rate or a longer "
                f"warm-up may help. Received: loss={logs['loss']}"
            )
