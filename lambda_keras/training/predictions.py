"""A teacher's predictions of many images, kept on disk as they are made."""

import hashlib
import os
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from lambda_keras.data.dataset import AnySplit
from lambda_keras.data.dataset import Shard
from lambda_keras.files import write_aside
from lambda_keras.training.inference import Inference
from lambda_keras.training.predictor import MakeBatches
from lambda_keras.training.predictor import PredictorError
from lambda_keras.training.progress import show_duration

SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True)
class Predictions:
    """What a teacher says of each image of a split, in its order.

    Args:
        predicted: The likeliest class; -1 where the image is unreadable.
        confidence: Its probability; 0 where the image is unreadable.
        known: The class that the source gives, or -1.
    """

    predicted: np.ndarray
    confidence: np.ndarray
    known: np.ndarray


class PredictionFiles:
    """A teacher's predictions of a split, in files of some batches each.

    Each file appears whole, so that a process that takes up the work of one
    that was killed predicts what is missing and nothing else. Probabilities
    are kept of confident images only, in half precision.

    Args:
        directory: Where the files are.
        inference: The teacher and its images.
        teacher: What tells this teacher from others.
        save_batches: The number of batches to a file.
        min_confidence: From which confidence on probabilities are kept; None
            keeps none.
    """

    def __init__(
        self,
        directory: Path,
        inference: Inference,
        teacher: str,
        save_batches: int,
        min_confidence: float | None,
    ):
        self.directory = directory
        self.inference = inference
        self.teacher = teacher
        self.min_confidence = min_confidence
        self.size = save_batches * inference.batch_size
        self.count = -(-len(inference.split) // self.size)

    def path(self, number: int) -> Path:
        """Returns where some of the predictions are, or will be."""
        return self.directory / f"predictions-{number:06d}.npz"

    def predict(self, progress: "ProgressLines") -> None:
        """Predicts what no file has yet.

        Args:
            progress: Says how far it is.
        """
        # All processes look before the first of them writes.
        missing = [i for i in range(self.count) if not self.path(i).exists()]
        progress.start(done=(self.count - len(missing)) * self.size)
        for number in missing:
            start = number * self.size
            part = self.inference.split.part(start, start + self.size)
            with self.inference.reading():
                *outputs, index = self.inference.predictor.predict(
                    numbered_batches(self.inference, part),
                    self.inference.steps(part),
                    progress,
                )
            # Padding has the number -1; devices may answer in any order.
            order = np.argsort(index, kind="stable")[-len(part) :]
            if self.inference.distribution.is_chief:
                self._write(number, *(output[order] for output in outputs))

    def _write(self, number, probabilities, known, weights):
        sums = probabilities.sum(axis=-1)
        readable = weights > 0
        if not np.all(np.abs(sums - 1)[readable] < 1e-2):
            raise PredictorError(
                "`model` must give probabilities, which sum to 1. Received: "
                f"sums from {sums.min():.3g} to {sums.max():.3g}"
            )
        confidence = np.where(readable, probabilities.max(axis=-1), 0)
        predicted = np.where(readable, probabilities.argmax(axis=-1), -1)
        arrays = {
            "teacher": np.array(self.teacher),
            "confidence": confidence.astype("float32"),
            "predicted": predicted.astype("int32"),
            "known": known,
        }
        if self.min_confidence is not None:
            (rows,) = np.nonzero(confidence >= self.min_confidence)
            arrays["rows"] = rows
            arrays["probabilities"] = probabilities[rows].astype("float16")
        with write_aside(self.path(number)) as temporary:
            np.savez(temporary, **arrays)

    def _read(self, number, *names):
        path = self.path(number)
        try:
            with np.load(path, allow_pickle=False) as file:
                teacher = str(file["teacher"])
                arrays = [file[name] for name in names]
        except (zipfile.BadZipFile, EOFError, KeyError) as error:
            raise OSError(
                f"{path} is broken; without it, its part is predicted again "
                f"({error})."
            ) from error
        if teacher != self.teacher:
            raise PredictorError(
                "`model` must be the one that has begun: it is another file "
                f"now than when {path} was written. "
                f"Received: model={self.inference.predictor.path}"
            )
        return arrays

    def read(self) -> Predictions:
        """Reads what there is to choose by, of all images."""
        names = ("predicted", "confidence", "known")
        parts = [self._read(number, *names) for number in range(self.count)]
        return Predictions(*(np.concatenate(part) for part in zip(*parts)))

    def probabilities(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Reads soft labels one by one, a file at a time.

        Args:
            indices: Confident images, ascending.

        Yields:
            A float32 vector that sums to 1.
        """
        for number in range(self.count):
            start = number * self.size
            first, end = np.searchsorted(indices, (start, start + self.size))
            if first == end:
                continue
            rows, probabilities = self._read(number, "rows", "probabilities")
            here = np.searchsorted(rows, indices[first:end] - start)
            for row in here:
                soft = probabilities[row].astype("float32")
                # Half precision has rounded it.
                yield soft / soft.sum()


def numbered_batches(inference: Inference, split: AnySplit) -> MakeBatches:
    """Adds to batches which examples they have, for predictions of them.

    Args:
        inference: Makes the batches.
        split: The images.

    Returns:
        Function of the part of each batch that is wanted. Its batches have
        images, classes (-1 for none), weights and the examples' numbers in
        the split (-1 for padding).
    """

    def make(shard: Shard) -> tf.data.Dataset:
        size = inference.batch_size // (shard.count * shard.pieces)
        first, end = shard.bounds(len(split))

        def number(element, batch):
            images, labels, weights = batch
            known = tf.argmax(labels, axis=-1, output_type=tf.int32)
            known = tf.where(tf.reduce_any(labels > 0, axis=-1), known, -1)
            index = first + element * size + tf.range(size, dtype=tf.int64)
            index = tf.where(index < end, index, -1)
            return images, known, weights, tf.cast(index, tf.int32)

        return inference.batches(split)(shard).enumerate().map(number)

    return make


class ProgressLines(keras.callbacks.Callback):
    """Says now and then how many images are predicted.

    Args:
        count: The number of images.
        batch_size: Images per batch.
        seconds: The least time between two lines.
        is_silent: Whether to say nothing, as all processes but one do.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seconds: float = SECONDS_BETWEEN_LINES,
        is_silent: bool = False,
    ):
        super().__init__()
        self.count = count
        self.batch_size = batch_size
        self.seconds = seconds
        self.is_silent = is_silent

    def start(self, done: int) -> None:
        """Begins to count, after what an earlier process has done."""
        self.done = self.first = done
        self.started_at = self.said_at = time.monotonic()
        if done and not self.is_silent:
            print(f"{self._text()}, by an earlier process.", flush=True)

    def on_predict_batch_end(self, batch, logs=None):
        self.done += self.batch_size
        now = time.monotonic()
        if self.is_silent or now - self.said_at < self.seconds:
            return
        self.said_at = now
        speed = (self.done - self.first) / (now - self.started_at)
        left = show_duration(max(0, self.count - self.done) / speed)
        print(
            f"{self._text()}, {speed:,.0f} a second, {left} left.", flush=True
        )

    def _text(self):
        return f"Predicted {min(self.done, self.count):,} of {self.count:,}"


def digest(path: Path) -> str:
    """Computes the SHA-256 of a file, or of all files of a directory."""
    sha = hashlib.sha256()
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    for file in files:
        if file.is_file():
            sha.update(os.fspath(file.relative_to(path)).encode() + b"\0")
            with open(file, "rb") as stream:
                sha.update(hashlib.file_digest(stream, "sha256").digest())
    return sha.hexdigest()
