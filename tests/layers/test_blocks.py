import numpy as np
import pytest
from keras import ops

from lambda_keras.layers import blocks
from tests.layers.lambda_cases import compiled
from tests.reference import as_numpy


@pytest.mark.parametrize(
    ("length", "start", "stride", "size", "count"),
    [
        (12, 0, 4, 4, 3),
        (12, -2, 4, 8, 3),
        (10, -3, 4, 9, 3),
        (3, -11, 3, 25, 1),
        (70, -1, 64, 66, 2),
        (20, 0, 4, 4, 2),
    ],
)
def test_overlapping_windows(length, start, stride, size, count):
    x = np.random.default_rng(0).normal(size=(2, length, 3))
    expected = np.zeros((2, count, size, 3))
    for i, j in np.ndindex(count, size):
        position = start + i * stride + j
        if 0 <= position < length:
            expected[:, i, j] = x[:, position]
    windows = compiled(
        lambda x: blocks.overlapping_windows(x, 1, start, stride, size, count)
    )(ops.convert_to_tensor(x))
    np.testing.assert_array_equal(as_numpy(windows), expected)


@pytest.mark.parametrize(
    ("sizes", "block"),
    [((7,), (3,)), ((7, 4), (3, 4)), ((5, 3, 4), (2, 3, 1))],
)
def test_merging_undoes_splitting(sizes, block):
    x = np.random.default_rng(0).normal(size=(2, *sizes, 3))
    counts = blocks.block_counts(sizes, block)

    @compiled
    def split_and_merge(x):
        starts = [0] * len(sizes)
        x = blocks.split_blocks(x, starts, block, block, counts)
        return x, blocks.merge_blocks(x, sizes, block)

    split, merged = map(as_numpy, split_and_merge(ops.convert_to_tensor(x)))
    assert split.shape == (2 * np.prod(counts), *block, 3)
    first_block = tuple(slice(0, size) for size in block)
    np.testing.assert_array_equal(split[0], x[0][first_block])
    np.testing.assert_array_equal(merged, x)


@pytest.mark.parametrize(
    ("block", "window", "counts"),
    [
        ((3,), (3,), (4,)),
        ((2,), (7,), (3,)),
        ((3, 2), (4, 7), (2, 3)),
        ((2, 1, 2), (3, 4, 2), (1, 2, 3)),
    ],
)
def test_merging_windows_is_the_transpose_of_splitting(block, window, counts):
    sizes = [
        (count - 1) * stride + size
        for count, stride, size in zip(counts, block, window)
    ]
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, *sizes, 3))
    windows = generator.normal(size=(2 * np.prod(counts), *window, 3))

    @compiled
    def split_and_merge(x, windows):
        split = blocks.split_blocks(x, [0] * len(sizes), block, window, counts)
        return split, blocks.merge_windows(windows, block, counts)

    split, merged = map(
        as_numpy, split_and_merge(*map(ops.convert_to_tensor, (x, windows)))
    )
    assert merged.shape == x.shape
    np.testing.assert_allclose(np.vdot(split, windows), np.vdot(x, merged))
