"""RandAugment: a few operations drawn for each image, at one magnitude.

The operations, their scales and the grey of empty places are those of
tensorflow/tpu, `models/official/efficientnet/autoaugment.py`, by which
EfficientNets and ResNet-RS were trained. They take and give uint8 images
`(height, width, 3)`. What that implementation computes and its names do not
say is kept, and noted where it is.

Reference:

- [RandAugment](https://arxiv.org/abs/1909.13719)
"""

import functools
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

# Magnitudes count in tenths of each operation's full scale.
FULL_SCALE = 10.0
GREY = 128
MAX_DEGREES = 30.0
MAX_SHEAR = 0.3
# In pixels, whatever the size of the image.
MAX_TRANSLATION = 100.0
MAX_CUTOUT = 40.0
MAX_ADDITION = 110.0
# Of `tf.image.rgb_to_grayscale`, which scales by 255 one way and by 255.5 back.
LUMA = tuple(weight * 255.5 / 255 for weight in (0.2989, 0.587, 0.114))

# One of the operations: an image and three numbers from [0, 1) that are its
# random choices; most have none.
Operation = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def rand_augment(
    image: tf.Tensor, draws: tf.Tensor, magnitude: float
) -> tf.Tensor:
    """Applies an operation for each row of `draws`, one after another.

    Args:
        image: uint8 tensor `(height, width, 3)`.
        draws: Tensor `(layers, 4)`, uniform in `[0, 1)`. The first of a row
            chooses the operation, the others are what it chooses itself.
        magnitude: How strong the operations are; 10 is full scale.

    Returns:
        A tensor of the same shape and dtype.
    """
    operations, shape = make_operations(magnitude).values(), image.shape
    for layer in range(draws.shape[0]):
        image = tf.switch_case(
            tf.cast(draws[layer, 0] * len(operations), tf.int32),
            [
                functools.partial(operation, image, draws[layer, 1:])
                for operation in operations
            ],
        )
        # Where pieces of random sizes are put together it is not known.
        image = tf.ensure_shape(image, shape)
    return image


def make_operations(magnitude: float) -> dict[str, Operation]:
    """Returns the sixteen operations at a magnitude, by their names.

    Args:
        magnitude: A number from 0; 10 is full scale, and beyond it the scale
            goes on.

    Returns:
        A dictionary of functions of an image and of the operation's own
        random choices: three numbers in `[0, 1)`.
    """
    level = magnitude / FULL_SCALE
    factor = 1.8 * level + 0.1
    # There is no ninth bit to keep, and the first must stay.
    bits = min(max(int(4 * level), 1), 8)
    # From 10 on more than a uint8, which tensorflow/tpu leaves to NumPy (it
    # used to wrap around) and tensorflow/models cuts off.
    threshold = min(int(256 * level), 255)
    addition = int(MAX_ADDITION * level)
    shear = MAX_SHEAR * level
    pixels = round(MAX_TRANSLATION * level)

    angle = math.radians(MAX_DEGREES * level)
    reach = int(MAX_CUTOUT * level)

    def cut_out(image, draws):
        height, width = image.shape[:2]
        row, column = tf.cast(draws[1] * height, tf.int32), draws[2] * width
        return cutout(image, reach, row, tf.cast(column, tf.int32))

    return {
        "AutoContrast": lambda image, _: auto_contrast(image),
        "Equalize": lambda image, _: equalize(image),
        "Invert": lambda image, _: tf.bitwise.invert(image),
        "Rotate": lambda image, draws: rotate(image, _signed(angle, draws)),
        "Posterize": lambda image, _: posterize(image, bits),
        "Solarize": lambda image, _: solarize(image, threshold),
        "Color": lambda image, _: color(image, factor),
        "Contrast": lambda image, _: contrast(image, factor),
        "Brightness": lambda image, _: brightness(image, factor),
        "Sharpness": lambda image, _: sharpness(image, factor),
        "ShearX": lambda image, draws: shear_x(image, _signed(shear, draws)),
        "ShearY": lambda image, draws: shear_y(image, _signed(shear, draws)),
        "TranslateX": lambda image, draws: translate(
            image, _signed(pixels, draws), axis=1
        ),
        "TranslateY": lambda image, draws: translate(
            image, _signed(pixels, draws), axis=0
        ),
        "Cutout": cut_out,
        "SolarizeAdd": lambda image, _: solarize_add(image, addition),
    }


