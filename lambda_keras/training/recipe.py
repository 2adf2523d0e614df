"""What a training run is told to do."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any


def setting(
    default: Any,
    help: str,
    *,
    expects: str = "",
    valid: Callable[[Any], bool] | None = None,
) -> Any:
    """Declares one field of a recipe: default, help text, allowed values.

    Args:
        default: The value when nothing else is said.
        help: A sentence for `--help`.
        expects: The allowed values in words, for the error.
        valid: Function that is true of the allowed values.

    Returns:
        A `dataclasses.field`.
    """
    return dataclasses.field(
        default=default,
        metadata={"help": help, "expects": expects, "valid": valid},
    )


def _at_least_one(value: int) -> bool:
    return value >= 1


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of a training run; the command line has a flag for each.

    The same recipe trains every model that it is given to, so that runs of
    different models can be compared.

    Args: see the help text of each field.

    Example:

    >>> Recipe(model="resnet_tiny", epochs=20).batch_size
    32
    """

    model: str = setting(
        "lambda_resnet_tiny",
        "The model to train: lambda_resnet_tiny, resnet_tiny or "
        "attention_tiny.",
    )
    dataset: str = setting("digits", "The images to train it on: digits.")
    epochs: int = setting(
        20,
        "Passes over the training images.",
        expects="at least 1",
        valid=_at_least_one,
    )
    batch_size: int = setting(
        32,
        "Images per step.",
        expects="at least 1",
        valid=_at_least_one,
    )
    learning_rate: float = setting(
        3e-3,
        "Peak of the schedule: a linear rise, then half a cosine down to 0.",
        expects="a number above 0",
        valid=lambda value: 0 < value < math.inf,
    )
    warmup_share: float = setting(
        0.1,
        "Part of all steps in which the learning rate rises.",
        expects="at least 0 and below 1",
        valid=lambda value: 0 <= value < 1,
    )
    weight_decay: float = setting(
        0.02,
        "Decoupled weight decay (AdamW); none on normalisation and biases.",
        expects="a number of at least 0",
        valid=lambda value: 0 <= value < math.inf,
    )
    label_smoothing: float = setting(
        0.1,
        "Part of each label that is spread over all classes.",
        expects="at least 0 and below 1",
        valid=lambda value: 0 <= value < 1,
    )
    seed: int = setting(
        0,
        "Decides initial weights, order and augmentation, never the split.",
        expects="from 0 to 2147483647",
        valid=lambda value: 0 <= value < 2**31,
    )
    output_dir: str | None = setting(
        None,
        "Where to write; new or empty. By default a new directory in runs/.",
    )

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, valid = getattr(self, field.name), field.metadata["valid"]
            if valid is not None and not valid(value):
                raise ValueError(
                    f"`{field.name}` must be {field.metadata['expects']}. "
                    f"Received: {field.name}={value}"
                )
