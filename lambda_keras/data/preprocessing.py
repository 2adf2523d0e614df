"""What is done to an image, wherever it comes from."""

from dataclasses import dataclass

import tensorflow as tf

from lambda_keras.data.crop import KERNELS
from lambda_keras.data.crop import check_interpolation
from lambda_keras.data.crop import decode_center_crop
from lambda_keras.data.crop import decode_random_crop
from lambda_keras.data.dataset import Affine
from lambda_keras.data.randaugment import rand_augment
from lambda_keras.settings import Settings
from lambda_keras.settings import choice
from lambda_keras.settings import count
from lambda_keras.settings import non_negative
from lambda_keras.settings import setting

# Two operations that draw from the same seed would draw alike.
AUGMENTATION_STREAM = 0x5851F42D4C957F2D


@dataclass(frozen=True)
class Preprocessing(Settings):
    """How images become what a model is trained and evaluated on.

    Args: see the help text of each field.

    Raises:
        ValueError: If a field has a value that is not allowed.

    Example:

    >>> Preprocessing(image_size=224, randaugment_layers=2).flip
    True
    """

    image_size: int | None = count(
        None, "Height and width of the result; None for arrays as they are."
    )
    crop_area_min: float = setting(
        0.08,
        "The least part of an image that a random crop shows.",
        expects="above 0 and at most 1",
        valid=lambda value: 0 < value <= 1,
    )
    flip: bool = setting(True, "Mirror half of the images.")
    randaugment_layers: int = count(
        0, "How many operations of RandAugment follow each other.", least=0
    )
    randaugment_magnitude: float = non_negative(
        10.0, "How strong they are; 10 is full scale, more is allowed."
    )
    mixup_alpha: float = non_negative(
        0.0, "Parameter of mixup's Beta distribution; 0 is no mixup."
    )
    cutmix_alpha: float = non_negative(
        0.0, "Likewise of CutMix; with both, each example gets one of them."
    )
    affine: Affine | None = setting(  # noqa: RUF009
        None, "Random shifts, rotations and the like of arrays."
    )
    crop: float | None = setting(
        None,
        "The part of the shorter side that evaluation shows, as timm and "
        "torchvision crop; None is the rule of `decode_center_crop`.",
        expects="above 0 and at most 1",
        valid=lambda value: 0 < value <= 1,
    )
    interpolation: str = choice(
        "bilinear", "Of evaluation with a `crop`.", tuple(KERNELS)
    )
    dtype: str = choice(
        "float32", "Of the batches of images.", ("float32", "bfloat16")
    )

    def __post_init__(self):
        super().__post_init__()
        check_interpolation(self.crop, self.interpolation)


def decode_training_image(
    encoded: tf.Tensor, seed: tf.Tensor, preprocessing: Preprocessing
) -> tf.Tensor:
    """Decodes a random crop of an image and varies it.

    The seed decides everything. Data that are no image raise
    `tf.errors.InvalidArgumentError` where the tensor is computed.

    Args:
        encoded: String scalar: JPEG, PNG, GIF (its first frame) or BMP, of
            any number of channels.
        seed: int64 tensor of two.
        preprocessing: What is done, with an `image_size`.

    Returns:
        A uint8 tensor `(image_size, image_size, 3)`.
    """
    size = _check_size(preprocessing)
    image = decode_random_crop(encoded, seed, size, preprocessing.crop_area_min)
    layers = preprocessing.randaugment_layers
    if not (preprocessing.flip or layers):
        return image
    # All in one draw: a draw costs more than a flip.
    stream = tf.bitwise.bitwise_xor(
        tf.cast(seed, tf.int64), tf.constant([AUGMENTATION_STREAM, 0], tf.int64)
    )
    draws = tf.random.stateless_uniform((1 + 4 * layers,), stream)
    if preprocessing.flip:
        # The raw operation takes a decision, where `tf.cond` would cost more
        # than the flip.
        image = tf.raw_ops.Reverse(
            tensor=image, dims=tf.stack([False, draws[0] < 0.5, False])
        )
    return rand_augment(
        image,
        tf.reshape(draws[1:], (layers, 4)),
        preprocessing.randaugment_magnitude,
    )


def decode_evaluation_image(
    encoded: tf.Tensor, preprocessing: Preprocessing
) -> tf.Tensor:
    """Decodes the centre of an image.

    Args:
        encoded: String scalar: JPEG, PNG, GIF (its first frame) or BMP, of
            any number of channels.
        preprocessing: What is done, with an `image_size`.

    Returns:
        A uint8 tensor `(image_size, image_size, 3)`.
    """
    return decode_center_crop(
        encoded,
        _check_size(preprocessing),
        crop=preprocessing.crop,
        interpolation=preprocessing.interpolation,
    )


def _check_size(preprocessing):
    if preprocessing.image_size is None:
        raise ValueError(
            "`image_size` must be given for encoded images. "
            "Received: image_size=None"
        )
    return preprocessing.image_size
