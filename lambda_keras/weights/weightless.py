"""Models of names and shapes alone."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras

from lambda_keras.models import ModelSpec
from lambda_keras.models import build_model


def build_weightless(spec: ModelSpec, **kwargs: Any) -> keras.Model:
    """Builds a model whose weights have names and shapes, and no values.

    Args:
        spec: The spec.
        **kwargs: As for `build_model`.

    Returns:
        A `keras.Model` to look at: quick to build and, whatever its size,
        without memory.

    Raises:
        ValueError: As by `build_model`.

    Example:

    >>> model = build_weightless(get_spec("lambda_resnet_tiny"), classes=10)
    >>> tuple(model.get_layer("predictions").bias.shape)
    (10,)
    """

    def build():
        with keras.StatelessScope(initialize_variables=False):
            return build_model(spec, **kwargs)

    # Keras notes for each thread which variables have no value yet, and gives
    # them one at the end of the thread's next scope. These are to have none.
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(build).result()
