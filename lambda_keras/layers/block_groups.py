"""Blocks of positions that are contracted a few at a time.

The scores of a block and its window of values are there while its group has
its turn. Nothing of them is kept: gradients compute them once more, so that
training takes hardly more memory than inference.
"""

import dataclasses
import math
from collections.abc import Sequence

from keras import ops

from lambda_keras.layers.blocks import block_counts
from lambda_keras.layers.blocks import merge_blocks
from lambda_keras.layers.blocks import merge_windows
from lambda_keras.layers.blocks import pad_to
from lambda_keras.layers.blocks import split_blocks
from lambda_keras.layers.precision import wide_dtype


def blocks_at_a_time(
    counts: Sequence[int], block_bytes: int, most_bytes: int
) -> list[int]:
    """Returns how many blocks along each axis have room together.

    Args:
        counts: How many blocks there are along each axis.
        block_bytes: What one of them takes.
        most_bytes: What all that have a turn together may take, if a single
            one does not take more.

    Returns:
        For each axis a divisor of its count: the last axes come first.

    Example:

    >>> blocks_at_a_time([6, 4], block_bytes=10, most_bytes=90)
    [2, 4]
    >>> blocks_at_a_time([6, 4], block_bytes=10, most_bytes=30)
    [1, 2]
    """
    group = []
    for axis, count in enumerate(counts):
        others = block_bytes * math.prod(counts[axis + 1 :])
        divisors = [n for n in range(1, count + 1) if count % n == 0]
        group.append(
            max((n for n in divisors if n * others <= most_bytes), default=1)
        )
    return group