def _signed(value, draws):
    return tf.where(draws[0] < 0.5, value, -value)


def auto_contrast(image: tf.Tensor) -> tf.Tensor:
    """Stretches each channel to all of 0 to 255; a constant one stays."""
    rows = tf.cast(_to_rows(image), tf.float32)
    low = _per_channel(tf.reduce_min, rows)
    span = _per_channel(tf.reduce_max, rows) - low
    is_constant = span == 0
    low = tf.where(is_constant, 0.0, low)
    span = tf.where(is_constant, 255.0, span)
    # The product is exact, so that the quotient is cut off where it should be.
    rows = (rows - low) * 255.0 / span
    return tf.reshape(tf.cast(rows, tf.uint8), image.shape)


def _to_rows(image):
    """Channels one after another: short last axes make everything slow."""
    height, width = image.shape[:2]
    return tf.reshape(image, (height, 3 * width))


def _per_channel(reduce, rows):
    columns = reduce(rows, axis=0)
    width = rows.shape[1] // 3
    return tf.tile(reduce(tf.reshape(columns, (width, 3)), axis=0), (width,))


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Spreads the levels of each channel evenly, as PIL does."""
    channels = tf.transpose(tf.reshape(image, (-1, 3)))
    channels = tf.cast(channels, tf.int32)
    # A third of the time that `tf.math.bincount` takes.
    counts = tf.stack(
        [
            tf.histogram_fixed_width(channel, (0, 256), 256)
            for channel in tf.unstack(channels)
        ]
    )
    levels = tf.range(256)
    highest = tf.reduce_max(tf.where(counts > 0, levels, 0), axis=1)
    last = tf.gather(counts, highest[:, None], batch_dims=1)
    step = (tf.reduce_sum(counts, axis=1, keepdims=True) - last) // 255
    below = tf.cumsum(counts, axis=1, exclusive=True)
    spread = (below + step // 2) // tf.maximum(step, 1)
    # A step of 0: too few levels, or pixels, to spread.
    table = tf.where(step == 0, levels, tf.minimum(spread, 255))
    table = tf.reshape(tf.cast(table, tf.uint8), (-1,))
    places = channels + tf.constant([[0], [256], [512]])
    # On single numbers this is faster than `tf.gather`.
    spread = tf.gather_nd(table, places[..., None])
    return tf.reshape(tf.transpose(spread), image.shape)


def posterize(image: tf.Tensor, bits: int) -> tf.Tensor:
    """Keeps the first `bits` bits of each level."""
    mask = 256 - 2 ** (8 - bits)
    return tf.bitwise.bitwise_and(image, tf.constant(mask, tf.uint8))


def solarize(image: tf.Tensor, threshold: int) -> tf.Tensor:
    """Inverts the levels from `threshold` on."""
    is_high = tf.cast(image >= threshold, tf.uint8)
    # All bits where it is high: a third of the time of `tf.where`.
    return tf.bitwise.bitwise_xor(image, is_high * tf.constant(255, tf.uint8))


def solarize_add(image: tf.Tensor, addition: int) -> tf.Tensor:
    """Adds to the levels below 128."""
    is_low = tf.cast(image < 128, tf.float32)
    return _to_uint8(tf.cast(image, tf.float32) + float(addition) * is_low)


def color(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends with the image in grey."""
    pixels = tf.cast(tf.reshape(image, (-1, 3)), tf.float32)
    # Three equal columns: a product is faster than to spread one over three.
    weights = tf.constant([[weight] * 3 for weight in LUMA])
    grey = tf.reshape(tf.floor(pixels @ weights), image.shape)
    return _blend(grey, image, factor)


