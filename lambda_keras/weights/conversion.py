"""Whole models as timm has them."""

import dataclasses
import hashlib
import os

import keras
import numpy as np

from lambda_keras.models import ModelSpec
from lambda_keras.models import get_spec
from lambda_keras.weights.timm import write_timm
from lambda_keras.weights.timm_tensors import list_timm_tensors
from lambda_keras.weights.weightless import build_weightless

_FIRST_BLOCK, _CLASSIFIER = "c2_block0_conv1", "predictions"
# Layers that timm's weights say nothing of: they normalize pixels, or are for
# training alone.
_BESIDE = ("Rescaling", "Normalization", "Dropout", "StochasticDepth")
# Settings that decide how a layer is trained or computed, not what it is.
_FREE = (
    *("name", "trainable", "dtype", "momentum", "synchronized"),
    "implementation",
)


def save_as_timm(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Writes the weights of a model as timm's model of that name has them.

    Args:
        model: One of the models that timm has, of any width, size of images
            and number of classes, with its classifier. It is known by its
            name and must be as `build_model` makes it; preprocessing, and
            the activation of the classifier, are not part of a timm model.
        path: The `.safetensors` file, written whole or not at all.

    Raises:
        ImportError: If `safetensors` is not installed.
        ValueError: If it is no such model.

    Example:

    >>> model = build_model("lambda_resnet_26t", width=8, classes=10)
    >>> save_as_timm(model, "mine.safetensors")
    >>> describe_weights("mine.safetensors").classes
    10
    """
    spec = timm_spec(model)
    arrays = {
        weight.path: keras.ops.convert_to_numpy(weight)
        for weight in model.weights
    }
    write_timm(path, arrays, spec)


def timm_spec(model: keras.Model) -> ModelSpec:
    """Finds the spec of a model, if timm has that model.

    Args:
        model: The model.

    Returns:
        The spec of its name, with the model's width.

    Raises:
        ValueError: If timm has no such model, or if this one is not as
            `build_model` makes it.
    """
    try:
        spec = get_spec(model.name)
        list_timm_tensors(spec)
        layers = {layer.name: layer for layer in model.layers}
        missing = {_FIRST_BLOCK, _CLASSIFIER} - layers.keys()
        if missing:
            raise ValueError(f"there is no layer {', '.join(sorted(missing))}")
        spec = dataclasses.replace(spec, width=layers[_FIRST_BLOCK].filters)
        other = build_weightless(
            spec,
            input_shape=model.input_shape[1:],
            classes=layers[_CLASSIFIER].units,
        )
    # The latter for layers of these names and of another kind.
    except (ValueError, AttributeError) as error:
        raise ValueError(
            "`model` must be one that timm has, with its classifier "
            f"({error}). Received: model={model.name}"
        ) from error
    expected, received = _layers(other), _layers(model)
    for name in {**expected, **received}:
        difference = _compare(received.get(name), expected.get(name))
        if difference:
            raise ValueError(
                f"`model` must be as `build_model({model.name!r})` makes it: "
                f"its layer `{name}` {difference}. Received: model={model.name}"
            )
    return spec


def _layers(model):
    """Returns the kind and the settings of each layer, by its name."""
    described = {}
    for layer in model.layers:
        kind = type(layer).__name__
        if kind in _BESIDE:
            continue
        settings = {
            key: value
            for key, value in layer.get_config().items()
            if key not in _FREE
            and not key.endswith(("initializer", "regularizer", "constraint"))
        }
        if layer.name == _CLASSIFIER:
            del settings["activation"]
        described[layer.name] = kind, settings
    return described


def _compare(layer, expected):
    """Says how a layer is not the expected one, if it is not."""
    if layer is None or expected is None:
        return "is missing" if layer is None else "is one more"
    (kind, settings), (expected_kind, expected_settings) = layer, expected
    if kind != expected_kind:
        return f"is a {kind}, not a {expected_kind}"
    for key, value in settings.items():
        if value != expected_settings[key]:
            return f"has {key}={value!r}, not {expected_settings[key]!r}"
    return ""


def weights_digest(model: keras.Model) -> str:
    """Computes the SHA-256 of a model's weights: shapes, dtypes and values.

    Args:
        model: A built model.

    Returns:
        64 hexadecimal digits, the same for the same weights in any file and
        on any engine.
    """
    sha = hashlib.sha256()
    for weight in model.weights:
        array = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        sha.update(f"{array.shape} {array.dtype}\0".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()
