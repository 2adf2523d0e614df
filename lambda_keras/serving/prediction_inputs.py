"""Encoded images by their names: files, folders of them, and records."""

import dataclasses
import glob
import hashlib
import itertools
import os
import re
import stat
from collections.abc import Iterator
from collections.abc import Sequence

import tensorflow as tf
from google.protobuf.message import DecodeError

from lambda_keras.data.records import count_records
from lambda_keras.serving.ahead import map_ahead
from lambda_keras.serving.images import SIGNATURES
from lambda_keras.serving.images import TOO_LARGE
from lambda_keras.serving.images import UNREADABLE

# Beside the statuses of a request, whose image has always arrived.
MISSING = "missing"

RECORDS = "tfrecord:"
# A folder may have anything in it. More than the pixels that are decoded take,
# 8 bytes each, no image has.
MAX_FILE_BYTES = 1 << 28
# Disks and networks answer several at a time. Enough files ahead for these
# threads to be busy while a batch is taken at once.
READERS, FILES_AHEAD = 16, 32


@dataclasses.dataclass(frozen=True)
class EncodedImage:
    """What there is of an image before it is decoded.

    Args:
        name: Its path, or that of its file with the number of the record.
        content: The JPEG or PNG file; empty if it could not be read.
        status: Why it could not be read, else None.
    """

    name: str
    content: bytes = b""
    status: str | None = None


@dataclasses.dataclass(frozen=True)
class Files:
    """Image files, each read when its turn comes.

    Args:
        paths: Their paths.
    """

    paths: Sequence[str]

    def __len__(self):
        return len(self.paths)

    def marks(self) -> Iterator[bytes]:
        """Yields what tells these images, in order, from others."""
        # The same name is another file in another directory.
        return (os.fsencode(os.path.abspath(path)) for path in self.paths)

    def read(self, first: int) -> Iterator[EncodedImage]:
        """Yields the images from number `first` on."""
        paths = itertools.islice(self.paths, first, None)
        return map_ahead(_read_file, paths, READERS, FILES_AHEAD)


@dataclasses.dataclass(frozen=True)
class Records:
    """A file of TFRecords in ImageNet's schema.

    Args:
        path: The file, on a disk or as `gs://`.
        count: How many records it has.
    """

    path: str
    count: int

    def __len__(self):
        return self.count

    def marks(self) -> Iterator[bytes]:
        """Yields what tells these images, in order, from others."""
        is_remote = "://" in self.path
        path = self.path if is_remote else os.path.abspath(self.path)
        yield f"{RECORDS}{path}#{self.count}".encode(errors="replace")

    def read(self, first: int) -> Iterator[EncodedImage]:
        """Yields the images from number `first` on."""
        number = first
        while number < self.count:
            records = tf.data.TFRecordDataset(self.path).skip(number)
            status, end = UNREADABLE, self.count
            try:
                for record in records.take(
                    self.count - number
                ).as_numpy_iterator():
                    yield _parse(self._name(number), record)
                    number += 1
            # Behind a wrong checksum TensorFlow reads no further; but skipping
            # looks at none.
            except tf.errors.DataLossError:
                end = number + 1
            except tf.errors.NotFoundError:
                status = MISSING
            except tf.errors.OpError:
                pass
            # Without an error: of a file that has become shorter.
            while number < end:
                yield EncodedImage(self._name(number), status=status)
                number += 1

    def _name(self, number):
        return f"{show_path(self.path)}#{number}"


class Inputs:
    """All images to predict, in order.

    Args:
        parts: Files and records.
    """

    def __init__(self, parts: Sequence[Files | Records]):
        self.parts = parts

    def __len__(self):
        return sum(map(len, self.parts))

    def digest(self) -> str:
        """Computes a SHA-256 that other names, or another order, change."""
        sha = hashlib.sha256()
        for part in self.parts:
            for mark in part.marks():
                # No path has a zero byte.
                sha.update(mark + b"\0")
        return sha.hexdigest()

    def read(self, first: int = 0) -> Iterator[EncodedImage]:
        """Reads the images as they are in their files, in order.

        Args:
            first: How many to leave out at the beginning; they are not read.

        Yields:
            An `EncodedImage`, also for what cannot be read.
        """
        for part in self.parts:
            if first < len(part):
                yield from part.read(first)
            first = max(0, first - len(part))


