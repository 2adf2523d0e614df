"""Settings of the commands that run or convert a trained model."""

import dataclasses

from lambda_keras.settings import Settings
from lambda_keras.settings import choice
from lambda_keras.settings import count
from lambda_keras.settings import require
from lambda_keras.settings import setting
from lambda_keras.settings import share
from lambda_keras.training.recipe import Devices

# What `convert` writes.
MODEL_FILES = (".keras", ".weights.h5", ".safetensors")


@dataclasses.dataclass(frozen=True)
class InferenceSettings(Devices):
    """A trained model and images for it. Args: see the help texts."""

    model: str | None = setting(
        None,
        "A run directory (its best model), a .keras file, a training "
        "checkpoint step-*.npz, a SavedModel, timm's .safetensors, a "
        ".weights.h5 file, or the name of a model that there are ImageNet "
        "weights of, as LambdaResNet50TS.",
    )
    architecture: str | None = setting(
        None, "Whose weights a .weights.h5 file has, as lambda_resnet_50."
    )
    raw_weights: bool = setting(
        False,
        "Of a training checkpoint, take the weights themselves and not their "
        "averages.",
    )
    dataset: str = setting(
        "digits",
        "The images: digits, tfds:NAME, folder:PATH (a folder for each class) "
        "or tfrecord:PATH.",
    )
    split: str = setting("test", "Which of them.")
    data_dir: str | None = setting(
        None,
        "Where tensorflow-datasets keeps what it prepared; may be gs://.",
    )
    image_size: int | None = count(
        None, "Height and width to resize to. By default the model's own."
    )
    batch_size: int = count(256, "Images per step, over all devices.")
    max_bad_images: float = share(
        0.001,
        "Part of the images that may be unreadable; they are skipped, counted "
        "and named.",
    )

    def __post_init__(self):
        super().__post_init__()
        require(self, "model")


@dataclasses.dataclass(frozen=True)
class EvaluateSettings(InferenceSettings):
    """What `lambda-keras evaluate` is told. Args: see the help texts.

    Example:

    >>> EvaluateSettings(model="runs/mine").split
    'test'
    """

    json: bool = setting(False, "Print one line of JSON and nothing else.")
    output: str | None = setting(None, "A JSON file to write as well.")


@dataclasses.dataclass(frozen=True)
class PseudoLabelSettings(InferenceSettings):
    """What `lambda-keras pseudo_label` is told. Args: see the help texts.

    Example:

    >>> PseudoLabelSettings(model="runs/teacher", output_dir="pseudo").kind
    'soft'
    """

    split: str = setting(
        "unlabelled",
        "Which of them. Labels that they have serve only to be compared with.",
    )
    labels: int | None = count(
        None,
        "For the split unlabelled of a labelled data set: how many labelled "
        "images the teacher was trained on.",
    )
    output_dir: str | None = setting(
        None,
        "Where to write: new, empty, or what the same command was writing "
        "when it was stopped, which then goes on.",
    )
    kind: str = choice(
        "soft",
        "Labels: soft (the teacher's probabilities) or hard (its class).",
        ("soft", "hard"),
    )
    min_confidence: float = share(
        0.5, "The least probability of its likeliest class that an image needs."
    )
    per_class: int | None = count(
        None,
        "Keep this many images of a class, the most confident ones. By "
        "default the number of images divided by that of classes.",
    )
    repeat: bool = setting(
        False,
        "Repeat the images of a class that has fewer until it has as many.",
    )
    shards: int = count(16, "The number of TFRecord files to write.")
    save_batches: int = count(
        256, "After how many batches predictions are saved, to go on from."
    )

    def __post_init__(self):
        super().__post_init__()
        require(self, "output_dir")


@dataclasses.dataclass(frozen=True)
class ConvertSettings(Settings):
    """What `lambda-keras convert` is told. Args: see the help texts.

    Raises:
        ValueError: If a field has a value that is not allowed.

    Example:

    >>> ConvertSettings(from_="runs/mine", to="mine.safetensors").raw_weights
    False
    """

    from_: str | None = setting(
        None,
        "A run directory (its best model), a .keras file, a training "
        "checkpoint step-*.npz, timm's .safetensors, a .weights.h5 file, or "
        "the name of a model that there are ImageNet weights of, as "
        "LambdaResNet50TS.",
    )
    to: str | None = setting(
        None,
        "The new file: .keras, .weights.h5, or timm's .safetensors.",
    )
    architecture: str | None = setting(
        None, "Whose weights a .weights.h5 file has, as lambda_resnet_26t."
    )
    raw_weights: bool = setting(
        False,
        "Of a training checkpoint, take the weights themselves and not their "
        "averages.",
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.from_:
            # A flag may be called so, a field may not.
            raise ValueError(
                f"`from` must be given. Received: from={self.from_}"
            )
        require(self, "to")
        if not self.to.endswith(MODEL_FILES):
            raise ValueError(
                f"`to` must be a file that ends in {', '.join(MODEL_FILES)}. "
                f"Received: to={self.to}"
            )
