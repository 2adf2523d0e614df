"""Handwritten digits that come with scikit-learn: no download, no account."""

import numpy as np

from lambda_keras.data.dataset import Affine
from lambda_keras.data.dataset import ImageDataset
from lambda_keras.data.dataset import Split
from lambda_keras.data.subsets import SPLIT_SEED
from lambda_keras.data.subsets import TEST_SHARE
from lambda_keras.data.subsets import VALIDATION_SHARE
from lambda_keras.data.subsets import split_by_class


def load_digits() -> ImageDataset:
    """Loads 1,797 scanned digits of 8 by 8 pixels in three fixed splits.

    The scans count 0 to 16 ink dots per pixel; here they run from 0 to 255
    like any other image. Every class is split in the same proportions: 1,258
    images to train on, 179 to choose by and 360 to report on. The source does
    not say who wrote which digit, so one writer's digits are in all three.

    References:

    - E. Alpaydin and C. Kaynak, [Optical Recognition of Handwritten Digits](
      https://archive.ics.uci.edu/dataset/80), 1998.
    """
    # Inside, so that the names of the data sets are known without it.
    from sklearn import datasets

    source = datasets.load_digits()
    images = np.rint(source.images * (255 / 16)).astype("uint8")[..., None]
    labels = source.target.astype("int32")
    train, validation, test = split_by_class(
        labels, (VALIDATION_SHARE, TEST_SHARE), SPLIT_SEED
    )
    return ImageDataset(
        name="digits",
        class_names=tuple(str(name) for name in source.target_names),
        train=Split(images[train], labels[train]),
        validation=Split(images[validation], labels[validation]),
        test=Split(images[test], labels[test]),
        # No flips: a mirrored 2 is no digit.
        augmentation=Affine(shift=0.1, rotation=12.0, zoom=0.12, shear=8.0),
    )