def contrast(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends with an even grey.

    Meant is the mean of the image, as in PIL. The implementation that the
    published figures come from divides the number of pixels by 256 instead,
    so that the grey is 196 at 224 pixels and white from 256 on.
    """
    height, width = image.shape[:2]
    return _blend(float(min(height * width // 256, 255)), image, factor)


def brightness(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends with black."""
    return _blend(0.0, image, factor)


def sharpness(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends with a smoothed image; the border stays as it is.

    A pixel counts five times, its eight neighbours once.
    """
    rows = _to_rows(image)  # Where neighbours are three places apart.
    pixels = tf.cast(rows, tf.float32)
    columns = pixels[:-2] + pixels[1:-1] + pixels[2:]
    total = columns[:, :-6] + columns[:, 3:-3] + columns[:, 6:]
    smooth = tf.floor((total + 4.0 * pixels[1:-1, 3:-3]) / 13.0)
    inner = _blend(smooth, rows[1:-1, 3:-3], factor)
    inner = tf.concat([rows[1:-1, :3], inner, rows[1:-1, -3:]], axis=1)
    rows = tf.concat([rows[:1], inner, rows[-1:]], axis=0)
    return tf.reshape(rows, image.shape)


def rotate(image: tf.Tensor, radians: tf.Tensor) -> tf.Tensor:
    """Rotates about the middle."""
    height, width = image.shape[:2]
    cosine, sine = tf.cos(radians), tf.sin(radians)
    x, y = (width - 1) / 2, (height - 1) / 2
    return _read_from(
        image,
        (cosine, -sine, x - cosine * x + sine * y),
        (sine, cosine, y - sine * x - cosine * y),
    )


def shear_x(image: tf.Tensor, shear: tf.Tensor) -> tf.Tensor:
    """Shifts each row by `shear` times its number."""
    return _read_from(image, (1.0, shear, 0.0), (0.0, 1.0, 0.0))


def shear_y(image: tf.Tensor, shear: tf.Tensor) -> tf.Tensor:
    """Shifts each column by `shear` times its number."""
    return _read_from(image, (1.0, 0.0, 0.0), (shear, 1.0, 0.0))


def _read_from(image, to_x, to_y):
    """Reads every pixel from the nearest one to where it is sent.

    `(a, b, c)` sends the pixel x, y to a x + b y + c. Indices and a gather
    take half the time of `ImageProjectiveTransformV3`, which works a place
    out for every channel.
    """
    height, width = image.shape[:2]
    y, x = np.indices((height, width), np.float32)

    def nearest(coefficients, size):
        a, b, c = coefficients
        place = tf.floor(a * x + (b * y + (c + 0.5)))
        # All that is beyond the border is on a grey frame.
        return tf.clip_by_value(place, -1.0, size) + 1.0

    framed = tf.pad(image, ((1, 1), (1, 1), (0, 0)), constant_values=GREY)
    index = nearest(to_y, height) * (width + 2) + nearest(to_x, width)
    pixels = tf.reshape(framed, (-1, 3))
    # On pieces as small as pixels this is faster than `tf.gather`.
    return tf.gather_nd(pixels, tf.cast(index, tf.int32)[..., None])


def translate(image: tf.Tensor, pixels: tf.Tensor, axis: int) -> tf.Tensor:
    """Moves the image by a whole number of pixels to the start of an axis."""
    size = image.shape[axis]
    pixels = tf.clip_by_value(pixels, -size, size)
    before, after = tf.maximum(-pixels, 0), tf.maximum(pixels, 0)
    kept = _part(image, axis, after, size - before)
    return tf.concat(
        [_grey(image, axis, before), kept, _grey(image, axis, after)], axis
    )


def cutout(
    image: tf.Tensor, reach: int, row: tf.Tensor, column: tf.Tensor
) -> tf.Tensor:
    """Greys a square that reaches so far on all sides of a place."""
    height, width = image.shape[:2]
    top, bottom = tf.maximum(row - reach, 0), tf.minimum(row + reach, height)
    left = tf.maximum(column - reach, 0)
    right = tf.minimum(column + reach, width)
    band = image[top:bottom]
    # Pieces are copied faster than a mask is applied.
    band = tf.concat(
        [band[:, :left], _grey(band, 1, right - left), band[:, right:]], axis=1
    )
    return tf.concat([image[:top], band, image[bottom:]], axis=0)


def _part(image, axis, first, last):
    return image[first:last] if axis == 0 else image[:, first:last]


def _grey(image, axis, count):
    """As much grey as there is image, but `count` long along an axis."""
    shape = tf.unstack(tf.shape(image))
    shape[axis] = count
    return tf.fill(shape, tf.constant(GREY, tf.uint8))


def _blend(degenerate, image, factor):
    """Goes `factor` of the way from a degenerate image to the image."""
    difference = tf.cast(image, tf.float32) - degenerate
    return _to_uint8(degenerate + factor * difference)


def _to_uint8(image):
    # `tf.clip_by_value` is two operations.
    clipped = tf.raw_ops.ClipByValue(
        t=image, clip_value_min=0.0, clip_value_max=255.0
    )
    return tf.cast(clipped, tf.uint8)
