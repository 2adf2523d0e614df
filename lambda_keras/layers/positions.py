"""Relative position tables, expanded to embeddings of position pairs."""

import math
from collections.abc import Sequence

from keras import ops

from lambda_keras.layers.blocks import pad_to

# The longest axis of queries that is expanded by slices, one for each of
# them.
_MOST_SLICES = 128


def relative_embeddings(
    table,
    center: Sequence[int],
    query_shape: Sequence[int],
    context_shape: Sequence[int],
):
    """Expands a relative table to the embedding of every position pair.

    Along each spatial axis, the pair of query position `n` and context
    position `m` reads the table at `m - n + center`; what lies outside the
    table is zero. An axis is expanded by repeating its taps and reading them
    again with rows one shorter, which shifts each row by one: there is no
    gather, hence no scatter in the gradient, which TPUs are slow at.

    Args:
        table: Tensor of shape `(*taps, *features)` with one axis of taps for
            each spatial axis.
        center: For each spatial axis, the index of offset zero in `table`.
        query_shape: The spatial shape of the queries. Sizes may be scalar
            tensors where the engine allows unknown sizes.
        context_shape: The spatial shape of the context.

    Returns:
        Tensor of shape `(n, m, *features)`, with `n` and `m` the products of
        `query_shape` and `context_shape`.

    Example:

    >>> table = keras.ops.arange(3)[:, None]  # Offsets -1, 0 and 1.
    >>> embeddings = relative_embeddings(table, [1], [3], [3])
    >>> keras.ops.convert_to_numpy(embeddings)[..., 0]
    array([[1, 2, 0],
           [0, 1, 2],
           [0, 0, 1]], dtype=int32)
    """
    rank = len(query_shape)
    features = tuple(table.shape[rank:])
    x = table
    expanded = 1
    for axis in range(rank):
        queries, context = query_shape[axis], context_shape[axis]
        rest = tuple(table.shape[axis + 1 :])
        x = ops.reshape(x, (expanded, table.shape[axis], math.prod(rest)))
        x = _expand_axis(x, center[axis], queries, context)
        expanded = expanded * queries * context
    pairs = [size for pair in zip(query_shape, context_shape) for size in pair]
    x = ops.reshape(x, (*pairs, *features))
    axes = [*range(0, 2 * rank, 2), *range(1, 2 * rank, 2)]
    x = ops.transpose(x, (*axes, *range(2 * rank, 2 * rank + len(features))))
    return ops.reshape(
        x, (math.prod(query_shape), math.prod(context_shape), *features)
    )


def score_embeddings(
    table,
    center: Sequence[int],
    query_shape: Sequence[int],
    context_shape: Sequence[int],
):
    """Expands a relative table to what gives the scores of queries.

    These are the embeddings of `relative_embeddings`, laid out for products
    with queries: the context comes last, where it fills the lanes of a TPU.
    The slices of the table that queries see are stacked, from the last
    spatial axis to the first. There is no gather here, either, nor anything
    to transpose in the end.

    Args:
        table: Tensor of shape `(*taps, k, u)`.
        center: As in `relative_embeddings`.
        query_shape: The spatial shape of the queries.
        context_shape: The spatial shape of the context.

    Returns:
        Tensor of shape `(n, k, m * u)`, with `n` and `m` the products of
        `query_shape` and `context_shape`.
    """
    *taps, key_dim, intra_depth = table.shape
    rank, positions = len(taps), math.prod(query_shape)
    sizes = (*query_shape, *context_shape)
    if not (
        all(isinstance(size, int) for size in sizes)
        and max(query_shape) <= _MOST_SLICES
    ):
        x = relative_embeddings(table, center, query_shape, context_shape)
        x = ops.transpose(x, (0, 2, 1, 3))
        reach = math.prod(context_shape) * intra_depth
        return ops.reshape(x, (positions, key_dim, reach))
    x = ops.transpose(table, (rank, *range(rank), rank + 1))
    # What comes after the axis to expand.
    inner = intra_depth
    for axis in reversed(range(rank)):
        queries, context = query_shape[axis], context_shape[axis]
        x = ops.reshape(x, (-1, math.prod(taps[:axis]), taps[axis] * inner))
        # Offsets -(queries - 1) ... context - 1, zero outside the table.
        left = queries - 1 - center[axis]
        x = x[:, :, max(-left, 0) * inner :]
        x = pad_to(x, 2, max(left, 0) * inner, (queries + context - 1) * inner)
        starts = [query * inner for query in reversed(range(queries))]
        inner = context * inner
        x = ops.stack([x[:, :, start : start + inner] for start in starts])
    return ops.reshape(x, (positions, key_dim, inner))


def _expand_axis(x, center, queries, context):
    """Expands `(a, taps, f)` to `(a, queries, context, f)`."""
    rows, features, dtype = ops.shape(x)[0], x.shape[2], x.dtype

    def zeros(length):
        return ops.zeros((rows, length, features), dtype=dtype)

    # Offsets -(queries - 1) ... context - 1, zero outside the table.
    x = ops.concatenate([zeros(queries - 1), x, zeros(context - 1)], axis=1)
    x = x[:, center : center + queries + context - 1]
    # Rolled so that offset 0 comes first and negative offsets count from the
    # end; the extra zero makes a period one longer than a row.
    x = ops.concatenate(
        [x[:, queries - 1 :], zeros(1), x[:, : queries - 1]], axis=1
    )
    period = queries + context
    x = ops.broadcast_to(x[:, None], (rows, queries, period, features))
    x = ops.reshape(x, (rows, queries * period, features))
    x = x[:, : queries * (period - 1)]
    x = ops.reshape(x, (rows, queries, period - 1, features))
    return x[:, :, :context]
