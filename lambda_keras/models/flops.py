"""Counting what a model consists of and takes."""

import math
from typing import Any

import keras

# Layers with one kernel, each of whose numbers is multiplied once for every
# output position.
_KERNEL_LAYERS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Dense,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
)
# Weights that no gradient is for: of batches, and of pixels.
_STATISTICS = ("moving_mean", "moving_variance", "mean", "variance", "count")


def count_parameters(model: keras.Model) -> int:
    """Counts the parameters of a model, as papers do.

    Frozen ones are among them; `model.count_params()` adds the moving
    statistics of normalizations.

    Args:
        model: A model, which may have been built without allocating weights.

    Returns:
        Integer. The number of parameters.

    Example:

    >>> count_parameters(ResNet50())
    25613256
    """
    return sum(
        math.prod(weight.shape)
        for weight in model.weights
        if weight.trainable or weight.name not in _STATISTICS
    )


def count_flops(model: keras.Model) -> int:
    """Counts the floating point operations of a model for one example.

    Two for each multiply-add of a matrix product or convolution; additions,
    normalizations and activations are left out, as is usual. Layers with a
    method `flops(input_shape)` count themselves.

    Args:
        model: A functional or sequential model whose spatial sizes are known
            and whose layers are each called once.

    Returns:
        Integer. The number of floating point operations.

    Raises:
        ValueError: If a spatial size is unknown, or the model contains a
            layer with matrices that cannot be counted.

    Example:

    >>> count_flops(ResNet50())
    8888860672
    """
    return sum(_layer_flops(layer) for layer in model.layers)


def _layer_flops(layer: keras.Layer) -> int:
    if isinstance(layer, keras.Model):
        return count_flops(layer)
    if hasattr(layer, "flops"):
        inputs = layer.input
        inputs = inputs if isinstance(inputs, list) else [inputs]
        return layer.flops(*(tensor.shape for tensor in inputs))
    if isinstance(layer, _KERNEL_LAYERS):
        return 2 * math.prod(layer.kernel.shape) * _positions(layer.output)
    if any(len(weight.shape) > 1 for weight in layer.weights):
        raise ValueError(
            "Expected layers that are convolutions, `Dense` or have a method "
            f"`flops(input_shape)`. Received: layer={layer}"
        )
    return 0


def _positions(output: Any) -> int:
    positions = output.shape[1:-1]
    if None in positions:
        raise ValueError(
            "Counting needs known spatial sizes: build the model with an "
            f"`input_shape`. Received: output shape {output.shape} of layer "
            f"{output._keras_history.operation.name}"
        )
    return math.prod(positions)
