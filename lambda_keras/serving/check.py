"""What was exported, run beside the model in the runtimes it is for."""

import contextlib
import dataclasses
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lambda_keras import provenance
from lambda_keras.serving import runtimes
from lambda_keras.serving.export import DESCRIPTION
from lambda_keras.serving.images import RequestPreprocessing
from lambda_keras.serving.precision import cast_model
from lambda_keras.serving.runtimes import Runner
from lambda_keras.serving.saved_model import compare
from lambda_keras.serving.signatures import IMAGE_BYTES
from lambda_keras.serving.signatures import IMAGES
from lambda_keras.serving.signatures import UINT8_IMAGES
from lambda_keras.tables import markdown_table

BATCH_SIZES = (1, 32)
LARGEST = BATCH_SIZES[-1]
ROUNDS, SECONDS = 5, 1.0
# What a program that loads the SavedModel for each call is given.
_FEW_IMAGES = 32

_RUNTIME_OF_FORMAT = {
    "onnx": runtimes.ONNX_RUNTIME,
    "litert": runtimes.LITERT,
    "openvino": runtimes.OPENVINO,
}


@dataclasses.dataclass(frozen=True)
class CheckRow:
    """What one runtime made of the images.

    Attributes:
        name: The runtime, and what it ran.
        precision: With which it was written.
        images: How many there were.
        largest_difference: Of any probability from that of the model, in
            float32, for the same pixels; None for the model itself.
        same_top_1: For how many images the likeliest class is the model's.
        accuracy: The share of images whose likeliest class is their label;
            None without labels.
        accuracy_lost: By how much that is less than the model's.
        images_per_second: By batch size; empty where it was not timed.
    """

    name: str
    precision: str
    images: int
    largest_difference: float | None
    same_top_1: int
    accuracy: float | None
    accuracy_lost: float | None
    images_per_second: Mapping[int, float] = dataclasses.field(
        default_factory=dict
    )


@dataclasses.dataclass(frozen=True)
class CheckReport:
    """What a version was found to do.

    Attributes:
        rows: One for each runtime, the first that of Keras.
        notes: With what it was measured, and what was not.
    """

    rows: tuple[CheckRow, ...]
    notes: tuple[str, ...]

    def __str__(self):
        header = ["", "precision", "images", "largest difference"]
        header += ["same top-1", "accuracy", "lost"]
        header += [f"images/s, batch {size}" for size in BATCH_SIZES]
        table = markdown_table(header, [_cells(row) for row in self.rows])
        return "\n".join([table, "", *self.notes])


def _cells(row):
    def text(value, form):
        return "-" if value is None else format(value, form)

    return [
        row.name,
        row.precision,
        row.images,
        text(row.largest_difference, ".1e"),
        f"{row.same_top_1}/{row.images}",
        text(row.accuracy, ".2%"),
        text(row.accuracy_lost, ".2%"),
        *(
            text(row.images_per_second.get(size), ",.0f")
            for size in BATCH_SIZES
        ),
    ]


@dataclasses.dataclass(frozen=True)
class _Inputs:
    """Inputs of runtimes, beside what the model makes of the same pixels.

    Args:
        file: All inputs.
        few_file: The first of them.
        timed_file: As many as there are in the largest batch.
        expected: The model's predictions.
        labels: The classes; None where they are not those of the pixels.
    """

    file: Path
    few_file: Path
    timed_file: Path
    expected: np.ndarray
    labels: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class _Candidate:
    """Something to run: a signature of the SavedModel, or a file."""

    runtime: str
    file: str
    precision: str
    signature: str = IMAGES

    @property
    def name(self):
        name = runtimes.runtime_name(self.runtime)
        return f"{name}: {self.file or self.signature}"


