"""Image files in a folder for each class."""

import os

import numpy as np
import tensorflow as tf

from lambda_keras.data.dataset import FileSplit
from lambda_keras.data.dataset import ImageDataset
from lambda_keras.data.subsets import SPLIT_SEED
from lambda_keras.data.subsets import TEST_SHARE
from lambda_keras.data.subsets import VALIDATION_SHARE
from lambda_keras.data.subsets import assemble
from lambda_keras.data.subsets import split_by_class

# What `tf.io.decode_image` decodes.
EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
SPLITS = ("train", "validation", "test")
OTHER_NAMES = {"validation": "val", "val": "validation"}


def load_folder(path: str) -> ImageDataset:
    """Finds the images of a folder, which are read when they are needed.

    Either it has a folder for each split, `train` and `validation` (or `val`)
    or `test` or both, and these one for each class; or it has one for each
    class, and is split by class, the same way for everyone: a tenth to choose
    by, a fifth to report on.

    Cameras that were turned (EXIF) turn no image.

    Args:
        path: The folder, on a disk or as `gs://`.

    Returns:
        An `ImageDataset`.

    Raises:
        ValueError: If there are no such folders or no images.
    """
    name, path = f"folder:{path}", os.path.expanduser(path)
    if "train" not in _list(path)[0]:
        everything, class_names = _load_classes(path)
        parts = split_by_class(
            everything.labels, (VALIDATION_SHARE, TEST_SHARE), SPLIT_SEED
        )
        if not all(map(len, parts)):
            raise ValueError(
                "`dataset` must have enough images of a class for each of "
                f"three splits. Received: dataset={name} with "
                f"{len(everything)} images of {len(class_names)} classes"
            )
        return ImageDataset(name, class_names, *map(everything.take, parts))
    train, class_names = _load_classes(os.path.join(path, "train"))
    splits = {}
    for split in ("validation", "test"):
        folder = _find_split(path, split)
        if folder is not None:
            splits[split] = _load_classes(folder, class_names)[0]
    return assemble(name, class_names, train, **splits)


def load_folder_split(
    path: str, split: str
) -> tuple[FileSplit, tuple[str, ...]]:
    """Finds the images of one split, which may be without labels.

    Args:
        path: The folder that has a folder for the split. Or one that is split
            by class, as by `load_folder`; or, for the split `"unlabelled"`,
            one that has the images themselves.
        split: Name of the folder, which has one for each class, or images.

    Returns:
        The split, and the class names, of which there are none without labels.

    Raises:
        ValueError: If there is no such split.
    """
    path = os.path.expanduser(path)
    folder = _find_split(path, split)
    if folder is None:
        folders, _ = _list(path)
        if folders and "train" not in folders and split in SPLITS:
            dataset = load_folder(path)
            return getattr(dataset, split), dataset.class_names
        if split != "unlabelled" or folders:
            raise ValueError(
                f"`split` must be a folder in {path}. Received: split={split}"
            )
        folder = path
    folders, images = _list(folder)
    if folders:
        # Of the classes to train on there may be some without images here.
        train = _find_split(path, "train")
        return _load_classes(folder, tuple(_list(train)[0]) if train else None)
    if not images:
        raise ValueError(f"There must be images in {folder}. Received: none")
    paths = np.array([os.path.join(folder, image) for image in images])
    return FileSplit(paths, np.full(len(paths), -1)), ()


def _find_split(path, split):
    folders, _ = _list(path)
    for name in (split, OTHER_NAMES.get(split)):
        if name in folders:
            return os.path.join(path, name)
    return None


def _load_classes(path, class_names=None):
    """All images in folders of classes, which are numbered by their names."""
    folders, images = _list(path)
    if class_names is None:
        class_names = tuple(folders)
    unknown = sorted(set(folders) - set(class_names))
    if unknown:
        raise ValueError(
            f"The classes in {path} must be among those to train on. "
            f"Received: {', '.join(unknown[:5])}"
        )
    paths: list[str] = []
    labels: list[int] = []
    for folder in folders:
        found = _list(os.path.join(path, folder))[1]
        paths += [os.path.join(path, folder, image) for image in found]
        labels += [class_names.index(folder)] * len(found)
    if not paths:
        raise ValueError(
            f"There must be a folder of images for each class in {path}. "
            f"Received: {len(folders)} folders with no "
            f"{', '.join(EXTENSIONS)} in them and {len(images)} images"
        )
    return FileSplit(np.array(paths), np.array(labels)), class_names


def _list(path):
    """Names of folders and of images, sorted, without hidden ones."""
    try:
        names = sorted(tf.io.gfile.listdir(path))
    except tf.errors.OpError:
        raise ValueError(
            f"`dataset` must name a folder. Received: {path}"
        ) from None
    folders, images = [], []
    for entry in names:
        name = entry.rstrip("/")
        if name.startswith("."):
            continue
        # What is called an image is not looked at: on a network that takes
        # hours for a million of them.
        if name.lower().endswith(EXTENSIONS):
            images.append(name)
        elif entry != name or tf.io.gfile.isdir(os.path.join(path, name)):
            folders.append(name)
    return folders, images
