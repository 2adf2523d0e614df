"""Numbers that can be drawn again: what golden files need not store."""

import math
import zlib
from collections.abc import Sequence

import numpy as np


def draw_tensor(name: str, shape: Sequence[int]) -> np.ndarray:
    """Draws a tensor of a timm model from a stream of its own.

    `RandomState` is frozen: NumPy promises the same numbers for ever. Batch
    statistics are drawn, too, and no scale is zero, so that all that a model
    computes can be seen in its outputs.
    """
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.asarray(random.randint(1, 1000), "int64")
    if name.endswith("running_var"):
        # Larger after a lambda layer: it multiplies inputs by inputs, and a
        # deep model would leave what float32 can tell apart.
        scale = 9 if ".post_attn." in name else 1
        return scale * random.uniform(0.5, 2, shape)
    if len(shape) > 1:
        gain = 1 if ".self_attn." in name else 2
        return random.normal(0, (gain / _terms(name, shape)) ** 0.5, shape)
    scale = 0.4 if ".conv3_1x1." in name else 1
    is_scale = name.endswith("weight")
    return scale * (random.normal(0, 0.1, shape) + is_scale)


def _terms(name: str, shape: Sequence[int]) -> int:
    """Counts what one output adds up."""
    if name.endswith("pos_emb"):
        return math.prod(shape)
    if name.endswith("conv_lambda.weight"):
        return math.prod(shape)
    return math.prod(shape[1:])


def draw_images(shape: Sequence[int]) -> np.ndarray:
    """Draws normalized images, channels last."""
    random = np.random.RandomState(sum(shape))
    return random.normal(0, 1, shape).astype("float32")


def sample(features: np.ndarray) -> np.ndarray:
    """Takes about a thousand numbers from all over a feature map."""
    # Odd, so that none of the channels is passed over.
    step = features.size // 1000 | 1
    return features.ravel()[::step]
