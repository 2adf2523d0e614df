"""Files that training leaves of a model, and the models in them."""

import json
import os
from pathlib import Path

import keras

from lambda_keras.messages import first_line
from lambda_keras.models import build_model
from lambda_keras.training.averages import WeightAverages
from lambda_keras.training.checkpoints import list_checkpoints
from lambda_keras.training.checkpoints import read_checkpoint
from lambda_keras.training.preparation import find_spec
from lambda_keras.training.recipe import Recipe


def expand(path: str | os.PathLike[str], name: str) -> Path:
    """Replaces `~` in a path on this machine.

    Args:
        path: A path.
        name: The setting that it is the value of.

    Returns:
        A path.

    Raises:
        ValueError: If it is elsewhere, as `gs://` is, or in the home of a
            user that there is not.
    """
    if "://" in os.fspath(path):
        # `Path` would make a directory `gs:` of it.
        raise ValueError(
            f"`{name}` must be on a disk of this machine. "
            f"Received: {name}={path}"
        )
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{error} Received: {name}={path}") from error


def find_model(
    path: str | os.PathLike[str], architecture: str | None = None
) -> Path:
    """Finds the model in a run directory.

    Args:
        path: A run directory, a SavedModel, or a file.
        architecture: The name of the model, for a file of weights.

    Returns:
        The file, or the directory of the SavedModel.

    Raises:
        ValueError: If it is none of these, or if only the architecture is, or
            is not, there.
    """
    found = _find_model(expand(path, "model"))
    if (architecture is not None) != found.name.endswith(".weights.h5"):
        raise ValueError(
            "`architecture` must be given for a .weights.h5 file, and for "
            "nothing else. Received: "
            f"architecture={architecture}, model={found}"
        )
    return found


def _find_model(path):
    if not path.exists():
        raise ValueError(
            f"`model` must be a file or a directory. Received: model={path}, "
            "which does not exist"
        )
    if path.is_file():
        if path.name.endswith((".keras", ".npz", ".weights.h5")):
            return path
    elif (path / "saved_model.pb").exists():
        return path
    else:
        for name in ("best.keras", "last.keras"):
            if (path / name).exists():
                return path / name
        checkpoints = list_checkpoints(path / "checkpoints")
        if checkpoints:
            return checkpoints[0]
    raise ValueError(
        "`model` must be a run directory, a SavedModel, or a file that ends "
        f"in .keras, .npz or .weights.h5. Received: model={path}"
    )


def load_model(
    path: Path,
    image_shape: tuple[int | None, ...],
    num_classes: int,
    architecture: str | None = None,
    raw_weights: bool = False,
) -> tuple[keras.Model, tuple[str, ...]]:
    """Loads a model from a file.

    Args:
        path: As from `find_model`, but no SavedModel.
        image_shape: Height, width and channels of the images; None where the
            model is to say.
        num_classes: The number of classes; 0 where it is not known.
        architecture: The name of the model, for a file of weights.
        raw_weights: Of a training checkpoint, take the weights themselves and
            not their averages.

    Returns:
        The model, and the names of its classes, where they are known.

    Raises:
        ValueError: If it cannot be read.
    """
    if path.suffix == ".npz":
        return _load_checkpoint(path, image_shape, raw_weights)
    if path.suffix == ".keras":
        model = _load_keras(path)
    else:
        model = _load_weights(path, architecture, image_shape, num_classes)
    try:
        directory = path.resolve().parent  # A link may be elsewhere.
        summary = json.loads((directory / "summary.json").read_text())
        return model, tuple(summary["class_names"])
    # Not of a finished run.
    except (OSError, ValueError, KeyError, TypeError):
        return model, ()


def _load_keras(path):
    try:
        return keras.saving.load_model(path, compile=False)
    # A file that is broken, of another kind or of unknown layers; Keras has
    # no error of its own for these.
    except Exception as error:
        raise unreadable(path, error) from error


def _load_checkpoint(path, image_shape, raw_weights):
    try:
        checkpoint = read_checkpoint(path)
        recipe = Recipe(**checkpoint.facts["recipe"])
        if None in image_shape:
            size = recipe.image_size
            image_shape = tuple(
                # That of earlier versions had no such fact.
                checkpoint.facts.get("image_shape", (size, size, 3))
            )
        model = build_model(
            find_spec(recipe.model, image_shape[-1]),
            input_shape=_known(image_shape),
            classes=len(checkpoint.facts["class_names"]),
            dtype=recipe.precision,
        )
        # By name: there are also the random seeds of layers that only
        # training needs.
        saved = dict(zip(checkpoint.names["model"], checkpoint.arrays["model"]))
        model.set_weights([saved[weight.path] for weight in model.weights])
        if checkpoint.arrays["averages"] and not raw_weights:
            _take_averages(model, recipe, checkpoint.arrays["averages"])
    # `KeyError` for what a checkpoint of this model would have.
    except (ValueError, OSError, TypeError, KeyError) as error:
        raise unreadable(path, error) from error
    return model, tuple(checkpoint.facts["class_names"])


def _take_averages(model, recipe, arrays):
    averages = WeightAverages(recipe.average_momentum)
    averages.set_model(model)
    averages.set_state(arrays)
    with averages.applied():
        weights = model.get_weights()
    model.set_weights(weights)


def _load_weights(path, architecture, image_shape, num_classes):
    try:
        return build_model(
            find_spec(architecture, image_shape[-1]),
            input_shape=_known(image_shape),
            # ImageNet's, where the images do not say.
            classes=num_classes or 1000,
            weights=path,
        )
    except Exception as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> ValueError:
    """Makes the error for a model that does not load."""
    return ValueError(
        f"`model` must be a model that can be read ({first_line(error)}). "
        f"Received: model={path}"
    )


def _known(image_shape):
    """Leaves a shape with unknown sizes to the architecture."""
    return None if None in image_shape else image_shape
