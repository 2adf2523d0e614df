"""Fixed choices of examples: constants of a data set, not of a run."""

import dataclasses
import math

import numpy as np

from lambda_keras.data.dataset import AnySplit
from lambda_keras.data.dataset import FileSplit
from lambda_keras.data.dataset import ImageDataset
from lambda_keras.data.dataset import RecordSplit
from lambda_keras.data.dataset import Split

# Runs with different seeds are compared on the same images.
SPLIT_SEED = 20210217
TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1
# The paper chooses by 20 of ImageNet's 1024 shards for training.
HELD_OUT_SHARE = 0.02


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


def balanced_subset(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Chooses examples at random, as many of each class as there can be.

    Args:
        labels: The class number of each example.
        count: How many to choose.
        seed: Integer; the same seed gives the same examples, and fewer of them
            are among more.

    Returns:
        A sorted index array.

    Example:

    >>> labels = np.array([0, 0, 0, 0, 0, 1, 1, 2])
    >>> labels[balanced_subset(labels, 6, seed=0)]
    array([0, 0, 0, 1, 1, 2])
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    found = labels[by_class]
    # The first of each class come before all second ones.
    ranks = np.arange(len(labels)) - np.searchsorted(found, found)
    # Which class has one more, where it does not come out even, is random.
    places = np.argsort(order)[by_class]
    return np.sort(by_class[np.lexsort((places, ranks))[:count]])


def keep_labels(
    split: Split | FileSplit, count: int, num_classes: int
) -> tuple[Split | FileSplit, Split | FileSplit]:
    """Keeps the labels of some training images.

    Args:
        split: The images.
        count: How many keep their label.
        num_classes: The number of classes, each of which has some.

    Returns:
        Those images, and the others without labels.

    Raises:
        ValueError: If that many cannot be kept.
    """
    if not num_classes <= count < len(split):
        raise ValueError(
            f"`labels` must be from {num_classes}, the number of classes, to "
            f"below {len(split)}, the number of training images. "
            f"Received: labels={count}"
        )
    kept = balanced_subset(split.labels, count, SPLIT_SEED)
    others = split.take(np.setdiff1d(np.arange(len(split)), kept))
    nothing = np.full(len(others), -1)
    return split.take(kept), dataclasses.replace(others, labels=nothing)


def hold_out(split: AnySplit) -> tuple[AnySplit, AnySplit]:
    """Divides training images into those to learn from and those to choose by.

    Args:
        split: Images, of which every class loses the same part; or records,
            of which the last ones are held out, as whoever writes records
            shuffles them.

    Returns:
        The two parts.

    Raises:
        ValueError: If there are fewer than two images.
    """
    count = len(split)
    if count < 2:
        raise ValueError(
            "There must be at least two training images, as some are held "
            f"out to choose by. Received: {count}"
        )
    held_out = math.ceil(HELD_OUT_SHARE * count)
    if isinstance(split, RecordSplit):
        end = count - held_out
        return split.part(0, end), split.part(end, count)
    train, chosen = split_by_class(split.labels, (HELD_OUT_SHARE,), SPLIT_SEED)
    if not len(chosen):
        # No class has enough images for its share to be one of them.
        train, chosen = train[:-1], train[-1:]
    return split.take(train), split.take(chosen)


def assemble(
    name: str,
    class_names: tuple[str, ...],
    train: AnySplit,
    validation: AnySplit | None = None,
    test: AnySplit | None = None,
) -> ImageDataset:
    """Makes a data set of the splits that there are.

    Of a single split beside the one for training it is said to be for
    reporting: then a part of the training images is held out to choose by.

    Args:
        name: The data set's name.
        class_names: One name per class.
        train: The training images.
        validation: A split to choose by.
        test: A split to report on.

    Returns:
        An `ImageDataset`, whose `notes` say what was done.
    """
    notes = []
    if validation is None or test is None:
        # ImageNet's figures are those of what it calls validation.
        test = validation if test is None else test
        all_images = len(train)
        train, validation = hold_out(train)
        notes.append(
            f"{name} has no split to choose by: {len(validation):,} of its "
            f"{all_images:,} training images are held out for that."
        )
        if test is None:
            test = validation
            notes.append(
                f"{name} has no split to report on: figures are of the images "
                "that the model was chosen by, and flatter it."
            )
    return ImageDataset(
        name, class_names, train, validation, test, notes=tuple(notes)
    )
