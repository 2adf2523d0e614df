"""Makes the golden files of timm's models: `python -m tests.golden.make_timm`.

Needs torch and timm. What can be drawn again is not stored: a file has the
names and shapes of timm's tensors, and what timm computes from them.
"""

from pathlib import Path
from typing import Any

import numpy as np

from tests.golden.stream import draw_images
from tests.golden.stream import sample
from tests.timm_models import TIMM_NAMES
from tests.timm_models import make_timm_model
from tests.timm_models import timm_outputs
from tests.timm_models import timm_state

CLASSES = 10
# An eighth of the width. At 128 pixels, maps are larger than the window of
# the local layers in c3, and no map is square at 64 x 96.
WIDTH_FACTOR = 1 / 8
IMAGE_SIZES = ((128, 128), (64, 96))


def golden_path(name: str, size: tuple[int, int]) -> Path:
    """Returns the path of a model's file for images of a size."""
    height, width = size
    return Path(__file__).parent / f"{name}_{height}x{width}.npz"


def make_golden(name: str, size: tuple[int, int]) -> dict[str, Any]:
    """Returns what a file holds: what timm computes for images of a size."""
    model = make_timm_model(
        name,
        num_classes=CLASSES,
        width_factor=WIDTH_FACTOR,
        # Of use to the model with global tables; the others take any.
        img_size=size,
    )
    state = timm_state(model)
    outputs = timm_outputs(model.double(), draw_images((1, *size, 3)))
    return {
        "names": list(state),
        # As text, because their lengths differ.
        "shapes": [str(array.shape) for array in state.values()],
        **{key: sample(x).astype("float32") for key, x in outputs.items()},
    }


def main() -> None:
    """Makes a file for each model and size of images."""
    for name in TIMM_NAMES:
        for size in IMAGE_SIZES:
            path = golden_path(name, size)
            np.savez_compressed(path, **make_golden(name, size))


if __name__ == "__main__":
    main()
