"""Decoding of the part of an image that is needed, and resizing of it."""

import math
from collections.abc import Callable

import tensorflow as tf

# What evaluation takes of an image.
CENTER, WHOLE = "center", "whole"

ASPECT_RATIOS = (3 / 4, 4 / 3)
ATTEMPTS = 10
# At 224 pixels both leave 7/8 of the shorter side. At fewer the second would
# leave too little: half at 32.
LEAST_PART, CROP_PADDING = 7 / 8, 32

# Of an evaluation crop with a `crop` of its own: names in specs, and those of
# the operation. Pillow's bicubic kernel is Keys' as well, with a = -1/2.
KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic"}
# How many pixels of the coarser grid the wider kernel reaches.
KERNEL_RADIUS = 2


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

    window, _ = _decode_window(encoded, choose_window)
    return _resize(window, (image_size, image_size))


def decode_center_crop(
    encoded: tf.Tensor,
    image_size: int,
    channels: int = 3,
    crop: float | None = None,
    interpolation: str = "bilinear",
) -> tf.Tensor:
    """Decodes the centre of an image.

    By default a square of `image_size / (image_size + 32)` of the shorter
    side, and at least 7/8 of it, resized without a filter against aliasing.

    With a `crop` it is what timm and torchvision show of a Pillow image: the
    shorter side resized to `floor(image_size / crop)`, with a filter against
    aliasing, and the centre of that. On photographs it differs from Pillow by
    one grey level at most, in one value of 500; where they are more than twice
    as high as wide, by two at most, in one of 10: there Pillow resizes the
    height first.

    Args:
        encoded: String scalar: JPEG, PNG, GIF (its first frame) or BMP.
        image_size: Height and width of the result.
        channels: Of the result, 1 or 3.
        crop: The part of the shorter side that is shown, or None.
        interpolation: With a `crop`, `"bilinear"` or `"bicubic"`.

    Returns:
        A uint8 tensor `(image_size, image_size, channels)`.
    """
    if crop is not None:
        return _decode_like_pillow(
            encoded, image_size, channels, crop, KERNELS[interpolation]
        )
    window, _ = _decode_window(
        encoded, lambda shape: _center_window(shape, image_size), channels
    )
    return _resize(window, (image_size, image_size), channels)


def check_interpolation(crop: float | None, interpolation: str) -> None:
    """Raises an error unless an evaluation crop can be resized that way.

    Args:
        crop: The part of the shorter side that is shown, or None.
        interpolation: `"bilinear"` or `"bicubic"`.

    Raises:
        ValueError: If there is no such kernel, or none without a `crop`.
    """
    if interpolation not in KERNELS:
        raise ValueError(
            f"`interpolation` must be one of: {', '.join(KERNELS)}. "
            f"Received: interpolation={interpolation}"
        )
    if crop is None and interpolation != "bilinear":
        raise ValueError(
            "`interpolation` must be bilinear where `crop` is None. "
            f"Received: interpolation={interpolation}, crop=None"
        )


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
    image, _ = _decode_window(
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
    dct_method: str = "",
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes the window that `choose_window` wants of an image's shape.

    The shape of the whole image comes with it.
    """

    def jpeg():
        # Only a JPEG can be decoded in part, which takes half the time.
        shape = tf.image.extract_jpeg_shape(encoded)
        bounds = choose_window(shape)

        def decode(channels):
            return tf.image.decode_and_crop_jpeg(
                encoded, bounds, channels, dct_method=dct_method
            )

        if channels != 1:
            return decode(channels), shape
        # Of the four channels of CMYK the decoder makes colours, but no grey.
        window = tf.cond(
            shape[2] == 4,
            lambda: tf.image.rgb_to_grayscale(decode(3)),
            lambda: decode(1),
        )
        return window, shape

    def other():
        image = tf.image.decode_image(
            encoded, channels, expand_animations=False
        )
        shape = tf.shape(image)
        top, left, height, width = tf.unstack(choose_window(shape))
        return image[top : top + height, left : left + width], shape

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


def _decode_like_pillow(encoded, image_size, channels, crop, kernel):
    """The centre of an image that Pillow would have resized.

    Only the pixels that the result depends on are decoded, and the resized
    image, which may be a thousand times as wide as it is high, is never made.
    """
    resized_side = math.floor(image_size / crop)

    def place(shape):
        """Says of height and width where the crop lies, in both images."""
        shape = tf.cast(shape[:2], tf.int64)
        resized = resized_side * shape // tf.reduce_min(shape)
        ratio = shape / resized
        # To the even number where it is half of one, as Python rounds.
        offset = tf.round((resized - image_size) / 2)
        # One pixel more, against the rounding of these numbers.
        margin = KERNEL_RADIUS * tf.maximum(ratio, 1) + 1
        first = tf.cast(offset * ratio - margin, tf.int64)
        last = tf.cast((offset + image_size) * ratio + margin, tf.int64)
        first, last = tf.maximum(first, 0), tf.minimum(last + 1, shape)
        return ratio, offset, first, last - first

    def choose_window(shape):
        _, _, first, size = place(shape)
        return tf.cast(tf.concat([first, size], axis=0), tf.int32)

    window, shape = _decode_window(
        encoded, choose_window, channels, dct_method="INTEGER_ACCURATE"
    )
    ratio, offset, first, _ = place(shape)
    scale = tf.cast(1 / ratio, tf.float32)
    begin = tf.cast(tf.cast(first, ratio.dtype) / ratio - offset, tf.float32)

    def resize(image, axis):
        """Resizes the first axis of an image, which is height or width."""
        shape = tf.shape(image)
        # The operation adds up rows, the faster the longer they are.
        rows = tf.raw_ops.ScaleAndTranslate(
            images=tf.reshape(image, (1, shape[0], 1, -1)),
            size=[image_size, 1],
            scale=tf.stack([scale[axis], 1.0]),
            translation=tf.stack([begin[axis], 0.0]),
            kernel_type=kernel,
            antialias=True,
        )
        # A cubic kernel overshoots. Half a level makes the cast round.
        rows = tf.cast(tf.clip_by_value(rows + 0.5, 0, 255), tf.uint8)
        return tf.reshape(rows, (image_size, shape[1], channels))

    # As Pillow does the width first, and to whole grey levels in between.
    image = resize(tf.transpose(window, (1, 0, 2)), axis=1)
    image = resize(tf.transpose(image, (1, 0, 2)), axis=0)
    return tf.ensure_shape(image, (image_size, image_size, channels))
