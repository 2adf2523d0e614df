"""Tables of relative positions for maps of another size."""

import re

import numpy as np
import pytest

from lambda_keras.weights import resample_table


def gaussian_table(*sizes, width=0.3, key_dim=1):
    """A smooth table: offsets are in parts of the map."""
    axes = [np.arange(1 - size, size) / size for size in sizes]
    squares = sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij"))
    keys = np.arange(1, key_dim + 1)
    return np.exp(-squares[..., None] / (width * keys) ** 2)[..., None]


def smooth_map(rows, columns):
    y, x = np.meshgrid(centers(rows), centers(columns), indexing="ij")
    return 1 + np.sin(2 * y + 0.3) * np.cos(1.7 * x) + 0.5 * np.cos(5 * y)


def centers(size):
    return (np.arange(size) + 0.5) / size


def position_lambda(table, values):
    """Sums embeddings times values over the context, from the definition."""
    rows, columns = values.shape
    result = np.zeros((rows, columns, table.shape[-2]))
    for i in range(rows):
        for j in range(columns):
            seen = table[
                rows - 1 - i : 2 * rows - 1 - i,
                columns - 1 - j : 2 * columns - 1 - j,
                :,
                0,
            ]
            result[i, j] = np.einsum("abk,ab->k", seen, values)
    return result


def taps(*sizes):
    return tuple(2 * size - 1 for size in sizes)


def lambdas_of_both(old, new):
    """Returns position lambdas at the same places, of both maps' tables.

    The larger map has a center where each center of the smaller one is.
    """
    table = gaussian_table(*old, key_dim=2)
    before = position_lambda(table, smooth_map(*old))
    after = position_lambda(resample_table(table, taps(*new)), smooth_map(*new))
    for axis in range(2):
        factor = new[axis] / old[axis]
        if factor > 1:
            every = slice(int(factor) // 2, None, int(factor))
            after = after[(slice(None),) * axis + (every,)]
        elif factor < 1:
            every = slice(int(1 / factor) // 2, None, int(1 / factor))
            before = before[(slice(None),) * axis + (every,)]
    return before, after


@pytest.mark.parametrize(
    "old, new, tolerance",
    # Measured in float64: 0.0123, 0.0037, 0.0044 and 0.0031 of the largest.
    [
        ((8, 8), (24, 24), 0.02),
        ((24, 24), (8, 8), 0.01),
        ((15, 8), (5, 8), 0.01),
        ((16, 16), (48, 48), 0.01),
    ],
)
def test_the_lambda_of_a_resampled_map_is_about_the_same(old, new, tolerance):
    before, after = lambdas_of_both(old, new)
    assert before.shape == after.shape
    scale = np.abs(before).max()
    assert np.abs(after - before).max() < tolerance * scale
    # There are as many more terms as there are positions.
    ratio = np.prod(new) / np.prod(old)
    assert np.abs(after * ratio - before).max() > 0.5 * scale


def test_tables_of_the_same_size_are_the_same_bits():
    table = np.random.default_rng(0).normal(size=(7, 5, 3, 2))
    table = table.astype("float32")
    table[0] = -0.0
    assert resample_table(table, (7, 5)).tobytes() == table.tobytes()


def test_the_center_and_the_symmetry_stay():
    table = np.random.default_rng(0).normal(size=(9, 3, 1))
    for size in (2, 3, 4, 8, 11):
        resampled = resample_table(table, taps(size))
        mirrored = resample_table(table[::-1], taps(size))
        np.testing.assert_allclose(mirrored, resampled[::-1], rtol=1e-12)
    # More positions: the middle one is read as it is.
    larger = resample_table(table, taps(10))
    np.testing.assert_allclose(larger[9] * 2, table[4], rtol=1e-12)


def test_offsets_are_parts_of_the_map():
    # From 2 to 4 positions, offset 2 is as long as offset 1 was.
    table = np.array([1.0, 2.0, 3.0])[:, None, None]
    resampled = resample_table(table, [7]).ravel() * 2
    np.testing.assert_allclose(resampled, [1, 1, 1.5, 2, 2.5, 3, 3])


def test_a_smaller_map_skips_nothing():
    # One position in three would be all ones, or all minus ones.
    table = np.where(np.arange(47) % 2, 1.0, -1.0)[:, None, None]
    resampled = resample_table(table, taps(8)) / 3
    assert np.abs(resampled).max() < 0.35
    assert np.abs(resampled[1:-1]).max() < 0.12


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_any_number_of_axes_is_resampled_one_by_one(rank):
    axes = [
        np.random.default_rng(x).normal(size=2 * x + 3) for x in range(rank)
    ]
    new = taps(*range(3, 3 + rank))
    product = np.ones(())
    expected = np.ones(())
    for axis, size in zip(axes, new):
        one = resample_table(axis[:, None, None], [size]).ravel()
        product = np.multiply.outer(product, axis)
        expected = np.multiply.outer(expected, one)
    resampled = resample_table(product[..., None, None], new)
    np.testing.assert_allclose(resampled[..., 0, 0], expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_dtype_stays_and_the_sums_are_of_float64(dtype):
    table = gaussian_table(6, 6).astype(dtype)
    resampled = resample_table(table, taps(9, 9))
    assert resampled.dtype == dtype
    exact = resample_table(table.astype("float64"), taps(9, 9))
    np.testing.assert_array_equal(resampled, exact.astype(dtype))


@pytest.mark.parametrize(
    "shape, new, message",
    [
        ((7, 7, 4, 1), (9,), "one entry for each axis .* taps=(9,), table"),
        ((7, 7, 4, 1), (9, 9, 9), "one entry for each axis"),
        ((4, 1), (), "one entry for each axis .* taps=(), table.shape=(4, 1)"),
        ((7, 7, 4, 1), (9, 8), "odd number of taps .* taps=(9, 8), table"),
        ((7, 7, 4, 1), (9, 0), "odd number of taps"),
        ((7, 7, 4, 1), (9, -1), "odd number of taps"),
        ((7, 7, 4, 1), (9, 9.0), "odd number of taps"),
        ((7, 6, 4, 1), (9, 9), "odd number .* table.shape=(7, 6, 4, 1)"),
    ],
)
def test_shapes_of_other_tables_are_refused(shape, new, message):
    pattern = re.escape(message).replace(r"\ \.\*\ ", " .* ")
    with pytest.raises(ValueError, match=pattern):
        resample_table(np.ones(shape), new)


def test_integers_are_refused():
    with pytest.raises(ValueError, match=r"Received: table\.dtype=int64"):
        resample_table(np.ones((3, 1, 1), "int64"), (5,))
