"""Encoded images of requests: each is read, or told apart, on its own."""

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from lambda_keras.data.crop import CENTER
from lambda_keras.data.crop import WHOLE
from lambda_keras.data.crop import check_interpolation
from lambda_keras.data.crop import decode_center_crop
from lambda_keras.data.crop import decode_whole
from lambda_keras.models.imagenet import evaluation_crop

OK = "ok"
EMPTY = "empty"
UNSUPPORTED = "unsupported format"
TOO_LARGE = "too large"
UNREADABLE = "unreadable"
# Of one that was read, of which the model makes no numbers.
NO_ANSWER = "no answer"
# Of photographs the center, of scans the whole.
AUTO = "auto"
# What a request may be told of an image, the codes of the graph in order.
STATUSES = (OK, EMPTY, UNSUPPORTED, TOO_LARGE, UNREADABLE, NO_ANSWER)

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# What the files begin with that can be decoded.
SIGNATURES = (b"\xff\xd8\xff", _PNG_SIGNATURE)
# In a PNG width and height follow the signature, and length and name of the
# first chunk.
_PNG_SIZE_AT = 16

# Every scan of a progressive JPEG, which usually has 10, goes over all of the
# image: 400 of them in 300 KB took 10 seconds. Bytes behind the image may look
# like scans by chance, one in 64 KB, which photographs have room for.
_START_OF_SCAN = b"\xff\xda"
_MAX_SCANS = 100
# Of these texts in a PNG each may unpack to 8 MB: 60 in 472 KB took 400 MB.
_PACKED_TEXTS = (b"zTXt", b"iTXt")
_MAX_TEXTS = 16


@dataclasses.dataclass(frozen=True)
class RequestPreprocessing:
    """How the encoded images of requests become what a model takes.

    Args:
        image_shape: Height, width and channels that the model takes.
        crop: `"center"`, the central square as in evaluation on photographs,
            or that of a spec, the part of the shorter side that it shows; or
            `"whole"`, all of the image, as of scans that fill it.
        interpolation: That of a spec, `"bilinear"` or `"bicubic"`.
        max_pixels: The most pixels of an image that is decoded. A file of a
            few kilobytes may claim to be gigabytes. For each pixel the
            process takes up to 23 bytes, and as many images are decoded at
            once as there are cores: 1.5 GB on two, by default.

    Raises:
        ValueError: If a central square is to become no square, or a field has
            a value that is not allowed.
    """

    image_shape: tuple[int, int, int]
    crop: str | float = CENTER
    interpolation: str = "bilinear"
    max_pixels: int = 1 << 25

    def __post_init__(self):
        height, width, channels = self.image_shape
        is_number = isinstance(self.crop, (int, float))
        is_part = is_number and 0 < self.crop <= 1
        if not is_part and self.crop not in (CENTER, WHOLE):
            raise ValueError(
                f"`crop` must be one of: {CENTER}, {WHOLE}; or above 0 and at "
                f"most 1. Received: crop={self.crop}"
            )
        check_interpolation(self.part, self.interpolation)
        if self.crop != WHOLE and height != width:
            raise ValueError(
                f"`crop` must be {WHOLE} where images are not square. "
                f"Received: crop={self.crop}, image_shape={self.image_shape}"
            )
        if channels not in (1, 3):
            raise ValueError(
                "Encoded images can be read with 1 or 3 channels. "
                f"Received: image_shape={self.image_shape}"
            )
        # More is also more than the graph can count.
        if not 1 <= self.max_pixels <= 1 << 31:
            raise ValueError(
                "`max_pixels` must be from 1 to 2**31. "
                f"Received: max_pixels={self.max_pixels}"
            )

    @property
    def part(self) -> float | None:
        """The part of the shorter side, where the crop is that of a spec."""
        return None if isinstance(self.crop, str) else self.crop

    def decode(self, encoded: tf.Tensor) -> tf.Tensor:
        """Decodes one image as evaluation does."""
        if self.crop == WHOLE:
            return decode_whole(encoded, self.image_shape)
        size, _, channels = self.image_shape
        return decode_center_crop(
            encoded, size, channels, self.part, self.interpolation
        )


