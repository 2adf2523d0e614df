"""How queries, keys, values and position embeddings are contracted.

A lambda layer applies to the query of each position `n` the linear function

    lambda_n = sum_m (softmax_m(keys)[m] + embeddings[n, m]) values[m]^T

of shape `(key_dim, value_dim)`. Its first term, the content lambda, is the
same for all positions and cheap. Its second term, the position lambda, is
most of the work, and there are several orders in which to do it:

* `lambda_first` (the paper's listing): embeddings times values gives the
  position lambdas, which are applied to the queries.
* `query_first` (its dual): queries times embeddings gives scores, as in
  attention but without a softmax, which weigh the values.
* `convolution` (the paper's lambda convolution): the position lambdas are the
  convolution of each value channel with the relative table.
* `blocked`: query-first in blocks of positions, each with the part of the
  context that the table reaches, so that a local scope is a few dense matrix
  products and no embedding of all pairs exists.

All four compute the same function of the same arguments; `planning` counts
what each takes and picks one.

Letters of the einsums: b batch, n query positions, m context positions,
h heads, k key depth, v value depth, u intra-depth; j blocks of positions.
"""

import math
from collections.abc import Sequence

from keras import ops

from lambda_keras.layers.blocks import block_counts
from lambda_keras.layers.blocks import merge_blocks
from lambda_keras.layers.blocks import pad_to
from lambda_keras.layers.blocks import split_blocks
from lambda_keras.layers.positions import relative_embeddings
from lambda_keras.layers.precision import LOWEST
from lambda_keras.layers.precision import at_least_float32

# Length of the pieces in which causal content is normalized: a balance of
# (length x chunk) work inside the pieces and (length / chunk)^2 among them.
_CAUSAL_CHUNK = 32


# Content


def content_output(queries, keys, values, mask=None):
    """Applies the content lambda to the queries.

    Args:
        queries: Tensor of shape `(b, n, h, k)`.
        keys: Tensor of shape `(b, m, k, u)`, before the softmax over `m`.
        values: Tensor of shape `(b, m, v, u)`.
        mask: Boolean tensor of shape `(b, m)`, or `None`. The context
            positions that count.

    Returns:
        Tensor of shape `(b, n, h, v)`.
    """
    keys, values = at_least_float32(keys), at_least_float32(values)
    if mask is not None:
        visible = ops.cast(mask, keys.dtype)[:, :, None, None]
        keys = ops.where(visible > 0, keys, LOWEST)
    # Not `ops.softmax`, which warns of a context of one position.
    highest = _highest(keys, axis=1, keepdims=True)
    keys = ops.exp(keys - highest)
    if mask is not None:
        keys = keys * visible
    keys = _divide_or_zero(keys, ops.sum(keys, axis=1, keepdims=True))
    content_lambda = ops.einsum("bmku,bmvu->bkv", keys, values)
    content_lambda = ops.cast(content_lambda, queries.dtype)
    return ops.einsum("bnhk,bkv->bnhv", queries, content_lambda)


