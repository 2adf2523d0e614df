"""Decoding of the part of an image that is needed, and resizing of it."""

from collections.abc import Callable

import tensorflow as tf

# What evaluation takes of an image.
CENTER, WHOLE = "center", "whole"

ASPECT_RATIOS = (3 / 4, 4 / 3)
ATTEMPTS = 10
# At 224 pixels both leave 7/8 of the shorter side. At fewer the second would
# leave too little: half at 32.
LEAST_PART, CROP_PADDING = 7 / 8, 32


def decode_random_crop(
    encoded: tf.Tensor, seed: tf.Tensor, image_size: int, area_min: float
) -> tf.Tensor:
    """Decodes a random part of an image at a random aspect ratio.

    The Inception crop: at least `area_min` of the image, with sides in a
    ratio from 3:4 to 4:3. Where ten draws find none, as in a very long image,
    it is the centre that is taken, as for evaluation.

    Args:
        encoded: String scalar: JPEG, PNG, GIF (its first frame) or BMP.
        seed: Two integers, which decide the crop.
        image_size: Height and width of the result.
        area_min: The least part of the image's area.

    Returns:
        A uint8 tensor `(image_size, image_size, 3)`.
    """

    def choose_window(shape):
        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            shape,
            tf.zeros((0, 0, 4)),
            seed,
            # Else no crop would be below a tenth, whatever `area_min` is.
            min_object_covered=0.0,
            aspect_ratio_range=ASPECT_RATIOS,
            area_range=(area_min, 1.0),
            max_attempts=ATTEMPTS,
            use_image_if_no_bounding_boxes=True,
        )
        # The whole image is the operation's way to say that it found none.
        return tf.where(
            tf.reduce_all(size[:2] == shape[:2]),
            _center_window(shape, image_size),
            tf.concat([begin[:2], size[:2]], axis=0),
        )

    return _resize(
        _decode_window(encoded, choose_window), (image_size, image_size)
    )


def decode_center_crop(
    encoded: tf.Tensor, image_size: int, channels: int = 3
) -> tf.Tensor:
    """Decodes the centre of an image.

    A square of `image_size / (image_size + 32)` of the shorter side, and at
    least 7/8 of it.

    Args:
        encoded: String scalar: JPEG, PNG, GIF (its first frame) or BMP.
        image_size: Height and width of the result.
        channels: Of the result, 1 or 3.

    Returns:
        A uint8 tensor `(image_size, image_size, channels)`.
    """
    crop = _decode_window(
        encoded, lambda shape: _center_window(shape, image_size), channels
    )
    return _resize(crop, (image_size, image_size), channels)


def decode_whole(
    encoded: tf.Tensor, image_shape: tuple[int, int, int]
) -> tf.Tensor:
    """Decodes all of an image, squeezed into a shape that it may not have.

    An image of that height and width is left as it is.

    Args:
        encoded: String scalar: JPEG, PNG, GIF (its first frame) or BMP.
        image_shape: Height, width and channels (1 or 3) of the result.

    Returns:
        A uint8 tensor of that shape.
    """
    *size, channels = image_shape
    image = _decode_window(
        encoded, lambda shape: tf.stack([0, 0, shape[0], shape[1]]), channels
    )
    return _resize(image, tuple(size), channels)


def _center_window(shape, image_size):
    """The square's top, left, height and width."""
    side = tf.cast(tf.minimum(shape[0], shape[1]), tf.float32)
    part = max(LEAST_PART, image_size / (image_size + CROP_PADDING))
    side = tf.maximum(tf.cast(part * side, tf.int32), 1)
    return tf.stack(
        [(shape[0] - side + 1) // 2, (shape[1] - side + 1) // 2, side, side]
    )


def _decode_window(
    encoded: tf.Tensor,
    choose_window: Callable[[tf.Tensor], tf.Tensor],
    channels: int = 3,
) -> tf.Tensor:
    """Decodes the window that `choose_window` wants of an image's shape."""

    def jpeg():
        # Only a JPEG can be decoded in part, which takes half the time.
        window = choose_window(tf.image.extract_jpeg_shape(encoded))
        return tf.image.decode_and_crop_jpeg(encoded, window, channels)

    def other():
        image = tf.image.decode_image(
            encoded, channels, expand_animations=False
        )
        top, left, height, width = tf.unstack(choose_window(tf.shape(image)))
        return image[top : top + height, left : left + width]

    return tf.cond(tf.io.is_jpeg(encoded), jpeg, other)


def _resize(image, size, channels=3):
    """Resizes to height and width, bilinear, without a filter against aliasing.

    The first ImageNet recipes for TPUs were bicubic and the later ones
    bilinear; that takes a third of the time, and a crop is seldom more than
    twice the size of the result.
    """
    # From float32 it takes half the time that it takes from uint8.
    image = tf.cast(image, tf.float32)
    # Casting cuts off: half a level makes it round.
    resized = tf.image.resize(image, size) + 0.5
    return tf.ensure_shape(tf.cast(resized, tf.uint8), (*size, channels))
