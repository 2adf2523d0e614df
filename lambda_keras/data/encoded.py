"""Batches of encoded images, from files or records."""

from collections.abc import Callable

import tensorflow as tf

from lambda_keras.data.bad_images import BadImages
from lambda_keras.data.dataset import FileSplit
from lambda_keras.data.dataset import RecordSplit
from lambda_keras.data.dataset import Shard
from lambda_keras.data.dataset import Split
from lambda_keras.data.order import PARALLEL_FILES
from lambda_keras.data.order import PASS
from lambda_keras.data.order import file_order
from lambda_keras.data.order import record_order
from lambda_keras.data.order import seed_pair
from lambda_keras.data.preprocessing import Preprocessing
from lambda_keras.data.preprocessing import decode_evaluation_image
from lambda_keras.data.preprocessing import decode_training_image
from lambda_keras.data.reading import FileReader
from lambda_keras.data.reading import RecordReader
from lambda_keras.data.reading import map_or_blank

# What a network that normalizes its input takes for nothing.
GREY = 128
# Where the order is that of the file, a window has no use but takes memory.
ORDERED_RECORDS = 4096

Encoded = FileSplit | RecordSplit
Reader = FileReader | RecordReader


def training_pieces(
    split: Encoded,
    preprocessing: Preprocessing,
    batch_size: int,
    num_classes: int,
    seed: int,
    start_step: int,
    shard: Shard,
    bad_images: BadImages,
) -> tf.data.Dataset:
    """Makes an endless stream of one pipeline's pieces of the batches.

    Args: as those of `training_batches`.

    Returns:
        A `tf.data.Dataset` of uint8 images, soft labels and weights.
    """
    part_size = batch_size // shard.count
    if isinstance(split, FileSplit):
        reader: Reader = FileReader(split)
        which = file_order(len(split), seed, batch_size, start_step, shard)
        examples = which
    else:
        first, end = shard.bounds(len(split))
        reader = RecordReader(split.part(first, end), first)
        start = start_step * part_size
        which = record_order(reader, seed, start, is_read=False)
        examples = record_order(reader, seed, start)

    def decode(encoded, epoch, index):
        return decode_training_image(
            encoded, seed_pair(seed, epoch * PASS + index), preprocessing
        )

    return _decoded(
        which,
        examples,
        reader,
        decode,
        (preprocessing.image_size, preprocessing.image_size, 3),
        part_size // shard.pieces,
        num_classes,
        bad_images,
        needs_label=True,
    )


def evaluation_pieces(
    split: Encoded,
    preprocessing: Preprocessing,
    piece_size: int,
    padding: int,
    num_classes: int,
    bad_images: BadImages,
) -> tf.data.Dataset:
    """Makes one pass over a split, in order.

    Args:
        split: The images.
        preprocessing: What is done to them.
        piece_size: Examples per element.
        padding: How many examples of weight 0 there are after the last.
        num_classes: The number of classes.
        bad_images: Takes note of what cannot be read.

    Returns:
        A `tf.data.Dataset` of uint8 images, soft labels and weights.
    """
    which, examples, reader = _in_order(split, padding)
    return _decoded(
        which,
        examples,
        reader,
        lambda encoded, *_: decode_evaluation_image(encoded, preprocessing),
        (preprocessing.image_size, preprocessing.image_size, 3),
        piece_size,
        num_classes,
        bad_images,
    )


def load_arrays(
    split: Encoded,
    image_shape: tuple[int, ...],
    num_classes: int,
    bad_images: BadImages,
) -> Split:
    """Decodes all images of a split into memory.

    Args:
        split: The images, all of one size.
        image_shape: Height, width and channels.
        num_classes: The number of classes.
        bad_images: Takes note of what cannot be read, which is left out.

    Returns:
        A `Split` with soft labels.
    """

    def decode(encoded, *_):
        image = tf.io.decode_image(
            encoded, channels=image_shape[-1], expand_animations=False
        )
        return tf.ensure_shape(image, image_shape)

    which, examples, reader = _in_order(split)
    everything = _decoded(
        which,
        examples,
        reader,
        decode,
        image_shape,
        len(split),
        num_classes,
        bad_images,
        needs_label=True,
    )
    images, labels, weights = everything.get_single_element()
    is_good = weights.numpy() > 0
    return Split(images.numpy()[is_good], labels.numpy()[is_good])


