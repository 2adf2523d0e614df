"""Random masks that differ from replica to replica."""

from typing import Any

import keras
from keras import ops

from lambda_keras.layers.replicas import replica_id

# 2**31 divided by the golden ratio, made odd: multiples spread evenly.
_REPLICA_STRIDE = 1327217885


@keras.saving.register_keras_serializable(package="lambda_keras")
class SeedGenerator(keras.random.SeedGenerator):
    """Generates random seeds of which every replica gets its own.

    The state of `keras.random.SeedGenerator` is mirrored: all replicas of a
    `tf.distribute` strategy draw the same numbers, and a global batch repeats
    one mask as often as there are replicas. This generator adds the replica's
    number to the seed that it hands out; its state stays mirrored.

    Args:
        seed: Integer or `None`. The initial seed; `None` draws one.
        **kwargs: `name`, as in `keras.random.SeedGenerator`.

    Example:

    >>> generator = SeedGenerator(seed=1)
    >>> tuple(keras.random.uniform((2,), seed=generator).shape)
    (2,)
    """

    def next(self, ordered: bool = True):
        seed = super().next(ordered)
        replica = replica_id()
        if replica is None:
            return seed
        # A large odd stride, so that a layer seeded 1 on replica 1 does not
        # repeat a layer seeded 2 on replica 0. It may wrap around.
        offset = ops.cast(replica, seed.dtype) * _REPLICA_STRIDE
        return seed + ops.stack([offset, ops.zeros_like(offset)])


@keras.saving.register_keras_serializable(package="lambda_keras")
class Dropout(keras.layers.Layer):
    """Applies dropout with a mask of its own on every replica.

    Args:
        rate: Float in `[0, 1)`. The share of the inputs to drop; the others
            are multiplied by `1 / (1 - rate)`.
        seed: Integer or `None`. The seed of the masks.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Tensor of any shape.
        training: Boolean. Whether to drop.

    Returns:
        Tensor of the shape and dtype of `inputs`.

    Raises:
        ValueError: If `rate` is not in `[0, 1)`.

    Example:

    >>> tuple(Dropout(0.5)(np.ones((2, 8)), training=True).shape)
    (2, 8)
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.rate = _check_rate(rate)
        self.seed = seed
        self.seed_generator = SeedGenerator(seed)
        self.supports_masking = True

    def call(self, inputs, training=None):
        if not training or self.rate == 0:
            return inputs
        return keras.random.dropout(inputs, self.rate, seed=self.seed_generator)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


@keras.saving.register_keras_serializable(package="lambda_keras")
class StochasticDepth(Dropout):
    """Drops whole examples of a residual branch at random.

    In training, each example of the batch is set to zero with probability
    `rate` and multiplied by `1 / (1 - rate)` otherwise, so that the expected
    output is the input. In inference the layer is the identity. Every
    replica draws masks of its own.

    Args:
        rate: Float in `[0, 1)`. The probability of dropping an example.
        seed: Integer or `None`. The seed of the masks.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Tensor of shape `(batch, ...)`.
        training: Boolean. Whether to drop.

    Returns:
        Tensor of the shape and dtype of `inputs`.

    Raises:
        ValueError: If `rate` is not in `[0, 1)`.

    Example:

    >>> branch = StochasticDepth(0.2)
    >>> tuple(branch(np.ones((8, 4, 4, 3)), training=True).shape)
    (8, 4, 4, 3)

    Reference:

    - [Huang et al., 2016](https://arxiv.org/abs/1603.09382)
    """

    def call(self, inputs, training=None):
        if not training or self.rate == 0:
            return inputs
        shape = (ops.shape(inputs)[0],) + (1,) * (len(inputs.shape) - 1)
        # float32, because half precision rounds the rate.
        kept = keras.random.uniform(
            shape, dtype="float32", seed=self.seed_generator
        )
        scale = ops.where(kept >= self.rate, 1.0 / (1.0 - self.rate), 0.0)
        return inputs * ops.cast(scale, inputs.dtype)


def _check_rate(rate: float) -> float:
    """Returns `rate` if it is a probability less than 1, else raises."""
    if not 0 <= rate < 1:
        raise ValueError(
            f"`rate` must be at least 0 and less than 1. Received: rate={rate}"
        )
    return rate
