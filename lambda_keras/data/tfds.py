"""Data sets that tensorflow-datasets has prepared."""

import os
from typing import Any

import numpy as np
import tensorflow as tf

from lambda_keras.data.dataset import ImageDataset
from lambda_keras.data.dataset import RecordRange
from lambda_keras.data.dataset import RecordSplit
from lambda_keras.data.subsets import assemble


def load_tfds(
    name: str, data_dir: str | None = None, download: bool = False
) -> ImageDataset:
    """Finds the records of an image classification set.

    Args:
        name: `NAME`, `NAME/CONFIG` or either with `:VERSION`; or the directory
            of a prepared version.
        data_dir: Where tensorflow-datasets keeps what it prepared, on a disk
            or as `gs://`; by default `~/tensorflow_datasets`.
        download: Whether to download and prepare what is not there.

    Returns:
        An `ImageDataset`.

    Raises:
        ValueError: If there is no such set, if it is not prepared, or if it
            is not images with one class each.
    """
    builder = _open(name, data_dir, download)
    splits = {
        split: _records(builder, split)
        for split in ("train", "validation", "test")
        if split in builder.info.splits
    }
    if "train" not in splits:
        raise ValueError(
            "`dataset` must have a split train. Received: dataset="
            f"tfds:{name} with {', '.join(builder.info.splits) or 'none'}"
        )
    class_names = _class_names(builder)
    if not class_names:
        raise ValueError(
            "`dataset` must have a class for each image. Received: "
            f"dataset=tfds:{name} with the features "
            f"{', '.join(builder.info.features)}"
        )
    # ImageNet's test images come without their classes.
    labelled = {
        split: records
        for split, records in splits.items()
        if split == "train" or _is_labelled(records)
    }
    return assemble(f"tfds:{name}", class_names, **labelled)


def load_tfds_split(
    name: str,
    split: str,
    data_dir: str | None = None,
    download: bool = False,
) -> tuple[RecordSplit, tuple[str, ...]]:
    """Finds the records of one split, which may be without labels.

    Args:
        name: As for `load_tfds`.
        split: As tensorflow-datasets calls it, or a part as `"train[2%:]"`.
        data_dir: As for `load_tfds`.
        download: As for `load_tfds`.

    Returns:
        The split, and the class names, of which there may be none.

    Raises:
        ValueError: If there is no such set or split.
    """
    builder = _open(name, data_dir, download)
    return _records(builder, split), _class_names(builder)


def _open(name, data_dir, download) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise ValueError(
            "`dataset` must not begin with tfds: unless tensorflow-datasets is "
            'installed: pip install "lambda_keras[tfds]". '
            f"Received: dataset=tfds:{name}"
        ) from None
    if name.startswith((".", "~", "/")) or "://" in name:
        try:
            return tfds.builder_from_directory(os.path.expanduser(name))
        except Exception as error:
            raise ValueError(
                "`dataset` must name the directory of a version that "
                "tensorflow-datasets prepared, with its dataset_info.json. "
                f"Received: dataset=tfds:{name} ({_line(error)})"
            ) from None
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    # Each of its own kind: a wrong version is an AssertionError.
    except Exception as error:
        raise ValueError(
            "`dataset` must name a set, configuration and version that "
            f"tensorflow-datasets knows or that is in {data_dir or 'its'} "
            f"directory. Received: dataset=tfds:{name} ({_line(error)})"
        ) from None
    if not builder.is_prepared():
        if not download:
            raise ValueError(
                f"`dataset` must be prepared before: tfds build {name}"
                f"{f' --data_dir={data_dir}' if data_dir else ''}. Received: "
                f"dataset=tfds:{name}, which is not in {builder.data_path}"
            )
        builder.download_and_prepare()
    return builder


def _line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _records(builder, split) -> RecordSplit:
    import tensorflow_datasets as tfds

    name = builder.info.full_name
    file_format = builder.info.file_format
    if file_format != tfds.core.FileFormat.TFRECORD:
        raise ValueError(
            "`dataset` must be prepared as tfrecord. Received: "
            f"dataset={name}, file_format={file_format and file_format.value}"
        )
    try:
        instructions = builder.info.splits[split].file_instructions
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"`split` must be one of {', '.join(builder.info.splits)} or a "
            f"part of it, as train[2%:]. Received: split={split} of {name} "
            f"({_line(error)})"
        ) from None
    ranges = tuple(
        RecordRange(file.filename, file.skip, file.take)
        for file in instructions
        if file.take
    )
    if not ranges:
        raise ValueError(
            f"`split` must have images. Received: split={split} of {name}"
        )
    return RecordSplit(ranges, _make_parse(builder))


def _make_parse(builder):
    import tensorflow_datasets as tfds

    features = builder.info.features
    image = _find(builder, tfds.features.Image, "image")
    label = _find(builder, tfds.features.ClassLabel, "class")
    if image is None:
        raise ValueError(
            "`dataset` must have an image in each example. Received: "
            f"dataset={builder.info.full_name} with {', '.join(features)}"
        )
    dtype = np.dtype(features[image].np_dtype)
    if dtype != np.uint8:
        raise ValueError(
            "`dataset` must have images of uint8. Received: dataset="
            f"{builder.info.full_name} of {dtype}"
        )
    wanted = [image] if label is None else [image, label]
    # The others are not even parsed.
    features = tfds.features.FeaturesDict(
        {key: features[key] for key in wanted}
    )

    def parse(record):
        example = features.deserialize_example(
            record, decoders={image: tfds.decode.SkipDecoding()}
        )
        nothing = tf.constant(-1, tf.int64)
        return {
            "image": example[image],
            "label": tf.cast(example[label], tf.int64) if label else nothing,
        }

    return parse


def _find(builder, kind, what):
    names = sorted(
        name
        for name, feature in builder.info.features.items()
        # Masks are images too, of a kind of their own.
        if type(feature) is kind
    )
    if len(names) > 1:
        raise ValueError(
            f"`dataset` must have one {what} per example. Received: dataset="
            f"{builder.info.full_name} with {', '.join(names)}"
        )
    return names[0] if names else None


def _class_names(builder):
    import tensorflow_datasets as tfds

    label = _find(builder, tfds.features.ClassLabel, "class")
    return tuple(builder.info.features[label].names) if label else ()


def _is_labelled(records):
    first = records.ranges[0]
    dataset = tf.data.TFRecordDataset(first.path).skip(first.first).take(1)
    labels = [
        records.parse(record)["label"].numpy()
        for record in dataset.ignore_errors()
    ]
    return labels != [-1]
