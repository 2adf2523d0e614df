"""Photographs like ImageNet's, for who has none."""

import os
from pathlib import Path

import numpy as np
import tensorflow as tf

# The most frequent size in ImageNet.
HEIGHT, WIDTH = 375, 500
# Gives files of 99 KB. ImageNet's have 115 KB in the mean: 147.9 GB for
# 1,281,167 images. How long an image takes to decode depends on it.
QUALITY = 97
CLASSES = 4


def write_photographs(
    directory: str | os.PathLike[str], count: int, seed: int = 0
) -> float:
    """Writes JPEG files in a folder for each of a few classes.

    Each is a random part of one of the two photographs that come with
    scikit-learn, at ImageNet's most frequent size.

    Args:
        directory: Where to make the folders.
        count: How many files, at least one for each of four classes.
        seed: Integer that decides the parts.

    Returns:
        The mean size of a file in bytes.
    """
    # Inside, as it takes a second that other benchmarks need not wait.
    from sklearn import datasets

    photographs = datasets.load_sample_images().images
    generator = np.random.default_rng(seed)
    sizes = []
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        top = generator.integers(photograph.shape[0] - HEIGHT + 1)
        left = generator.integers(photograph.shape[1] - WIDTH + 1)
        part = photograph[top : top + HEIGHT, left : left + WIDTH]
        encoded = tf.io.encode_jpeg(part, quality=QUALITY).numpy()
        folder = Path(directory, f"class_{number % CLASSES}")
        folder.mkdir(exist_ok=True)
        (folder / f"{number:06d}.jpg").write_bytes(encoded)
        sizes.append(len(encoded))
    return float(np.mean(sizes))
