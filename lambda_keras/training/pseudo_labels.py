"""Pseudo-labels: what a teacher says of images, where it is sure.

The predictions of all images come first, since which of them are the most
confident of a class is a question about all of them; then the choice, from a
few numbers per image; then the images that were chosen are read again and
written with their labels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lambda_keras.data.dataset import AnySplit
from lambda_keras.data.dataset import FileSplit
from lambda_keras.data.dataset import Split
from lambda_keras.data.encoded import encoded_images
from lambda_keras.data.record_writer import encode_image
from lambda_keras.data.record_writer import make_example
from lambda_keras.data.record_writer import shard_bounds
from lambda_keras.data.record_writer import shard_path
from lambda_keras.data.record_writer import write_shard
from lambda_keras.training.predictions import PredictionFiles
from lambda_keras.training.predictions import Predictions


@dataclass(frozen=True)
class Selection:
    """The images to keep.

    Args:
        indices: Which, ascending; one that is repeated is there repeatedly.
        confident: By class, how many images are confident enough.
        kept: By class, how many of them are kept.
        written: By class, how many there are with repetitions.
        per_class: The most that a class may have.
    """

    indices: np.ndarray
    confident: np.ndarray
    kept: np.ndarray
    written: np.ndarray
    per_class: int


def select(
    predictions: Predictions,
    num_classes: int,
    min_confidence: float = 0.5,
    per_class: int | None = None,
    repeat: bool = False,
) -> Selection:
    """Chooses the most confident images of each class.

    Args:
        predictions: The predictions of all images.
        num_classes: The number of classes.
        min_confidence: The least probability of the likeliest class.
        per_class: The most images of a class. By default the share that each
            would have if all images were kept and evenly spread, so that no
            class can crowd out the others.
        repeat: Whether a class with fewer has its images repeated until it
            has as many, the most confident ones first; [Noisy Student](
            https://arxiv.org/abs/1911.04252) repeats random ones. Otherwise
            it has fewer.

    Returns:
        A `Selection`. Of equally confident images the first are kept.

    Example:

    >>> predictions = Predictions(
    ...     predicted=np.array([0, 0, 0, 1]),
    ...     confidence=np.array([0.6, 0.9, 0.8, 0.4]),
    ...     known=np.full(4, -1),
    ... )
    >>> select(predictions, num_classes=2).indices
    array([1, 2])
    """
    if per_class is None:
        per_class = -(-len(predictions.predicted) // num_classes)
    confident, kept, written, chosen = [], [], [], []
    for label in range(num_classes):
        (members,) = np.nonzero(
            (predictions.predicted == label)
            & (predictions.confidence >= min_confidence)
        )
        order = np.argsort(-predictions.confidence[members], kind="stable")
        best = members[order[:per_class]]
        confident.append(len(members))
        kept.append(len(best))
        if repeat:
            # An empty class stays empty.
            best = np.resize(best, per_class if len(best) else 0)
        written.append(len(best))
        chosen.append(best)
    return Selection(
        indices=np.sort(np.concatenate(chosen)),
        confident=np.array(confident),
        kept=np.array(kept),
        written=np.array(written),
        per_class=per_class,
    )


def read_images(
    split: AnySplit, indices: np.ndarray, name: str
) -> Iterator[tuple[bytes, str]]:
    """Reads images as they are in their files; arrays become PNGs.

    Args:
        split: The images.
        indices: Which of them, ascending, maybe repeatedly.
        name: What arrays are called, before their number.

    Yields:
        The bytes of an image, and where it came from.
    """
    if isinstance(split, Split):
        for index in indices:
            yield encode_image(split.images[index]), f"{name}/{index}"
        return
    if isinstance(split, FileSplit):
        split = FileSplit(split.paths[indices], split.labels[indices])
        repeats = np.ones(len(indices), int)
    else:
        first, end = indices[0], indices[-1] + 1
        split = split.part(first, end)
        repeats = np.bincount(indices - first, minlength=end - first)
    images = encoded_images(split).as_numpy_iterator()
    for image, times in zip(images, repeats, strict=True):
        if times and not image["image"]:
            raise OSError(
                f"{image['name'].decode()} could be read before, but not now."
            )
        for _ in range(times):
            yield image["image"], image["name"].decode()


def write_selection(
    directory: Path,
    split: AnySplit,
    selection: Selection,
    predictions: Predictions,
    files: PredictionFiles,
    class_names: tuple[str, ...],
    *,
    shards: int,
    name: str,
) -> None:
    """Writes what was chosen as TFRecord shards that are not there yet.

    Args:
        directory: Where to write.
        split: The images.
        selection: Which of them.
        predictions: Their classes.
        files: Their probabilities, if it keeps them.
        class_names: One name per class, or none.
        shards: The number of shards.
        name: What arrays are called.
    """
    indices = selection.indices
    for shard, (first, end) in enumerate(shard_bounds(len(indices), shards)):
        path = shard_path(directory, "train", shard, shards)
        if path.exists():
            continue
        chosen = indices[first:end]
        soft: Iterator[np.ndarray | None] = iter([None] * len(chosen))
        if files.min_confidence is not None:
            soft = files.probabilities(chosen)
        write_shard(
            path,
            (
                make_example(
                    image,
                    label=int(predictions.predicted[index]),
                    class_names=class_names or None,
                    probabilities=probabilities,
                    filename=filename,
                )
                for index, probabilities, (image, filename) in zip(
                    chosen, soft, read_images(split, chosen, name), strict=True
                )
            ),
        )
