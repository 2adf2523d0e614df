"""Handwritten digits that come with scikit-learn: no download, no account."""

import numpy as np

from lambda_keras.data.dataset import Affine
from lambda_keras.data.dataset import ImageDataset
from lambda_keras.data.dataset import Split

# A constant of the data set, not of a run: runs with different seeds are
# compared on the same test images.
SPLIT_SEED = 20210217
TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1


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


def split_by_class(
    labels: np.ndarray, shares: tuple[float, ...], seed: int
) -> list[np.ndarray]:
    """Splits examples at random, every class in the same proportions.

    Args:
        labels: The class number of each example.
        shares: The part of each class that each split after the first gets;
            the first split gets the rest.
        seed: Integer; the same seed gives the same splits.

    Returns:
        A list of `len(shares) + 1` sorted index arrays.

    Example:

    >>> labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    >>> [len(part) for part in split_by_class(labels, (0.25, 0.25), seed=0)]
    [4, 2, 2]
    """
    if min(shares) < 0 or sum(shares) >= 1:
        raise ValueError(
            "`shares` must be non-negative and leave something to the first "
            f"split. Received: shares={shares}"
        )
    generator = np.random.default_rng(seed)
    # One split that follows another takes up where the other ended.
    ends = np.cumsum(shares)
    parts: list[list[np.ndarray]] = [[] for _ in range(len(shares) + 1)]
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        cuts = np.rint(ends * len(members)).astype(int)
        *others, rest = np.split(members, cuts)
        for part, chosen in zip(parts, [rest, *others], strict=True):
            part.append(chosen)
    return [np.sort(np.concatenate(part)) for part in parts]
