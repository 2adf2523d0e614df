"""What a data set is: three splits of images, and how they may be varied."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """Images `(count, height, width, channels)` from 0 to 255, and classes."""

    images: np.ndarray
    labels: np.ndarray


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
    """Images in memory, split once and for all.

    Args:
        name: The name under which `load_dataset` finds it.
        class_names: One name per class, in the order of the class numbers.
        train: The split that a model learns from.
        validation: The split by which a checkpoint or a setting is chosen.
        test: The split that is looked at once, for the figure to report.
        augmentation: The variations that leave the class of an image as it is.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    augmentation: Affine

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width and channels."""
        return self.train.images.shape[1:]