def causal_content_output(queries, keys, values, mask=None):
    """Applies to each query the content lambda of what came before it.

    Query `n` sees the context positions `m <= n`, and the softmax over keys
    is taken over those alone. The sequence is cut into chunks: a chunk's
    past enters as a running sum, its inside as a small triangle of pairs.
    All exponentials are relative to the largest key seen so far, never to a
    later one, so nothing overflows and nothing leaks from the future.

    Args:
        queries: Tensor of shape `(b, n, h, k)`.
        keys: Tensor of shape `(b, n, k, u)`, before the softmax.
        values: Tensor of shape `(b, n, v, u)`.
        mask: Boolean tensor of shape `(b, n)`, or `None`. The context
            positions that count.

    Returns:
        Tensor of shape `(b, n, h, v)`.
    """
    dtype = queries.dtype
    queries, keys, values = map(at_least_float32, (queries, keys, values))
    length, chunk = ops.shape(keys)[1], _CAUSAL_CHUNK
    (chunks,) = block_counts([length], [chunk])
    if mask is None:
        mask = ops.ones_like(keys[:, :, 0, 0], dtype="bool")

    def split(x):
        x = pad_to(x, 1, 0, chunks * chunk)
        return ops.reshape(x, (-1, chunks, chunk, *x.shape[2:]))

    queries, keys, values, mask = map(split, (queries, keys, values, mask))
    visible = mask[..., None, None]
    keys = ops.where(visible, keys, LOWEST)
    earlier = _triangle(chunk)[None, None, :, :, None, None]
    before = _triangle(chunks, strict=True)[None, :, :, None, None]

    # The largest key of each chunk, before each chunk, and up to each
    # position.
    top = _highest(keys, axis=2)  # (b, j, k, u)
    top_before = _highest(ops.where(before, top[:, None], LOWEST), axis=2)
    within = ops.where(earlier, keys[:, :, None], LOWEST)  # (b,j,n,m,k,u)
    top_here = _highest(within, axis=3)
    top_here = ops.maximum(top_here, top_before[:, :, None])

    # Each chunk summed by itself, then the running sums of earlier chunks.
    weights = ops.exp(keys - top[:, :, None]) * ops.cast(visible, keys.dtype)
    sums = ops.sum(weights, axis=2)
    lambdas = ops.einsum("bjmku,bjmvu->bjkuv", weights, values)
    decay = top[:, None] - top_before[:, :, None]
    carry = ops.exp(ops.where(before, decay, LOWEST))
    sums = ops.einsum("bjiku,biku->bjku", carry, sums)
    lambdas = ops.einsum("bjiku,bikuv->bjkuv", carry, lambdas)

    # The triangle inside each chunk, and everything divided by the sum of
    # weights that its query sees.
    weights = ops.exp(within - top_here[:, :, :, None])
    weights = weights * ops.cast(
        ops.logical_and(earlier, visible[:, :, None]), weights.dtype
    )
    carry = ops.exp(top_before[:, :, None] - top_here)
    total = ops.sum(weights, axis=3) + carry * sums[:, :, None]
    scaled = _divide_or_zero(queries[..., None], total[:, :, :, None])
    scores = ops.einsum("bjnhku,bjnmku->bjnhmu", scaled, weights)
    output = ops.einsum("bjnhmu,bjmvu->bjnhv", scores, values)
    output = output + ops.einsum(
        "bjnhku,bjkuv->bjnhv", scaled * carry[:, :, :, None], lambdas
    )
    output = ops.reshape(output, (-1, chunks * chunk, *output.shape[3:]))
    return ops.cast(output[:, :length], dtype)


# Position


def lambda_first(queries, values, table, center, query_shape, context_shape):
    """Applies position lambdas, computed from dense embeddings.

    Args:
        queries: Tensor of shape `(b, n, h, k)`.
        values: Tensor of shape `(b, m, v, u)`.
        table: Tensor of shape `(*taps, k, u)`. The relative embeddings.
        center: For each spatial axis, the index of offset zero in `table`:
            query `n` sees context `m` through the tap `m - n + center`.
        query_shape: The spatial shape of the queries, of product `n`.
        context_shape: The spatial shape of the context, of product `m`.

    Returns:
        Tensor of shape `(b, n, h, v)`.
    """
    embeddings = relative_embeddings(table, center, query_shape, context_shape)
    lambdas = ops.einsum("nmku,bmvu->bnkv", embeddings, values)
    return ops.einsum("bnhk,bnkv->bnhv", queries, lambdas)


def query_first(queries, values, table, center, query_shape, context_shape):
    """Weighs values by scores of queries and dense embeddings.

    Arguments and result are those of `lambda_first`.
    """
    embeddings = relative_embeddings(table, center, query_shape, context_shape)
    scores = ops.einsum("bnhk,nmku->bnhmu", queries, embeddings)
    return ops.einsum("bnhmu,bmvu->bnhv", scores, values)


def convolution(queries, values, table, center, query_shape, context_shape):
    """Applies position lambdas, computed as a convolution of the values.

    Each value channel is an image of its own with `u` channels, which the
    table as kernel turns into `k`: no grouped convolution, which Keras would
    compile for the host and a TPU would refuse.

    Arguments and result are those of `lambda_first`.
    """
    rank = len(center)
    value_dim, intra_depth = values.shape[2:]
    x = ops.transpose(values, (0, 2, 1, 3))
    x = ops.reshape(x, (-1, *context_shape, intra_depth))
    for axis in range(rank):
        length = query_shape[axis] + table.shape[axis] - 1
        x = pad_to(x, axis + 1, center[axis], length)
    kernel = ops.transpose(table, (*range(rank), rank + 1, rank))
    lambdas = ops.conv(
        x, kernel, strides=1, padding="valid", data_format="channels_last"
    )
    lambdas = ops.reshape(
        lambdas, (-1, value_dim, math.prod(query_shape), table.shape[rank])
    )
    return ops.einsum("bnhk,bvnk->bnhv", queries, lambdas)


