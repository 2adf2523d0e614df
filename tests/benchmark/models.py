"""Models of known cost, for the harness to build by their names."""

import time

import keras
import numpy as np
from keras import ops

SECONDS, LESS_SECONDS = 0.2, 0.05
WIDTH = 64
# Two for each multiply-add of the matrix product, and of the classifier.
FLOPS = 2 * 12 * WIDTH + 2 * WIDTH * 10


class SleepingDense(keras.layers.Dense):
    """A matrix product, and a sleep in the middle of the step."""

    seconds = SECONDS

    def call(self, inputs, training=None):
        outputs = super().call(inputs)
        return outputs + _sleep(outputs, self.seconds)


def _sleep(x, seconds):
    """Returns zeros like `x`, after some seconds."""

    def zeros(array):
        time.sleep(seconds)
        return np.zeros_like(array)

    x = ops.stop_gradient(x)
    if keras.backend.backend() == "jax":
        import jax

        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(zeros, shape, x)
    import tensorflow as tf

    slept = tf.numpy_function(zeros, [x], x.dtype)
    slept.set_shape(x.shape)
    return slept


def sleeping(input_shape):
    """Builds a model whose step takes `SECONDS` and little else."""
    return _classifier(input_shape, SleepingDense(WIDTH, use_bias=False))


def napping(input_shape):
    """Builds one whose step takes `LESS_SECONDS`."""
    layer = SleepingDense(WIDTH, use_bias=False)
    layer.seconds = LESS_SECONDS
    return _classifier(input_shape, layer)


def plain(input_shape):
    """Builds the same model without the sleep."""
    dense = keras.layers.Dense(WIDTH, use_bias=False)
    return _classifier(input_shape, dense)


def _classifier(input_shape, layer):
    inputs = keras.Input(input_shape)
    x = keras.layers.Flatten()(inputs)
    x = keras.layers.BatchNormalization()(layer(x))
    outputs = keras.layers.Dense(10, activation="softmax")(x)
    return keras.Model(inputs, outputs)


def shapeless(input_shape):
    """Returns no model."""
    return input_shape
