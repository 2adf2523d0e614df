"""How queries, keys, values and position embeddings are contracted.

A lambda layer applies to the queries of each position `n` a linear function
of shape `(key_dim, value_dim)`:

    lambda_n = common + sum_m embeddings[n, m] values[m]^T
    output_n = lambda_n^T query_n        for each head

`common`, the same for all positions, is the content lambda
`sum_m softmax_m(keys)[m] values[m]^T` and perhaps a bias: cheap. The sum, the
position lambda, is most of the work, and there are several orders in which
to do it:

                    order                       what it makes on the way
    lambda_first    (embeddings values) query   embeddings nkm, lambdas bnkv
    query_first     (query embeddings) values   embeddings nkm, scores bnhm
    convolution     (table * values) query      lambdas bnkv
    blocked         query_first in blocks       scores of blocks

`lambda_first` is the paper's listing and `query_first` its dual: scores as in
attention, without a softmax. `convolution` is the paper's lambda convolution
of each value channel with the relative table. `blocked` gives each block of
positions the part of the context that the table reaches, so that a local
scope is a few dense matrix products and no embedding of all pairs exists; it
takes a few blocks at a time where there would be too many scores.

All give the same result; `planning` counts what each takes and picks one. Two
identities keep them simple: intra-depth is more context positions, `m * u` of
them, and so is a lambda that all positions have in common, `k` more.

Letters of the einsums: b batch (a, b, c its parts), n query positions,
m context positions, h heads, k key depth, v value depth, u intra-depth.
"""

import math
from collections.abc import Sequence

from keras import ops

from lambda_keras.layers.block_groups import BlockGroups
from lambda_keras.layers.block_groups import blocks_at_a_time
from lambda_keras.layers.block_groups import weigh_in_groups
from lambda_keras.layers.blocks import block_counts
from lambda_keras.layers.blocks import merge_blocks
from lambda_keras.layers.blocks import pad_to
from lambda_keras.layers.blocks import split_blocks
from lambda_keras.layers.fused import supports as supports_fused
from lambda_keras.layers.fused import weigh as weigh_fused
from lambda_keras.layers.positions import score_embeddings
from lambda_keras.layers.precision import LOWEST
from lambda_keras.layers.precision import at_least_float32
from lambda_keras.layers.precision import divide_or_zero
from lambda_keras.layers.precision import highest
from lambda_keras.layers.precision import itemsize
from lambda_keras.layers.replicas import count_batch_parts
from lambda_keras.layers.targets import current_target

# What all positions share


def content_lambda(keys, values, mask=None):
    """Summarizes a context by its content.

    Args:
        keys: Tensor of shape `(b, m, k, u)`, before the softmax over `m`.
        values: Tensor of shape `(b, m, v, u)`.
        mask: Boolean tensor of shape `(b, m)`, or `None`. The context
            positions that count.

    Returns:
        Tensor of shape `(b, k, v)`, at least float32.
    """
    keys, values = at_least_float32(keys), at_least_float32(values)
    if mask is not None:
        visible = ops.cast(mask, keys.dtype)[:, :, None, None]
        keys = ops.where(visible > 0, keys, LOWEST)
    # Not `ops.softmax`, which warns of a context of one position.
    keys = ops.exp(keys - highest(keys, axis=1, keepdims=True))
    if mask is not None:
        keys = keys * visible
    keys = divide_or_zero(keys, ops.sum(keys, axis=1, keepdims=True))
    return ops.einsum("bmku,bmvu->bkv", keys, values)


def apply_lambda(queries, common):
    """Applies one lambda to the queries of all positions.

    Args:
        queries: Tensor of shape `(b, n, h, k)`.
        common: Tensor of shape `(b, k, v)`.

    Returns:
        Tensor of shape `(b, n, h, v)`.
    """
    return ops.einsum("bnhk,bkv->bnhv", queries, common)


# What each position has of its own


