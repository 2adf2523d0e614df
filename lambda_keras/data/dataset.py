"""What a data set is: three splits of images, and how they may be varied."""

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Split:
    """Images in memory.

    Args:
        images: Array `(count, height, width, channels)` from 0 to 255.
        labels: Array `(count,)` of class numbers, -1 where there is none, or
            `(count, classes)` of probabilities.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self):
        return len(self.images)

    def part(self, first: int, end: int) -> "Split":
        """Returns the examples from `first` to before `end`."""
        return Split(self.images[first:end], self.labels[first:end])

    def take(self, chosen: np.ndarray) -> "Split":
        """Returns the examples of these numbers."""
        return Split(self.images[chosen], self.labels[chosen])


@dataclass(frozen=True, eq=False)
class FileSplit:
    """Image files, each read when its turn comes.

    Args:
        paths: Array `(count,)` of paths, on a disk or as `gs://`.
        labels: Array `(count,)` of class numbers, -1 where there is none.
    """

    paths: np.ndarray
    labels: np.ndarray

    def __len__(self):
        return len(self.paths)

    def part(self, first: int, end: int) -> "FileSplit":
        """Returns the examples from `first` to before `end`."""
        return FileSplit(self.paths[first:end], self.labels[first:end])

    def take(self, chosen: np.ndarray) -> "FileSplit":
        """Returns the examples of these numbers."""
        return FileSplit(self.paths[chosen], self.labels[chosen])


@dataclass(frozen=True)
class RecordRange:
    """Some consecutive records of a TFRecord file.

    Args:
        path: The file.
        first: The number of the first record.
        count: How many records, at least one.
    """

    path: str
    first: int
    count: int


@dataclass(frozen=True, eq=False)
class RecordSplit:
    """Records of TFRecord files, several files of which are read at a time.

    Args:
        ranges: The records, in order.
        parse: Function that takes a record, a scalar string tensor, to a dict
            of `"image"`, the encoded image; `"label"`, an int64 class number,
            -1 where there is none; and optionally `"probabilities"`, a float32
            vector that is empty where `"label"` is to be taken.
    """

    ranges: tuple[RecordRange, ...]
    parse: Callable[[Any], dict[str, Any]]

    def __len__(self):
        return sum(records.count for records in self.ranges)

    def part(self, first: int, end: int) -> "RecordSplit":
        """Returns the examples from `first` to before `end`."""
        ranges, position = [], 0
        for records in self.ranges:
            low = max(first - position, 0)
            high = min(end - position, records.count)
            if low < high:
                ranges.append(
                    RecordRange(records.path, records.first + low, high - low)
                )
            position += records.count
        return RecordSplit(tuple(ranges), self.parse)


AnySplit = Split | FileSplit | RecordSplit


@dataclass(frozen=True)
class Affine:
    """Ranges of a random affine augmentation, each drawn per image.

    Args:
        shift: The largest shift along each axis, as a part of its size.
        rotation: The largest rotation either way, in degrees.
        zoom: The largest relative change of size, along each axis on its own.
        shear: The largest horizontal shear, in degrees.
    """

    shift: float = 0.0
    rotation: float = 0.0
    zoom: float = 0.0
    shear: float = 0.0


@dataclass(frozen=True)
class ImageDataset:
    """Images and their classes, split once and for all.

    Args:
        name: The name under which `load_dataset` finds it.
        class_names: One name per class, in the order of the class numbers.
        train: The split that a model learns from.
        validation: The split by which a checkpoint or a setting is chosen.
        test: The split that is looked at once, for the figure to report.
        augmentation: Variations of images in memory that leave their class
            as it is; None for encoded images.
        notes: What a reader of results should know about the splits, one
            sentence each.
    """

    name: str
    class_names: tuple[str, ...]
    train: AnySplit
    validation: AnySplit
    test: AnySplit
    augmentation: Affine | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def image_shape(self) -> tuple[int | None, ...]:
        """Height, width and channels; the first two are None if they vary."""
        if isinstance(self.train, Split):
            return self.train.images.shape[1:]
        return (None, None, 3)


@dataclass(frozen=True)
class Shard:
    """Which part of every global batch one input pipeline makes.

    A global batch is cut into `count * pieces` equal parts in order; pipeline
    `index` makes `pieces` of them, one per element.

    Args:
        index: The number of this pipeline, from 0.
        count: How many pipelines there are: one per host.
        pieces: How many elements are the pipeline's part of a global batch:
            one per replica of the host.
    """

    index: int = 0
    count: int = 1
    pieces: int = 1

    def __post_init__(self):
        if not 0 <= self.index < self.count or self.pieces < 1:
            raise ValueError(
                "`index` must be from 0 to below `count`, and `pieces` at "
                f"least 1. Received: index={self.index}, count={self.count}, "
                f"pieces={self.pieces}"
            )

    def bounds(self, count: int) -> tuple[int, int]:
        """Divides examples evenly among the hosts.

        Args:
            count: How many examples there are.

        Returns:
            The first example of this host, and the first that is not.
        """
        return (
            count * self.index // self.count,
            count * (self.index + 1) // self.count,
        )