def blocked(queries, values, table, center, query_shape, context_shape):
    """Weighs values by scores, in blocks of positions with a halo.

    The context of a block is the block and as many positions around it as
    the table reaches. All blocks share the embeddings of one.

    Arguments and result are those of `lambda_first`.
    """
    rank = len(center)
    block, window = block_shape(table.shape[:rank], query_shape)
    counts = block_counts(query_shape, block)

    def split(x, shape, starts, size):
        features = x.shape[2:]
        # Features in one axis already: of two reshapes to unknown sizes in a
        # row tf2onnx makes a wrong one.
        x = ops.reshape(x, (-1, *shape, math.prod(features)))
        x = split_blocks(x, starts, block, size, counts)
        return ops.reshape(x, (-1, math.prod(size), *features))

    queries = split(queries, query_shape, [0] * rank, block)
    values = split(values, context_shape, [-c for c in center], window)
    # A window starts `center` before its block: its offset zero is tap 0.
    output = query_first(queries, values, table, [0] * rank, block, window)
    features = output.shape[2:]
    output = ops.reshape(output, (-1, *block, math.prod(features)))
    output = merge_blocks(output, query_shape, block)
    return ops.reshape(output, (-1, math.prod(query_shape), *features))


IMPLEMENTATIONS = {
    "lambda_first": lambda_first,
    "query_first": query_first,
    "convolution": convolution,
    "blocked": blocked,
}


def check_implementation(name: str):
    """Raises a ValueError unless there is such an implementation."""
    choices = ("auto", *IMPLEMENTATIONS)
    if name not in choices:
        raise ValueError(
            f"`implementation` must be one of {choices}. "
            f"Received: implementation={name!r}"
        )


def reachable_taps(
    taps: Sequence[int],
    center: Sequence[int],
    query_shape: Sequence,
    context_shape: Sequence,
) -> list[tuple[int, int]]:
    """Returns which taps of a table some pair of positions reads.

    Args:
        taps: The spatial shape of the table.
        center: For each spatial axis, the index of offset zero in the table.
        query_shape: The spatial shape of the queries. What is not an integer
            is an unknown size, for which all taps are kept.
        context_shape: The spatial shape of the context, likewise.

    Returns:
        For each spatial axis, the first tap and the one after the last.
    """
    window = []
    for size, middle, *sizes in zip(taps, center, query_shape, context_shape):
        start, stop = 0, size
        if all(isinstance(size, int) for size in sizes):
            start = max(start, middle - (sizes[0] - 1))
            stop = min(stop, middle + sizes[1])
        window.append((start, stop))
    return window


# Helpers

# Block length along each axis, by spatial rank.
_BLOCKS = {1: 64, 2: 8, 3: 4}


def block_shape(taps, query_shape):
    """Returns the shapes of a block and of the context that it sees."""
    block = [_BLOCKS[len(taps)]] * len(taps)
    for axis, size in enumerate(query_shape):
        if isinstance(size, int):
            block[axis] = min(block[axis], size)
    return block, [b + t - 1 for b, t in zip(block, taps)]


def _highest(keys, axis, keepdims=False):
    """Returns the largest key, to subtract: nothing depends on which it is."""
    # With an initial value an empty batch has a maximum, too.
    highest = ops.max(keys, axis=axis, keepdims=keepdims, initial=LOWEST)
    return ops.stop_gradient(highest)


def _triangle(size, strict=False):
    """Returns where a row's position is at or, if strict, after a column's."""
    index = ops.arange(size)
    compare = ops.greater if strict else ops.greater_equal
    return compare(index[:, None], index[None, :])


def _divide_or_zero(x, total):
    """Divides, giving 0 where nothing was visible and `total` is 0."""
    safe = ops.where(total > 0, total, 1)
    return ops.where(total > 0, x / safe, 0)
