"""The data sets by name."""

import dataclasses

from lambda_keras.data.dataset import AnySplit
from lambda_keras.data.dataset import ImageDataset
from lambda_keras.data.dataset import RecordSplit
from lambda_keras.data.digits import load_digits
from lambda_keras.data.subsets import keep_labels

SOURCES = (
    "digits",
    "tfds:NAME[/CONFIG][:VERSION]",
    "folder:PATH",
    "tfrecord:PATH",
)


def load_dataset(
    name: str,
    data_dir: str | None = None,
    labels: int | None = None,
    download: bool = False,
) -> ImageDataset:
    """Loads the data set of that name: what it is made of, not its images.

    Args:
        name: `digits`; `tfds:NAME`, a set that tensorflow-datasets has
            prepared; `folder:PATH`, a folder for each class; or
            `tfrecord:PATH`, shards of ImageNet's schema.
        data_dir: Where tensorflow-datasets keeps what it prepared.
        labels: Keep that many training images only, as many of each class and
            the same for everyone. The others are the split `"unlabelled"`.
        download: Whether tensorflow-datasets may download and prepare.

    Returns:
        An `ImageDataset`.

    Raises:
        ValueError: If there is no such data set, or if it is not what it must
            be.
    """
    kind, place = _parse(name, data_dir)
    if kind == "digits":
        dataset = load_digits()
    elif kind == "tfds":
        from lambda_keras.data.tfds import load_tfds

        dataset = load_tfds(place, data_dir, download)
    elif kind == "folder":
        from lambda_keras.data.folder import load_folder

        dataset = load_folder(place)
    else:
        from lambda_keras.data.records import load_records

        dataset = load_records(place)
    if labels is None:
        return dataset
    return dataclasses.replace(dataset, train=_keep_labels(dataset, labels)[0])


def load_split(
    name: str,
    split: str,
    data_dir: str | None = None,
    labels: int | None = None,
    download: bool = False,
) -> tuple[AnySplit, tuple[str, ...]]:
    """Loads one split by its own name, with labels or without.

    Args:
        name: As for `load_dataset`.
        split: A split of the source: of tensorflow-datasets also a part, as
            `"train[2%:]"`; of a folder also the name of a folder in it. With
            `labels`, `"unlabelled"` is the training images that do not keep
            their labels.
        data_dir: As for `load_dataset`.
        labels: As for `load_dataset`.
        download: As for `load_dataset`.

    Returns:
        The split, whose labels may be -1 for none, and the class names, of
        which there may be none.

    Raises:
        ValueError: If there is no such split.
    """
    kind, place = _parse(name, data_dir)
    if labels is not None:
        if split not in ("train", "unlabelled"):
            raise ValueError(
                "`split` must be train or unlabelled with `labels`. "
                f"Received: split={split}, labels={labels}"
            )
        dataset = load_dataset(name, data_dir, download=download)
        kept, others = _keep_labels(dataset, labels)
        return (kept if split == "train" else others), dataset.class_names
    if kind == "tfds":
        from lambda_keras.data.tfds import load_tfds_split

        return load_tfds_split(place, split, data_dir, download)
    if kind == "folder":
        from lambda_keras.data.folder import load_folder_split

        return load_folder_split(place, split)
    if kind == "tfrecord":
        from lambda_keras.data.records import load_records_split

        return load_records_split(place, split)
    dataset = load_digits()
    if split not in ("train", "validation", "test"):
        raise ValueError(
            "`split` must be train, validation or test, or unlabelled with "
            f"`labels`. Received: split={split}"
        )
    return getattr(dataset, split), dataset.class_names


def _parse(name, data_dir):
    kind, colon, place = name.partition(":")
    known = {source.partition(":")[0]: ":" in source for source in SOURCES}
    if known.get(kind) != bool(colon) or bool(colon) != bool(place):
        raise ValueError(
            f"`dataset` must be one of: {', '.join(SOURCES)}. "
            f"Received: dataset={name}"
        )
    if data_dir is not None and kind != "tfds":
        raise ValueError(
            "`data_dir` must be left out unless `dataset` begins with tfds:. "
            f"Received: data_dir={data_dir}, dataset={name}"
        )
    return kind, place


def _keep_labels(dataset, labels):
    if isinstance(dataset.train, RecordSplit):
        raise ValueError(
            "`labels` must be left out for records, which are not chosen one "
            "by one; tensorflow-datasets has subsets, as "
            "tfds:imagenet2012_subset/1pct. "
            f"Received: labels={labels}, dataset={dataset.name}"
        )
    return keep_labels(dataset.train, labels, len(dataset.class_names))