def check_version(
    version: str | os.PathLike[str],
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    tell: Callable[[str], None] = lambda line: None,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
) -> CheckReport:
    """Runs all that was exported, and compares it with the model.

    Each runtime has a process of its own, which can import neither Keras nor
    this package: plain TensorFlow, `saved_model_cli`, OpenVINO reading the
    SavedModel, and those of the other formats. For encoded images, the same
    ones as PNG files, the model is given what evaluation makes of them.

    Speeds are medians of turns that all take after each other, with the same
    batches, while the others wait; `Model.predict` is given all batches of a
    turn at once.

    Args:
        version: The directory of an exported version.
        model: The model that it is of.
        images: Of the shape that the model takes, from 0 to 255.
        labels: Their classes; less than 0 where they are not known.
        tell: Told what is done next, a line at a time.
        rounds: How many turns each runtime is timed for.
        seconds: How long a turn of `Model.predict` is to take, at least.

    Returns:
        A `CheckReport`.

    Raises:
        ValueError: If there are no images.
        SavedModelError: If anything does not run, gives NaNs, or was written
            in float32 and does not predict as the model does.

    Example:

    ```python
    print(check_version("models/mine/1", model, images, labels))
    ```
    """
    version = Path(version)
    if not len(images):
        raise ValueError(
            f"`images` must not be empty. Received: images.shape={images.shape}"
        )
    description = json.loads((version / DESCRIPTION).read_text())
    model = cast_model(model, "float32")
    images = np.asarray(images, "float32")
    labels = _known_labels(labels)
    candidates, notes = _find_candidates(description)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        tell("the model's predictions")
        inputs = _prepare_inputs(scratch, description, model, images, labels)
        expected = inputs[IMAGES].expected
        rows = [_row("Keras: Model.predict", "float32", expected, labels)]
        turns = [_keras_turn(model, images)]
        versions = {}
        for candidate in candidates:
            tell(candidate.name)
            its = inputs[candidate.signature]
            runner = stack.enter_context(
                Runner(
                    candidate.runtime,
                    version / candidate.file,
                    candidate.signature,
                    _input_name(description, candidate.signature),
                )
            )
            is_few = candidate.runtime == runtimes.SAVED_MODEL_CLI
            predictions = runner.predict(
                its.few_file if is_few else its.file,
                min(len(images), _FEW_IMAGES) if is_few else len(images),
                LARGEST,
            )
            rows.append(
                _row(
                    candidate.name,
                    candidate.precision,
                    its.expected[: len(predictions)],
                    its.labels,
                    predictions,
                    version / candidate.file,
                )
            )
            versions[runtimes.runtime_name(candidate.runtime)] = runner.version
            turns.append(None if is_few else _turn(runner, its.timed_file))
        speeds = take_turns(turns, rounds, seconds, tell)
    rows = [
        dataclasses.replace(row, images_per_second=speed)
        for row, speed in zip(rows, speeds)
    ]
    return CheckReport(tuple(rows), (*_provenance(versions, rounds), *notes))


def _known_labels(labels):
    if labels is None:
        return None
    labels = np.asarray(labels)
    # Soft labels are two-dimensional.
    labels = labels.argmax(axis=-1) if labels.ndim == 2 else labels
    return labels if (labels >= 0).all() else None


def _find_candidates(description):
    """Returns what there is to run, and what is not installed for it."""
    precision = description["precision"]
    candidates = [
        _Candidate(runtimes.TENSORFLOW, "", precision),
        _Candidate(runtimes.TENSORFLOW, "", precision, UINT8_IMAGES),
        _Candidate(runtimes.TENSORFLOW, "", precision, IMAGE_BYTES),
        _Candidate(runtimes.SAVED_MODEL_CLI, "", precision),
        _Candidate(runtimes.SAVED_MODEL_CLI, "", precision, IMAGE_BYTES),
    ]
    notes = []
    saved_model_in_openvino = _Candidate(runtimes.OPENVINO, "", precision)
    if precision != "bfloat16":
        candidates.append(saved_model_in_openvino)
    else:
        # OpenVINO 2026.4 takes no constants of it.
        notes.append(
            f"Not run: {saved_model_in_openvino.name}, which takes no "
            "SavedModel in bfloat16."
        )
    candidates += [
        _Candidate(
            _RUNTIME_OF_FORMAT[name], written["file"], written["precision"]
        )
        for name, written in description["formats"].items()
    ]
    installed = [
        candidate
        for candidate in candidates
        if runtimes.is_installed(candidate.runtime)
    ]
    notes += [
        f"Not run, because it is not installed: {candidate.name}."
        for candidate in candidates
        if candidate not in installed
    ]
    return installed, notes


def _input_name(description, signature):
    (name,) = description["signatures"][signature]["inputs"]
    return name