def lambda_first(
    queries, values, common, table, center, query_shape, context_shape
):
    """Applies lambdas, computed from dense embeddings.

    Args:
        queries: Tensor of shape `(b, n, h, k)`.
        values: Tensor of shape `(b, m, v, u)`.
        common: Tensor of shape `(b, k, v)`, or `None`. A lambda that is added
            to those of all positions.
        table: Tensor of shape `(*taps, k, u)`. The relative embeddings.
        center: For each spatial axis, the index of offset zero in `table`:
            query `n` sees context `m` through the tap `m - n + center`.
        query_shape: The spatial shape of the queries, of product `n`.
        context_shape: The spatial shape of the context, of product `m`.

    Returns:
        Tensor of shape `(b, n, h, v)`.
    """
    embeddings = score_embeddings(table, center, query_shape, context_shape)
    values = _join_intra_depth(values)
    lambdas = ops.einsum("nkm,bmv->bnkv", embeddings, values)
    if common is not None:
        lambdas = lambdas + common[:, None]
    return ops.einsum("bnhk,bnkv->bnhv", queries, lambdas)


def query_first(
    queries,
    values,
    common,
    table,
    center,
    query_shape,
    context_shape,
    fused=False,
):
    """Weighs values by scores of queries and dense embeddings.

    Args: beside those of `lambda_first`,
        fused: Whether scores are to stay on a TPU's chip; see `layers.fused`.

    Returns:
        Tensor of shape `(b, n, h, v)`.
    """
    embeddings = score_embeddings(table, center, query_shape, context_shape)
    values = _join_intra_depth(values)
    return _weigh(queries, embeddings, values, common, fused, as_images=True)


