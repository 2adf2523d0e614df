"""Squeeze-and-excitation: a gate per channel, computed from its mean."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="lambda_keras")
class SqueezeExcite(keras.layers.Layer):
    """Scales every channel by a gate computed from the mean of all channels.

    With `z` the mean of the input over its positions,

        output = input * sigmoid(W_2 activation(W_1 z + b_1) + b_2)

    where `W_1` keeps `ratio` of the channels and `W_2` restores them. The
    layer takes inputs of any rank, channels last, and any size.

    The mean is computed in float32 under policies of half precision, in which
    a sum over thousands of positions would overflow or lose its low bits.

    Args:
        ratio: Width of the bottleneck as a part of the number of channels,
            rounded down, one at least. ResNet-RS uses 0.25 (the default) on
            the wide outputs of its blocks; the original paper uses 1/16.
        activation: Activation of the bottleneck, `"relu"` by default.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Tensor of shape `(batch, *spatial, channels)`.

    Output shape:
        The shape of the inputs.

    Example:

    >>> x = np.ones((2, 14, 14, 64), "float32")
    >>> tuple(SqueezeExcite(ratio=0.25)(x).shape)
    (2, 14, 14, 64)

    References:
        - [Squeeze-and-Excitation Networks](https://arxiv.org/abs/1709.01507)
        - [Revisiting ResNets](https://arxiv.org/abs/2103.07579)
    """

    def __init__(
        self,
        ratio: float = 0.25,
        activation="relu",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not 0 < ratio <= 1:
            raise ValueError(
                "Expected `ratio` to be above 0 and at most 1. "
                f"Received: ratio={ratio}"
            )
        self.ratio = ratio
        self.activation = keras.activations.get(activation)

    def build(self, input_shape):
        channels = input_shape[-1]
        if len(input_shape) < 3 or channels is None:
            raise ValueError(
                "Expected inputs of shape `(batch, *spatial, channels)` with a "
                f"known number of channels. Received: input_shape={input_shape}"
            )
        self.input_spec = keras.InputSpec(
            ndim=len(input_shape), axes={-1: channels}
        )
        self.reduce = keras.layers.Dense(
            self._reduced_channels(channels),
            activation=self.activation,
            dtype=self.dtype_policy,
            name="reduce",
        )
        self.expand = keras.layers.Dense(
            channels,
            activation="sigmoid",
            dtype=self.dtype_policy,
            name="expand",
        )
        self.reduce.build((input_shape[0], channels))
        self.expand.build((input_shape[0], self.reduce.units))

    def call(self, inputs):
        axes = tuple(range(1, len(inputs.shape) - 1))
        # Half precision is summed in float32 by this operation.
        gates = self.expand(self.reduce(ops.mean(inputs, axis=axes)))
        return inputs * ops.expand_dims(gates, axes)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def flops(self, input_shape) -> int:
        """Counts the FLOPs of the two matrix products for one example."""
        channels = input_shape[-1]
        multiply_adds = 2 * channels * self._reduced_channels(channels)
        return 2 * multiply_adds

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "ratio": self.ratio,
            "activation": keras.activations.serialize(self.activation),
        }

    def _reduced_channels(self, channels: int) -> int:
        return max(1, int(channels * self.ratio))