def find_inputs(images: str | None, paths: Sequence[str] = ()) -> Inputs:
    """Finds images by their names, without reading them.

    Args:
        images: Files, folders, patterns and `tfrecord:PATH`, separated by
            commas. Of a folder these are all files in it and in its folders
            but hidden ones, sorted by their paths, as are those of a pattern.
        paths: The same one by one, which come first.

    Returns:
        The `Inputs`.

    Raises:
        ValueError: If one of these names no images.
        OSError: If a folder cannot be listed.

    Example:

    ```python
    inputs = find_inputs("photos,more/*.png,tfrecord:shards")
    for image in inputs.read():
        print(image.name, len(image.content))
    ```
    """
    parts: list[Files | Records] = []
    for name in [*paths, *_split(images)]:
        found = (
            _find_records(name)
            if name.startswith(RECORDS)
            else _find_files(name)
        )
        if not found:
            raise ValueError(
                "`images` must be files, folders, patterns or tfrecord:PATH, "
                f"each with images. Received: images={name}, where there are "
                "none"
            )
        parts += found
    return Inputs(parts)


def _split(images):
    if images is None:
        return []
    # A name may have commas itself.
    is_one = os.path.lexists(os.path.expanduser(images))
    return [images] if is_one else images.split(",")


def show_path(path: str) -> str:
    """Returns a path as text that can be written: not all of them are UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _find_files(name):
    if "://" in name:
        raise ValueError(
            "`images` must be on a disk of this machine, unless they are "
            f"records. Received: images={name}"
        )
    path = os.path.expanduser(name)
    # A file may be called photo[1].jpg.
    found = [path] if os.path.lexists(path) else glob.glob(path, recursive=True)
    paths: list[str] = []
    for path in sorted(found):
        paths += _list_folder(path) if os.path.isdir(path) else [path]
    # A pattern may name a folder and what is in it.
    paths = list(dict.fromkeys(paths))
    return [Files(paths)] if paths else []


def _list_folder(folder):
    def fail(error):
        raise error

    paths, seen = [], set()
    # A link may lead to a folder that it is in.
    for directory, folders, files in os.walk(
        folder, followlinks=True, onerror=fail
    ):
        place = os.path.realpath(directory)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(x for x in folders if not x.startswith("."))
        paths += [
            os.path.join(directory, file)
            for file in files
            if not file.startswith(".")
        ]
    return sorted(paths)


def _find_records(name):
    try:
        paths = _list_records(os.path.expanduser(name.removeprefix(RECORDS)))
    # TensorFlow's functions have names as text.
    except UnicodeDecodeError as error:
        raise ValueError(
            "`images` must be where all names are UTF-8 if they are records "
            f"({error}). Received: images={show_path(name)}"
        ) from error
    if not paths:
        return []
    found = [
        Records(path, count) for path, count in zip(paths, count_records(paths))
    ]
    _check_first(paths[0])
    return found


def _list_records(pattern):
    if not tf.io.gfile.isdir(pattern):
        return sorted(tf.io.gfile.glob(pattern)) if pattern else []
    return sorted(
        path
        for path in tf.io.gfile.glob(os.path.join(pattern, "*"))
        if re.search("-of-|[.]tfrecord", path.rpartition("/")[2])
    )


def _check_first(path):
    """Looks at one record, for what would be wrong with all of them."""
    # A broken one is left for its row to tell.
    for record in tf.data.TFRecordDataset(path).take(1).ignore_errors():
        if _parse(path, record.numpy()).status is not None:
            raise ValueError(
                "Records must have ImageNet's features, among them "
                f"image/encoded. Received: {path}"
            )


def _parse(name, record):
    try:
        features = tf.train.Example.FromString(record).features.feature
        # Asking for what is not there would add it.
        (content,) = (
            features["image/encoded"].bytes_list.value
            if "image/encoded" in features
            else ()
        )
    except (DecodeError, ValueError):
        return EncodedImage(name, status=UNREADABLE)
    return EncodedImage(name, content)


def _read_file(path):
    name = show_path(path)
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            # To open a pipe would be to wait for a writer.
            return EncodedImage(name, status=UNREADABLE)
        with open(path, "rb") as file:
            start = file.read(max(map(len, SIGNATURES)))
            if not start.startswith(SIGNATURES):
                # Enough to tell that it is no image: it may be a film.
                return EncodedImage(name, start)
            if status.st_size > MAX_FILE_BYTES:
                return EncodedImage(name, status=TOO_LARGE)
            return EncodedImage(name, start + file.read())
    except FileNotFoundError:
        return EncodedImage(name, status=MISSING)
    except OSError:
        return EncodedImage(name, status=UNREADABLE)