def encoded_images(split: Encoded) -> tf.data.Dataset:
    """Reads the images of a split in order, as they are in their files.

    Args:
        split: The images.

    Returns:
        A `tf.data.Dataset` of dicts of two string scalars: `"image"`, which is
        empty if it could not be read, and `"name"`: its path, or that of
        its file with the number of the record.
    """
    which, examples, reader = _in_order(split)
    images = map_or_blank(
        examples,
        _padding(reader),
        lambda _, *example: (reader.parse(*example)["image"],),
        lambda: (tf.constant(""),),
        1,
    )
    return (
        tf.data.Dataset.zip(which, images.unbatch())
        .map(
            lambda which, image: {
                "image": image[1],
                "name": reader.name(which[1][None])[0],
            }
        )
        .prefetch(tf.data.AUTOTUNE)
    )


def _in_order(split, padding=0):
    """Epochs and indices of examples, with records, and what reads them."""
    zero = tf.constant(0, tf.int64)
    which = tf.data.Dataset.range(len(split)).map(lambda index: (zero, index))
    if isinstance(split, FileSplit):
        reader: Reader = FileReader(split)
        examples = which
    else:
        reader = RecordReader(split, window=ORDERED_RECORDS)
        examples = (
            tf.data.Dataset.range(len(reader.counts))
            .map(reader.read, PARALLEL_FILES, deterministic=True)
            .unbatch()
            .map(lambda index, record: (zero, index, record))
        )
    nothing = tf.data.Dataset.from_tensors(_padding(reader)).repeat(padding)
    nowhere = tf.data.Dataset.from_tensors((zero, zero - 1)).repeat(padding)
    return which.concatenate(nowhere), examples.concatenate(nothing), reader


def _padding(reader):
    zero = tf.constant(0, tf.int64)
    if isinstance(reader, FileReader):
        return zero, zero - 1
    return zero, zero - 1, tf.constant("")


def _decoded(
    which: tf.data.Dataset,
    examples: tf.data.Dataset,
    reader: Reader,
    decode: Callable[..., tf.Tensor],
    image_shape: tuple[int, ...],
    piece_size: int,
    num_classes: int,
    bad_images: BadImages,
    needs_label: bool = False,
) -> tf.data.Dataset:
    """Makes batches; `which` are the examples without their records."""

    def read(epoch, index, *record):
        parsed = reader.parse(index, *record)
        image = decode(parsed["image"], epoch, index)
        label = _soft_label(parsed, num_classes)
        if needs_label:
            tf.debugging.assert_positive(tf.reduce_sum(label))
        return image, label, tf.constant(1.0)

    def blank():
        grey = tf.fill(image_shape, tf.constant(GREY, tf.uint8))
        return grey, tf.zeros(num_classes), tf.constant(0.0)

    def report(which, piece):
        is_good, images, labels, weights = piece
        zero = tf.cond(
            tf.reduce_all(is_good),
            lambda: tf.constant(0.0),
            lambda: bad_images.report(
                reader.name(tf.boolean_mask(which[1], ~is_good))
            ),
        )
        return images, labels, weights + zero

    pieces = map_or_blank(examples, _padding(reader), read, blank, piece_size)
    which = which.batch(piece_size, drop_remainder=True)
    return tf.data.Dataset.zip(which, pieces).map(report)


def _soft_label(parsed, num_classes):
    # What an assertion finds is an unreadable image, like any other error.
    tf.debugging.assert_less(
        parsed["label"], tf.constant(num_classes, tf.int64)
    )
    soft = tf.one_hot(parsed["label"], num_classes)
    if "probabilities" in parsed:
        given = parsed["probabilities"]
        soft = tf.cond(tf.size(given) > 0, lambda: given, lambda: soft)
    return tf.ensure_shape(soft, (num_classes,))
