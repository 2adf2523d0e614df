"""Batches of a split, as tf.data pipelines."""

import tensorflow as tf

from lambda_keras.data.augmentation import random_affine
from lambda_keras.data.dataset import Affine
from lambda_keras.data.dataset import Split


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Counts the full batches in one pass over a split.

    Args:
        split: The images.
        batch_size: Examples per batch.

    Returns:
        Integer, at least 1.

    Raises:
        ValueError: If there are not enough images for one batch.
    """
    count = len(split.labels)
    if not 1 <= batch_size <= count:
        raise ValueError(
            f"`batch_size` must be from 1 to {count}, the number of training "
            f"images. Received: batch_size={batch_size}"
        )
    return count // batch_size


def training_batches(
    split: Split,
    batch_size: int,
    num_classes: int,
    *,
    augmentation: Affine | None = None,
    seed: int = 0,
) -> tf.data.Dataset:
    """Makes an endless stream of shuffled, augmented, full batches.

    Every pass over the images has a new order, and a batch may span two
    passes. Batch number n is a function of the seed and n alone: `skip(n)`
    goes on where an earlier stream stopped, without reading what it skips.

    Args:
        split: The images, in memory.
        batch_size: Examples per batch, never fewer: a replica that finds
            nothing in the last batch would make the loss NaN.
        num_classes: The number of classes.
        augmentation: Ranges of the variations, or None for none.
        seed: Integer that decides order and variations.

    Returns:
        A `tf.data.Dataset` of float32 images from 0 to 255 and one-hot labels.
    """
    steps_per_epoch(split, batch_size)  # Raises if there is none.
    count = len(split.labels)
    images, labels = tf.constant(split.images), tf.constant(split.labels)

    def shuffled(position):
        epoch = position // count
        return tf.random.experimental.index_shuffle(
            position % count, [seed, epoch], tf.constant(count - 1, tf.int64)
        )

    def make_batch(step, chosen):
        batch = tf.gather(images, chosen)
        if augmentation is not None:
            batch = random_affine(batch, [seed, step], augmentation)
        return (
            tf.cast(batch, tf.float32),
            tf.one_hot(tf.gather(labels, chosen), num_classes),
        )

    return (
        tf.data.Dataset.counter()
        .map(shuffled)
        .batch(batch_size, drop_remainder=True)
        .enumerate()
        .map(make_batch, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )


def evaluation_batches(
    split: Split, batch_size: int, num_classes: int
) -> tf.data.Dataset:
    """Makes one pass over a split, in order and to the last image.

    Args:
        split: The images, in memory.
        batch_size: Examples per batch; the last batch has what is left.
        num_classes: The number of classes.

    Returns:
        A `tf.data.Dataset` of float32 images from 0 to 255 and one-hot labels.
    """
    labels = tf.one_hot(split.labels, num_classes)
    return (
        tf.data.Dataset.from_tensor_slices((split.images, labels))
        .batch(batch_size)
        .map(lambda images, labels: (tf.cast(images, tf.float32), labels))
        .prefetch(tf.data.AUTOTUNE)
    )
