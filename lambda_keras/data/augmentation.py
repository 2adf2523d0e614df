"""Random variations of images, as pure functions of the images and a seed."""

import math

import tensorflow as tf

from lambda_keras.data.dataset import Affine


def random_affine(
    images: tf.Tensor, seed: tf.Tensor, augmentation: Affine
) -> tf.Tensor:
    """Shifts, rotates, stretches and shears every image by its own amounts.

    The seed decides everything, so that a batch can be made again.

    Args:
        images: Tensor `(batch, height, width, channels)`.
        seed: Two integers.
        augmentation: The ranges to draw from, uniformly.

    Returns:
        A float32 tensor of the same shape. Bilinear between pixels, zero
        beyond the border.
    """
    batch, (height, width) = tf.shape(images)[0], images.shape[1:3]
    draws = tf.random.stateless_uniform((6, batch), seed, -1.0, 1.0)
    angle = draws[0] * math.radians(augmentation.rotation)
    slant = tf.tan(draws[1] * math.radians(augmentation.shear))
    # Stretching by z and shrinking by z are equally likely and inverse.
    stretch = math.log1p(augmentation.zoom)
    across, down = tf.exp(draws[2] * stretch), tf.exp(draws[3] * stretch)
    right = draws[4] * augmentation.shift * width
    below = draws[5] * augmentation.shift * height

    # Rotation after shear after stretch, about the middle of the image.
    cosine, sine = tf.cos(angle), tf.sin(angle)
    matrix = [
        [across * cosine, down * (slant * cosine - sine)],
        [across * sine, down * (slant * sine + cosine)],
    ]
    middle = [(width - 1) / 2, (height - 1) / 2]
    return _resample(images, matrix, middle, [right, below])


def _resample(images, matrix, middle, shift):
    """Reads every output pixel where `matrix` and `shift` send it from."""
    offset = [
        middle[axis]
        + shift[axis]
        - matrix[axis][0] * middle[0]
        - matrix[axis][1] * middle[1]
        for axis in range(2)
    ]
    zero = tf.zeros_like(shift[0])
    transforms = tf.stack(
        [*matrix[0], offset[0], *matrix[1], offset[1], zero, zero], axis=1
    )
    # The raw operation takes one transform per image; Keras' layers that do
    # the same cost many times as much inside tf.data.
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32),
        transforms=transforms,
        output_shape=images.shape[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
