"""Splits spatial axes into blocks with their surroundings, and joins them."""

import math
from collections.abc import Sequence

from keras import ops


def block_counts(sizes: Sequence, blocks: Sequence[int]) -> list:
    """Returns how many blocks cover each axis."""
    # Not with negative numbers: in ONNX a division rounds towards zero.
    return [(size + block - 1) // block for size, block in zip(sizes, blocks)]


def split_blocks(
    x,
    starts: Sequence[int],
    blocks: Sequence[int],
    windows: Sequence[int],
    counts: Sequence,
):
    """Splits spatial axes into blocks, or into windows around the blocks.

    Along each axis, window `i` begins at `start + i * block`; what lies
    outside the axis is zero. Windows of the size of blocks, from 0, are the
    blocks themselves.

    Args:
        x: Tensor of shape `(b, *spatial, ...)`.
        starts: For each spatial axis, where the first window begins: at most
            0.
        blocks: For each spatial axis, the distance from window to window.
        windows: For each spatial axis, the length of a window.
        counts: For each spatial axis, the number of windows; a scalar tensor
            where it is unknown.

    Returns:
        Tensor of shape `(b * prod(counts), *windows, ...)`.
    """
    rank = len(blocks)
    x, features = _flatten_features(x, rank)
    for axis in range(rank):
        x = overlapping_windows(
            x,
            2 * axis + 1,
            start=starts[axis],
            stride=blocks[axis],
            size=windows[axis],
            count=counts[axis],
        )
    outside, inside = range(1, 2 * rank, 2), range(2, 2 * rank + 1, 2)
    x = ops.transpose(x, (0, *outside, *inside, 2 * rank + 1))
    return ops.reshape(x, (-1, *windows, *features))


def merge_blocks(x, sizes: Sequence, blocks: Sequence[int]):
    """Joins blocks to the axes that they were split from.

    Args:
        x: Tensor of shape `(b * prod(counts), *blocks, ...)`.
        sizes: The lengths of the axes, scalar tensors where unknown.
        blocks: The lengths of the blocks.

    Returns:
        Tensor of shape `(b, *sizes, ...)`.
    """
    rank = len(blocks)
    x, features = _flatten_features(x, rank)
    counts = block_counts(sizes, blocks)
    x = ops.reshape(x, (-1, *counts, *blocks, x.shape[-1]))
    pairs = [i for axis in range(1, 1 + rank) for i in (axis, axis + rank)]
    x = ops.transpose(x, (0, *pairs, 2 * rank + 1))
    padded = [count * block for count, block in zip(counts, blocks)]
    x = ops.reshape(x, (-1, *padded, *features))
    return x[(slice(None), *(slice(0, size) for size in sizes))]


def merge_windows(x, blocks: Sequence[int], counts: Sequence[int]):
    """Adds up windows where they overlap: the transpose of `split_blocks`.

    Args:
        x: Tensor of shape `(b * prod(counts), *windows, features)`.
        blocks: For each spatial axis, the distance from window to window.
        counts: For each spatial axis, the number of windows.

    Returns:
        Tensor of shape `(b, *lengths, features)`, of the length from the
        start of the first window to the end of the last one.
    """
    rank = len(blocks)
    windows, features = x.shape[1:-1], x.shape[-1]
    x = ops.reshape(x, (-1, *counts, *windows, features))
    pairs = [i for axis in range(1, 1 + rank) for i in (axis, axis + rank)]
    x = ops.transpose(x, (0, *pairs, 2 * rank + 1))
    for axis in range(rank):
        x = _add_windows(x, axis + 1, blocks[axis])
    return x


def _add_windows(x, axis, stride):
    """Joins the axes `(count, size)` of windows that overlap to one."""
    count, size = x.shape[axis : axis + 2]
    pieces = -(-size // stride)
    strides = count + pieces - 1
    x = pad_to(x, axis + 1, 0, pieces * stride)
    leading = (slice(None),) * (axis + 1)
    total = 0
    for i in range(pieces):
        piece = x[(*leading, slice(i * stride, (i + 1) * stride))]
        total = total + pad_to(piece, axis, i, strides)
    shape = ops.shape(total)
    total = ops.reshape(
        total, (-1, *shape[1:axis], strides * stride, *shape[axis + 2 :])
    )
    return total[(*leading[:-1], slice(0, (count - 1) * stride + size))]


def _flatten_features(x, rank):
    """Joins the axes after the spatial ones, and returns what they were.

    TensorFlow slices no more than 8 axes, which 3 spatial ones in blocks of
    several features exceed.
    """
    features = tuple(x.shape[1 + rank :])
    if len(features) == 1:
        return x, features
    sizes = ops.shape(x)[1 : 1 + rank]
    return ops.reshape(x, (-1, *sizes, math.prod(features))), features


def overlapping_windows(x, axis: int, start, stride: int, size: int, count):
    """Splits an axis into windows that overlap, zero outside the axis.

    Window `i` holds the positions `start + i * stride` and the `size - 1`
    after it. The windows are pieces of the axis cut at multiples of `stride`
    and joined again: no gather.

    Args:
        x: Tensor.
        axis: The axis to split.
        start: Integer of at most 0. Where the first window begins.
        stride: Integer. The distance from window to window.
        size: Integer. The length of a window.
        count: The number of windows; a scalar tensor where it is unknown.

    Returns:
        Tensor with `axis` replaced by the two axes `(count, size)`.
    """
    pieces = -(-size // stride)
    strides = count + pieces - 1
    x = pad_to(x, axis, -start, strides * stride)
    shape = ops.shape(x)
    x = ops.reshape(x, (*shape[:axis], strides, stride, *shape[axis + 1 :]))
    leading = (slice(None),) * axis
    x = ops.concatenate(
        [x[(*leading, slice(i, i + count))] for i in range(pieces)],
        axis=axis + 1,
    )
    return x[(*leading, slice(None), slice(0, size))]


def pad_to(x, axis, left, length):
    """Puts `left` zeros before `axis` and cuts or fills its end to `length`."""
    right = length - left - ops.shape(x)[axis]
    if isinstance(right, int):
        right = max(right, 0)
    else:
        right = ops.maximum(right, 0)
    if not (isinstance(right, int) and left == right == 0):
        shape = list(ops.shape(x))

        def zeros(size):
            shape[axis] = size
            return ops.zeros(shape, dtype=x.dtype)

        x = ops.concatenate([zeros(left), x, zeros(right)], axis=axis)
    return x[(slice(None),) * axis + (slice(0, length),)]
