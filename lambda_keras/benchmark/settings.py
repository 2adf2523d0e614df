"""What the benchmark commands are told to do."""

import dataclasses

from lambda_keras.settings import Settings
from lambda_keras.settings import choice
from lambda_keras.settings import count
from lambda_keras.settings import non_negative
from lambda_keras.settings import positive
from lambda_keras.settings import setting


@dataclasses.dataclass(frozen=True)
class InputBenchmark(Settings):
    """Settings of `lambda-keras benchmark input`.

    Args: see the help text of each field.

    Example:

    >>> InputBenchmark(repeats=5).dataset
    'synthetic'
    """

    dataset: str = setting(
        "synthetic",
        "The images: synthetic (JPEG files like ImageNet's, made on the spot), "
        "folder:PATH, tfds:NAME or tfrecord:PATH.",
    )
    data_dir: str | None = setting(
        None,
        "Where tensorflow-datasets keeps what it prepared; may be gs://.",
    )
    image_size: int = count(224, "Height and width that a model is fed with.")
    randaugment_layers: int = count(
        2, "RandAugment: how many operations follow each other."
    )
    randaugment_magnitude: float = non_negative(
        15.0, "RandAugment: how strong they are; 10 is full scale."
    )
    batch_size: int = count(64, "Images per batch.")
    image_dtype: str = choice(
        "bfloat16",
        "Of the batches: bfloat16, as in the recipes for ImageNet, or float32.",
        ("bfloat16", "float32"),
    )
    seconds: float = positive(1.0, "How long to measure a stage each time.")
    repeats: int = count(5, "How often everything is measured.", least=3)
    output_dir: str | None = setting(
        None,
        "Where to write: new or empty. By default a new directory in runs/.",
    )