def convolution(
    queries, values, common, table, center, query_shape, context_shape
):
    """Applies lambdas, computed as a convolution of the values.

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
    if common is not None:
        lambdas = lambdas + ops.transpose(common, (0, 2, 1))[:, :, None]
    return ops.einsum("bnhk,bvnk->bnhv", queries, lambdas)


def blocked(
    queries,
    values,
    common,
    table,
    center,
    query_shape,
    context_shape,
    block_size=None,
    score_bytes=None,
):
    """Weighs values by scores, in blocks of positions with a halo.

    The context of a block is the block and as many positions around it as
    the table reaches. All blocks share the embeddings of one, so that a local
    scope is a few dense matrix products.

    Where scores would take too much memory, a few blocks have a turn at a
    time, and once more for gradients.

    Args: beside those of `lambda_first`,
        block_size: The length of a block along each axis.
        score_bytes: The most bytes that scores may take, if those of one
            block, of all examples, do not take more. `None` is no limit.

    Returns:
        Tensor of shape `(b, n, h, v)`.
    """
    rank = len(center)
    heads, key_dim = queries.shape[2:]
    value_dim, intra_depth = values.shape[2:]
    block, window = block_shape(table.shape[:rank], query_shape, block_size)
    counts = block_counts(query_shape, block)
    positions, reach = math.prod(block), math.prod(window) * intra_depth
    # A window starts `center` before its block: its offset zero is tap 0.
    embeddings = score_embeddings(table, [0] * rank, block, window)

    # Features in one axis already: of two reshapes to unknown sizes in a row
    # tf2onnx makes a wrong one.
    map_of_queries = ops.reshape(queries, (-1, *query_shape, heads * key_dim))
    values = ops.transpose(values, (0, 1, 3, 2))
    map_of_values = ops.reshape(
        values, (-1, *context_shape, intra_depth * value_dim)
    )
    group = _blocks_at_a_time(queries, counts, positions * reach, score_bytes)
    if group != counts:
        if common is not None:
            embeddings = _embed_common(embeddings)
        output = weigh_in_groups(
            map_of_queries,
            map_of_values,
            embeddings,
            common,
            heads,
            BlockGroups(query_shape, center, block, window, group),
        )
        return ops.reshape(
            output, (-1, math.prod(query_shape), heads, value_dim)
        )
    queries_of_blocks = split_blocks(
        map_of_queries, [0] * rank, block, block, counts
    )
    windows = split_blocks(
        map_of_values, [-c for c in center], block, window, counts
    )
    output = _weigh(
        ops.reshape(queries_of_blocks, (-1, positions, heads, key_dim)),
        embeddings,
        ops.reshape(windows, (-1, reach, value_dim)),
    )
    output = ops.reshape(output, (-1, *block, heads * value_dim))
    output = merge_blocks(output, query_shape, block)
    output = ops.reshape(output, (-1, math.prod(query_shape), heads, value_dim))
    if common is not None:
        output = output + apply_lambda(queries, common)
    return output


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
BLOCK_SIZES = 64, 8, 4


def block_shape(taps, query_shape, block_size=None):
    """Returns the shapes of a block and of the context that it sees."""
    block = [block_size or BLOCK_SIZES[len(taps) - 1]] * len(taps)
    for axis, size in enumerate(query_shape):
        if isinstance(size, int):
            block[axis] = min(block[axis], size)
    return block, [b + t - 1 for b, t in zip(block, taps)]


def _join_intra_depth(values):
    """Returns values of shape `(b, m * u, v)`.

    To position lambdas, intra-depth is as good as more context positions.
    """
    positions, value_dim, intra_depth = ops.shape(values)[1:]
    values = ops.transpose(values, (0, 1, 3, 2))
    return ops.reshape(values, (-1, positions * intra_depth, value_dim))


def _weigh(
    queries,
    embeddings,
    values,
    common=None,
    fused=False,
    as_images=False,
):
    """Weighs values by the scores of queries.

    Args:
        queries: Tensor of shape `(b, n, h, k)`.
        embeddings: Tensor of shape `(n, k, m)`.
        values: Tensor of shape `(b, m, v)`.
        common: Tensor of shape `(b, k, v)`, or `None`.
        fused: Whether one kernel is to do it, if it can.
        as_images: Whether what comes next has the output laid out as images.

    Returns:
        Tensor of shape `(b, n, h, v)`.
    """
    positions, heads, key_dim = ops.shape(queries)[1:]
    value_dim = values.shape[2]
    if common is not None:
        embeddings = _embed_common(embeddings)
    if fused and supports_fused(queries.shape, value_dim, queries.dtype):
        if common is not None:
            values = ops.concatenate([values, common], axis=1)
        return weigh_fused(queries, embeddings, values)
    batch = _split_batch(queries.shape[0])
    values = ops.reshape(values, (*batch, ops.shape(values)[1], value_dim))
    if common is not None:
        common = ops.reshape(common, (*batch, key_dim, value_dim))
        values = ops.concatenate([values, common], axis=3)
    reach = ops.shape(values)[3]
    queries = ops.reshape(
        queries, (batch[0], math.prod(batch[1:]), positions, heads, key_dim)
    )
    scores = ops.einsum("abnhk,nkm->nabhm", queries, embeddings)
    scores = ops.reshape(scores, (positions, *batch, heads, reach))
    if as_images and current_target().device == "tpu":
        # Positions before examples, and heads with their values, as TPUs lay
        # out images: one copy of the output less.
        output = ops.einsum("nabchm,abcmv->nabchv", scores, values)
        output = ops.reshape(output, (positions, -1, heads * value_dim))
        output = ops.transpose(output, (1, 0, 2))
    else:
        output = ops.einsum("nabchm,abcmv->abcnhv", scores, values)
    return ops.reshape(output, (-1, positions, heads, value_dim))


def _embed_common(embeddings):
    """Adds to embeddings those of a lambda that all positions have in common.

    It is `k` more context positions: its rows are their values, and their
    embeddings pick the components of a query. No output has to be read again
    to add another to it.
    """
    positions, key_dim, _ = ops.shape(embeddings)
    index = ops.arange(key_dim)  # Not `ops.eye`: OpenVINO has none.
    unit = ops.cast(index[:, None] == index, embeddings.dtype)
    unit = ops.broadcast_to(unit, (positions, key_dim, key_dim))
    return ops.concatenate([embeddings, unit], axis=2)


def _split_batch(batch):
    """Splits a batch into what TPUs lay out well.

    The first product is one for each position, the second one for each
    example. Where the batch fills lanes, the TPU compiler puts it there in
    one of them and copies all scores in between. In parts, of 64 for the
    scores and of 8, the rows of a register, for the values, it finds a layout
    that is good for both: by its estimate a gradient step at 14x14 takes 2.1
    ms on v3 in the place of 3.5.
    """
    if batch is None or batch % 64:
        return -1, 1, 1
    return batch // 64, 8, 8


def _blocks_at_a_time(queries, counts, pairs, score_bytes):
    """Returns how many blocks along each axis have few enough scores."""
    if score_bytes is None or not all(isinstance(c, int) for c in counts):
        return counts
    # An unknown batch counts as one: what is taken at a time grows with it.
    batch = -(-(queries.shape[0] or 1) // count_batch_parts())
    block_bytes = batch * pairs * queries.shape[2] * itemsize(queries.dtype)
    return blocks_at_a_time(counts, block_bytes, score_bytes)
