"""TFRecord shards of images in the schema that ImageNet is kept in."""

import itertools
import os
from collections.abc import Iterable
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from lambda_keras.files import write_aside

LABELS_FILE = "labels.txt"

# How the bytes of an image begin, and the name of that format.
SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
}


def shard_path(
    directory: str | os.PathLike[str], name: str, index: int, count: int
) -> Path:
    """Names one of several files that are a split together.

    Args:
        directory: Where they are.
        name: The split, as `"train"`.
        index: Which of them, from 0.
        count: How many there are.

    Returns:
        A path.

    Example:

    >>> shard_path("imagenet", "train", 0, 16)
    PosixPath('imagenet/train-00000-of-00016')
    """
    return Path(directory, f"{name}-{index:05d}-of-{count:05d}")


def shard_bounds(examples: int, shards: int) -> list[tuple[int, int]]:
    """Divides examples that follow each other among shards, evenly.

    Args:
        examples: How many examples there are, at least one for each shard.
        shards: How many shards.

    Returns:
        The first example of each shard and the first that is not in it.

    Example:

    >>> shard_bounds(7, 3)
    [(0, 2), (2, 4), (4, 7)]
    """
    if not 1 <= shards <= examples:
        raise ValueError(
            f"`shards` must be from 1 to {examples}, the number of examples. "
            f"Received: shards={shards}"
        )
    ends = [shard * examples // shards for shard in range(shards + 1)]
    return list(itertools.pairwise(ends))


def encode_image(image: np.ndarray) -> bytes:
    """Encodes an array as a PNG, from which it comes back bit for bit.

    Args:
        image: Array `(height, width, channels)` of uint8.

    Returns:
        The bytes of the file.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8:
        raise TypeError(
            "`image` must hold integers from 0 to 255 as uint8. "
            f"Received: image.dtype={image.dtype}"
        )
    return tf.io.encode_png(image).numpy()


def make_example(
    encoded: bytes,
    *,
    label: int | None = None,
    class_names: Sequence[str] | None = None,
    probabilities: np.ndarray | None = None,
    filename: str = "",
) -> bytes:
    """Puts an image and what is known about it into a record.

    Args:
        encoded: The image, as it is in its file.
        label: Its class from 0; the record counts from 1, as ImageNet's do.
            None leaves the class out: the image is unlabelled.
        class_names: One name per class, for the record's text.
        probabilities: A soft label: one number per class.
        filename: Where the image came from.

    Returns:
        A serialized `tf.train.Example`, the same bytes each time.
    """
    features = {
        "image/encoded": _bytes(encoded),
        "image/format": _bytes(_format(encoded).encode()),
        "image/filename": _bytes(filename.encode()),
    }
    if label is not None:
        features["image/class/label"] = tf.train.Feature(
            int64_list=tf.train.Int64List(value=[int(label) + 1])
        )
        if class_names is not None:
            features["image/class/text"] = _bytes(class_names[label].encode())
    if probabilities is not None:
        features["image/class/probabilities"] = tf.train.Feature(
            float_list=tf.train.FloatList(value=np.ravel(probabilities))
        )
    example = tf.train.Example(features=tf.train.Features(feature=features))
    # A map has no order of its own; without this it changes between runs.
    return example.SerializeToString(deterministic=True)


def write_shard(path: str | os.PathLike[str], examples: Iterable[bytes]) -> int:
    """Writes records to a file, which appears when the last one is in it.

    Args:
        path: The file.
        examples: Serialized examples, taken one at a time.

    Returns:
        How many there were.
    """
    count = 0
    with write_aside(path) as temporary:
        with tf.io.TFRecordWriter(os.fspath(temporary)) as writer:
            for example in examples:
                writer.write(example)
                count += 1
    return count


def write_labels(
    directory: str | os.PathLike[str], class_names: Sequence[str]
) -> None:
    """Writes `labels.txt`, whose line n names the class that records call n.

    Args:
        directory: Where to write.
        class_names: One name per class, without line breaks.
    """
    for name in class_names:
        if len(name.splitlines()) != 1:
            raise ValueError(
                "`class_names` must be names of one line each. "
                f"Received: {name!r}"
            )
    with write_aside(Path(directory, LABELS_FILE)) as temporary:
        temporary.write_text("\n".join(class_names) + "\n", encoding="utf-8")


def write_records(
    directory: str | os.PathLike[str],
    name: str,
    examples: Sequence[bytes],
    class_names: Sequence[str],
    shards: int = 1,
) -> list[Path]:
    """Writes a split: its shards and the names of its classes.

    Args:
        directory: Where to write; made if it is not there.
        name: The split, as `"train"`.
        examples: Serialized examples, as `make_example` returns them.
        class_names: One name per class.
        shards: The number of files.

    Returns:
        The paths of the shards.

    Example:

    ```python
    image = np.zeros((8, 8, 1), "uint8")
    example = make_example(encode_image(image), label=0)
    write_records("records", "train", [example], ["zero"])
    load_dataset("tfrecord:records")
    ```
    """
    bounds = shard_bounds(len(examples), shards)
    Path(directory).mkdir(parents=True, exist_ok=True)
    write_labels(directory, class_names)
    paths = []
    for shard, (first, end) in enumerate(bounds):
        paths.append(shard_path(directory, name, shard, shards))
        write_shard(paths[-1], examples[first:end])
    return paths


def _bytes(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _format(encoded: bytes) -> str:
    for signature, name in SIGNATURES.items():
        if encoded.startswith(signature):
            return name
    return ""
