"""What a run says of the models that it left."""

import dataclasses
import json
from pathlib import Path

from lambda_keras.data.crop import CENTER
from lambda_keras.data.crop import WHOLE
from lambda_keras.training.run_directory import RECIPE
from lambda_keras.training.run_directory import SUMMARY


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """The run that a model is from.

    Attributes:
        dataset: The images that it was trained on.
        data_dir: Where tensorflow-datasets has them.
        crop: What evaluation takes of an image, `"center"` or `"whole"`; None
            where that is not known.
    """

    dataset: str
    data_dir: str | None
    crop: str | None


def find_run(path: Path) -> TrainedRun | None:
    """Finds the run that has left a model.

    Args:
        path: The file of the model, or a link to it.

    Returns:
        A `TrainedRun`; None if the file is in the directory of none.

    Raises:
        ValueError: If what the run has written cannot be read.
    """
    # A checkpoint is in a directory of its own.
    for directory in path.resolve().parents[:2]:
        try:
            recipe = json.loads((directory / RECIPE).read_text())
            summary = {}
            if (directory / SUMMARY).exists():
                summary = json.loads((directory / SUMMARY).read_text())
            return TrainedRun(
                recipe["dataset"],
                recipe["data_dir"],
                summary.get("crop", _guess_crop(recipe)),
            )
        except FileNotFoundError:
            continue
        except (
            OSError,
            ValueError,
            # Of JSON that is something else.
            KeyError,
            TypeError,
            AttributeError,
        ) as error:
            raise ValueError(
                "`model` must be in the directory of a run that can be read "
                f"({error}). Received: model={path}"
            ) from error
    return None


def _guess_crop(recipe):
    """Tells from a recipe what a run that has not ended does."""
    kind = recipe["dataset"].partition(":")[0]
    if kind == "digits":
        return WHOLE
    if kind in ("folder", "tfrecord") or recipe["image_size"]:
        return CENTER
    return None  # The images of tensorflow-datasets may be files or arrays.
