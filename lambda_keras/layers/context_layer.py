"""What lambda layers and self-attention have in common as Keras layers."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from lambda_keras.layers import shapes
from lambda_keras.layers.arguments import check_positive
from lambda_keras.layers.arguments import standardize_receptive_field
from lambda_keras.layers.targets import current_target


class ContextLayer(keras.layers.Layer):
    """Base of layers in which every position interacts with a context.

    It keeps the arguments that both kinds have, checks shapes, and makes the
    projections. The arguments are documented in the subclasses.
    """

    def __init__(
        self,
        output_dim: int,
        num_heads: int,
        receptive_field: int | Sequence[int] | None,
        kernel_initializer: Any,
        embeddings_initializer: Any,
        kernel_regularizer: Any,
        embeddings_regularizer: Any,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_positive("output_dim", output_dim)
        check_positive("num_heads", num_heads)
        if output_dim % num_heads:
            raise ValueError(
                "`output_dim` must be a multiple of `num_heads`. Received: "
                f"output_dim={output_dim}, num_heads={num_heads}"
            )
        self.output_dim = output_dim
        self.num_heads = num_heads
        self.value_dim = output_dim // num_heads
        self.receptive_field = standardize_receptive_field(receptive_field)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.embeddings_initializer = keras.initializers.get(
            embeddings_initializer
        )
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.embeddings_regularizer = keras.regularizers.get(
            embeddings_regularizer
        )
        self.supports_masking = True

    def build(
        self,
        inputs_shape: Sequence[int | None],
        context_shape: Sequence[int | None] | None = None,
    ):
        self._check_shapes(inputs_shape, context_shape)
        self.input_spec = keras.layers.InputSpec(
            ndim=len(inputs_shape), axes={-1: inputs_shape[-1]}
        )
        self._build_weights(inputs_shape, context_shape or inputs_shape)

    def __call__(
        self, inputs, context=None, mask=None, training=None, **kwargs
    ):
        # An argument named `mask` is to Keras that of the outputs, too; they
        # are masked as the inputs are, not as another context.
        if context is not None:
            kwargs["context"] = context
        if mask is not None:
            kwargs["mask" if context is None else "context_mask"] = mask
        if training is not None:
            kwargs["training"] = training
        return super().__call__(inputs, **kwargs)

    def _project(self, x, kernel):
        """Projects `(b, *spatial, c)` to `(b, positions, depth)`."""
        x = ops.reshape(x, (-1, math.prod(ops.shape(x)[1:-1]), x.shape[-1]))
        # Not `ops.matmul`, which turns float64 into float32 on torch.
        return ops.einsum("bmc,cd->bmd", x, kernel)

    def _project_each(self, x, kernels):
        """Projects by several kernels."""
        if current_target().device == "cpu":
            # Joined, gradients would take several times their memory.
            return [self._project(x, kernel) for kernel in kernels]
        # One product, which reads `x` once.
        x = self._project(x, ops.concatenate(kernels, axis=1))
        projections = []
        start = 0
        for kernel in kernels:
            stop = start + kernel.shape[1]
            projections.append(x[..., start:stop])
            start = stop
        return projections

    def _hide(self, context, mask):
        """Sets what is masked to zero: it may be anything, NaN even."""
        mask = ops.reshape(
            ops.cast(mask, "bool"), (-1, *ops.shape(context)[1:-1], 1)
        )
        return ops.where(mask, context, 0)

    def _add_kernel(self, name, channels, depth, stddev):
        """Adds a projection; `stddev` is of the paper's initializer."""
        return self._add_weight(
            name,
            (channels, depth),
            self.kernel_initializer,
            stddev,
            self.kernel_regularizer,
        )

    def _add_embeddings(self, name, shape, stddev):
        return self._add_weight(
            name,
            shape,
            self.embeddings_initializer,
            stddev,
            self.embeddings_regularizer,
        )

    def _add_weight(self, name, shape, initializer, stddev, regularizer):
        if initializer is None:
            initializer = keras.initializers.RandomNormal(stddev=stddev)
        elif isinstance(initializer, keras.initializers.Initializer):
            # A clone, because an initializer object repeats its numbers.
            initializer = initializer.clone()
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=initializer,
            regularizer=regularizer,
        )

    def flops(
        self,
        inputs_shape: Sequence[int | None],
        context_shape: Sequence[int | None] | None = None,
    ) -> int:
        """Counts the floating point operations for one example.

        Two for each multiply-add of a matrix product or convolution: those
        that the layer is defined by, of which there may be more in the way
        it is computed.

        Args:
            inputs_shape: The shape of the inputs; the batch is ignored.
            context_shape: The shape of the context, if it is another.

        Returns:
            Integer. The number of floating point operations.

        Raises:
            ValueError: If a spatial size is unknown, or the shapes do not
                fit the layer.
        """
        self._check_shapes(inputs_shape, context_shape)
        received = shapes.describe(inputs_shape, context_shape)
        context_shape = context_shape or inputs_shape
        if None in (*inputs_shape[1:], *context_shape[1:]):
            raise ValueError(f"Counting needs known spatial sizes. {received}")
        return self._count_flops(inputs_shape, context_shape)

    def compute_mask(self, inputs, previous_mask):
        # Only the mask of a sequence has an entry for each output position.
        return previous_mask if len(inputs.shape) == 3 else None

    def compute_output_shape(
        self,
        inputs_shape: Sequence[int | None],
        context_shape: Sequence[int | None] | None = None,
    ) -> tuple[int | None, ...]:
        self._check_shapes(inputs_shape, context_shape)
        return (*inputs_shape[:-1], self.output_dim)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "output_dim": self.output_dim,
            "num_heads": self.num_heads,
            "receptive_field": self.receptive_field,
            "kernel_initializer": keras.initializers.serialize(
                self.kernel_initializer
            ),
            "embeddings_initializer": keras.initializers.serialize(
                self.embeddings_initializer
            ),
            "kernel_regularizer": keras.regularizers.serialize(
                self.kernel_regularizer
            ),
            "embeddings_regularizer": keras.regularizers.serialize(
                self.embeddings_regularizer
            ),
        }


def table_shape(
    receptive_field: int | tuple[int, ...] | None,
    query_shape: Sequence[int],
    context_shape: Sequence[int],
) -> tuple[int, ...]:
    """Returns the spatial shape of a table of relative embeddings.

    Args:
        receptive_field: The size of the window, one for each spatial axis, or
            `None` for all offsets that there are.
        query_shape: The spatial shape of the queries.
        context_shape: The spatial shape of the context.
    """
    if receptive_field is None:
        sizes = zip(query_shape, context_shape)
        return tuple(2 * max(size) - 1 for size in sizes)
    if isinstance(receptive_field, int):
        return (receptive_field,) * len(query_shape)
    return receptive_field
