"""What the benchmark commands are told to do."""

import dataclasses

from lambda_keras.benchmark.layer_shapes import STANDARD_SHAPES
from lambda_keras.benchmark.layer_shapes import SYNTAX
from lambda_keras.benchmark.layer_shapes import find_shape
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


SUITES = ("paper", "matched", "quick")
# The dtype policies of precisions.
POLICIES = {"float32": "float32", "bf16": "mixed_bfloat16"}
PRECISIONS = tuple(POLICIES)


@dataclasses.dataclass(frozen=True)
class ThroughputBenchmark(Settings):
    """Settings of `lambda-keras benchmark throughput`.

    Args: see the help text of each field.

    Example:

    >>> ThroughputBenchmark(models="LambdaResNet50@160").repeats
    3
    """

    models: str | None = setting(
        None,
        "What to measure, separated by commas: models of this package, "
        "EfficientNetB0 to B7 and V2 of keras.applications, or "
        "module:function; @SIZE is the image size, as in LambdaResNet50@160.",
    )
    suite: str | None = choice(
        None,
        "Models that belong together, in the place of --models: paper (those "
        "of the paper's speed-accuracy curve), matched (each EfficientNet and "
        "the LambdaResNet of at least its accuracy) or quick (ten minutes on a "
        "laptop).",
        SUITES,
    )
    modes: str = choice(
        "both",
        "What to measure: train (the whole training step), infer or both.",
        ("both", "train", "infer"),
    )
    precision: str = choice(
        "float32",
        "What models compute in: float32 (on many GPUs with TF32 products, "
        "unless NVIDIA_TF32_OVERRIDE=0) or bf16.",
        PRECISIONS,
    )
    batch: int | None = count(
        None,
        "Images per step, over all devices. By default the largest that fits "
        "into memory of --max_batch, half of it, a quarter and so on.",
    )
    max_batch: int | None = count(
        None,
        "The first batch size that is tried, over all devices. By default the "
        "suite's; without one, 256 for each accelerator and 8 on a processor.",
    )
    repeats: int = count(3, "How often everything is measured.", least=3)
    seconds: float = positive(10.0, "How long to measure each time, at most.")
    steps: int = count(50, "How many steps to measure each time, at most.")
    timeout: float = positive(
        3600.0,
        "Seconds after which a process is given up, with all that it compiles "
        "and measures: one that hangs would hold up the others.",
    )
    strategy: str = choice(
        "none",
        "The devices: none (one), mirrored (all of this machine) or tpu (all "
        "of a TPU).",
        ("none", "mirrored", "tpu"),
    )
    tpu: str | None = setting(
        None, "The TPU's name, its address, or local: this machine's own."
    )
    input: str | None = setting(
        None,
        "A data set to read, in the place of random images that stay on the "
        "device: folder:PATH, tfds:NAME or tfrecord:PATH. To wait for data "
        "counts. For training they are cropped, mirrored and put through "
        "RandAugment, as in the recipes for ImageNet.",
    )
    data_dir: str | None = setting(
        None,
        "Where tensorflow-datasets keeps what it prepared; may be gs://.",
    )
    output_dir: str | None = setting(
        None,
        "Where to write. The same command again goes on with what a "
        "directory holds; what failed there is not tried again. By default a "
        "new directory in runs/.",
    )


def _are_shapes(value):
    for name in value.split(","):
        find_shape(name)
    return True


@dataclasses.dataclass(frozen=True)
class LayerBenchmark(Settings):
    """Settings of `lambda-keras benchmark layer`.

    Args: see the help text of each field.

    Example:

    >>> LayerBenchmark(shapes="14,8x7x7x512:global").repeats
    5
    """

    shapes: str = setting(
        ",".join(STANDARD_SHAPES),
        f"Inputs to compare at, separated by commas: names, or {SYNTAX}.",
        valid=_are_shapes,
    )
    modes: str = choice(
        "both",
        "What to measure: forward, training (forward, and backward to inputs "
        "and weights) or both.",
        ("both", "forward", "training"),
    )
    candidates: str = setting(
        "*",
        "Which layers, separated by commas: names (auto, an implementation, "
        "attention_global, plain_convolution, timm, listing), ways to run "
        "(tf, tf_jit, jax, eager, compiled), or both, as auto/jax; * stands "
        "for anything.",
    )
    precision: str = choice(
        "float32",
        "What layers compute in: float32 (on many GPUs with TF32 products, "
        "unless NVIDIA_TF32_OVERRIDE=0) or bf16.",
        PRECISIONS,
    )
    repeats: int = count(5, "How many turns each candidate has.", least=3)
    seconds: float = positive(
        0.5, "How long a turn takes, or two steps where they take longer."
    )
    timeout: float = positive(
        600.0,
        "Seconds after which a candidate is given up that compiles, or that "
        "has a turn.",
    )
    output_dir: str | None = setting(
        None,
        "Where to write. The same command again goes on with what a "
        "directory holds; what failed there is not tried again. By default a "
        "new directory in runs/.",
    )


