"""Tables of relative positions for maps of another size."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def resample_table(table: Any, taps: Sequence[int]) -> np.ndarray:
    """Resamples a global table of relative embeddings to another map size.

    A map of `size` positions has `2 * size - 1` offsets along an axis, zero
    in the middle. An offset between positions of the new map is the same
    part of the image as one that is `size / new size` as long on the old map:
    there the old table is read, by linear interpolation between its taps, and
    where the new map is smaller as a mean over as many taps as then fall
    together, so that nothing is skipped. Offsets that the old map has not,
    which are within one of its largest, are read as that.

    A position lambda is a sum over all positions of the context. On a map of
    more positions it would grow with their number: embeddings are multiplied
    by the old number over the new, so that the same image gives about the
    same lambda.

    Args:
        table: Array of shape `(*old taps, key_dim, intra_depth)`, with one
            axis of taps for each spatial axis.
        taps: The new number of taps along each axis, `2 * size - 1`.

    Returns:
        An array of shape `(*taps, key_dim, intra_depth)` and the table's
        dtype, computed in float64. With the same taps it is the table.

    Raises:
        ValueError: If the shapes are not those of global tables.

    Example:

    >>> table = np.array([1.0, 2.0, 3.0])[:, None, None]  # Two positions.
    >>> resample_table(table, [7]).ravel()  # Four positions.
    array([0.5 , 0.5 , 0.75, 1.  , 1.25, 1.5 , 1.5 ])
    """
    table = np.asarray(table)
    taps = tuple(taps)
    old_taps = table.shape[:-2]
    if not taps or len(taps) != len(old_taps):
        raise ValueError(
            "`taps` must have one entry for each axis of the table but its "
            f"last two. Received: taps={taps}, table.shape={table.shape}"
        )
    if not all(_is_odd(size) for size in (*taps, *old_taps)):
        raise ValueError(
            "A global table has an odd number of taps along each axis, "
            "`2 * size - 1` for that many positions. "
            f"Received: taps={taps}, table.shape={table.shape}"
        )
    if not np.issubdtype(table.dtype, np.floating):
        raise ValueError(
            "`table` must be of floating point numbers. "
            f"Received: table.dtype={table.dtype}"
        )
    if taps == old_taps:
        return table
    resampled = table.astype("float64")
    for axis, (old, new) in enumerate(zip(old_taps, taps)):
        matrix = _resampling_matrix((old + 1) // 2, (new + 1) // 2)
        resampled = np.moveaxis(
            np.tensordot(matrix, resampled, axes=(1, axis)), 0, axis
        )
    return (resampled * _positions_ratio(old_taps, taps)).astype(table.dtype)


def _is_odd(size: Any) -> bool:
    return isinstance(size, int) and size > 0 and size % 2 == 1


def _resampling_matrix(size: int, new_size: int) -> np.ndarray:
    """Returns what reads the taps of `size` at the offsets of `new_size`."""
    scale = size / new_size
    wanted = np.arange(1 - new_size, new_size)[:, None] * scale
    distances = np.abs(wanted - np.arange(1 - size, size))
    weights = np.maximum(1 - distances / max(scale, 1), 0)
    # They sum to one also where there are taps on one side only.
    return weights / weights.sum(axis=1, keepdims=True)


def _positions_ratio(old_taps: Sequence[int], taps: Sequence[int]) -> float:
    return math.prod((old + 1) / (new + 1) for old, new in zip(old_taps, taps))
