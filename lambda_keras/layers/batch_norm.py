"""Batch normalization whose moving statistics survive replicas."""

from typing import Any

import keras
from keras import ops

from lambda_keras.layers.replicas import sum_over_replicas


@keras.saving.register_keras_serializable(package="lambda_keras")
class BatchNormalization(keras.layers.BatchNormalization):
    """Normalizes activations, with moving statistics shared by replicas.

    Under `tf.distribute`, `keras.layers.BatchNormalization` lets every
    replica keep moving statistics of its own, and a saved model holds those
    of replica 0 only, although it was evaluated with all of them. Here each
    update of `moving_mean` and `moving_variance` is averaged over the
    replicas, so that training, evaluation and the saved file agree.

    Further differences: under a float64 policy the layer computes in float64
    on every engine; with a mask, statistics are exact, may be synchronized,
    and stay as they are where nothing is visible; there is no
    renormalization.

    Args:
        synchronized: Boolean. Whether a batch is normalized by the statistics
            of all replicas rather than its own. Of use on TensorFlow; under
            JAX's `keras.distribution` a batch is always the global one.
        **kwargs: Every other argument of `keras.layers.BatchNormalization`,
            but for `renorm`.

    Call arguments:
        inputs: Tensor of shape `(batch, ..., channels)`.
        training: Boolean. Whether to normalize by the statistics of the batch
            and update the moving ones.
        mask: Boolean tensor of shape `(batch, ...)`, or `None`. What counts
            in the statistics.

    Returns:
        Tensor of the shape of `inputs`.

    Example:

    >>> layer = BatchNormalization(momentum=0.9)
    >>> tuple(layer(np.ones((4, 8, 8, 16)), training=True).shape)
    (4, 8, 8, 16)

    Reference:

    - [Ioffe and Szegedy, 2015](https://arxiv.org/abs/1502.03167)
    """

    def __init__(self, *, synchronized: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        if self.renorm:
            raise ValueError(
                "Renormalization is not supported. Received: renorm=True"
            )
        # Set here, because Keras refuses it on engines other than TensorFlow.
        self.synchronized = synchronized

    def add_weight(self, *args: Any, name: str | None = None, **kwargs: Any):
        if name in ("moving_mean", "moving_variance"):
            kwargs["aggregation"] = "mean"
        return super().add_weight(*args, name=name, **kwargs)

    def call(self, inputs, training=None, mask=None):
        # Half precision is too coarse for statistics.
        dtype = "float64" if self.compute_dtype == "float64" else "float32"
        inputs = ops.cast(inputs, dtype)
        moving_mean = ops.cast(self.moving_mean, dtype)
        moving_variance = ops.cast(self.moving_variance, dtype)
        mean, variance = moving_mean, moving_variance
        if training and self.trainable:
            mean, variance = self._moments(inputs, mask)
            for variable, moving, batch in (
                (self.moving_mean, moving_mean, mean),
                (self.moving_variance, moving_variance, variance),
            ):
                variable.assign(moving + (batch - moving) * (1 - self.momentum))
        scale = ops.rsqrt(variance + self.epsilon)
        if self.scale:
            scale = scale * ops.cast(self.gamma, dtype)
        offset = -mean * scale
        if self.center:
            offset = offset + ops.cast(self.beta, dtype)
        shape = [1] * len(inputs.shape)
        shape[self.axis] = -1
        outputs = inputs * ops.reshape(scale, shape)
        outputs = outputs + ops.reshape(offset, shape)
        return ops.cast(outputs, self.compute_dtype)

    def _moments(self, inputs, mask):
        """Returns mean and variance of the batch, of shape `(channels,)`."""
        synchronized = (
            self.synchronized and keras.backend.backend() == "tensorflow"
        )
        if mask is None:
            return ops.moments(
                inputs, axes=self._reduction_axes, synchronized=synchronized
            )
        if len(mask.shape) != len(inputs.shape) - 1 or self.axis not in (
            -1,
            len(inputs.shape) - 1,
        ):
            raise ValueError(
                "`mask` must have the shape of `inputs` without the channels, "
                f"which must be the last axis. Received: mask.shape="
                f"{tuple(mask.shape)}, inputs.shape={tuple(inputs.shape)}, "
                f"axis={self.axis}"
            )
        visible = ops.cast(ops.cast(mask, "bool"), inputs.dtype)[..., None]
        # A mask may be one for the whole batch; it counts as often.
        visible = ops.broadcast_to(visible, (*ops.shape(inputs)[:-1], 1))

        def total(x):
            x = ops.sum(x, axis=self._reduction_axes)
            return sum_over_replicas(x) if synchronized else x

        count = total(visible)
        some = ops.maximum(count, 1)
        # Selected, not multiplied: what is masked may be anything, NaN even.
        mean = total(ops.where(visible > 0, inputs, 0)) / some
        centered = ops.where(visible > 0, inputs - mean, 0)
        variance = total(ops.square(centered)) / some
        return (
            ops.where(count > 0, mean, ops.cast(self.moving_mean, mean.dtype)),
            ops.where(
                count > 0,
                variance,
                ops.cast(self.moving_variance, variance.dtype),
            ),
        )