@dataclasses.dataclass(frozen=True)
class Report(Settings):
    """Settings of `lambda-keras benchmark report`.

    Args: see the help text of each field.

    Example:

    >>> Report(records="runs/mine/records.jsonl").output_dir is None
    True
    """

    records: str | None = setting(
        None,
        "What benchmark throughput or preflight wrote: their directories, or "
        "files of records, separated by commas.",
    )
    output_dir: str | None = setting(
        None,
        "Where to write report.md, report.csv and pareto.png, in the place of "
        "older ones. By default beside the first file of records.",
    )


MEMORY_ROWS = (
    *("global", "axial", "local", "lambda", "lambda_k8", "lambda_shared"),
    *("lambda_convolution", "lambda_auto"),
)
MEMORY_PROGRAMS = ("stack", "layer", "model")
MEMORY_FIGURES = ("paper", "tpu", "run")


def _some(default, help, options):
    return setting(
        ",".join(default),
        f"{help} Some of {', '.join(options)}, separated by commas.",
        expects=f"some of {', '.join(options)}, separated by commas",
        valid=lambda value: set(value.split(",")) <= set(options),
    )


@dataclasses.dataclass(frozen=True)
class MemoryBenchmark(Settings):
    """Settings of `lambda-keras benchmark memory`.

    Args: see the help text of each field.

    Example:

    >>> MemoryBenchmark(rows="global,lambda").batch
    128
    """

    programs: str = _some(
        ("stack", "layer"),
        "What to look at: the 16 layers of a ResNet-50 one after the other, "
        "a single layer, or whole ResNet-50s, which take minutes each.",
        MEMORY_PROGRAMS,
    )
    rows: str = _some(
        MEMORY_ROWS,
        "Which layers to compare, in the paper's order.",
        MEMORY_ROWS,
    )
    figures: str = _some(
        MEMORY_FIGURES,
        "What to find out: the paper's counting, what a compiled TPU program "
        "needs (with libtpu, and no TPU), or what training here needs.",
        MEMORY_FIGURES,
    )
    batch: int = count(
        128, "Images per step of stacks and models; 128 in the paper."
    )
    image_size: int = count(224, "Height and width of their images.", least=32)
    layer_batch: int = count(256, "Images per step of the single layer.")
    layer_size: int = count(64, "Height and width of its input.")
    run_batch: int = count(
        8, "Images per step of what runs here, halved until it fits."
    )
    precision: str = choice(
        "float32", "What programs compute in: float32 or bf16.", PRECISIONS
    )
    topology: str = setting(
        "v3-1",
        "The TPU to compile for: v3-1 (one core), v3-8, v4-8, v5e-1 and so "
        "on; the batch is divided among its devices.",
    )
    timeout: float = positive(
        1800.0,
        "Seconds after which a figure is given up: compilers take long over "
        "convolutions.",
    )
    output_dir: str | None = setting(
        None,
        "Where to write. The same command again goes on with what a "
        "directory holds. By default a new directory in runs/.",
    )


@dataclasses.dataclass(frozen=True)
class Preflight(Settings):
    """Settings of `lambda-keras preflight`.

    Args: see the help text of each field.

    Example:

    >>> Preflight(model="LambdaResNet152@256", topology="v5e-8").mode
    'train'
    """

    model: str | None = setting(
        None,
        "The model: one of this package, EfficientNetB0 to B7 or V2 of "
        "keras.applications, or module:function; @SIZE is the image size, as "
        "in LambdaResNet152@256.",
    )
    suite: str | None = choice(
        None,
        "Models that belong together, in the place of --model: paper (those "
        "of the paper's speed-accuracy curve), matched (each EfficientNet and "
        "the LambdaResNet of at least its accuracy) or quick (small ones).",
        SUITES,
    )
    layers: str | None = setting(
        None,
        "Single layers in the place of --model, separated by commas, to "
        f"compare their contractions: names, or {SYNTAX}.",
        valid=_are_shapes,
    )
    topology: str = setting(
        "v5e-8",
        "The TPU, as Google names it: v2-8, v3-8, v3-32, v4-8, v5e-1, v5p-8, "
        "v6e-8 and so on; v2-1 and v3-1 are one core.",
    )
    mode: str = choice(
        "train",
        "What to compile: train (the whole training step) or infer.",
        ("train", "infer"),
    )
    batch: int | None = count(
        None,
        "Images per step, over all chips. By default 128 for each device (a "
        "core on v2 and v3, else a chip); a suite says its own.",
    )
    find_batch: bool = setting(
        False,
        "Search the largest batch that fits, above 64 images for each device "
        "in steps of 8; --batch is tried first.",
    )
    precision: str = choice(
        "bf16", "What models compute in: float32 or bf16.", PRECISIONS
    )
    recipe: str | None = setting(
        None,
        "Say how long the epochs of a recipe take, as --recipe=paper_350ep; "
        "see lambda-keras train --help.",
    )
    examples: int | None = count(
        None, "Images of the recipe's epoch; by default ImageNet's, if it is."
    )
    price: float | None = positive(
        None, "What one chip costs for an hour, to say what a recipe costs."
    )
    cache: bool = setting(
        True,
        "Look up programs that were compiled before; --nocache compiles anew.",
    )
    timeout: float = positive(
        3600.0,
        "Seconds after which a program is given up: compilers take long over "
        "some convolutions.",
    )
    output_dir: str | None = setting(
        None,
        "Where to add records.jsonl to. A suite, or layers, go on with what a "
        "directory holds; by default they have a new one in runs/.",
    )
