"""The specs of models for images of a kind."""

import dataclasses
import difflib

from lambda_keras.models import MODEL_SPECS
from lambda_keras.models import ModelSpec
from lambda_keras.models import get_spec


def find_spec(name: str, channels: int, like: str = "these") -> ModelSpec:
    """Looks up the spec of a model for images with that many channels.

    The models for images of one channel take others too; their preprocessing
    is then the same for all channels.

    Args:
        name: The name of a model.
        channels: The number of channels.
        like: What the images are called, for the error.

    Returns:
        A `ModelSpec`.

    Raises:
        ValueError: If there is no such model for such images.

    Example:

    >>> find_spec("resnet_tiny", 3).mean
    (0.5, 0.5, 0.5)
    """
    fitting = {
        spec.name: spec
        for spec in MODEL_SPECS.values()
        if len(spec.mean) in (1, channels)
    }
    try:
        spec = fitting[get_spec(name).name]
    except (ValueError, KeyError):
        names = list(fitting)
        if len(names) > 5:
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.0)
            names = [*near, "..."]
        raise ValueError(
            f"`model` must be one of those for images like {like}: "
            f"{', '.join(names)}. Received: model={name}"
        ) from None
    if len(spec.mean) == channels:
        return spec
    return dataclasses.replace(
        spec, mean=spec.mean * channels, std=spec.std * channels
    )
