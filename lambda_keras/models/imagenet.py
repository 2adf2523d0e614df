"""What goes into an ImageNet model and what comes out of it."""

import contextlib
import sys
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from lambda_keras.messages import first_line
from lambda_keras.models.specs import IMAGENET_MEAN
from lambda_keras.models.specs import IMAGENET_STD
from lambda_keras.models.specs import MODEL_SPECS
from lambda_keras.models.specs import get_spec

CLASSES = 1000


def normalization_layer(
    mean: Sequence[float], std: Sequence[float], name: str | None = None
) -> keras.Layer:
    """Returns the layer that normalizes channels with values from 0 to 255.

    It computes in float32 under every dtype policy: bfloat16 cannot tell
    the upper grey levels apart.

    Args:
        mean: The mean of each channel, with pixels scaled to 0-1.
        std: The standard deviation of each channel, likewise.
        name: The name of the layer.
    """
    return keras.layers.Rescaling(
        scale=[1 / (255 * s) for s in std],
        offset=[-m / s for m, s in zip(mean, std, strict=True)],
        dtype="float32",
        name=name,
    )


def preprocess_input(
    x: Any,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    *,
    model: str | None = None,
) -> Any:
    """Normalizes images as a model does that includes its preprocessing.

    For models built with `include_preprocessing=False`; in a `tf.data`
    pipeline it works on every backend. What part of an image a model is shown
    before, `evaluation_crop` says, and `data.crop.decode_center_crop` takes.

    Args:
        x: Array or tensor of shape `(..., channels)` with values from 0 to
            255. It is not changed.
        mean: The mean of each channel, with pixels scaled to 0-1. Defaults
            to the model's.
        std: The standard deviation of each channel, likewise.
        model: The name of a model, as `"LambdaResNet50TS"`, whose mean and
            standard deviation are taken. By default they are ImageNet's.

    Returns:
        The normalized images in float32, as a NumPy array if `x` is one.

    Raises:
        ValueError: If `x` has another number of channels than `mean`, or if
            there is no such model.

    Example:

    >>> white = np.full((1, 224, 224, 3), 255, "uint8")
    >>> preprocess_input(white)[0, 0, 0].round(2)
    array([2.25, 2.43, 2.64], dtype=float32)
    """
    spec = get_spec(model) if model is not None else None
    if mean is None:
        mean = spec.mean if spec else IMAGENET_MEAN
    if std is None:
        std = spec.std if spec else IMAGENET_STD
    if x.shape[-1] != len(mean):
        raise ValueError(
            f"`x` must have {len(mean)} channels in its last axis, one for "
            f"each entry of `mean`. Received: x.shape={tuple(x.shape)}"
        )
    normalized = normalization_layer(mean, std)(x)
    if isinstance(x, np.ndarray):
        return keras.ops.convert_to_numpy(normalized)
    return normalized


def decode_predictions(preds: Any, top: int = 5) -> list[list[tuple]]:
    """Names the most probable ImageNet classes.

    The names come from Keras, which downloads them (35 kB) on first use. All
    models here have the classes in this order, timm's checkpoints too.

    Args:
        preds: Array of shape `(batch, 1000)`, a model's predictions.
        top: Integer. How many classes to name per image.

    Returns:
        For each image, a list of tuples `(class_name, class_description,
        score)`, the highest score first.

    Raises:
        ValueError: If `preds` is not of shape `(batch, 1000)`.
        OSError: If the names are not there and cannot be downloaded.
    """
    decode = keras.applications.imagenet_utils.decode_predictions
    try:
        # It tells on standard output that it downloads.
        with contextlib.redirect_stdout(sys.stderr):
            decode(np.zeros((0, CLASSES)))
    # Keras has no error of its own for a download that fails.
    except Exception as error:
        raise OSError(
            "The names of ImageNet's classes must be in Keras' cache, as "
            "~/.keras/models/imagenet_class_index.json, or be downloaded "
            f"there. Received: {first_line(error)}"
        ) from error
    return decode(preds, top=top)


def imagenet_class_names() -> tuple[str, ...]:
    """Returns the names of ImageNet's classes, in the order of the classes.

    Raises:
        OSError: As `decode_predictions` does.

    Example:

    ```python
    imagenet_class_names()[281]  # tabby
    ```
    """
    decoded = decode_predictions(np.eye(CLASSES, dtype="float32"), top=1)
    return tuple(name for ((_, name, _),) in decoded)


def evaluation_crop(model_name: str) -> tuple[float | None, str]:
    """Returns what a model is evaluated on, as two fields of its spec.

    Args:
        model_name: The name of a Keras model.

    Returns:
        The `crop` and the `interpolation`; those of most specs where there is
        none of this name.

    Example:

    >>> evaluation_crop("lambda_resnet_50ts")
    (0.95, 'bicubic')
    """
    spec = MODEL_SPECS.get(model_name)
    return (spec.crop, spec.interpolation) if spec else (None, "bilinear")
