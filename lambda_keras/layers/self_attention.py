"""Relative self-attention: the operation that lambda layers stand in for."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from lambda_keras.layers import shapes
from lambda_keras.layers.arguments import check_positive
from lambda_keras.layers.attention import attend
from lambda_keras.layers.attention import attend_locally
from lambda_keras.layers.context_layer import ContextLayer
from lambda_keras.layers.context_layer import table_shape

_SCOPES = ("global", "axial", "local")


@keras.saving.register_keras_serializable(package="lambda_keras")
class SelfAttention(ContextLayer):
    """Attends from every position to a context, with relative positions.

    Each head computes

        q_n = x_n W_q,  k_m = c_m W_k,  v_m = c_m W_v
        a_nm = q_n . (k_m + sum_axis E_axis[m - n]) / sqrt(key_dim)
        y_n = sum_m softmax_m(a_nm) v_m

    and the outputs of the heads are concatenated. The relative embeddings
    are a table for each spatial axis, which the heads share. What a position
    `n` attends to is the scope:

    * `"global"`: the whole context, in one map.
    * `"axial"`: its row and column, one after the other. There is a global
      attention, with weights of its own, along the first spatial axis, and
      another on its output along the next, so that together they reach
      everything.
    * `"local"`: the `receptive_field` around `n`. It is computed in blocks
      of positions, each with the context that its positions see: dense
      matrix products, and no gather.

    Like a `LambdaLayer` it has neither biases nor an output projection, takes
    inputs of 1, 2 or 3 spatial axes, and is called the same way, so that one
    can replace the other in a block. It is the baseline that the lambda layer
    is compared with: its maps take memory for each pair of positions, of each
    head, of each example.

    Args:
        output_dim: Integer. The number of output channels, a multiple of
            `num_heads`.
        num_heads: Integer. The number of attention maps.
        key_dim: Integer. The depth of the queries and keys of a head.
            `None` is that of its values, `output_dim // num_heads`.
        scope: `"global"`, `"axial"` or `"local"`. The tables of the first
            two are sized by the shape that the layer is built with, and serve
            that size and smaller; the last serves any size, known or not.
        receptive_field: Odd integer, or one for each spatial axis: the size
            of the window that `scope="local"` attends to. The other scopes
            do not read it.
        kernel_initializer: Initializer of the projections.
        embeddings_initializer: Initializer of the position embeddings.
            `None` is normal with standard deviation `key_dim ** -0.5`.
        kernel_regularizer: Regularizer of the projections.
        embeddings_regularizer: Regularizer of the position embeddings.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Tensor of shape `(batch, *spatial, channels)`.
        context: Tensor of shape `(batch, *context_spatial, context_channels)`
            of the same rank, for `scope="global"` alone; `inputs` by default.
            Both are indexed from the same origin.
        mask: Boolean tensor of shape `(batch, context positions)`. Nothing
            attends to a position where it is `False`; a query that sees no
            other position gives zero. Keras fills it in for sequences that
            carry a mask.
        training: Boolean. Makes no difference; a `LambdaLayer` has it.
        context_mask: The mask that `context` carries, filled in by Keras;
            used where `mask` is not given.

    Returns:
        Tensor of shape `(batch, *spatial, output_dim)`, head-major.

    Raises:
        ValueError: If an argument is out of its range, or a shape does not
            fit the arguments.

    Attributes:
        query_kernel: `(channels, num_heads * key_dim)`, head-major.
        key_kernel: `(context_channels, num_heads * key_dim)`.
        value_kernel: `(context_channels, output_dim)`.
        position_embeddings: For each spatial axis, `(taps, key_dim)`, indexed
            by context minus query position, zero in the middle; there are
            `2 * size - 1` taps, or `receptive_field` of them.
        axes: The attention along each spatial axis, for `scope="axial"`,
            which has no weights but theirs.

    Differences from the papers: Bello et al. concatenate attention with a
    convolution, and Ho et al. have no relative positions. Ramachandran et al.
    give half of the key depth to each axis, where here axes are added, and
    let a window reach into zero padding, where here it ends at the border.
    None of them is followed by batch normalization here: the block around the
    layer has it. The softmax is computed in float32 (float64 under that
    policy) whatever the dtype policy.

    Example:

    >>> images = np.ones((2, 14, 14, 32), "float32")
    >>> tuple(SelfAttention(64)(images).shape)
    (2, 14, 14, 64)
    >>> tuple(SelfAttention(64, scope="local", receptive_field=7)(images).shape)
    (2, 14, 14, 64)

    Reference:

    - [Bello et al., 2019](https://arxiv.org/abs/1904.09925), global
    - [Ho et al., 2019](https://arxiv.org/abs/1912.12180), axial
    - [Ramachandran et al., 2019](https://arxiv.org/abs/1906.05909), local
    """

    def __init__(
        self,
        output_dim: int,
        num_heads: int = 8,
        key_dim: int | None = None,
        scope: str = "global",
        receptive_field: int | Sequence[int] = 7,
        kernel_initializer: Any = "lecun_normal",
        embeddings_initializer: Any = None,
        kernel_regularizer: Any = None,
        embeddings_regularizer: Any = None,
        **kwargs: Any,
    ):
        if receptive_field is None:
            raise ValueError(
                '`receptive_field` must be finite; `scope="global"` sees '
                "everything. Received: receptive_field=None"
            )
        if scope not in _SCOPES:
            raise ValueError(
                f"`scope` must be one of {_SCOPES}. Received: scope={scope!r}"
            )
        super().__init__(
            output_dim,
            num_heads,
            receptive_field,
            kernel_initializer,
            embeddings_initializer,
            kernel_regularizer,
            embeddings_regularizer,
            **kwargs,
        )
        self.key_dim = self.value_dim if key_dim is None else key_dim
        check_positive("key_dim", self.key_dim)
        self.scope = scope

    def _build_weights(self, inputs_shape, context_shape):
        if self.scope == "axial":
            self._build_axes(inputs_shape)
            return

        keys_depth = self.num_heads * self.key_dim
        for name, channels, depth in (
            ("query_kernel", inputs_shape[-1], keys_depth),
            ("key_kernel", context_shape[-1], keys_depth),
            ("value_kernel", context_shape[-1], self.output_dim),
        ):
            kernel = self._add_kernel(name, channels, depth, channels**-0.5)
            setattr(self, name, kernel)
        self.position_embeddings = [
            self._add_embeddings(
                f"position_embeddings_{axis}",
                (taps, self.key_dim),
                self.key_dim**-0.5,
            )
            for axis, taps in enumerate(
                self._taps(inputs_shape[1:-1], context_shape[1:-1])
            )
        ]

    def _build_axes(self, inputs_shape):
        self.axes = []
        channels = inputs_shape[-1]
        for axis, size in enumerate(inputs_shape[1:-1]):
            config = {
                **self.get_config(),
                "scope": "global",
                "name": f"axis_{axis}",
                "dtype": self.dtype_policy,
            }
            attention = SelfAttention.from_config(config)
            attention.build((None, size, channels))
            self.axes.append(attention)
            channels = self.output_dim

    def call(
        self, inputs, context=None, mask=None, training=None, context_mask=None
    ):
        self._check_shapes(inputs.shape, getattr(context, "shape", None))
        mask = context_mask if mask is None else mask
        context = inputs if context is None else context
        if mask is not None:
            shapes.check_mask(mask, context)
            mask = ops.reshape(
                ops.cast(mask, "bool"), (-1, *ops.shape(context)[1:-1])
            )
        if self.scope == "axial":
            return self._attend_along_axes(inputs, mask)

        queries = self._split_heads(inputs, self.query_kernel)
        queries = queries * self.key_dim**-0.5
        if mask is not None:
            context = self._hide(context, mask)
        keys = self._split_heads(context, self.key_kernel)
        values = self._split_heads(context, self.value_kernel)
        attention = attend_locally if self.scope == "local" else attend
        output = attention(
            queries, keys, values, self.position_embeddings, mask
        )
        shape = ops.shape(inputs)[1:-1]
        return ops.reshape(output, (-1, *shape, self.output_dim))

    def _split_heads(self, x, kernel):
        """Projects `(b, *spatial, c)` to `(b, *spatial, heads, depth)`."""
        depth = kernel.shape[-1] // self.num_heads
        sizes = ops.shape(x)[1:-1]
        x = self._project(x, kernel)
        return ops.reshape(x, (-1, *sizes, self.num_heads, depth))

    def _attend_along_axes(self, x, mask):
        for axis, attention in enumerate(self.axes, start=1):
            lines = ops.moveaxis(x, axis, -2)
            shape = ops.shape(lines)
            lines = ops.reshape(lines, (-1, *shape[-2:]))
            if mask is not None:
                line_mask = ops.moveaxis(mask, axis, -1)
                line_mask = ops.reshape(line_mask, (-1, shape[-2]))
            lines = attention(lines, mask=None if mask is None else line_mask)
            x = ops.reshape(lines, (-1, *shape[1:-1], self.output_dim))
            x = ops.moveaxis(x, -2, axis)
        return x

    def _taps(self, query_shape, context_shape):
        """Returns the size of the table of each spatial axis."""
        field = None if self.scope == "global" else self.receptive_field
        return table_shape(field, query_shape, context_shape)

    def _check_shapes(self, inputs_shape, context_shape):
        if context_shape is not None and self.scope != "global":
            raise ValueError(
                f'`context` needs `scope="global"`. Received: '
                f"scope={self.scope!r}, context_shape={tuple(context_shape)}"
            )
        has_kernels = self.built and self.scope != "axial"
        shapes.check_shapes(
            inputs_shape,
            context_shape,
            self.value_kernel.shape[0] if has_kernels else None,
        )
        if self.scope == "local":
            shapes.check_receptive_field(self.receptive_field, inputs_shape)
            return
        taps = None
        if self.built:
            layers = self.axes if self.scope == "axial" else [self]
            taps = [
                table.shape[0]
                for layer in layers
                for table in layer.position_embeddings
            ]
        shapes.check_global_sizes(
            f"scope={self.scope!r}", inputs_shape, context_shape, taps
        )

    def _count_flops(self, inputs_shape, context_shape):
        """Counts, for the local scope, what is within reach of each query.

        The windows in which it is computed are larger.
        """
        query_sizes, context_sizes = inputs_shape[1:-1], context_shape[1:-1]
        if self.scope == "axial":
            positions, channels, total = (
                math.prod(query_sizes),
                inputs_shape[-1],
                0,
            )
            for size in query_sizes:
                line = self._count_pairs(
                    [size], [size], channels, channels, [size]
                )
                total += positions // size * line
                channels = self.output_dim
            return total
        reach = context_sizes
        if self.scope == "local":
            taps = self._taps(query_sizes, query_sizes)
            reach = [min(t, size) for t, size in zip(taps, query_sizes)]
        return self._count_pairs(
            query_sizes,
            context_sizes,
            inputs_shape[-1],
            context_shape[-1],
            reach,
        )

    def _count_pairs(self, queries, context, channels, context_channels, reach):
        """Counts one attention in which a query reaches `reach` positions."""
        positions = math.prod(queries)
        depth = self.num_heads * self.key_dim
        both = depth + self.output_dim
        projections = positions * channels * depth
        projections += math.prod(context) * context_channels * both
        pairs = math.prod(reach) * both + sum(reach) * depth
        return 2 * (projections + positions * pairs)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "key_dim": self.key_dim,
            "scope": self.scope,
        }
