"""Settings of the commands that export models and predict with them."""

import dataclasses
from pathlib import Path

from lambda_keras.settings import Settings
from lambda_keras.settings import choice
from lambda_keras.settings import count
from lambda_keras.settings import require
from lambda_keras.settings import setting

FORMATS = ("onnx", "litert", "openvino")
PRECISIONS = ("float32", "bfloat16", "float16", "int8")
RESULTS = (".csv", ".jsonl")
CROPS = ("auto", "center", "whole")


@dataclasses.dataclass(frozen=True)
class ExportSettings(Settings):
    """What `lambda-keras export` is told. Args: see the help texts.

    Raises:
        ValueError: If a field has a value that is not allowed.

    Example:

    >>> ExportSettings(model="runs/mine", output_dir="models/mine").top_k
    5
    """

    model: str | None = setting(
        None,
        "A run directory (its best model), a .keras file, a training "
        "checkpoint step-*.npz, timm's .safetensors, a .weights.h5 file, or "
        "the name of a model that there are ImageNet weights of, as "
        "LambdaResNet50TS.",
    )
    output_dir: str | None = setting(
        None,
        "The directory of the model's versions, as TensorFlow Serving takes "
        "it: this export becomes a new directory 1, 2, 3 ... in it.",
    )
    version: int | None = count(
        None,
        "The number of the version. By default the next one.",
        # Servers keep it in 64 bits.
        most=2**63 - 1,
    )
    architecture: str | None = setting(
        None,
        "Whose weights a .weights.h5 file has, as lambda_resnet_50.",
    )
    raw_weights: bool = setting(
        False,
        "Of a training checkpoint, take the weights themselves and not their "
        "averages.",
    )
    image_size: int | None = count(
        None,
        "Height and width that images are resized to. By default the model's "
        "own.",
    )
    dynamic_size: bool = setting(
        False,
        "Take images, where they are not encoded, of any height and width; "
        "for models whose receptive fields are finite.",
    )
    crop: str = choice(
        "auto",
        "What is taken of an encoded image: its center, as in evaluation on "
        "photographs, or the whole, as of digits; auto is what the run that "
        "trained the model did.",
        CROPS,
    )
    max_pixels: int = count(
        1 << 25,
        "An encoded image of more pixels is refused, not decoded.",
        # More than TensorFlow's decoders take.
        most=1 << 31,
    )
    top_k: int = count(5, "How many of the likeliest classes are named.")
    formats: str = setting(
        "",
        "Write these beside the SavedModel, separated by commas: "
        f"{', '.join(FORMATS)}.",
        expects=f"some of {', '.join(FORMATS)}, separated by commas",
        valid=lambda value: not value or set(value.split(",")) <= {*FORMATS},
    )
    precision: str = choice(
        "float32",
        "Of computing, or in formats that keep float32 for that, of storing "
        "weights. int8 is dynamic: ONNX and LiteRT have it.",
        PRECISIONS,
    )
    warm_up: bool = setting(
        True, "Add requests that TensorFlow Serving warms up with."
    )
    check: bool = setting(
        False,
        "Before it appears, run all that was written, each in the runtime it "
        "is for, beside the model, and say how far they agree and how fast "
        "they are. Done in any case where --precision is not float32.",
    )
    dataset: str | None = setting(
        None,
        "Images to check with: digits, tfds:NAME, folder:PATH or "
        "tfrecord:PATH. By default those of the run that trained the model, "
        "or else noise, which has no accuracy.",
    )
    split: str = setting("test", "Which of them.")
    data_dir: str | None = setting(
        None,
        "Where tensorflow-datasets keeps what it prepared; may be gs://.",
    )
    check_images: int = count(
        400, "Check with this many images at most.", most=10_000
    )

    def __post_init__(self):
        super().__post_init__()
        require(self, "model", "output_dir")

    @property
    def checks(self) -> bool:
        """Whether to check: what a lower precision loses is always said."""
        return self.check or self.precision != "float32"

    @property
    def format_names(self) -> list[str]:
        """The formats, each once."""
        return [name for name in FORMATS if name in self.formats.split(",")]


@dataclasses.dataclass(frozen=True)
class PredictSettings(Settings):
    """What `lambda-keras predict` is told. Args: see the help texts.

    Raises:
        ValueError: If a field has a value that is not allowed.

    Example:

    >>> PredictSettings(
    ...     model="LambdaResNet50TS", paths=("photos", "cat.jpg")
    ... ).batch_size
    32
    """

    paths: tuple[str, ...] = setting(
        (),
        "The images: files, folders (all files in them and in their folders "
        "but hidden ones), patterns as photos/*.jpg, or tfrecord:PATH (a "
        "pattern, or a directory of shards).",
        positional="IMAGE",
    )
    model: str | None = setting(
        None,
        "What `lambda-keras export` wrote: the directory of the versions, of "
        "which the newest is taken, or that of one version. Or the name of a "
        "model, as LambdaResNet50TS, with --weights.",
    )
    weights: str | None = setting(
        None,
        "Of a named model: imagenet, which downloads them and is the default, "
        "or a .safetensors, .weights.h5 or .keras file.",
    )
    image_size: int | None = count(
        None,
        "Of a named model: height and width that images are resized to. By "
        "default that of its weights.",
    )
    images: str | None = setting(
        None, "More images, of which several are separated by commas."
    )
    output: str | None = setting(
        None,
        "The file to write, .csv or .jsonl: a row for each image, in order. "
        "Where the status in it is not ok, it says why there are no labels, "
        "and the exit status is 1. The same command goes on with one that was "
        "stopped. By default a table is printed.",
        expects=f"a file that ends in {' or '.join(RESULTS)}",
        valid=lambda value: Path(value).suffix in RESULTS,
    )
    json: bool = setting(
        False, "Instead of the table, print the rows of a .jsonl file."
    )
    picture: str | None = setting(
        None,
        "Also draw the first images with their labels: a file that ends in "
        ".png, which is replaced.",
        expects="a file that ends in .png",
        valid=lambda value: Path(value).suffix == ".png",
    )
    batch_size: int = count(
        32,
        "Images that are predicted together. The files of some four batches "
        "are in memory.",
    )

    def __post_init__(self):
        super().__post_init__()
        require(self, "model")
        if not self.paths:
            require(self, "images")
        if self.json and self.output:
            raise ValueError(
                "`json` must be left out where there is an output. "
                f"Received: json=True, output={self.output}"
            )
