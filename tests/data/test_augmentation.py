import math

import numpy as np
import pytest

from lambda_keras.data.dataset import Affine

pytestmark = pytest.mark.tf_data


def random_affine(images, seed, **ranges):
    from lambda_keras.data.augmentation import random_affine

    return random_affine(images, seed, Affine(**ranges)).numpy()


def expected_affine(images, draws, ranges):
    """Each output pixel, read by hand where the composed map sends it from."""
    count, height, width, _ = images.shape
    output = np.zeros(images.shape)
    for n in range(count):
        rotation, shear, across, down, right, below = draws[:, n].astype(float)
        angle = math.radians(ranges.rotation) * rotation
        slant = math.tan(math.radians(ranges.shear) * shear)
        rotate = np.array(
            [
                [math.cos(angle), -math.sin(angle)],
                [math.sin(angle), math.cos(angle)],
            ]
        )
        stretch = np.diag((1 + ranges.zoom) ** np.array([across, down]))
        matrix = rotate @ np.array([[1, slant], [0, 1]]) @ stretch
        middle = np.array([(width - 1) / 2, (height - 1) / 2])
        shift = ranges.shift * np.array([right * width, below * height])
        for row in range(height):
            for column in range(width):
                x, y = matrix @ ([column, row] - middle) + middle + shift
                left, top = math.floor(x), math.floor(y)
                for j, i in np.ndindex(2, 2):
                    if 0 <= top + j < height and 0 <= left + i < width:
                        weight = (1 - abs(x - left - i)) * (
                            1 - abs(y - top - j)
                        )
                        pixel = images[n, top + j, left + i]
                        output[n, row, column] += weight * pixel
    return output


@pytest.mark.parametrize(
    "ranges",
    [
        Affine(),
        Affine(shift=0.3),
        Affine(rotation=60.0),
        Affine(zoom=0.4),
        Affine(shear=30.0),
        Affine(shift=0.2, rotation=20.0, zoom=0.2, shear=10.0),
    ],
)
def test_random_affine_against_a_loop_over_pixels(ranges):
    import tensorflow as tf

    images = np.random.default_rng(0).uniform(0, 255, (3, 5, 7, 2))
    seed = [3, 4]
    draws = tf.random.stateless_uniform((6, 3), seed, -1.0, 1.0).numpy()
    # float32 coordinates, grey levels up to 255
    np.testing.assert_allclose(
        random_affine(images, seed, **vars(ranges)),
        expected_affine(images, draws, ranges),
        atol=1e-2,
    )


def test_the_seed_decides_and_each_image_differs():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 1), "uint8")
    images = np.stack([image, image])
    first = random_affine(images, [1, 2], shift=0.1)
    np.testing.assert_array_equal(
        first, random_affine(images, [1, 2], shift=0.1)
    )
    assert not np.allclose(first, random_affine(images, [1, 3], shift=0.1))
    assert not np.allclose(first[0], first[1])
    assert first.dtype == np.float32
