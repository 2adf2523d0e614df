"""Squeeze-and-excitation: a gate per channel, computed from its mean."""

import keras
from keras import ops

from lambda_keras.layers.batch_norm import BatchNormalization


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
        norm: A `lambda_keras.layers.BatchNormalization` to apply to the
            inputs first, or `None`. Normalizing and scaling are one linear
            function of each channel then, and the statistics of the batch
            give the mean, so that the inputs are read twice and not four
            times: by the TPU compiler's estimate, 7 % of the training step of
            LambdaResNet-152.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Tensor of shape `(batch, *spatial, channels)`.
        training: Boolean. Whether `norm` uses the batch.

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
        norm: BatchNormalization | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not 0 < ratio <= 1:
            raise ValueError(
                "Expected `ratio` to be above 0 and at most 1. "
                f"Received: ratio={ratio}"
            )
        self.ratio = ratio
        if norm is not None and not isinstance(norm, BatchNormalization):
            raise ValueError(
                "Expected `norm` to be None or a "
                "`lambda_keras.layers.BatchNormalization`. "
                f"Received: norm={norm}"
            )
        if norm is not None and norm.axis != -1:
            raise ValueError(
                "Expected `norm` to normalize the last axis. "
                f"Received: norm.axis={norm.axis}"
            )
        self.activation = keras.activations.get(activation)
        self.norm = norm

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
            # Of a file, this layer may be frozen before it has those.
            trainable=self.trainable,
            dtype=self.dtype_policy,
            name="reduce",
        )
        self.expand = keras.layers.Dense(
            channels,
            activation="sigmoid",
            trainable=self.trainable,
            dtype=self.dtype_policy,
            name="expand",
        )
        # From a file it comes built.
        if self.norm is not None and not self.norm.built:
            self.norm.build(input_shape)
        self.reduce.build((input_shape[0], channels))
        self.expand.build((input_shape[0], self.reduce.units))

    def call(self, inputs, training=None):
        axes = tuple(range(1, len(inputs.shape) - 1))
        if self.norm is None:
            # Half precision is summed in float32 by this operation.
            means = ops.mean(inputs, axis=axes)
            gates = self.expand(self.reduce(means))
            return inputs * ops.expand_dims(gates, axes)
        scale, offset, means = self.norm.linear(inputs, training=training)
        gates = self.expand(self.reduce(means))
        gates = ops.cast(gates, scale.dtype)
        scale = ops.expand_dims(gates * scale, axes)
        offset = ops.expand_dims(gates * offset, axes)
        outputs = ops.cast(inputs, scale.dtype) * scale + offset
        return ops.cast(outputs, self.compute_dtype)

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
            "norm": keras.saving.serialize_keras_object(self.norm),
        }

    @classmethod
    def from_config(cls, config):
        norm = keras.saving.deserialize_keras_object(config.get("norm"))
        return cls(**{**config, "norm": norm})

    def _reduced_channels(self, channels: int) -> int:
        return max(1, int(channels * self.ratio))
