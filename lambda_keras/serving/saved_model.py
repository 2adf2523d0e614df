"""SavedModels: written from a model, and checked where Keras is not."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lambda_keras.files import write_aside
from lambda_keras.messages import last_line
from lambda_keras.serving.runtimes import TENSORFLOW
from lambda_keras.serving.runtimes import Runner
from lambda_keras.serving.runtimes import SavedModelError
from lambda_keras.serving.runtimes import elsewhere_environment

# Only its path: the program is for other processes.
EXPORT_PROGRAM = Path(__file__).with_name("export_saved_model.py")
BATCH_SIZE = 256


def export_saved_model(
    model: keras.Model,
    directory: str | os.PathLike[str],
    check: Callable[[Path], Any] | None = None,
) -> Any:
    """Writes a model as a SavedModel that needs TensorFlow alone.

    It takes a float32 batch of any size, shaped and scaled like the model's
    own inputs, and is served under the name `serving_default`.

    Args:
        model: A model with one input and one output.
        directory: Where to write; it must not exist or be empty.
        check: Called with the SavedModel's path before it is moved to
            `directory`, which it never is if this raises.

    Returns:
        What `check` returns, if it is given.
    """
    with write_aside(directory) as temporary:
        model.export(
            temporary,
            format="tf_saved_model",
            verbose=False,
            input_signature=[
                keras.InputSpec(
                    shape=(None, *model.input_shape[1:]), dtype="float32"
                )
            ],
        )
        return check(temporary) if check else None


def export_file(
    path: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    check: Callable[[Path], Any] | None = None,
) -> Any:
    """Writes the model of a `.keras` file as a SavedModel, in a new process.

    For engines other than TensorFlow, and for a model that was trained on a
    TPU, which the new process does not see.

    Args:
        path: A file that `keras.Model.save` wrote, whatever the engine.
        directory: Where to write; it must not exist or be empty.
        check: As in `export_saved_model`.

    Returns:
        What `check` returns, if it is given.

    Raises:
        SavedModelError: If the process fails.
    """
    with write_aside(directory) as temporary:
        _run_elsewhere(
            EXPORT_PROGRAM,
            [path, temporary],
            f"The model in {path} must be one that TensorFlow can export.",
        )
        return check(temporary) if check else None


@dataclass(frozen=True)
class Agreement:
    """How far a SavedModel's predictions are from the expected ones.

    Args:
        examples: The number of examples compared.
        same_class: The number of them with the same most likely class.
        largest_difference: The largest absolute difference of any output.
    """

    examples: int
    same_class: int
    largest_difference: float


def check_saved_model(
    directory: str | os.PathLike[str],
    images: np.ndarray,
    expected: np.ndarray,
    tolerance: float = 1e-4,
) -> Agreement:
    """Compares a SavedModel's predictions with a model's, in a new process.

    The process can import neither Keras nor this package, and sees no
    accelerator, since this process may hold all of its memory.

    Args:
        directory: The SavedModel.
        images: Inputs `(count, height, width, channels)`.
        expected: The model's predictions `(count, classes)`.
        tolerance: The largest absolute difference to accept. The default
            leaves room for sums in another order, not for another model.

    Returns:
        An `Agreement`.

    Raises:
        SavedModelError: If the process fails, if any output differs by more
            than `tolerance`, or if an example gets another class although the
            two likeliest are further apart than that allows.
    """
    return compare(
        directory, expected, _predict_elsewhere(directory, images), tolerance
    )


def compare(
    directory: str | os.PathLike[str],
    expected: np.ndarray,
    predictions: np.ndarray,
    tolerance: float = 1e-4,
) -> Agreement:
    """Compares predictions with the expected ones.

    Args: as for `check_saved_model`, and the predictions.

    Returns:
        An `Agreement`.

    Raises:
        SavedModelError: As `check_saved_model` does.
    """
    if predictions.shape != expected.shape:
        raise SavedModelError(
            f"{directory} must predict as the model does: "
            f"expected outputs of shape {expected.shape}. "
            f"Received: shape={predictions.shape}"
        )
    agreement = Agreement(
        examples=len(expected),
        same_class=int(
            np.sum(predictions.argmax(axis=-1) == expected.argmax(axis=-1))
        ),
        largest_difference=float(np.abs(predictions - expected).max()),
    )
    # Two classes that are nearly as likely may change places.
    second, first = np.sort(expected, axis=-1)[:, -2:].T
    clear = first - second > 2 * tolerance
    same = predictions.argmax(axis=-1) == expected.argmax(axis=-1)
    # Written so that a NaN fails too.
    agrees = agreement.largest_difference <= tolerance
    if not agrees or not same[clear].all():
        raise SavedModelError(
            f"{directory} must predict as the model does: "
            f"expected the same class for all {agreement.examples} examples "
            f"and outputs within {tolerance}. Received: {agreement}"
        )
    return agreement


def _predict_elsewhere(directory, images):
    with (
        tempfile.TemporaryDirectory() as scratch,
        Runner(TENSORFLOW, directory) as runner,
    ):
        inputs = Path(scratch, "inputs.npy")
        np.save(inputs, images)
        return runner.predict(inputs, len(images), BATCH_SIZE)


def _run_elsewhere(program, arguments, expectation):
    """Runs a program on TensorFlow and the processor, whatever is used here."""
    process = subprocess.run(
        # -P keeps the script's own directory off the module path.
        [sys.executable, "-P", program, *map(os.fspath, arguments)],
        env=elsewhere_environment(),
        capture_output=True,
        text=True,
        errors="replace",
    )
    if process.returncode != 0:
        raise SavedModelError(
            f"{expectation} Received: {last_line(process.stderr)}"
        )
