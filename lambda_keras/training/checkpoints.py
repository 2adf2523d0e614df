"""Checkpoints: all that a run needs to go on as if it had never stopped.

A checkpoint is one `.npz` file that NumPy alone can read: every variable of
the model (random seeds too), of the optimizer and of the metrics, the averages
of the weights, and what the run has done so far as JSON.
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import keras
import numpy as np

from lambda_keras.files import write_aside

# One to read them all by: a file of another layout says so.
FORMAT = 1
PATTERN = re.compile(r"step-(\d{8,})\.npz")


class CheckpointError(ValueError):
    """A file is no checkpoint, is broken or belongs to another model."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A run at the end of one of its steps.

    Args:
        arrays: By group (`model`, `optimizer`, `metrics`, `averages`), the
            values of the variables in their order.
        names: By group, their names.
        step: The number of steps that the run had taken.
        facts: What else is known of it, of types that JSON has.
    """

    arrays: dict[str, list[np.ndarray]]
    names: dict[str, list[str]]
    step: int
    facts: dict[str, Any]

    def assign(self, group: str, variables: Sequence[Any]) -> None:
        """Sets variables to what was saved of them.

        Args:
            group: The group that they were saved as.
            variables: As many Keras variables, in the same order.

        Raises:
            CheckpointError: If the file has other variables or shapes, before
                any is set.
        """
        arrays, names = self.arrays[group], self.names[group]
        expected = [(_plain(x.path), tuple(x.shape)) for x in variables]
        found = [(_plain(name), x.shape) for name, x in zip(names, arrays)]
        if len(found) != len(expected):
            raise CheckpointError(
                f"A checkpoint of this {group} must have {len(expected)} "
                f"variables. Received: {len(found)}"
            )
        for one, other in zip(expected, found):
            if one != other:
                raise CheckpointError(
                    f"A checkpoint of this {group} must have {one[0]} of "
                    f"shape {one[1]} at this place. Received: {other[0]} of "
                    f"shape {other[1]}"
                )
        for variable, array in zip(variables, arrays):
            variable.assign(array)


def _plain(name):
    """Leaves out what depends on how many models a process has built."""
    return re.sub(r"_\d+(?=/|$)", "", name)


def capture(
    model: keras.Model,
    averages: Sequence[Any],
    step: int,
    facts: dict[str, Any],
) -> Checkpoint:
    """Copies the state of a compiled model to the host.

    Args:
        model: The model.
        averages: The arrays of the averages of its weights, if there are any.
        step: The number of steps taken.
        facts: What is to be kept beside them; copied.

    Returns:
        A `Checkpoint`.

    Raises:
        FloatingPointError: If a weight, or what the optimizer keeps of it, is
            NaN or infinite: such a state is of no use to anyone.
    """
    groups = {
        "model": model.variables,
        "optimizer": model.optimizer.variables,
        "metrics": model.metrics_variables,
    }
    arrays = {
        group: [to_host(variable) for variable in variables]
        for group, variables in groups.items()
    }
    names = {
        group: [variable.path for variable in variables]
        for group, variables in groups.items()
    }
    arrays["averages"] = [np.array(array) for array in averages]
    names["averages"] = [str(i) for i in range(len(averages))]
    for group in arrays:
        for name, array in zip(names[group], arrays[group]):
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise FloatingPointError(
                    f"All weights must stay finite. Received: NaN or infinity "
                    f"in {name} ({group})"
                )
    return Checkpoint(arrays, names, step, json.loads(json.dumps(facts)))


def to_host(variable: keras.Variable) -> np.ndarray:
    """Returns a copy of a variable's value, whatever it is spread over."""
    # A tensor first, for replicas may have parts of the value. A copy, for on
    # a CPU it would be a view of what the next step overwrites.
    tensor = keras.ops.convert_to_tensor(variable)
    return np.array(keras.ops.convert_to_numpy(tensor))


def checkpoint_path(directory: str | os.PathLike[str], step: int) -> Path:
    """Returns where the checkpoint after so many steps is kept."""
    return Path(directory) / f"step-{step:08d}.npz"


def list_checkpoints(directory: str | os.PathLike[str]) -> list[Path]:
    """Returns the checkpoints in a directory, the newest first."""
    found = [
        (int(match[1]), path)
        for path in Path(directory).glob("step-*.npz")
        if (match := PATTERN.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found, reverse=True)]


def write_checkpoint(
    directory: str | os.PathLike[str], checkpoint: Checkpoint, keep: int
) -> Path:
    """Writes a checkpoint, whole or not at all, and removes the oldest ones.

    Args:
        directory: Where to; made if it is missing.
        checkpoint: The checkpoint.
        keep: How many to leave, this one among them.

    Returns:
        The path of the file.

    Raises:
        OSError: If it cannot be written. The earlier ones are then untouched.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    path = checkpoint_path(directory, checkpoint.step)
    about = {
        "format": FORMAT,
        "names": checkpoint.names,
        "step": checkpoint.step,
        "facts": checkpoint.facts,
    }
    members: dict[str, Any] = {
        f"{group}/{index}": array
        for group, arrays in checkpoint.arrays.items()
        for index, array in enumerate(arrays)
    }
    with write_aside(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, about=np.array(json.dumps(about)), **members)
    for old in list_checkpoints(directory)[keep:]:
        old.unlink()
    return path


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads a checkpoint; nothing in it is executed.

    Args:
        path: The file.

    Returns:
        A `Checkpoint`.

    Raises:
        CheckpointError: If it is broken or is no checkpoint.
        OSError: If it cannot be read.
    """
    try:
        with (
            open(path, "rb") as opened,
            np.load(opened, allow_pickle=False) as file,
        ):
            about = json.loads(str(file["about"]))
            if about["format"] != FORMAT:
                raise CheckpointError(
                    f"A checkpoint must be of format {FORMAT}. Received: "
                    f"format={about['format']}, path={path}"
                )
            arrays = {
                group: [file[f"{group}/{i}"] for i in range(len(names))]
                for group, names in about["names"].items()
            }
    except CheckpointError:
        raise
    except (KeyError, TypeError, EOFError, ValueError, BadZipFile) as error:
        raise CheckpointError(
            f"A checkpoint must be whole, as it was written ({error}). "
            f"Received: path={path}"
        ) from error
    return Checkpoint(arrays, about["names"], about["step"], about["facts"])


def newest_checkpoint(
    directory: str | os.PathLike[str], warn: Callable[[str], None]
) -> tuple[Path, Checkpoint] | None:
    """Reads the newest checkpoint that can be read.

    Args:
        directory: Where the checkpoints are, or would be.
        warn: Called with a line for each one that is passed over.

    Returns:
        The path and the checkpoint, or None if there is none.
    """
    for path in list_checkpoints(directory):
        try:
            return path, read_checkpoint(path)
        except (CheckpointError, OSError) as error:
            warn(f"Passed over {path}: {error}")
    return None
