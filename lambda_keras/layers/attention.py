"""Attention with relative positions, of everything or of a neighbourhood.

Letters: b batch, n query positions, m context positions, h heads, k key
depth, v value depth. `*n` and `*m` stand for one axis per spatial axis, of
which there are the same number.
"""

import math

from keras import ops

from lambda_keras.layers.blocks import block_counts
from lambda_keras.layers.blocks import merge_blocks
from lambda_keras.layers.blocks import split_blocks
from lambda_keras.layers.positions import relative_embeddings
from lambda_keras.layers.precision import LOWEST
from lambda_keras.layers.precision import at_least_float32


def attend(queries, keys, values, tables, mask=None):
    """Attends from every query to the whole context.

    Args:
        queries: Tensor of shape `(b, *n, h, k)`, scaled.
        keys: Tensor of shape `(b, *m, h, k)`.
        values: Tensor of shape `(b, *m, h, v)`.
        tables: For each spatial axis, the relative embeddings `(taps, k)`
            with offset zero, context minus query, in the middle. Outside of
            the table an embedding is zero.
        mask: Boolean tensor of shape `(b, *m)`, or `None`. The context
            positions that count. A query without any gives zero.

    Returns:
        Tensor of shape `(b, *n, h, v)`.
    """
    embeddings = [
        relative_embeddings(table, [table.shape[0] // 2], [n], [m])
        for table, n, m in zip(
            tables, ops.shape(queries)[1:-2], ops.shape(keys)[1:-2]
        )
    ]
    visible = None if mask is None else _align_context(mask)
    return _attend(queries, keys, values, embeddings, visible)


def attend_locally(queries, keys, values, tables, mask=None):
    """Attends from every query to the part of the context in its window.

    Queries go by blocks, each with the block's context and a halo around it,
    in which they attend to what their own window holds. Blocks are as long as
    the window: what is computed is along each axis less than twice what is
    needed, and at least that long are the matrix products.

    Arguments and result are those of `attend`, but the window of a query is
    as large as the tables, and `n` and `m` are of the same sizes, which may
    be unknown.
    """
    sizes = ops.shape(queries)[1:-2]
    taps = [table.shape[0] for table in tables]
    blocks, halos = zip(*map(_block_and_halo, sizes, taps))
    windows = [block + 2 * halo for block, halo in zip(blocks, halos)]
    counts = block_counts(sizes, blocks)
    if mask is None:
        # Tells the context from the zeros around it.
        mask = ops.ones(ops.shape(keys)[:-2], dtype="bool")
    queries = split_blocks(queries, [0] * len(taps), blocks, blocks, counts)
    keys, values, mask = (
        split_blocks(x, [-halo for halo in halos], blocks, windows, counts)
        for x in (keys, values, mask)
    )

    visible = _align_context(mask)
    embeddings = []
    for axis, (n, m) in enumerate(zip(blocks, windows)):
        # A window starts before its block by the halo.
        center = taps[axis] // 2 - halos[axis]
        embeddings.append(relative_embeddings(tables[axis], [center], [n], [m]))
        tap = center + ops.arange(m) - ops.arange(n)[:, None]
        in_window = ops.logical_and(tap >= 0, tap < taps[axis])
        visible = ops.logical_and(
            visible, _align_axis(in_window, axis, len(taps))
        )
    output = _attend(queries, keys, values, embeddings, visible)
    return merge_blocks(output, sizes, blocks)


def _attend(queries, keys, values, embeddings, visible):
    """Attends, given `(n, m, k)` for each axis and what is visible or None."""
    rank = len(embeddings)
    n, m = "xyz"[:rank], "rst"[:rank]
    logits = at_least_float32(
        ops.einsum(f"b{n}hk,b{m}hk->bh{n}{m}", queries, keys)
    )
    for axis, embedding in enumerate(embeddings):
        # One axis at a time: embeddings of all pairs of positions, which are
        # the sum over axes, could be larger than the maps.
        term = ops.einsum(
            f"b{n}hk,{n[axis]}{m[axis]}k->bh{n}{m[axis]}", queries, embedding
        )
        other_axes = [2 + rank + i for i in range(rank) if i != axis]
        logits += ops.expand_dims(at_least_float32(term), other_axes)
    shape = ops.shape(logits)
    # Elementwise operations take longer the more axes there are, and some of
    # TensorFlow's take no more than five.
    logits = _flatten_positions(logits, rank)
    if visible is not None:
        visible = _flatten_positions(visible, rank)
        logits = ops.where(visible, logits, LOWEST)
    # Keras warns of a softmax over one entry, all that an image of 1x1 has.
    single = logits.shape[-1] == 1
    maps = ops.ones_like(logits) if single else ops.softmax(logits)
    if visible is not None:
        # A query that sees nothing has an even map until here.
        maps = ops.where(visible, maps, 0)
    maps = ops.reshape(ops.cast(maps, values.dtype), (-1, *shape[1:]))
    return ops.einsum(f"bh{n}{m},b{m}hv->b{n}hv", maps, values)


def _flatten_positions(x, rank):
    """Reshapes `(b, h, *n, *m)` to `(b, h, n, m)`."""
    shape = ops.shape(x)
    queries, context = shape[2 : 2 + rank], shape[2 + rank :]
    return ops.reshape(
        x, (-1, shape[1], math.prod(queries), math.prod(context))
    )


def _align_context(mask):
    """Lets `(b, *m)` broadcast to `(b, h, *n, *m)`."""
    rank = len(mask.shape) - 1
    return ops.expand_dims(mask, list(range(1, 2 + rank)))


def _align_axis(pairs, axis, rank):
    """Lets the `(n, m)` of one axis broadcast to `(b, h, *n, *m)`."""
    kept = (2 + axis, 2 + rank + axis)
    return ops.expand_dims(
        pairs, [i for i in range(2 + 2 * rank) if i not in kept]
    )


def _block_and_halo(size, taps):
    """Returns the length of a block and of the halo on each side of it."""
    if isinstance(size, int) and size < 2 * taps:
        # No longer than a block with its halos: the axis is the block.
        return size, 0
    return taps, taps // 2
