"""Files that training leaves of a model, and the models in them."""

import json
import os
from pathlib import Path

import keras

from lambda_keras.messages import first_line
from lambda_keras.models import build_model
from lambda_keras.models import get_spec
from lambda_keras.training.averages import WeightAverages
from lambda_keras.training.checkpoints import list_checkpoints
from lambda_keras.training.checkpoints import read_checkpoint
from lambda_keras.training.recipe import Recipe
from lambda_keras.training.specs import find_spec
from lambda_keras.weights.hub import CHECKPOINTS
from lambda_keras.weights.hub import download
from lambda_keras.weights.loading import describe_weights

FILES = (".keras", ".npz", ".safetensors", ".weights.h5")


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


def expand_output(path: str | os.PathLike[str], name: str) -> Path:
    """Replaces `~` in the path of a file to be written.

    Args:
        path: A path.
        name: The setting that it is the value of.

    Returns:
        A path.

    Raises:
        ValueError: If no file can be written there.
    """
    expanded = expand(path, name)
    if expanded.is_dir() or not expanded.parent.is_dir():
        raise ValueError(
            f"`{name}` must be a file in a directory that exists. "
            f"Received: {name}={expanded}"
        )
    return expanded


def find_model(
    path: str | os.PathLike[str],
    architecture: str | None = None,
    name: str = "model",
) -> Path:
    """Finds the model in a run directory.

    Args:
        path: A run directory, a SavedModel, a file, or the name of a model
            with hosted weights, which are downloaded.
        architecture: The name of the model, for a file of weights.
        name: The setting that `path` is the value of.

    Returns:
        The file, or the directory of the SavedModel.

    Raises:
        OSError: If hosted weights cannot be downloaded.
        ValueError: If it is none of these, or if only the architecture is, or
            is not, there.
    """
    expanded = expand(path, name)
    hosted = None
    if not expanded.exists():
        hosted = _find_checkpoint(os.fspath(path))
    found = expanded if hosted else _find_model(expanded, name)
    if (architecture is not None) != found.name.endswith(".weights.h5"):
        raise ValueError(
            "`architecture` must be given for a .weights.h5 file, and for "
            "nothing else. Received: "
            f"architecture={architecture}, {name}={found}"
        )
    if hosted is None:
        return found
    try:
        return download(hosted)
    # Says what to install.
    except ImportError as error:
        raise ValueError(f"{error} Received: {name}={path}") from error


def _find_model(path, name):
    if not path.exists():
        raise ValueError(
            f"`{name}` must be a file or a directory. Received: {name}={path}, "
            "which does not exist"
        )
    if path.is_file():
        if path.name.endswith(FILES):
            return path
    elif (path / "saved_model.pb").exists():
        return path
    else:
        for best in ("best.keras", "last.keras"):
            if (path / best).exists():
                return path / best
        checkpoints = list_checkpoints(path / "checkpoints")
        if checkpoints:
            return checkpoints[0]
    raise ValueError(
        f"`{name}` must be a run directory, a SavedModel, or a file that ends "
        f"in {', '.join(FILES[:-1])} or {FILES[-1]}. Received: {name}={path}"
    )


def _find_checkpoint(name):
    try:
        return CHECKPOINTS.get(get_spec(name).name)
    except ValueError:
        return None


def load_model(
    path: Path,
    image_shape: tuple[int | None, ...],
    architecture: str | None = None,
    raw_weights: bool = False,
    name: str = "model",
) -> tuple[keras.Model, tuple[str, ...]]:
    """Loads a model from a file.

    Args:
        path: As from `find_model`, but no SavedModel.
        image_shape: Height, width and channels of the images; None where the
            model is to say.
        architecture: The name of the model, for a file of weights.
        raw_weights: Of a training checkpoint, take the weights themselves and
            not their averages.
        name: The setting that says which model, for errors.

    Returns:
        The model, and the names of its classes, where they are known.

    Raises:
        ValueError: If it cannot be read.
    """
    try:
        if path.suffix == ".npz":
            return _load_checkpoint(path, image_shape, raw_weights)
        if path.suffix == ".keras":
            model = keras.saving.load_model(path, compile=False)
        else:
            model = _load_weights(path, architecture, image_shape)
    # A file that is broken, of another kind or of unknown layers; Keras has
    # no error of its own for these.
    except Exception as error:
        raise unreadable(path, error, name) from error
    return model, read_class_names(path)


def read_class_names(path: Path) -> tuple[str, ...]:
    """Reads the names of a model's classes, where its run says them.

    Args:
        path: The file of the model, or a link to it.

    Returns:
        A name per class, or nothing if the file is not of a finished run.
    """
    try:
        directory = path.resolve().parent  # A link may be elsewhere.
        summary = json.loads((directory / "summary.json").read_text())
        return tuple(summary["class_names"])
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def _load_checkpoint(path, image_shape, raw_weights):
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
        width=recipe.width,
    )
    # By name: there are also the random seeds of layers that only training
    # needs.
    saved = dict(zip(checkpoint.names["model"], checkpoint.arrays["model"]))
    model.set_weights([saved[weight.path] for weight in model.weights])
    if checkpoint.arrays["averages"] and not raw_weights:
        _take_averages(model, recipe, checkpoint.arrays["averages"])
    return model, tuple(checkpoint.facts["class_names"])


def _take_averages(model, recipe, arrays):
    averages = WeightAverages(recipe.average_momentum)
    averages.set_model(model)
    averages.set_state(arrays)
    with averages.applied():
        weights = model.get_weights()
    model.set_weights(weights)


def _load_weights(path, architecture, image_shape):
    *size, channels = image_shape
    spec = None  # Of timm's, which say it.
    if architecture is not None:
        channels = channels or len(get_spec(architecture).mean)
        spec = find_spec(architecture, channels)
    described = describe_weights(path, spec)
    if described.classes is None:
        raise ValueError("It has no classifier.")
    if None in size:
        size = described.image_size
    return build_model(
        described.spec,
        input_shape=(*size, len(described.spec.mean)),
        classes=described.classes,
        weights=path,
    )


def unreadable(path: Path, error: Exception, name: str = "model") -> ValueError:
    """Makes the error for a model that does not load."""
    return ValueError(
        f"`{name}` must be a model that can be read ({first_line(error)}). "
        f"Received: {name}={path}"
    )


def _known(image_shape):
    """Leaves a shape with unknown sizes to the architecture."""
    return None if None in image_shape else image_shape
