"""Reading of files and records, where any of them may be broken."""

import itertools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from lambda_keras.data.dataset import FileSplit
from lambda_keras.data.dataset import RecordRange
from lambda_keras.data.dataset import RecordSplit

BUFFER_BYTES = 8 << 20
# Records are shuffled within windows: enough of them for an order without
# seams, few enough for three windows in memory (5.5 GB of ImageNet): the one
# in use, the next, and copies on the way.
WINDOW_EXAMPLES = 16384


class FileReader:
    """Reads examples of a `FileSplit`, inside a pipeline.

    Args:
        split: The files.
    """

    def __init__(self, split: FileSplit):
        self.paths = tf.constant(split.paths, tf.string)
        self.labels = tf.constant(split.labels, tf.int64)

    def parse(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the file as `"image"` and its class as `"label"`."""
        return {
            "image": tf.io.read_file(self.name(index)),
            "label": tf.gather(self.labels, index),
        }

    def name(self, index: tf.Tensor) -> tf.Tensor:
        """Returns paths."""
        return tf.gather(self.paths, index)


class RecordReader:
    """Reads examples of a `RecordSplit`, inside a pipeline.

    Args:
        split: The records.
        base: The index of the first one.
        window: How many records at most are read at a time. A longer file is
            read in parts, for each of which what precedes it is skipped.
    """

    def __init__(
        self, split: RecordSplit, base: int = 0, window: int | None = None
    ):
        self.window = window or WINDOW_EXAMPLES
        ranges = [
            part for one in split.ranges for part in _cut(one, self.window)
        ]
        self.paths = tf.constant([one.path for one in ranges], tf.string)
        self.firsts = tf.constant([one.first for one in ranges], tf.int64)
        self.counts = tf.constant([one.count for one in ranges], tf.int64)
        self.starts = base + tf.cumsum(self.counts, exclusive=True)
        self._parse = split.parse

    def read(self, chosen: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Reads one of the split's ranges.

        Args:
            chosen: The number of the range.

        Returns:
            Indices and records; a record is empty if it could not be read.
        """
        records = read_records(
            self.paths[chosen], self.firsts[chosen], self.counts[chosen]
        )
        return *self.locate(chosen), records

    def locate(self, chosen: tf.Tensor) -> tuple[tf.Tensor]:
        """Returns the indices alone, without reading."""
        return (self.starts[chosen] + tf.range(self.counts[chosen]),)

    def parse(self, index: tf.Tensor, record: tf.Tensor) -> dict[str, Any]:
        """Returns what the split's function finds in a record."""
        return self._parse(record)

    def name(self, index: tf.Tensor) -> tf.Tensor:
        """Returns paths and the numbers of the records in them."""
        chosen = tf.searchsorted(self.starts, index, side="right") - 1
        number = (
            tf.gather(self.firsts, chosen)
            + index
            - tf.gather(self.starts, chosen)
        )
        return tf.strings.join(
            [tf.gather(self.paths, chosen), tf.strings.as_string(number)],
            separator="#",
        )


# Traced once for all pipelines of a process.
@tf.function(
    input_signature=[
        tf.TensorSpec((), tf.string),
        tf.TensorSpec((), tf.int64),
        tf.TensorSpec((), tf.int64),
    ]
)
def read_records(
    path: tf.Tensor, first: tf.Tensor, count: tf.Tensor
) -> tf.Tensor:
    """Reads consecutive records of a TFRecord file.

    Args:
        path: String scalar.
        first: int64 scalar, the number of the first record.
        count: int64 scalar, how many, at least one.

    Returns:
        A string tensor `(count,)`, empty strings for records that are not
        there or do not have their checksum.
    """

    def read(path):
        records = tf.data.TFRecordDataset(path, buffer_size=BUFFER_BYTES)
        return records.skip(first).take(count).batch(count).get_single_element()

    paths = tf.data.Dataset.from_tensors(path)
    records = _first(paths.map(read).ignore_errors(), tf.zeros((0,), tf.string))
    return tf.cond(
        tf.size(records, tf.int64) == count,
        lambda: records,
        lambda: _read_around(path, first, count),
    )


def _cut(records, size):
    """Divides a range into those of at most `size` records."""
    parts = -(-records.count // size)
    ends = [records.count * part // parts for part in range(parts + 1)]
    return [
        RecordRange(records.path, records.first + first, end - first)
        for first, end in itertools.pairwise(ends)
    ]


def _first(dataset, default):
    """The only element, or the default where there is none."""
    other = tf.data.Dataset.from_tensors(default)
    return dataset.concatenate(other).take(1).get_single_element()


def _read_around(path, first, count):
    """Reads on behind a broken record, where TensorFlow's reader ends.

    The length in front of each record says where the next one begins. No
    checksum is looked at; the image is still decoded afterwards.
    """
    paths = tf.data.Dataset.from_tensors(path)
    content = _first(paths.map(tf.io.read_file).ignore_errors(), "")
    size = tf.cast(tf.strings.length(content), tf.int64)
    records = tf.data.TFRecordDataset(path).skip(first).ignore_errors()
    records = records.take(count)
    broken = first + tf.cond(
        size > 0,
        lambda: records.reduce(tf.constant(0, tf.int64), lambda n, _: n + 1),
        # A file that is not there has no end of errors to ignore.
        lambda: tf.constant(0, tf.int64),
    )

    def read_next(number, position, records):
        length = tf.cond(
            position + 8 <= size,
            lambda: tf.io.decode_raw(
                tf.strings.substr(content, position, 8), tf.int64
            )[0],
            lambda: tf.constant(-1, tf.int64),
        )
        # 8 bytes of length, 4 of its checksum, the record, 4 of its checksum
        is_whole = (length >= 0) & (length <= size - position - 16)
        record = tf.cond(
            is_whole & (number != broken),
            lambda: tf.strings.substr(content, position + 12, length),
            lambda: "",
        )
        records = tf.cond(
            number >= first,
            lambda: records.write(tf.cast(number - first, tf.int32), record),
            lambda: records,
        )
        end = tf.where(is_whole, position + 16 + length, size)
        return number + 1, end, records

    zero = tf.constant(0, tf.int64)
    records = tf.TensorArray(
        tf.string, tf.cast(count, tf.int32), element_shape=()
    )
    *_, records = tf.while_loop(
        lambda number, *_: number < first + count,
        read_next,
        (zero, zero, records),
    )
    return records.stack()


def map_or_blank(
    examples: tf.data.Dataset,
    padding: tuple[Any, ...],
    function: Callable[..., tuple[tf.Tensor, ...]],
    blank: Callable[[], tuple[tf.Tensor, ...]],
    batch_size: int,
) -> tf.data.Dataset:
    """Maps examples and makes batches, blank where the function fails.

    The order stays, and there is one result for each example. On the good way
    it is a parallel map like any other: to catch an error on the spot takes a
    data set within a function, which TensorFlow does not optimize; with
    RandAugment that cost a third to three quarters more (measured).

    Args:
        examples: Tuples of an epoch, an index (-1: padding) and what `function`
            takes besides; a multiple of `batch_size` of them, or no end.
        padding: Such a tuple.
        function: From an example to tensors.
        blank: What padding, and an example for which that fails, become.
        batch_size: Results per batch.

    Returns:
        A `tf.data.Dataset` of batches: which results are good, and tensors.
    """
    # What never fails ends every batch. Without it nothing would come out, and
    # no error either, when no example can be read any more.
    size = batch_size + 1
    is_end = tf.data.Dataset.range(size).map(
        lambda place: tf.cast(place == batch_size, tf.int64)
    )
    ends = tf.data.Dataset.from_tensors(padding).repeat()
    stream = tf.data.Dataset.choose_from_datasets(
        [examples, ends], is_end.repeat(), stop_on_empty_dataset=True
    )

    def map_one(position, example):
        tensors = tf.cond(
            example[1] < 0, blank, lambda: tuple(function(*example))
        )
        return position, *tensors

    def fill(start, batch):
        positions, *tensors = batch
        found, end = tf.size(positions, tf.int64), positions[-1] + 1

        def spread():
            # Which of the results comes where; the one behind the last is blank
            places = tf.tensor_scatter_nd_update(
                tf.fill((end - start,), found),
                (positions - start)[:, None],
                tf.range(found),
            )
            return places < found, *(
                tf.gather(tf.concat([tensor, nothing[None]], 0), places)
                for tensor, nothing in zip(tensors, blank())
            )

        return end, tf.cond(
            end - start == found,
            lambda: (tf.ones((found,), tf.bool), *tensors),
            spread,
        )

    return (
        stream.enumerate()
        .map(map_one, tf.data.AUTOTUNE, deterministic=True)
        .ignore_errors()
        .batch(size)
        .scan(tf.constant(0, tf.int64), fill)
        .rebatch(size, drop_remainder=True)
        .map(lambda *tensors: tuple(one[:batch_size] for one in tensors))
    )
