"""Pooling that pads as other frameworks do."""

from typing import Any

import keras
from keras import ops

from lambda_keras.layers.arguments import check_positive


@keras.saving.register_keras_serializable(package="lambda_keras")
class MaxPooling2D(keras.layers.Layer):
    """Takes the maximum of windows, padded alike on all sides.

    `padding="same"` of Keras pads even sizes at their end alone, so that
    weights from other frameworks would be half a pixel off. The padding is
    minus infinity: zeros would hide what is negative, as the outputs of SiLU
    are.

    Args:
        pool_size: Odd integer. Height and width of the windows. Half of it,
            rounded down, is padded on each side.
        strides: Integer. The step from one window to the next.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Tensor of shape `(batch, height, width, channels)`.

    Returns:
        Tensor of shape `(batch, ceil(height / strides),
        ceil(width / strides), channels)`.

    Raises:
        ValueError: If `pool_size` is not odd, or an argument not positive.

    Example:

    >>> pool = MaxPooling2D(3, strides=2)
    >>> tuple(pool(-np.ones((1, 8, 7, 2), "float32")).shape)
    (1, 4, 4, 2)
    """

    def __init__(self, pool_size: int, strides: int, **kwargs: Any):
        super().__init__(**kwargs)
        check_positive("pool_size", pool_size)
        check_positive("strides", strides)
        if pool_size % 2 == 0:
            raise ValueError(
                f"`pool_size` must be odd. Received: pool_size={pool_size}"
            )
        self.pool_size = pool_size
        self.strides = strides
        self.built = True

    def call(self, inputs):
        half = self.pool_size // 2
        padded = ops.pad(
            inputs,
            [(0, 0), (half, half), (half, half), (0, 0)],
            constant_values=float("-inf"),
        )
        return ops.max_pool(
            padded,
            self.pool_size,
            self.strides,
            padding="valid",
            data_format="channels_last",
        )

    def compute_output_shape(self, input_shape):
        batch, *sizes, channels = input_shape
        sizes = [
            None if size is None else -(-size // self.strides) for size in sizes
        ]
        return (batch, *sizes, channels)

    def get_config(self):
        return {
            **super().get_config(),
            "pool_size": self.pool_size,
            "strides": self.strides,
        }
