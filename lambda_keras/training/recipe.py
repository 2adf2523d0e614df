"""What a training run is told to do."""

import dataclasses
from typing import Any

from lambda_keras.settings import Settings
from lambda_keras.settings import choice
from lambda_keras.settings import count
from lambda_keras.settings import non_negative
from lambda_keras.settings import positive
from lambda_keras.settings import setting
from lambda_keras.settings import share

STRATEGIES = ("auto", "tpu", "mirrored", "multiworker", "one_device", "none")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
FREEZE = ("nothing", "backbone")


@dataclasses.dataclass(frozen=True)
class Devices(Settings):
    """What a command computes on. Args: see the help text of each field."""

    strategy: str = choice(
        "auto",
        "How devices share the work: auto (a TPU, else all GPUs, else one "
        "device), tpu, mirrored, multiworker (several processes, on JAX), "
        "one_device or none.",
        STRATEGIES,
    )
    tpu: str | None = setting(
        None, "The TPU's name, its address, or local: this machine's own."
    )
    coordinator: str | None = setting(
        None,
        "For multiworker: the first process' host:port. On a TPU slice and "
        "under some schedulers JAX finds all three by itself.",
    )
    num_processes: int | None = count(
        None, "For multiworker: the number of processes."
    )
    process_id: int | None = count(
        None, "For multiworker: which of them this is, from 0.", least=0
    )

    def device_arguments(self) -> dict[str, Any]:
        """Returns what `create_distribution` takes."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(Devices)
        }

    def __post_init__(self):
        super().__post_init__()
        if self.tpu is not None and self.strategy not in ("auto", "tpu"):
            raise ValueError(
                "`tpu` must be left out unless `strategy` is tpu. "
                f"Received: tpu={self.tpu}, strategy={self.strategy}"
            )
        processes = (self.coordinator, self.num_processes, self.process_id)
        if self.strategy != "multiworker":
            if any(value is not None for value in processes):
                raise ValueError(
                    "`coordinator`, `num_processes` and `process_id` must be "
                    "left out unless `strategy` is multiworker. "
                    f"Received: strategy={self.strategy}"
                )
        elif len({value is None for value in processes}) == 2:
            raise ValueError(
                "`coordinator`, `num_processes` and `process_id` must be given "
                f"together or not at all. Received: coordinator="
                f"{self.coordinator}, num_processes={self.num_processes}, "
                f"process_id={self.process_id}"
            )
        elif self.process_id is not None:
            if self.process_id >= self.num_processes:
                raise ValueError(
                    "`process_id` must be below `num_processes`. Received: "
                    f"process_id={self.process_id}, "
                    f"num_processes={self.num_processes}"
                )


@dataclasses.dataclass(frozen=True)
class Recipe(Devices):
    """Settings of a training run; the command line has a flag for each.

    The defaults are those of the recipe `digits`; the others, in
    `lambda_keras.training.recipes`, say where they differ. One recipe trains
    every model that it is given to, so that runs of different models can be
    compared.

    Args: see the help text of each field.

    Example:

    >>> Recipe(model="resnet_tiny", epochs=20).batch_size
    32
    """

    model: str = setting(
        "lambda_resnet_tiny",
        "The model to train: lambda_resnet_tiny, resnet_tiny or "
        "attention_tiny for digits; lambda_resnet_50 and its like for "
        "photographs.",
    )
    width: int | None = count(
        None,
        "Channels inside the blocks of the first stage, which the others are "
        "multiples of. By default the model's own.",
    )
    weights: str | None = setting(
        None,
        "What to start from: imagenet, for a model that there are such weights "
        "of, or a file of the same model: .keras, .weights.h5, or timm's "
        ".safetensors. Layers of other shapes, as a classifier of other "
        "classes has, start anew.",
    )
    freeze: str = choice(
        "nothing",
        "What keeps the weights that it starts from: nothing, or the backbone, "
        "which is all but the classifier. Its batch normalization then uses "
        "and keeps its moving statistics.",
        FREEZE,
    )
    dataset: str = setting(
        "digits",
        "The images: digits, tfds:NAME, folder:PATH (a folder for each class) "
        "or tfrecord:PATH.",
    )
    data_dir: str | None = setting(
        None,
        "Where tensorflow-datasets keeps what it prepared; may be gs://.",
    )
    labels: int | None = count(
        None,
        "Train on this many labelled images only, as many of each class.",
    )
    pseudo: str | None = setting(
        None, "A directory that lambda-keras pseudo_label wrote, to mix in."
    )
    pseudo_share: float | None = setting(
        None,
        "Part of every batch that comes from there; by default one half.",
        expects="above 0 and below 1",
        valid=lambda value: 0 < value < 1,
    )
    max_bad_images: float = share(
        0.001,
        "Part of the images that may be unreadable; they are skipped, counted "
        "and named.",
    )
    image_size: int | None = count(
        None,
        "Height and width to crop or resize to. By default the model's own, "
        "or that of digits.",
    )
    crop_area_min: float = setting(
        0.08,
        "The least part of a photograph that a random crop shows.",
        expects="above 0 and at most 1",
        valid=lambda value: 0 < value <= 1,
    )
    flip: bool = setting(True, "Mirror half of the photographs.")
    randaugment_layers: int = count(
        0, "RandAugment: how many operations follow each other.", least=0
    )
    randaugment_magnitude: float = non_negative(
        10.0, "RandAugment: how strong they are; 10 is full scale."
    )
    mixup_alpha: float = non_negative(
        0.0, "Mixup: parameter of the Beta distribution; 0 is none."
    )
    cutmix_alpha: float = non_negative(
        0.0, "CutMix: likewise; with both, each example gets one of them."
    )
    image_dtype: str = choice(
        "float32",
        "Of the batches: bfloat16 halves what goes to the device.",
        ("float32", "bfloat16"),
    )
    epochs: int = count(20, "Passes over the training images.")
    batch_size: int = count(32, "Images per step, over all devices.")
    optimizer: str = choice(
        "adamw", "adamw, or sgd with momentum.", ("adamw", "sgd")
    )
    momentum: float = share(0.9, "Of sgd.")
    learning_rate: float = positive(
        3e-3,
        "Peak of the schedule: a linear rise, then half a cosine down to 0.",
    )
    reference_batch_size: int | None = count(
        None,
        "The batch size that the learning rate is meant for; with another it "
        "is scaled in proportion. By default it is never scaled.",
    )
    warmup_share: float = share(
        0.1, "Part of all steps in which the learning rate rises."
    )
    weight_decay: float = non_negative(
        0.02,
        "Decoupled for adamw, in the gradient for sgd; none on normalization "
        "and biases.",
    )
    clip_norm: float | None = positive(
        None, "The largest norm of the gradient of all weights together."
    )
    label_smoothing: float = share(
        0.1, "Part of each label that is spread over all classes."
    )
    dropout_rate: float | None = share(
        None, "Dropout before the classifier; by default the model's own."
    )
    drop_path_rate: float | None = share(
        None,
        "Stochastic depth in the last stage, less in those before; by default "
        "the model's own.",
    )
    batch_norm_momentum: float | None = setting(
        None,
        "Of the moving batch statistics; by default the model's own.",
        expects="at least 0 and at most 1",
        valid=lambda value: 0 <= value <= 1,
    )
    sync_batch_norm: bool = setting(
        False,
        "Normalize by the batch of all devices together, not of each one.",
    )
    average_momentum: float = share(
        0.0,
        "Of an exponential average of weights and batch statistics, which is "
        "what is then evaluated and exported; 0 is none.",
    )
    precision: str = choice(
        "float32", f"The dtype policy: {', '.join(PRECISIONS)}.", PRECISIONS
    )
    steps_per_execution: int = count(
        1,
        "Steps that a device takes on its own, between two looks at the loss. "
        "Must divide the steps of an epoch.",
    )
    deterministic: bool = setting(
        False,
        "Use only operations that give the same bits each time, and raise "
        "where there are none. Slower: TensorFlow then decodes images on one "
        "thread.",
    )
    seed: int = setting(
        0,
        "Decides initial weights, order and augmentation, never the split.",
        expects="from 0 to 2147483647",
        valid=lambda value: 0 <= value < 2**31,
    )
    output_dir: str | None = setting(
        None,
        "Where to write: new, empty, or a run with the same settings that was "
        "stopped, which then goes on. By default a new directory in runs/.",
    )
    checkpoint_seconds: float = non_negative(
        60.0, "The least time between two checkpoints; 0 is every step."
    )
    keep_checkpoints: int = count(2, "How many of them to keep.")
    tensorboard: bool = setting(
        False, "Also write scalars for TensorBoard, in tensorboard/."
    )
    profile_steps: str | None = setting(
        None,
        "Profile from one step to another, as 10,20, for TensorBoard.",
        expects="two step numbers as 10,20, the first from 1",
        valid=lambda value: _is_window(value),
    )

    def __post_init__(self):
        super().__post_init__()
        if self.pseudo_share is not None and self.pseudo is None:
            raise ValueError(
                "`pseudo_share` must be left out unless `pseudo` is given. "
                f"Received: pseudo_share={self.pseudo_share}"
            )
        if self.freeze != "nothing" and self.weights is None:
            raise ValueError(
                "`freeze` must be nothing unless `weights` are given. "
                f"Received: freeze={self.freeze}"
            )
        if self.profile_steps and not self.tensorboard:
            raise ValueError(
                "`profile_steps` must be left out unless `tensorboard` is set. "
                f"Received: profile_steps={self.profile_steps}"
            )


def _is_window(value: str) -> bool:
    first, comma, last = value.partition(",")
    numbers = first.isdecimal() and last.isdecimal()
    return bool(comma) and numbers and 1 <= int(first) <= int(last)