@dataclasses.dataclass(frozen=True)
class BlockGroups:
    """Where groups of blocks and their windows are.

    Maps of values are padded to begin where the first window does, so that
    blocks and windows of a group begin at the same index.

    Attributes:
        query_shape: The spatial shape of the queries.
        center: How far a window begins before its block.
        block: The shape of a block.
        window: The shape of a window.
        group: How many blocks of each axis have a turn together, a divisor of
            how many there are.
    """

    query_shape: Sequence[int]
    center: Sequence[int]
    block: Sequence[int]
    window: Sequence[int]
    group: Sequence[int]

    @property
    def turns(self) -> list[int]:
        """How many groups there are along each axis."""
        return block_counts(self.query_shape, self._inside)

    @property
    def _inside(self):
        return [n * size for n, size in zip(self.group, self.block)]

    def start(self, turn):
        """Returns where a group begins, from its number."""
        index = []
        for count, size in zip(self.turns[::-1], self._inside[::-1]):
            index.append(turn % count * size)
            turn = turn // count
        # Of the same dtype: JAX wants one for all axes.
        first = ops.zeros_like(turn)
        return (first, *index[::-1], first)

    def pad_queries(self, x):
        """Fills up the last group."""
        return self._pad(x, [0] * len(self.center), 0)

    def pad_values(self, x):
        """Fills up what the windows reach."""
        return self._pad(x, self.center, 1)

    def _pad(self, x, before, has_halo):
        for axis, left in enumerate(before):
            length = self.turns[axis] * self._inside[axis]
            halo = self.window[axis] - self.block[axis]
            x = pad_to(x, axis + 1, left, length + has_halo * halo)
        return x

    def cut(self, x, sizes, before=None):
        """Takes away what padding put around a map."""
        for axis, size in enumerate(sizes):
            start = before[axis] if before else 0
            x = x[(*(slice(None),) * (axis + 1), slice(start, None))]
            x = pad_to(x, axis + 1, 0, size)
        return x

    def take_blocks(self, x, start, heads):
        """Takes the blocks of a group, `(blocks, n, h, features)`."""
        x = self._take(x, start, self._inside)
        x = self._split(x, self.block)
        features = x.shape[-1] // heads
        return ops.reshape(x, (-1, math.prod(self.block), heads, features))

    def put_blocks(self, x, start, blocks):
        """Replaces the blocks of a group."""
        return ops.slice_update(x, start, self.merge(blocks))

    def take_windows(self, x, start, reach):
        """Takes the windows of a group, `(blocks, m, v)`."""
        x = self._split(self._take(x, start, self._outside), self.window)
        return ops.reshape(x, (-1, reach, math.prod(x.shape[1:]) // reach))

    def add_windows(self, x, start, windows):
        """Adds to the windows of a group, each as often as it is in one."""
        windows = ops.reshape(windows, (-1, *self.window, x.shape[-1]))
        windows = merge_windows(windows, self.block, self.group)
        windows = ops.cast(windows, x.dtype)
        windows = windows + self._take(x, start, self._outside)
        return ops.slice_update(x, start, windows)

    @property
    def _outside(self):
        sizes = zip(self._inside, self.window, self.block)
        return [inside + w - b for inside, w, b in sizes]

    def _take(self, x, start, sizes):
        return ops.slice(x, start, (ops.shape(x)[0], *sizes, x.shape[-1]))

    def _split(self, x, window):
        starts = [0] * len(window)
        return split_blocks(x, starts, self.block, window, self.group)

    def merge(self, blocks):
        """Joins the blocks of a group to a map of it."""
        x = ops.reshape(blocks, (-1, *self.block, math.prod(blocks.shape[2:])))
        return merge_blocks(x, self._inside, self.block)

    def sum(self, x):
        """Sums over the blocks that each example has in a group."""
        x = ops.reshape(x, (-1, math.prod(self.group), *x.shape[1:]))
        return ops.sum(x, axis=1)

    def merge_turns(self, x):
        """Joins maps of groups, `(turns, b, ...)`, to one of all queries."""
        x = ops.moveaxis(x, 0, 1)
        x = ops.reshape(x, (-1, *self._inside, x.shape[-1]))
        return merge_blocks(x, self.query_shape, self._inside)


def weigh_in_groups(
    queries, values, embeddings, common, heads: int, groups: BlockGroups
):
    """Weighs values by the scores of queries, group by group.

    Args:
        queries: Tensor of shape `(b, *query_shape, h * k)`.
        values: Tensor of shape `(b, *context_shape, u * v)`.
        embeddings: Tensor of shape `(n, k, m)`, of a block of `n` positions.
            The window comes first in the `m` context positions.
        common: Tensor of shape `(b, j, v)`, or `None`. The last `j` context
            positions, which all blocks have.
        heads: The number of queries per position, `h`.
        groups: Where the groups are.

    Returns:
        Tensor of shape `(b, *query_shape, h * v)`.
    """
    reach = embeddings.shape[2] - (0 if common is None else common.shape[1])
    turns = math.prod(groups.turns)

    def take_context(values, common, start):
        windows = groups.take_windows(values, start, reach)
        repeated = [
            ops.repeat(x, math.prod(groups.group), axis=0) for x in common
        ]
        return ops.concatenate([windows, *repeated], axis=1)

    def score(queries, embeddings):
        return ops.einsum("anhk,nkm->nahm", queries, embeddings)

    def weigh(queries, values, embeddings, *common):
        def weigh_group(turn):
            start = groups.start(turn)
            scores = score(groups.take_blocks(q, start, heads), embeddings)
            context = take_context(v, common, start)
            return groups.merge(ops.einsum("nahm,amv->anhv", scores, context))

        def gradients(*upstream):
            d_output = groups.pad_queries(upstream[0])

            def add_group(turn, sums):
                d_queries, d_values, *d_shared = sums
                start = groups.start(turn)
                blocks = groups.take_blocks(q, start, heads)
                context = take_context(v, common, start)
                d_weighed = groups.take_blocks(d_output, start, heads)
                d_context = ops.einsum(
                    "nahm,anhv->amv", score(blocks, embeddings), d_weighed
                )
                d_scores = ops.einsum("anhv,amv->nahm", d_weighed, context)
                d_blocks = ops.einsum("nahm,nkm->anhk", d_scores, embeddings)
                shared = [ops.einsum("nahm,anhk->nkm", d_scores, blocks)]
                if common:
                    shared.append(groups.sum(d_context[:, reach:]))
                return (
                    groups.put_blocks(d_queries, start, d_blocks),
                    groups.add_windows(d_values, start, d_context[:, :reach]),
                    *(
                        total + ops.cast(x, total.dtype)
                        for total, x in zip(d_shared, shared)
                    ),
                )

            sums = [ops.zeros_like(q)]
            for x in (v, embeddings, *common):
                sums.append(ops.zeros_like(x, dtype=wide_dtype(x.dtype)))
            sums = ops.fori_loop(0, turns, add_group, tuple(sums))
            d_queries = groups.cut(sums[0], queries.shape[1:-1])
            d_values = groups.cut(sums[1], values.shape[1:-1], groups.center)
            given = queries, values, embeddings, *common
            return tuple(
                ops.cast(each, x.dtype)
                for each, x in zip((d_queries, d_values, *sums[2:]), given)
            )

        q, v = groups.pad_queries(queries), groups.pad_values(values)
        output = ops.map(weigh_group, ops.arange(turns))
        return groups.merge_turns(output), gradients

    arguments = queries, values, embeddings, common
    return ops.custom_gradient(weigh)(*(x for x in arguments if x is not None))
