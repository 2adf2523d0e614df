"""Batches of images in memory."""

import tensorflow as tf

from lambda_keras.data.augmentation import random_affine
from lambda_keras.data.dataset import Shard
from lambda_keras.data.dataset import Split
from lambda_keras.data.order import array_order
from lambda_keras.data.preprocessing import Preprocessing


def training_pieces(
    split: Split,
    preprocessing: Preprocessing,
    batch_size: int,
    num_classes: int,
    seed: int,
    start_step: int,
    shard: Shard,
) -> tf.data.Dataset:
    """Makes an endless stream of one pipeline's pieces of the batches.

    Args: as those of `training_batches`.

    Returns:
        A `tf.data.Dataset` of images, soft labels and weights.
    """
    images, labels = tf.constant(split.images), _soft(split.labels, num_classes)

    def make_batch(step, chosen):
        batch = tf.gather(images, chosen)
        if preprocessing.affine is not None:
            batch = random_affine(batch, [seed, step], preprocessing.affine)
        return batch, tf.gather(labels, chosen), tf.ones(batch_size)

    def cut(*batch):
        first = shard.index * shard.pieces
        size = batch_size // (shard.count * shard.pieces)
        return tf.data.Dataset.from_tensor_slices(
            tuple(
                tf.reshape(tensor, (-1, size, *tensor.shape[1:]))[
                    first : first + shard.pieces
                ]
                for tensor in batch
            )
        )

    batches = (
        array_order(len(split), seed, start_step * batch_size)
        .batch(batch_size, drop_remainder=True)
        .enumerate(start_step)
        .map(make_batch, tf.data.AUTOTUNE, deterministic=True)
    )
    if shard.count * shard.pieces == 1:
        return batches
    # Every host makes the whole batch, whose variations are drawn together.
    return batches.flat_map(cut)


def evaluation_pieces(
    split: Split, piece_size: int, padding: int, num_classes: int
) -> tf.data.Dataset:
    """Makes one pass over a split, in order.

    Args:
        split: The images.
        piece_size: Examples per element.
        padding: How many examples of weight 0 there are after the last.
        num_classes: The number of classes.

    Returns:
        A `tf.data.Dataset` of images, soft labels and weights.
    """
    count = len(split)
    images, labels = tf.constant(split.images), _soft(split.labels, num_classes)

    def make_piece(number):
        index = number * piece_size + tf.range(piece_size, dtype=tf.int64)
        chosen = tf.minimum(index, count - 1)
        weights = tf.cast(index < count, tf.float32)
        return tf.gather(images, chosen), tf.gather(labels, chosen), weights

    return tf.data.Dataset.range((count + padding) // piece_size).map(
        make_piece, tf.data.AUTOTUNE, deterministic=True
    )


def _soft(labels, num_classes):
    if labels.ndim == 2:
        return tf.constant(labels, tf.float32)
    return tf.one_hot(labels, num_classes)
