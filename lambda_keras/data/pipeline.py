"""Batches of a split, as tf.data pipelines."""

import math

import numpy as np
import tensorflow as tf

from lambda_keras.data import arrays
from lambda_keras.data import encoded
from lambda_keras.data.bad_images import BadImages
from lambda_keras.data.dataset import AnySplit
from lambda_keras.data.dataset import RecordSplit
from lambda_keras.data.dataset import Shard
from lambda_keras.data.dataset import Split
from lambda_keras.data.mixing import mix
from lambda_keras.data.order import seed_pair
from lambda_keras.data.preprocessing import Preprocessing

# Keeps the random choices for a second source apart from those for the first.
OTHER_STREAM = 0x2545F491


def steps_per_epoch(split: AnySplit, batch_size: int) -> int:
    """Counts the full batches in one pass over a split.

    Args:
        split: The images.
        batch_size: Examples per batch.

    Returns:
        Integer, at least 1.

    Raises:
        ValueError: If there are not enough images for one batch.
    """
    count = len(split)
    if not 1 <= batch_size <= count:
        raise ValueError(
            f"`batch_size` must be from 1 to {count}, the number of training "
            f"images. Received: batch_size={batch_size}"
        )
    return count // batch_size


def training_batches(
    split: AnySplit,
    preprocessing: Preprocessing,
    batch_size: int,
    num_classes: int,
    *,
    seed: int = 0,
    start_step: int = 0,
    shard: Shard = Shard(),  # noqa: B008
    bad_images: BadImages | None = None,
    one_hot: bool = True,
) -> tf.data.Dataset:
    """Makes an endless stream of shuffled, augmented, full batches.

    Every pass over the images has a new order (of arrays the first 256
    passes), and a batch may span two. Batch number n is a function of the seed
    and n alone, and a stream that starts there does not read what comes before.
    How an encoded image is varied depends on neither the batch size nor the
    number of hosts.

    Arrays and files have one order for all hosts: their parts of a batch are
    together the batch of one host. Of records a host reads only its own range,
    in an order of its own.

    Args:
        split: The images.
        preprocessing: What is done to them. Of arrays: `affine`, and mixing.
        batch_size: Examples per batch of all hosts, never fewer: a replica
            that finds nothing in the last batch would make the loss NaN.
        num_classes: The number of classes.
        seed: Integer that decides order and variations.
        start_step: How many batches to leave out at the beginning.
        shard: Which part of every batch to make.
        bad_images: Takes note of what cannot be read; by default, a new one.
        one_hot: Whether labels are vectors, or else int32 class numbers.

    Returns:
        A `tf.data.Dataset` of images from 0 to 255, labels and float32
        weights: 1, or 0 for an image that could not be read and is grey.

    Raises:
        ValueError: If the arguments do not fit each other.
    """
    steps_per_epoch(split, batch_size)  # Raises if there is none.
    _check(split, preprocessing, batch_size, num_classes, shard)
    if not isinstance(split, RecordSplit) and np.min(split.labels) < 0:
        raise ValueError(
            "`split` must have a label for each image to train on. "
            f"Received: {np.sum(split.labels < 0)} images without"
        )
    mixes = preprocessing.mixup_alpha or preprocessing.cutmix_alpha
    if mixes and not one_hot:
        raise ValueError(
            "`one_hot` must be True to mix labels. Received: one_hot=False"
        )
    where = (preprocessing, batch_size, num_classes, seed, start_step, shard)
    if isinstance(split, Split):
        pieces = arrays.training_pieces(split, *where)
    else:
        if bad_images is None:
            bad_images = BadImages(len(split))
        pieces = encoded.training_pieces(split, *where, bad_images)

    def finish(number, piece):
        images, labels, weights = piece
        if mixes:
            step, piece = number // shard.pieces, number % shard.pieces
            piece += (step * shard.count + shard.index) * shard.pieces
            images, labels = mix(
                images,
                labels,
                weights,
                seed_pair(seed, piece),
                mixup_alpha=preprocessing.mixup_alpha,
                cutmix_alpha=preprocessing.cutmix_alpha,
            )
        if not one_hot:
            labels = tf.argmax(labels, axis=-1, output_type=tf.int32)
        return tf.cast(images, preprocessing.dtype), labels, weights

    return (
        pieces.enumerate(start_step * shard.pieces)
        .map(finish, tf.data.AUTOTUNE, deterministic=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def mixed_training_batches(
    labelled: AnySplit,
    other: AnySplit,
    share: float,
    preprocessing: Preprocessing,
    batch_size: int,
    num_classes: int,
    *,
    other_preprocessing: Preprocessing | None = None,
    seed: int = 0,
    start_step: int = 0,
    shard: Shard = Shard(),  # noqa: B008
    bad_images: BadImages | None = None,
    other_bad_images: BadImages | None = None,
    one_hot: bool = True,
) -> tf.data.Dataset:
    """Makes batches with a share of another source, as of pseudo-labels.

    The examples of the two alternate in the same way in every batch, so that
    each device gets its share of both. Mixup and CutMix stay within a source.

    Args:
        labelled: The images with labels of their own.
        other: The others. Encoded ones beside arrays are decoded into memory
            and must have their size.
        share: The part of every batch that comes from `other`.
        preprocessing: What is done to the images.
        batch_size: Examples of both per batch of all hosts.
        num_classes: The number of classes.
        other_preprocessing: What is done to those of `other`, if not the same.
        seed: Integer that decides order and variations.
        start_step: How many batches to leave out at the beginning.
        shard: Which part of every batch to make.
        bad_images: Takes note of what cannot be read; by default, a new one.
        other_bad_images: Likewise of `other`.
        one_hot: Whether labels are vectors, or else int32 class numbers.

    Returns:
        A `tf.data.Dataset` as from `training_batches`.

    Raises:
        ValueError: If the arguments do not fit each other.
    """
    sizes = mixed_sizes(batch_size, share, shard)
    if other_bad_images is None:
        other_bad_images = BadImages(len(other))
    if isinstance(labelled, Split) and not isinstance(other, Split):
        other = encoded.load_arrays(
            other, labelled.images.shape[1:], num_classes, other_bad_images
        )
    first = training_batches(
        labelled,
        preprocessing,
        sizes[0],
        num_classes,
        seed=seed,
        start_step=start_step,
        shard=shard,
        bad_images=bad_images,
        one_hot=one_hot,
    )
    second = training_batches(
        other,
        other_preprocessing or preprocessing,
        sizes[1],
        num_classes,
        # Else both would have the same order, variations and partners.
        seed=seed ^ OTHER_STREAM,
        start_step=start_step,
        shard=shard,
        bad_images=other_bad_images,
        one_hot=one_hot,
    )
    parts = shard.count * shard.pieces
    count, total = sizes[1] // parts, batch_size // parts
    is_other = np.diff(np.arange(total + 1) * count // total).astype(bool)
    places = np.argsort(np.argsort(is_other, kind="stable"))

    def merge(one, two):
        return tuple(
            tf.gather(tf.concat(pair, axis=0), places) for pair in zip(one, two)
        )

    return tf.data.Dataset.zip(first, second).map(
        merge, tf.data.AUTOTUNE, deterministic=True
    )


def mixed_sizes(
    batch_size: int,
    share: float,
    shard: Shard = Shard(),  # noqa: B008
) -> tuple[int, int]:
    """Divides batches between a labelled and another source.

    Args:
        batch_size: Examples per batch of all hosts.
        share: The part that comes from the other source, above 0 and below 1.
        shard: Into how many parts a batch is cut; each has examples of both.

    Returns:
        The examples per batch of each.

    Example:

    >>> mixed_sizes(32, 0.3, Shard(pieces=2))
    (22, 10)
    """
    piece = _piece_size(batch_size, shard)
    count = round(share * piece)
    if not 0 < share < 1 or not 0 < count < piece:
        raise ValueError(
            "`share` must leave each source at least one example of the "
            f"{piece} that a device gets. Received: share={share}, "
            f"batch_size={batch_size}"
        )
    parts = shard.count * shard.pieces
    return (piece - count) * parts, count * parts


def evaluation_batches(
    split: AnySplit,
    preprocessing: Preprocessing,
    batch_size: int,
    num_classes: int,
    *,
    shard: Shard = Shard(),  # noqa: B008
    bad_images: BadImages | None = None,
) -> tf.data.Dataset:
    """Makes one pass over a split, in order, in full batches.

    Every example is in one batch of one host, and all hosts have as many
    batches. What is missing in the last ones is filled up with examples of
    weight 0; the others weigh as much more than 1 as makes the mean over all
    batches, which `Model.evaluate` returns as the loss, the mean over the
    examples. One that cannot be read has no loss in that mean; in weighted
    metrics it does not count at all.

    Args:
        split: The images.
        preprocessing: What is done to them.
        batch_size: Examples per batch of all hosts.
        num_classes: The number of classes.
        shard: Which part of every batch to make.
        bad_images: Takes note of what cannot be read; by default, a new one.

    Returns:
        A `tf.data.Dataset` of images from 0 to 255, one-hot labels and float32
        weights.

    Raises:
        ValueError: If the arguments do not fit each other.
    """
    _check(split, preprocessing, batch_size, num_classes, shard)
    first, end = shard.bounds(len(split))
    part, part_size = split.part(first, end), batch_size // shard.count
    batches = math.ceil(math.ceil(len(split) / shard.count) / part_size)
    padding = batches * part_size - (end - first)
    piece_size = part_size // shard.pieces
    if isinstance(part, Split):
        pieces = arrays.evaluation_pieces(
            part, piece_size, padding, num_classes
        )
    else:
        if bad_images is None:
            bad_images = BadImages(len(split))
        pieces = encoded.evaluation_pieces(
            part, preprocessing, piece_size, padding, num_classes, bad_images
        )
    scale = batches * batch_size / len(split)
    # Keras has to know how many there are to begin anew under a strategy.
    return (
        pieces.map(
            lambda images, labels, weights: (
                tf.cast(images, preprocessing.dtype),
                labels,
                weights * scale,
            )
        )
        .prefetch(tf.data.AUTOTUNE)
        .apply(tf.data.experimental.assert_cardinality(batches * shard.pieces))
    )


def load_examples(
    split: AnySplit,
    preprocessing: Preprocessing,
    batch_size: int,
    num_classes: int,
    bad_images: BadImages | None = None,
) -> Split:
    """Reads a split into memory, as evaluation has it.

    Args: as those of `evaluation_batches`.

    Returns:
        A `Split` of float32 images and class numbers, -1 where there is none,
        without the images that cannot be read.
    """
    batches = evaluation_batches(
        split,
        preprocessing,
        min(len(split), batch_size),
        num_classes,
        bad_images=bad_images,
    )
    images, labels, weights = map(np.concatenate, zip(*batches))
    classes = np.where(labels.any(axis=-1), labels.argmax(axis=-1), -1)
    is_there = weights > 0
    return Split(images[is_there].astype("float32"), classes[is_there])


def _check(split, preprocessing, batch_size, num_classes, shard):
    _piece_size(batch_size, shard)
    if len(split) < shard.count:
        raise ValueError(
            f"`split` must have at least {shard.count} images, the number of "
            f"hosts. Received: {len(split)} images"
        )
    size = preprocessing.image_size
    if isinstance(split, Split):
        if size is not None and (size, size) != split.images.shape[1:3]:
            raise ValueError(
                "`image_size` must be left out for images in memory, or be "
                f"theirs. Received: image_size={size} for images of shape "
                f"{split.images.shape[1:]}"
            )
        if preprocessing.randaugment_layers:
            raise ValueError(
                "`randaugment_layers` must be 0 for images in memory. Received:"
                f" randaugment_layers={preprocessing.randaugment_layers}"
            )
    elif preprocessing.affine is not None:
        raise ValueError(
            "`affine` must be None for encoded images. "
            f"Received: affine={preprocessing.affine}"
        )
    if not isinstance(split, Split) and size is None:
        raise ValueError(
            "`image_size` must be given for encoded images. "
            "Received: image_size=None"
        )
    if not isinstance(split, RecordSplit):
        labels = split.labels
        is_soft = labels.ndim == 2
        given = labels.shape[1] if is_soft else labels.max() + 1
        if given > num_classes or (is_soft and given < num_classes):
            raise ValueError(
                f"`num_classes` must be {'' if is_soft else 'at least '}"
                f"{given} for these labels. "
                f"Received: num_classes={num_classes}"
            )


def _piece_size(batch_size, shard):
    parts = shard.count * shard.pieces
    if batch_size < 1 or batch_size % parts:
        raise ValueError(
            f"`batch_size` must be a multiple of {parts}, the number of "
            f"devices. Received: batch_size={batch_size}"
        )
    return batch_size // parts
