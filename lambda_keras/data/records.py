"""TFRecord shards in the schema that ImageNet is usually kept in."""

import dataclasses
import json
import logging
import os
import re
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tensorflow as tf

from lambda_keras.data.dataset import ImageDataset
from lambda_keras.data.dataset import RecordRange
from lambda_keras.data.dataset import RecordSplit
from lambda_keras.data.record_writer import LABELS_FILE
from lambda_keras.data.subsets import assemble
from lambda_keras.files import write_aside

IMAGENET_CLASSES = 1000
HEADER = struct.Struct("<QI")  # length of the record, checksum of the length
FOOTER_BYTES = 4
GZIP = b"\x1f\x8b"
COUNTED_TOGETHER = 64

logger = logging.getLogger(__name__)


def load_records(path: str) -> ImageDataset:
    """Finds the shards of a directory.

    They are called `train-*`, `validation-*` and `test-*`, where the last two
    may be missing, and hold `image/encoded` and `image/class/label`, which is
    1 for the first class: 0 is not used. Line n of `labels.txt` names class n;
    without this file there are 1,000 classes without names, as of ImageNet.

    Args:
        path: The directory, on a disk or as `gs://`.

    Returns:
        An `ImageDataset`.

    Raises:
        ValueError: If there are no such shards.
    """
    given = _load_class_names(path)
    class_names = given or tuple(
        str(number) for number in range(1, IMAGENET_CLASSES + 1)
    )
    splits = {
        split: _load_shards(path, split)
        for split in ("train", "validation", "test")
        if split == "train" or _find_shards(path, split)
    }
    for split, records in splits.items():
        _check_first(records, split, class_names)
    dataset = assemble(f"tfrecord:{path}", class_names, **splits)
    if given:
        return dataset
    note = f"tfrecord:{path} has no {LABELS_FILE}: 1,000 classes without names."
    return dataclasses.replace(dataset, notes=(*dataset.notes, note))


def load_records_split(
    path: str, split: str
) -> tuple[RecordSplit, tuple[str, ...]]:
    """Finds the shards of one split, which may be without labels.

    Args:
        path: The directory.
        split: What the names of its shards begin with.

    Returns:
        The split, and the class names, of which there may be none.

    Raises:
        ValueError: If there are no such shards.
    """
    class_names = _load_class_names(path)
    records = _load_shards(path, split)
    _check_first(records, split, class_names, is_labelled=False)
    return records, class_names


def parse_example(record: tf.Tensor) -> dict[str, tf.Tensor]:
    """Reads an example of ImageNet's schema.

    Args:
        record: String scalar, a serialized `tf.train.Example`.

    Returns:
        A dict as `RecordSplit` wants it.
    """
    features = tf.io.parse_single_example(
        record,
        {
            "image/encoded": tf.io.FixedLenFeature((), tf.string),
            "image/class/label": tf.io.FixedLenFeature((), tf.int64, 0),
            "image/class/probabilities": tf.io.FixedLenSequenceFeature(
                (), tf.float32, allow_missing=True
            ),
        },
    )
    return {
        "image": features["image/encoded"],
        "label": features["image/class/label"] - 1,
        "probabilities": features["image/class/probabilities"],
    }


def count_records(paths: Sequence[str]) -> list[int]:
    """Counts the records of files by hopping from one length to the next.

    What was counted once is remembered in the user's cache. A file that ends
    in the middle of a record counts with it, so that it is missed when it is
    read.

    Args:
        paths: The files.

    Returns:
        How many records each file has.

    Raises:
        ValueError: If one is no file of uncompressed records.
    """
    cache_path = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        / "lambda_keras"
        / "record_counts.json"
    )
    try:
        cache = json.loads(cache_path.read_text())
    except (OSError, ValueError):
        cache = {}
    # For files on a network, which answers many at a time.
    with ThreadPoolExecutor(COUNTED_TOGETHER) as pool:
        sizes, keys = zip(*pool.map(_identify, paths))
        unknown = [index for index, key in enumerate(keys) if key not in cache]
        if unknown:
            logger.info("Counting the records of %d files", len(unknown))
            counts = pool.map(
                _count,
                [paths[index] for index in unknown],
                [sizes[index] for index in unknown],
            )
            for index, count in zip(unknown, counts):
                cache[keys[index]] = count
    if unknown:
        try:
            cache_path.parent.mkdir(parents=True, exist_ok=True)
            with write_aside(cache_path) as temporary:
                temporary.write_text(json.dumps(cache))
        except OSError as error:
            logger.warning("Cannot remember how many records: %s", error)
    return [cache[key] for key in keys]


def _identify(path):
    """The size of a file, and what changes when the file does."""
    status = tf.io.gfile.stat(path)
    place = os.path.abspath(path) if _is_local(path) else path
    return status.length, f"{place} {status.length} {status.mtime_nsec}"


def _count(path, size):
    count = position = 0
    with (
        open(path, "rb")
        if _is_local(path)
        else tf.io.gfile.GFile(path, "rb") as file
    ):
        while len(header := file.read(HEADER.size)) == HEADER.size:
            if header.startswith(GZIP) and not count:
                raise ValueError(
                    "Records must not be compressed, as images already are. "
                    f"Received: {path}"
                )
            end = position + HEADER.size + HEADER.unpack(header)[0]
            end += FOOTER_BYTES
            if end > size:
                break
            count, position = count + 1, end
            file.seek(position)
    if not count:
        raise ValueError(f"There must be TFRecords in {path}. Received: none")
    return count + (position != size)


def _is_local(path):
    return "://" not in path


def _find_shards(path, split):
    pattern = os.path.join(os.path.expanduser(path), f"{split}-*")
    return sorted(tf.io.gfile.glob(pattern))


def _load_shards(path, split):
    shards = _find_shards(path, split)
    if not shards:
        raise ValueError(
            f"There must be shards {split}-* in {path}. Received: none"
        )
    announced = re.search(r"-of-(\d+)$", shards[0])
    if announced and len(shards) != int(announced[1]):
        raise ValueError(
            f"There must be {int(announced[1])} shards {split}-* in {path}. "
            f"Received: {len(shards)}"
        )
    ranges = [
        RecordRange(shard, 0, count)
        for shard, count in zip(shards, count_records(shards))
    ]
    return RecordSplit(tuple(ranges), parse_example)


def _load_class_names(path):
    file = os.path.join(os.path.expanduser(path), LABELS_FILE)
    if not tf.io.gfile.exists(file):
        return ()
    with tf.io.gfile.GFile(file) as lines:
        return tuple(lines.read().splitlines())


def _check_first(records, split, class_names, is_labelled=True):
    """Looks at one example, for what would be wrong with all of them."""
    path = records.ranges[0].path
    # A broken one is left to `BadImages`.
    for record in tf.data.TFRecordDataset(path).take(1).ignore_errors():
        try:
            parsed = records.parse(record)
        except tf.errors.InvalidArgumentError:
            raise ValueError(
                "Records must have ImageNet's features, among them "
                f"image/encoded. Received: {path}"
            ) from None
        given = tf.size(parsed["probabilities"]).numpy()
        label = parsed["label"].numpy()
        if given and class_names and given != len(class_names):
            raise ValueError(
                f"Records must have a probability for each of the "
                f"{len(class_names)} classes of {LABELS_FILE}. Received: "
                f"{given} in {path}"
            )
        if is_labelled and not given and not 0 <= label < len(class_names):
            raise ValueError(
                f"`image/class/label` must be from 1 to {len(class_names)} "
                f"in the split {split}. Received: {label + 1} in {path}"
            )
