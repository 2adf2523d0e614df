"""Which example comes when, as a function of a seed and a position alone.

A pass over a split is an epoch. Streams are endless and begin anywhere without
reading what comes before.
"""

import numpy as np
import tensorflow as tf

from lambda_keras.data.dataset import Shard
from lambda_keras.data.reading import RecordReader

PARALLEL_FILES = 16
# Numbers of one pass, so that those of the next have not been used.
PASS = 1 << 32


def array_order(count: int, seed: int, start: int = 0) -> tf.data.Dataset:
    """Makes an endless stream of the examples of passes in random order.

    The order of a pass comes again after 256 others.

    Args:
        count: The number of examples.
        seed: Integer that decides the order.
        start: How many to leave out at the beginning.

    Returns:
        A `tf.data.Dataset` of int64 indices.
    """

    # There are 256 orders, after which they come again; a better shuffle would
    # change the figures of all runs on digits.
    def shuffled(position):
        epoch = position // count
        return tf.random.experimental.index_shuffle(
            position % count, [seed, epoch], tf.constant(count - 1, tf.int64)
        )

    return tf.data.Dataset.counter(start).map(shuffled)


def file_order(
    count: int, seed: int, batch_size: int, start_step: int, shard: Shard
) -> tf.data.Dataset:
    """Makes an endless stream of this host's part of every global batch.

    Args:
        count: The number of examples.
        seed: Integer that decides the order.
        batch_size: Examples per global batch.
        start_step: How many batches to leave out at the beginning.
        shard: Which part of every batch this is.

    Returns:
        A `tf.data.Dataset` of int64 pairs of epoch and index.
    """
    start, part = start_step * batch_size, batch_size // shard.count

    def one_pass(epoch):
        order = _shuffled_range(count, seed, epoch * PASS)
        position = epoch * count + tf.range(count, dtype=tf.int64)
        host = position % batch_size // part
        mine = (position >= start) & (host == shard.index)
        indices = tf.boolean_mask(order, mine)
        return tf.data.Dataset.from_tensor_slices(
            (tf.fill(tf.shape(indices), epoch), indices)
        )

    return tf.data.Dataset.counter(start // count).flat_map(one_pass)


def record_order(
    reader: RecordReader, seed: int, start: int = 0, is_read: bool = True
) -> tf.data.Dataset:
    """Makes an endless stream of records in random order.

    The files have a new order in every pass. Some that follow each other are
    a window, which is read, shuffled and given out while the next is read.

    Args:
        reader: What reads the records.
        seed: Integer that decides the order.
        start: How many to leave out at the beginning; only the files of the
            window with the first one that is wanted are read again.
        is_read: Whether to read the records, or only to say which they are.

    Returns:
        A `tf.data.Dataset` of epoch and index, both int64, and the record,
        if it is read, which is empty where it could not be.
    """
    counts = reader.counts.numpy()
    ranges, examples = len(counts), int(counts.sum())
    group = max(1, min(ranges, reader.window * ranges // examples))

    def windows(epoch):
        order = tf.data.Dataset.from_tensor_slices(
            _shuffled_range(ranges, seed, epoch * PASS)
        )
        return order.batch(group).enumerate(epoch * PASS + 1)

    read = reader.read if is_read else reader.locate

    def read_window(number, chosen):
        size = tf.reduce_sum(tf.gather(reader.counts, chosen))
        files = tf.data.Dataset.from_tensor_slices(chosen)
        # One by one into the window, so that there are no copies of it.
        return (
            files.map(read, PARALLEL_FILES, deterministic=True)
            .unbatch()
            .batch(size)
            .map(lambda *tensors: (number, *tensors))
        )

    def shuffle_window(number, *tensors):
        order = _shuffled_range(tf.size(tensors[0]), seed, number)
        # One at a time: a shuffled copy would be a third window in memory.
        return tf.data.Dataset.from_tensor_slices(order).map(
            lambda chosen: (
                number // PASS,
                *(tensor[chosen] for tensor in tensors),
            )
        )

    epoch, offset = divmod(start, examples)
    # What comes before the window of the first one that is wanted
    order = _shuffled_range(ranges, seed, epoch * PASS).numpy()
    ends = np.cumsum(counts[order])[group - 1 :: group]
    skipped = int(np.searchsorted(ends, offset, side="right"))
    before = int(ends[skipped - 1]) if skipped else 0
    return (
        tf.data.Dataset.counter(epoch)
        .flat_map(windows)
        .skip(skipped)
        .flat_map(read_window)
        .prefetch(1)
        .flat_map(shuffle_window)
        .skip(offset - before)
    )


def seed_pair(seed: int, number: tf.Tensor) -> tf.Tensor:
    """Makes the seed of one of a run's many random choices.

    Args:
        seed: The seed of the run.
        number: int64 scalar that only this choice has.

    Returns:
        An int64 tensor of two.
    """
    return tf.stack(
        [tf.constant(seed, tf.int64), tf.convert_to_tensor(number, tf.int64)]
    )


def _shuffled_range(count, seed, number):
    """0 to `count - 1` in an order of its own for each seed and number."""
    # Not `index_shuffle`, which knows 256 orders only, and neighbours in them
    # are not independent. For arrays it has long been what decides.
    return tf.random.experimental.stateless_shuffle(
        tf.range(count, dtype=tf.int64), seed_pair(seed, number)
    )
