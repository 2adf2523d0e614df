"""What goes into an ImageNet model and what comes out of it."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from lambda_keras.models.specs import IMAGENET_MEAN
from lambda_keras.models.specs import IMAGENET_STD


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
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Any:
    """Normalizes images as a model does that includes its preprocessing.

    For models built with `include_preprocessing=False`; in a `tf.data`
    pipeline it works on every backend.

    Args:
        x: Array or tensor of shape `(..., channels)` with values from 0 to
            255. It is not changed.
        mean: The mean of each channel, with pixels scaled to 0-1. Defaults
            to ImageNet's; a spec's is `get_spec(name).mean`.
        std: The standard deviation of each channel, likewise.

    Returns:
        The normalized images in float32, as a NumPy array if `x` is one.

    Raises:
        ValueError: If `x` has another number of channels than `mean`.

    Example:

    >>> white = np.full((1, 224, 224, 3), 255, "uint8")
    >>> preprocess_input(white)[0, 0, 0].round(2)
    array([2.25, 2.43, 2.64], dtype=float32)
    """
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

    The names come from Keras, which downloads them (35 kB) on first use.

    Args:
        preds: Array of shape `(batch, 1000)`, a model's predictions.
        top: Integer. How many classes to name per image.

    Returns:
        For each image, a list of tuples `(class_name, class_description,
        score)`, the highest score first.

    Raises:
        ValueError: If `preds` is not of shape `(batch, 1000)`.
    """
    return keras.applications.imagenet_utils.decode_predictions(preds, top=top)