def _prepare_inputs(scratch, description, model, images, labels):
    fields = dict(description["preprocessing"])
    shape = tuple(fields.pop("image_shape"))
    preprocessing = RequestPreprocessing(shape, **fields)
    pixels = np.clip(np.rint(images), 0, 255).astype("uint8")
    files = [tf.io.encode_png(image).numpy() for image in pixels]
    decoded = [preprocessing.decode(tf.constant(file)) for file in files]
    # What has been cropped for evaluation may now have been cropped again.
    is_same = np.array_equal(decoded, pixels)

    def prepare(name, array, arguments, labels):
        paths = []
        for part, chosen in {
            "all": array,
            "few": array[:_FEW_IMAGES],
            "timed": _repeat(array, LARGEST),
        }.items():
            paths.append(scratch / f"{name}-{part}.npy")
            np.save(paths[-1], chosen)
        return _Inputs(*paths, _predict(model, arguments, LARGEST), labels)

    return {
        IMAGES: prepare(IMAGES, images, images, labels),
        UINT8_IMAGES: prepare(
            UINT8_IMAGES, pixels, pixels.astype("float32"), labels
        ),
        IMAGE_BYTES: prepare(
            IMAGE_BYTES,
            # Without pickled objects NumPy's strings lose zeros at their end,
            # but no PNG ends in one.
            np.array(files, "S"),
            np.stack(decoded).astype("float32"),
            labels if is_same else None,
        ),
    }


def _predict(model, images, batch_size):
    return model.predict(images, batch_size=batch_size, verbose=0)


def _repeat(array, count):
    """Returns that many entries, from the start again where they end."""
    return array[np.arange(count) % len(array)]


def _row(name, precision, expected, labels, predictions=None, path=""):
    difference, same = None, len(expected)
    if predictions is not None:
        # However imprecise, nothing may be NaN.
        tolerance = {} if precision == "float32" else {"tolerance": math.inf}
        agreement = compare(path, expected, predictions, **tolerance)
        difference = agreement.largest_difference
        same = agreement.same_class
    accuracy = lost = None
    if labels is not None:
        some = labels[: len(expected)]
        best = _accuracy(expected, some)
        accuracy = best if predictions is None else _accuracy(predictions, some)
        lost = best - accuracy
    return CheckRow(
        name, precision, len(expected), difference, same, accuracy, lost
    )


def _accuracy(predictions, labels):
    return float(np.mean(predictions.argmax(axis=-1) == labels))


def _keras_turn(model, images):
    def turn(batch_size, steps):
        timed = _repeat(_repeat(images, LARGEST), batch_size * steps)
        started = time.perf_counter()
        _predict(model, timed, batch_size)
        return time.perf_counter() - started

    return turn


def _turn(runner, inputs):
    return lambda batch_size, steps: runner.run(inputs, batch_size, steps)


def take_turns(
    turns: list[Any], rounds: int, seconds: float, tell: Callable[[str], None]
) -> list[dict[int, float]]:
    """Times functions side by side.

    Args:
        turns: Functions of a batch size and a number of steps that return the
            seconds they took; None for what is not timed.
        rounds: How many turns each has. Another one is the first in each.
        seconds: How long a turn of the first function is to take, at least;
            the others do as many steps.
        tell: Told what is done next.

    Returns:
        For each function the median of its examples per second, by batch size.
    """
    timed = [index for index, turn in enumerate(turns) if turn]
    speeds: list[dict[int, float]] = [{} for _ in turns]
    for batch_size in BATCH_SIZES:
        tell(f"speed at batch {batch_size}")
        for index in timed:
            turns[index](batch_size, 1)
        steps = 1
        # The shorter of two, because one may have been held up.
        while min(turns[0](batch_size, steps) for _ in range(2)) < seconds:
            steps *= 2
        rates: dict[int, list[float]] = {index: [] for index in timed}
        for number in range(rounds):
            first = number % len(timed)
            for index in timed[first:] + timed[:first]:
                gone = turns[index](batch_size, steps)
                rates[index].append(batch_size * steps / gone)
        for index in timed:
            speeds[index][batch_size] = statistics.median(rates[index])
    return speeds


def _provenance(versions, rounds):
    device = provenance.processor()
    found = ", ".join(f"{name} {text}" for name, text in versions.items())
    return (
        f"Images per second: medians of {rounds} turns on {device['count']} "
        f"cores of {device['name']}.",
        f"Keras {keras.__version__} on TensorFlow {tf.__version__}; {found}.",
    )