def choose_preprocessing(
    model: keras.Model, crop: str = AUTO, **fields: Any
) -> RequestPreprocessing:
    """Chooses what is done to encoded images for a model.

    Args:
        model: The model, for images of one size.
        crop: `"whole"`, or `"center"`, which is that of the model's spec. By
            default it is the center of images of three channels.
        **fields: Others of `RequestPreprocessing`.

    Returns:
        A `RequestPreprocessing`.

    Raises:
        ValueError: If it cannot be done for images of this shape.

    Example:

    ```python
    model = LambdaResNet26T(weights="imagenet")
    preprocessing = choose_preprocessing(model)  # crop=0.94, bicubic
    export_version(model, "models/mine", preprocessing=preprocessing)
    ```
    """
    height, width, channels = shape = tuple(model.input_shape[1:])
    if crop == AUTO:
        # Photographs have three channels, and scans mostly one.
        crop = CENTER if channels == 3 and height == width else WHOLE
    part, interpolation = evaluation_crop(model.name)
    if crop == WHOLE or part is None:
        return RequestPreprocessing(shape, crop, **fields)
    return RequestPreprocessing(shape, part, interpolation, **fields)


def read_images(
    encoded: tf.Tensor, preprocessing: RequestPreprocessing
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes images side by side; what is wrong with one stays its own.

    In a graph the only operations that go on after an error are those of
    `tf.data`, which therefore does the work, in a SavedModel as well.

    Args:
        encoded: String tensor `(images,)`, of JPEG or PNG files. Other formats
            are refused: TensorFlow decodes all frames of a GIF, whatever
            memory that takes.
        preprocessing: What is done to each.

    Returns:
        uint8 images `(images, height, width, channels)`, black where there is
        none, and int32 indices into `STATUSES` `(images,)`.
    """
    # Servers do not compare shapes with the signature.
    encoded = tf.ensure_shape(encoded, (None,))
    count = tf.shape(encoded, tf.int64)[0]

    def blank():
        return tf.zeros(preprocessing.image_shape, tf.uint8)

    def read(index, item):
        status = _examine(item, preprocessing.max_pixels)
        image = tf.cond(
            status == STATUSES.index(OK),
            lambda: preprocessing.decode(item),
            blank,
        )
        return index, image, status

    index, images, statuses = (
        tf.data.Dataset.from_tensor_slices(encoded)
        # Without what never fails at the end, nothing would come out, and no
        # error either, when no image can be read.
        .concatenate(tf.data.Dataset.from_tensors(""))
        .enumerate()
        .map(read, tf.data.AUTOTUNE, deterministic=True)
        .ignore_errors()
        .batch(count + 1)
        .get_single_element()
    )
    # Those that are missing failed when they were decoded.
    place = tf.scatter_nd(
        index[:, None], tf.range(1, tf.size(index) + 1), count[None] + 1
    )[:-1]
    images = tf.concat([blank()[None], images], axis=0)
    statuses = tf.concat([[STATUSES.index(UNREADABLE)], statuses], axis=0)
    return tf.gather(images, place), tf.gather(statuses, place)


def _examine(encoded, max_pixels):
    """Says what the first bytes of a file tell, as an index of `STATUSES`."""

    def code(status):
        return lambda: tf.constant(STATUSES.index(status))

    def refuse(is_too_large):
        return tf.where(
            is_too_large, STATUSES.index(TOO_LARGE), STATUSES.index(OK)
        )

    def check_jpeg():
        pixels = _area(tf.image.extract_jpeg_shape(encoded)[:2])
        scans = _count(encoded, _START_OF_SCAN)
        return refuse(
            (pixels > max_pixels) | (pixels * scans > _MAX_SCANS * max_pixels)
        )

    def check_png():
        size = tf.strings.substr(encoded, _PNG_SIZE_AT, 8)
        size = tf.io.decode_raw(size, tf.int32, little_endian=False)
        texts = sum(_count(encoded, name) for name in _PACKED_TEXTS)
        return refuse((_area(size) > max_pixels) | (texts > _MAX_TEXTS))

    length = len(_PNG_SIGNATURE)
    is_png = tf.strings.substr(encoded, 0, length) == _PNG_SIGNATURE
    return tf.case(
        [
            (tf.strings.length(encoded) == 0, code(EMPTY)),
            (tf.io.is_jpeg(encoded), check_jpeg),
            (is_png, check_png),
        ],
        default=code(UNSUPPORTED),
    )


def _area(size):
    # Of 32 bits each, so that the product does not overflow.
    one, other = tf.unstack(tf.cast(size, tf.int64), 2)
    return one * other


def _count(text, part):
    return tf.size(tf.strings.split(text, part), tf.int64) - 1
