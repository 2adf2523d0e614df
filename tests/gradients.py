"""Gradients of a Keras layer or model as NumPy arrays, on any engine."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tests.reference import as_numpy


def weighted_mean(outputs: Any) -> Any:
    """Reduces outputs to a scalar that no symmetry of a layer cancels.

    A plain sum has a zero gradient behind every normalization; weights that
    differ at each position do not.
    """
    total = 0
    for output in keras.tree.flatten(outputs):
        size = int(np.prod(output.shape))
        weights = np.cos(1.0 + 0.7 * np.arange(size)).reshape(output.shape)
        # Not `ops.mean`, which turns float64 into float32 on JAX.
        total += ops.sum(output * ops.cast(weights / size, output.dtype))
    return total


def gradients(
    layer: keras.Layer,
    inputs: Any,
    loss_fn: Callable[[Any], Any] | None = None,
    *,
    training: bool = False,
    **call_arguments: Any,
) -> list[np.ndarray]:
    """Differentiates `loss_fn(layer(inputs))` by each trainable variable.

    Args:
        layer: a built layer or model.
        inputs: what the layer is called on.
        loss_fn: maps the outputs to a scalar. Defaults to `weighted_mean`.
        training: passed to the layer. The moving statistics that a training
            call updates are put back.
        **call_arguments: passed to the layer.

    Returns:
        One array per entry of `layer.trainable_variables`, in their order. A
        variable that the outputs do not depend on has a gradient of zeros.
    """
    inputs = keras.tree.map_structure(ops.convert_to_tensor, inputs)
    arguments = {"training": training, **call_arguments}
    state = [as_numpy(v) for v in layer.non_trainable_variables]
    differentiate = {
        "jax": _jax_gradients,
        "tensorflow": _tensorflow_gradients,
        "torch": _torch_gradients,
    }[keras.backend.backend()]
    values = differentiate(layer, inputs, loss_fn or weighted_mean, arguments)
    for variable, value in zip(
        layer.non_trainable_variables, state, strict=True
    ):
        variable.assign(value)
    return [
        np.zeros(variable.shape) if value is None else as_numpy(value)
        for variable, value in zip(
            layer.trainable_variables, values, strict=True
        )
    ]


def _jax_gradients(layer, inputs, loss_fn, arguments):
    import jax

    loss = _jax_loss(layer, inputs, loss_fn, arguments)
    # One compilation takes less time than one for each operation.
    return jax.jit(jax.grad(loss))([v.value for v in layer.trainable_variables])


def _jax_loss(layer, inputs, loss_fn, arguments):
    state = [v.value for v in layer.non_trainable_variables]

    def loss(values):
        outputs, _ = call_with(layer, values, state, inputs, **arguments)
        return loss_fn(outputs)

    return loss


def call_with(
    layer: keras.Layer,
    trainable: list,
    state: list,
    inputs: Any,
    **arguments: Any,
) -> tuple[Any, list]:
    """Calls a layer as if its variables had other values.

    `layer.stateless_call` skips what surrounds a layer's `call`, of which the
    casts of a mixed dtype policy are a part.

    Args:
        layer: a built layer or model.
        trainable: values for its trainable variables.
        state: values for its other variables.
        inputs: what the layer is called on.
        **arguments: passed to the layer.

    Returns:
        The outputs, and what became of `state`.
    """
    values = zip(
        [*layer.trainable_variables, *layer.non_trainable_variables],
        [*trainable, *state],
        strict=True,
    )
    with keras.StatelessScope(state_mapping=values) as scope:
        outputs = layer(inputs, **arguments)
    return outputs, [
        scope.get_current_value(variable)
        for variable in layer.non_trainable_variables
    ]


def _tensorflow_gradients(layer, inputs, loss_fn, arguments):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = loss_fn(layer(inputs, **arguments))
    return tape.gradient(loss, [v.value for v in layer.trainable_variables])


def _torch_gradients(layer, inputs, loss_fn, arguments):
    layer.zero_grad()
    loss_fn(layer(inputs, **arguments)).backward()
    return [v.value.grad for v in layer.trainable_variables]


def directional_derivatives(
    layer: keras.Layer,
    inputs: Any,
    directions: list[np.ndarray],
    *,
    step: float = 1e-5,
    training: bool = False,
    **call_arguments: Any,
) -> list[float]:
    """Measures slopes of `weighted_mean(layer(inputs))` by central differences.

    Args:
        layer: a built layer or model.
        inputs: what the layer is called on.
        directions: for each trainable variable, the direction to move it in.
        step: how far to move.
        training: passed to the layer.
        **call_arguments: passed to the layer.

    Returns:
        For each trainable variable, the slope along its direction.
    """
    arguments = {"training": training, **call_arguments}
    if keras.backend.backend() == "jax":
        import jax

        loss = jax.jit(_jax_loss(layer, inputs, weighted_mean, arguments))
    else:

        def loss(values):
            for variable, value in zip(
                layer.trainable_variables, values, strict=True
            ):
                variable.assign(value)
            return weighted_mean(layer(inputs, **arguments))

    point = [as_numpy(v) for v in layer.trainable_variables]
    slopes = []
    for i, direction in enumerate(directions):
        ahead, behind = (
            float(as_numpy(loss([*point[:i], moved, *point[i + 1 :]])))
            for moved in (
                point[i] + step * direction,
                point[i] - step * direction,
            )
        )
        slopes.append((ahead - behind) / (2 * step))
    for variable, value in zip(layer.trainable_variables, point, strict=True):
        variable.assign(value)
    return slopes
