"""Max-pooling pads as torch does, and hides nothing at the edges."""

import keras
import numpy as np
import pytest

from lambda_keras.layers import MaxPooling2D
from tests.reference import as_numpy


def expected(inputs, size, strides):
    """The maximum of what there is of each window, one by one."""
    batch, height, width, channels = inputs.shape
    rows, columns = -(-height // strides), -(-width // strides)
    outputs = np.empty((batch, rows, columns, channels))
    half = size // 2
    for row, column in np.ndindex(rows, columns):
        top, left = row * strides - half, column * strides - half
        window = inputs[
            :,
            max(top, 0) : top + size,
            max(left, 0) : left + size,
        ]
        outputs[:, row, column] = window.max(axis=(1, 2))
    return outputs


@pytest.mark.parametrize("sizes", [(8, 8), (7, 8), (5, 1)], ids=str)
@pytest.mark.parametrize("size, strides", [(3, 2), (3, 1), (5, 3), (1, 2)])
def test_matches_the_maximum_of_each_window(size, strides, sizes):
    # All negative: a zero from the padding would be the largest.
    inputs = -np.random.default_rng(0).uniform(1, 2, (2, *sizes, 3))
    layer = MaxPooling2D(size, strides, dtype="float64")
    outputs = layer(inputs)
    np.testing.assert_array_equal(
        as_numpy(outputs), expected(inputs, size, strides)
    )
    assert outputs.shape == layer.compute_output_shape(inputs.shape)


def test_the_size_of_images_may_be_unknown():
    inputs = keras.Input((None, None, 2))
    model = keras.Model(inputs, MaxPooling2D(3, 2)(inputs))
    assert model.output_shape == (None, None, None, 2)
    images = np.random.default_rng(0).normal(size=(1, 6, 9, 2))
    np.testing.assert_allclose(
        as_numpy(model(images)), expected(images, 3, 2), rtol=1e-6
    )


def test_a_layer_is_made_again_from_its_config():
    layer = MaxPooling2D(5, 3, name="pool", dtype="float64")
    again = MaxPooling2D.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert (again.pool_size, again.strides) == (5, 3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((2, 2), "`pool_size` must be odd. Received: pool_size=2"),
        ((0, 2), "`pool_size` must be a positive integer.*pool_size=0"),
        ((3, 0), "`strides` must be a positive integer.*strides=0"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MaxPooling2D(*arguments)
