"""One step of a layer of Keras, forward or training, on each engine."""

import inspect
from collections.abc import Callable
from typing import Any
from typing import Protocol

import keras
import numpy as np

from lambda_keras.benchmark.layer_reference import COTANGENT
from lambda_keras.benchmark.layer_reference import INPUTS
from lambda_keras.benchmark.layer_reference import OUTPUT
from lambda_keras.benchmark.layer_reference import TRAINING
from lambda_keras.benchmark.layer_reference import Arrays
from lambda_keras.benchmark.layer_reference import gradient_name
from lambda_keras.benchmark.layer_reference import weight_name
from lambda_keras.layers.targets import target


class LayerStep(Protocol):
    """One step of a layer, with inputs and weights that stay on the device."""

    def run(self) -> Any:
        """Runs a step to its end; the results stay on the device."""

    def read(self, results: Any) -> dict[str, np.ndarray]:
        """Brings results here, by the names that the reference has."""

    def device_memory(self, restart: bool = False) -> tuple[int, int] | None:
        """Returns the bytes in use on an accelerator, and the most there were.

        Args:
            restart: Whether to forget the most, where the engine can.
        """


def create_keras_step(
    layer: keras.Layer,
    mode: str,
    arrays: Arrays,
    inputs_shape: tuple[int, ...],
    jit_compile: bool = True,
) -> LayerStep:
    """Makes a step of a layer on the engine of this process.

    Args:
        layer: The layer, not built yet.
        mode: `FORWARD` is a call with `training=False`; `TRAINING` is one
            with `training=True`, and from a given cotangent the gradients of
            the inputs and of all trainable weights.
        arrays: Inputs and cotangent; what else of them has the name of a
            weight becomes its value.
        inputs_shape: Of the inputs.
        jit_compile: Whether XLA compiles the step on TensorFlow.

    Returns:
        A `LayerStep`.
    """
    layer.build(inputs_shape)
    for variable in layer.variables:
        if weight_name(variable) in arrays:
            variable.assign(arrays[weight_name(variable)])
    given = [
        keras.ops.cast(arrays[name], layer.compute_dtype)
        for name in (INPUTS, COTANGENT)
    ]
    trained = [weight_name(each) for each in layer.trainable_variables]
    if keras.backend.backend() == "jax":
        return _JaxStep(layer, mode, given, trained)
    return _TensorFlowStep(layer, mode, given, trained, jit_compile)


def jax_layer_function(
    layer: keras.Layer, mode: str
) -> Callable[..., tuple[Any, Any, Any]]:
    """Makes the function that a step of a layer is on JAX.

    Args:
        layer: The layer, built.
        mode: `FORWARD` or `TRAINING`.

    Returns:
        A function of the layer's trainable weights, its other variables,
        inputs and cotangent. It returns the outputs, the gradients of inputs
        and weights (none in `FORWARD`), and the other variables after it.
    """
    import jax

    def forward(weights, state, inputs, cotangent):
        outputs, state = layer.stateless_call(
            weights, state, inputs, **_flag(layer, False)
        )
        return outputs, (), state

    def training(weights, state, inputs, cotangent):
        def call(inputs, weights):
            return layer.stateless_call(
                weights, state, inputs, **_flag(layer, True)
            )

        outputs, pull_back, state = jax.vjp(call, inputs, weights, has_aux=True)
        # Outputs, too: what comes after a layer reads them.
        return outputs, pull_back(cotangent), state

    return training if mode == TRAINING else forward


class _JaxStep:
    def __init__(self, layer, mode, given, trained):
        import jax

        self._names = [INPUTS, *trained] if mode == TRAINING else []
        self._step = jax.jit(jax_layer_function(layer, mode))
        values = [
            [variable.value for variable in variables]
            for variables in (
                layer.trainable_variables,
                layer.non_trainable_variables,
            )
        ]
        self._arguments = jax.device_put((*values, *given))

    def run(self):
        import jax

        return jax.block_until_ready(self._step(*self._arguments))

    def read(self, results):
        outputs, gradients, _ = results
        if gradients:
            of_inputs, of_weights = gradients
            gradients = [of_inputs, *of_weights]
        return _named(outputs, self._names, gradients)

    def device_memory(self, restart=False):
        import jax

        statistics = jax.devices()[0].memory_stats() or {}
        keys = "bytes_in_use", "peak_bytes_in_use"
        if any(key not in statistics for key in keys):
            return None
        return tuple(statistics[key] for key in keys)


class _TensorFlowStep:
    def __init__(self, layer, mode, given, trained, jit_compile):
        import tensorflow as tf

        def call(inputs, training):
            # Nothing else would tell a plan that XLA will compile this.
            with target(jit_compile=jit_compile):
                return layer(inputs, **_flag(layer, training))

        def forward(inputs, cotangent):
            return call(inputs, False), []

        def training(inputs, cotangent):
            weights = [each.value for each in layer.trainable_variables]
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                outputs = call(inputs, True)
            gradients = tape.gradient(
                outputs, [inputs, *weights], output_gradients=cotangent
            )
            return outputs, gradients

        self._names = [INPUTS, *trained] if mode == TRAINING else []
        self._step = tf.function(
            training if mode == TRAINING else forward,
            jit_compile=jit_compile,
            autograph=False,
        )
        self._arguments = given

    def run(self):
        import tensorflow as tf

        results = self._step(*self._arguments)
        tf.test.experimental.sync_devices()
        return results

    def read(self, results):
        outputs, gradients = results
        return _named(outputs, self._names, gradients)

    def device_memory(self, restart=False):
        import tensorflow as tf

        devices = tf.config.list_logical_devices("GPU")
        if not devices:
            return None
        name = devices[0].name.removeprefix("/device:")
        if restart:
            tf.config.experimental.reset_memory_stats(name)
        info = tf.config.experimental.get_memory_info(name)
        return info["current"], info["peak"]


def _flag(layer, training):
    # A convolution does the same in both, and takes no such argument.
    takes_it = "training" in inspect.signature(layer.call).parameters
    return {"training": training} if takes_it else {}


def _named(outputs, names, gradients):
    arrays = {OUTPUT: outputs}
    arrays |= {
        gradient_name(name): gradient
        for name, gradient in zip(names, gradients, strict=True)
    }
    return {
        name: keras.ops.convert_to_numpy(array)
        for name, array in arrays.items()
    }
