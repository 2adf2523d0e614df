"""The lambda layer."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from lambda_keras.layers import contractions
from lambda_keras.layers import planning
from lambda_keras.layers import shapes
from lambda_keras.layers.arguments import check_normalization
from lambda_keras.layers.arguments import check_positive
from lambda_keras.layers.batch_norm import BatchNormalization
from lambda_keras.layers.causal import causal_content_output
from lambda_keras.layers.context_layer import ContextLayer
from lambda_keras.layers.context_layer import table_shape
from lambda_keras.layers.precision import itemsize


@keras.saving.register_keras_serializable(package="lambda_keras")
class LambdaLayer(ContextLayer):
    """Lets every position interact with a context, without attention maps.

    The layer summarizes the context into a linear function (a lambda) for
    each position and applies it to the position's query:

        q_n = batch_norm(x_n W_q)          num_heads queries of key_dim
        K   = softmax_m(c W_k)             normalized over context positions
        V   = batch_norm(c W_v)
        lambda_n = sum_m (K_m + E_{m-n}) V_m^T            (key_dim, value_dim)
        y_n = concatenate_h(lambda_n^T q_nh)

    with `value_dim = output_dim / num_heads`. The content lambda
    `sum_m K_m V_m^T` sees the whole context; the position lambda
    `sum_m E_{m-n} V_m^T` sees what is within `receptive_field` of `n`. The
    relative embeddings `E` make the layer equivariant to translation. With
    `intra_depth > 1` keys, values and embeddings have one more axis, which is
    summed over like `m`.

    Inputs of spatial rank 1, 2 and 3 are told apart by their shape. With a
    finite receptive field the weights do not depend on the size of the
    inputs, which may be unknown or change.

    Args:
        output_dim: Integer. The number of output channels, a multiple of
            `num_heads`.
        num_heads: Integer. The number of queries per position, which share
            the position's lambda. More heads make the layer cheaper.
        key_dim: Integer. The depth of queries and keys.
        intra_depth: Integer. The number of keys and values per context
            position.
        receptive_field: Odd integer, or one for each spatial axis: the size
            of the window of context positions around `n` that the position
            lambda sees. `None` is global: the table is sized by the shape
            that the layer is built with, and serves that size and smaller.
        causal: Boolean. Whether position `n` sees only `m <= n`, in both
            lambdas; for sequences. In training the statistics of batch
            normalization are still those of all positions.
        use_content: Boolean. Whether there are content lambdas.
        use_position: Boolean. Whether there are position lambdas.
        position_bias: Boolean. Whether to add a learned number per key
            dimension to every position lambda, as public ports of the layer
            do with the bias of their convolution.
        implementation: How position lambdas are contracted: `"auto"`,
            `"lambda_first"`, `"query_first"`, `"convolution"` or `"blocked"`
            (see `lambda_keras.layers.contractions`). All give the same
            result from the same weights; `"auto"` picks one by the shapes,
            the engine, the device and `training` (see `plan`).
        rematerialize: Boolean. Whether position lambdas or scores are
            computed again for gradients instead of being kept from the
            forward pass: less memory for more time.
        epsilon: Float. Added to the variance in batch normalization.
        momentum: Float. Of the moving statistics of batch normalization.
        synchronized: Boolean. Whether batch statistics are those of the
            global batch, over all replicas.
        kernel_initializer: Initializer of the three projections. `None` is
            the paper's: normal with standard deviation
            `(key_dim * channels) ** -0.5` for queries and
            `channels ** -0.5` for keys and values.
        embeddings_initializer: Initializer of the position embeddings.
            `None` is the paper's, the standard normal distribution.
        kernel_regularizer: Regularizer of the three projections.
        embeddings_regularizer: Regularizer of the position embeddings.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Tensor of shape `(batch, *spatial, channels)`.
        context: Tensor of shape `(batch, *context_spatial, context_channels)`
            of the same rank; `inputs` by default. Both are indexed from the
            same origin: `E` is read at the difference of indices.
        mask: Boolean tensor of shape `(batch, context positions)`. A position
            where it is `False` adds nothing to any lambda nor to the batch
            statistics. Keras fills it in for sequences that carry a mask.
        training: Boolean. Whether batch normalization uses the batch.
        context_mask: The mask that `context` carries, filled in by Keras;
            used where `mask` is not given.
        inputs_mask: The mask that `inputs` carry beside a `context`, filled
            in by Keras: where it is `False`, a query does not count in the
            batch statistics.

    Returns:
        Tensor of shape `(batch, *spatial, output_dim)`, head-major: channel
        `head * value_dim + value`.

    Raises:
        ValueError: If an argument is out of its range, or a shape does not
            fit the arguments.

    Attributes:
        query_kernel: `(channels, num_heads * key_dim)`, head-major.
        key_kernel: `(context_channels, intra_depth * key_dim)`, or `None`.
        value_kernel: `(context_channels, intra_depth * value_dim)`.
        position_embeddings: `(*receptive_field, key_dim, intra_depth)`,
            indexed by context minus query position, zero in the middle, or
            `None`.
        position_bias: `(key_dim,)`, or `None`.
        query_norm, value_norm: The batch normalizations.

    Differences from the paper: `position_bias`, off by default, is not in it.
    Its local scope is a convolution; here that is one of four contractions.
    Softmax and content lambda are computed in float32 (float64 under that
    policy) whatever the dtype policy.

    Example:

    >>> layer = LambdaLayer(64)
    >>> tuple(layer(np.ones((2, 14, 14, 32), "float32")).shape)
    (2, 14, 14, 64)
    >>> sequence = LambdaLayer(64, receptive_field=127, causal=True)
    >>> tuple(sequence(np.ones((2, 1000, 32), "float32")).shape)
    (2, 1000, 64)

    Reference:

    - [Bello, 2021](https://arxiv.org/abs/2102.08602), equations 1 and 2,
      figures 2 and 3, appendix B
    """

    def __init__(
        self,
        output_dim: int,
        num_heads: int = 4,
        key_dim: int = 16,
        intra_depth: int = 1,
        receptive_field: int | Sequence[int] | None = 23,
        causal: bool = False,
        use_content: bool = True,
        use_position: bool = True,
        position_bias: bool = False,
        implementation: str = "auto",
        rematerialize: bool = False,
        epsilon: float = 1e-5,
        momentum: float = 0.9,
        synchronized: bool = False,
        kernel_initializer: Any = None,
        embeddings_initializer: Any = None,
        kernel_regularizer: Any = None,
        embeddings_regularizer: Any = None,
        **kwargs: Any,
    ):
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
        check_positive("key_dim", key_dim)
        check_positive("intra_depth", intra_depth)
        if not (use_content or use_position):
            raise ValueError(
                "At least one of `use_content` and `use_position` must be "
                "True. Received: use_content=False, use_position=False"
            )
        if position_bias and not use_position:
            raise ValueError(
                "`position_bias=True` needs `use_position=True`. Received: "
                "use_position=False"
            )
        contractions.check_implementation(implementation)
        check_normalization(epsilon, momentum)
        self.key_dim = key_dim
        self.intra_depth = intra_depth
        self.causal = causal
        self.use_content = use_content
        self.use_position = use_position
        self.use_position_bias = position_bias
        self.implementation = implementation
        self.rematerialize = rematerialize
        self.epsilon = epsilon
        self.momentum = momentum
        self.synchronized = synchronized

    def _build_weights(self, inputs_shape, context_shape):
        channels, context_channels = inputs_shape[-1], context_shape[-1]
        self.query_kernel = self._add_kernel(
            "query_kernel",
            channels,
            self.num_heads * self.key_dim,
            # The scale of attention's logits, folded into the weights.
            (self.key_dim * channels) ** -0.5,
        )
        self.key_kernel = None
        if self.use_content:
            self.key_kernel = self._add_kernel(
                "key_kernel",
                context_channels,
                self.intra_depth * self.key_dim,
                context_channels**-0.5,
            )
        self.value_kernel = self._add_kernel(
            "value_kernel",
            context_channels,
            self.intra_depth * self.value_dim,
            context_channels**-0.5,
        )
        self.position_embeddings = None
        if self.use_position:
            taps = table_shape(
                self.receptive_field, inputs_shape[1:-1], context_shape[1:-1]
            )
            self.position_embeddings = self._add_embeddings(
                "position_embeddings",
                (*taps, self.key_dim, self.intra_depth),
                1.0,
            )
        self.position_bias = None
        if self.use_position_bias:
            self.position_bias = self.add_weight(
                name="position_bias",
                shape=(self.key_dim,),
                initializer="zeros",
            )
        self.query_norm = self._add_norm(
            "query_norm", self.num_heads * self.key_dim
        )
        self.value_norm = self._add_norm(
            "value_norm", self.intra_depth * self.value_dim
        )

    def _add_norm(self, name, channels):
        norm = BatchNormalization(
            momentum=self.momentum,
            epsilon=self.epsilon,
            synchronized=self.synchronized,
            # Of a file, a layer may be frozen before it has this.
            trainable=self.trainable,
            dtype=self.dtype_policy,
            name=name,
        )
        norm.build((None, None, channels))
        return norm

    def call(
        self,
        inputs,
        context=None,
        mask=None,
        training=None,
        context_mask=None,
        inputs_mask=None,
    ):
        self._check_shapes(inputs.shape, getattr(context, "shape", None))
        # Queries are padding where the inputs themselves are.
        query_mask = mask if context is None else inputs_mask
        mask = context_mask if mask is None else mask
        query_shape = ops.shape(inputs)[1:-1]
        if context is None:
            context, context_shape = inputs, query_shape
        else:
            context_shape = ops.shape(context)[1:-1]
        if mask is not None:
            shapes.check_mask(mask, context)
            context = self._hide(context, mask)
        positions = math.prod(query_shape), math.prod(context_shape)

        kernels = [self.value_kernel]
        if self.use_content:
            kernels.append(self.key_kernel)
        if context is inputs:
            kernels.insert(0, self.query_kernel)
            queries, values, *keys = self._project_each(inputs, kernels)
        else:
            queries = self._project(inputs, self.query_kernel)
            values, *keys = self._project_each(context, kernels)
        queries = self.query_norm(queries, training=training, mask=query_mask)
        queries = ops.reshape(
            queries, (-1, positions[0], self.num_heads, self.key_dim)
        )
        values = self.value_norm(values, training=training, mask=mask)
        values = self._split_intra_depth(values, positions[1], self.value_dim)
        if mask is not None:
            mask = ops.cast(mask, "bool")
            values = ops.where(mask[:, :, None, None], values, 0)

        if self.use_content:
            keys = self._split_intra_depth(*keys, positions[1], self.key_dim)
        common = self._common_lambda(queries, keys, values, mask)
        if self.use_position:
            spatial = query_shape, context_shape
            output = self._position_output(
                queries, values, common, spatial, training
            )
        elif common is not None:
            output = contractions.apply_lambda(queries, common)
        else:
            output = 0
        if self.use_content and self.causal:
            output = output + causal_content_output(queries, keys, values, mask)
        return ops.reshape(output, (-1, *query_shape, self.output_dim))

    def _common_lambda(self, queries, keys, values, mask):
        """Returns what the lambdas of all positions have in common."""
        common = None
        if self.use_content and not self.causal:
            common = contractions.content_lambda(keys, values, mask)
            common = ops.cast(common, queries.dtype)
        if self.use_position_bias:
            bias = ops.cast(self.position_bias, queries.dtype)[None, :, None]
            common = bias if common is None else common + bias
            # The same for every value channel, of any example.
            shape = ops.shape(queries)[0], self.key_dim, self.value_dim
            common = ops.broadcast_to(common, shape)
        return common

    def _split_intra_depth(self, x, positions, dim):
        """Splits `(b, m, u * dim)` into `(b, m, dim, u)`."""
        if self.intra_depth == 1:
            return ops.expand_dims(x, -1)
        x = ops.reshape(x, (-1, positions, self.intra_depth, dim))
        return ops.transpose(x, (0, 1, 3, 2))

    def _position_output(self, queries, values, common, spatial, training):
        table = self.position_embeddings
        window, center = self._window(table.shape[:-2], *spatial)
        # A slice of the variable itself would not be in the compute dtype.
        table = ops.cast(table, queries.dtype)
        table = table[tuple(slice(start, stop) for start, stop in window)]
        plan = planning.plan(
            self._problem(queries.shape[0], *spatial),
            training=bool(training),
            implementation=self.implementation,
        )
        contract = contractions.IMPLEMENTATIONS[plan.implementation]

        # All that has a gradient is an argument, as TensorFlow wants it for
        # rematerialization, and what is not there is none.
        def position_output(queries, values, table, *common):
            return contract(
                queries,
                values,
                common[0] if common else None,
                table,
                center,
                *spatial,
                **plan.options,
            )

        if self.rematerialize:
            position_output = keras.remat(position_output)
        arguments = queries, values, table, common
        return position_output(*(x for x in arguments if x is not None))

    def _window(self, taps, query_shape, context_shape):
        """Returns which taps of the table are of use, and their center."""
        center = [size // 2 for size in taps]
        window = contractions.reachable_taps(
            taps, center, query_shape, context_shape
        )
        if self.causal:
            window = [(start, center[0] + 1) for start, _ in window]
        return window, [c - start for c, (start, _) in zip(center, window)]

    def _problem(self, batch, query_shape, context_shape):
        """Returns the shapes to plan for, or None if some are unknown."""
        sizes = (*query_shape, *context_shape)
        if not all(isinstance(size, int) for size in sizes):
            return None
        taps = ()
        if self.use_position:
            window, _ = self._window(
                table_shape(self.receptive_field, query_shape, context_shape),
                query_shape,
                context_shape,
            )
            taps = tuple(stop - start for start, stop in window)
        return planning.Problem(
            batch=batch or _ASSUMED_BATCH,
            query_shape=tuple(query_shape),
            context_shape=tuple(context_shape),
            taps=taps,
            num_heads=self.num_heads,
            key_dim=self.key_dim,
            value_dim=self.value_dim,
            intra_depth=self.intra_depth,
            itemsize=itemsize(self.compute_dtype),
        )

    def plan(
        self,
        inputs_shape: Sequence[int | None],
        context_shape: Sequence[int | None] | None = None,
        training: bool = False,
    ) -> planning.Plan:
        """Tells how position lambdas of inputs of a shape are contracted.

        Args:
            inputs_shape: The shape of the inputs, batch and channels
                included. An unknown batch is taken to be 32.
            context_shape: The shape of the context, if it is another.
            training: Whether gradients are wanted.

        Returns:
            A `lambda_keras.layers.planning.Plan`: what is chosen on this
            machine (see `lambda_keras.layers.targets` for others), why, and
            the costs of every choice.

        Raises:
            ValueError: If the layer has no position lambdas, or the shapes
                do not fit it.

        Example:

        >>> LambdaLayer(256).plan((None, 14, 14, 256)).implementation
        'query_first'
        """
        if not self.use_position:
            raise ValueError(
                "Only position lambdas have a plan. Received: "
                "use_position=False"
            )
        self._check_shapes(inputs_shape, context_shape)
        return planning.plan(
            self._problem(
                inputs_shape[0],
                inputs_shape[1:-1],
                (context_shape or inputs_shape)[1:-1],
            ),
            training=training,
            implementation=self.implementation,
        )

    def _count_flops(self, inputs_shape, context_shape):
        """Counts position lambdas as a convolution, whatever the plan is.

        That is how the paper counts them; of the taps, those that are within
        reach.
        """
        return planning.layer_flops(
            self._problem(1, inputs_shape[1:-1], context_shape[1:-1]),
            inputs_shape[-1],
            context_shape[-1],
            self.use_content,
            self.use_position,
        )

    def _check_shapes(self, inputs_shape, context_shape):
        """Raises a ValueError if the layer cannot work on these shapes."""
        shapes.check_shapes(
            inputs_shape,
            context_shape,
            self.value_kernel.shape[0] if self.built else None,
        )
        if self.causal:
            both = (inputs_shape, context_shape or inputs_shape)
            lengths = {shape[1] for shape in both} - {None}
            if len(inputs_shape) != 3 or len(lengths) > 1:
                raise ValueError(
                    "`causal=True` needs sequences, (batch, length, "
                    "channels), with `context` as long as `inputs`. "
                    f"{shapes.describe(inputs_shape, context_shape)}"
                )
        if self.use_position and self.receptive_field is None:
            shapes.check_global_sizes(
                "receptive_field=None",
                inputs_shape,
                context_shape,
                self.position_embeddings.shape[:-2] if self.built else None,
            )
        elif self.use_position:
            shapes.check_receptive_field(self.receptive_field, inputs_shape)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "key_dim": self.key_dim,
            "intra_depth": self.intra_depth,
            "causal": self.causal,
            "use_content": self.use_content,
            "use_position": self.use_position,
            "position_bias": self.use_position_bias,
            "implementation": self.implementation,
            "rematerialize": self.rematerialize,
            "epsilon": self.epsilon,
            "momentum": self.momentum,
            "synchronized": self.synchronized,
        }


# The batch size to plan for where it is unknown: embeddings are made once
# for a batch, so that it matters.
_ASSUMED_BATCH = 32
