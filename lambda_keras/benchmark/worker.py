"""One measurement, in a process of its own; see `children.call_in_child`."""

import itertools
import os
import statistics
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras

from lambda_keras import provenance
from lambda_keras.benchmark.candidates import find_candidate
from lambda_keras.benchmark.engines import Batch
from lambda_keras.benchmark.engines import create_engine
from lambda_keras.benchmark.engines import process_peak_memory
from lambda_keras.benchmark.hardware import share_of_peak
from lambda_keras.benchmark.settings import POLICIES
from lambda_keras.benchmark.steps import batch_arrays
from lambda_keras.benchmark.steps import compile_model
from lambda_keras.benchmark.timing import time_steps
from lambda_keras.models import count_flops
from lambda_keras.models import count_parameters
from lambda_keras.training.strategy import Distribution
from lambda_keras.training.strategy import create_distribution
from lambda_keras.training.strategy import keep_gpus_from_tensorflow

# The backward pass multiplies twice what the forward pass does: for the
# gradient of its inputs and for that of its weights.
TRAINING_FLOPS = 3
WARM_UP_STEPS = 2
# What changes what is compiled and how it computes.
FLAGS = {
    "XLA_FLAGS",
    "LIBTPU_INIT_ARGS",
    "TF_XLA_FLAGS",
    "NVIDIA_TF32_OVERRIDE",
    "JAX_DEFAULT_MATMUL_PRECISION",
}
# Of the recipes for ImageNet; see `training.recipes.paper_350ep`.
RANDAUGMENT = {"randaugment_layers": 2, "randaugment_magnitude": 15.0}


def describe(
    strategy: str,
    tpu: str | None = None,
    input: str | None = None,
    data_dir: str | None = None,
    models: Sequence[str] = (),
) -> dict[str, Any]:
    """Says what there is to compute with, and finds mistakes early.

    Args:
        strategy: Which devices: `"none"`, `"mirrored"` or `"tpu"`.
        tpu: The name or address of the TPU.
        input: The data set to read; None for random images.
        data_dir: Where tensorflow-datasets keeps what it prepared.
        models: Candidates to look for, as `module:function@160`.

    Returns:
        A dictionary: the device and the versions, as records have them, and
        `replicas`, how many devices share a batch.

    Raises:
        ValueError: If what is asked for is not there.
    """
    distribution = _distribution(strategy, tpu)
    if input is not None:
        _load(input, data_dir)
    for model in models:
        find_candidate(model)
    replicas = distribution.num_replicas
    return {
        "device": provenance.device(replicas),
        "versions": provenance.versions(),
        "replicas": replicas,
    }


def measure(
    model: str,
    mode: str,
    batch_size: int,
    precision: str = "float32",
    strategy: str = "none",
    tpu: str | None = None,
    input: str | None = None,
    data_dir: str | None = None,
    seconds: float = 10.0,
    steps: int = 50,
) -> dict[str, Any]:
    """Builds and compiles a model's step, and measures it.

    Args:
        model: The candidate, as `lambda_resnet_50@160`.
        mode: `"train"` or `"infer"`.
        batch_size: Images per step, of all devices together.
        precision: A key of `POLICIES`.
        strategy: Which devices: `"none"`, `"mirrored"` or `"tpu"`.
        tpu: The name or address of the TPU.
        input: The data set to read; None for random images that stay on the
            device.
        data_dir: Where tensorflow-datasets keeps what it prepared.
        seconds: How long to measure, at most.
        steps: How many steps to measure, at most.

    Returns:
        A dictionary: `rates`, the images per second of each step (with a data
        set, of all steps together), and the fields of a record's settings
        that only this process knows.

    Raises:
        ValueError: If an argument is out of its range.
    """
    distribution = _distribution(strategy, tpu)
    distribution.check(batch_size)
    keras.utils.set_random_seed(0)
    with distribution.scope():
        network = find_candidate(model).build(POLICIES[precision])
        if mode == "train":
            compile_model(network)
        engine = create_engine(network, mode, distribution)
        arrays = batch_arrays(network, mode, batch_size)
        image_dtype = str(arrays[0].dtype)
        batches: Iterator[Batch]
        if input is None:
            batches = itertools.repeat(engine.place(arrays))
        else:
            dataset = _load(input, data_dir)
            read = _read(dataset, network, arrays, distribution)
            batches = map(engine.receive, read)
        compile_seconds = engine.prepare(next(batches))

        def step():
            engine.run(next(batches))

        # With a data set, until what it made meanwhile is used up.
        warm_up = seconds if input else seconds / 10
        time_steps(step, warm_up, steps, WARM_UP_STEPS)
        times = time_steps(step, seconds, steps)
    if input is not None:
        # Some steps wait for data, and others find them there.
        times = [statistics.mean(times)]
    rates = [batch_size / each for each in times]
    peak_memory = engine.peak_memory()
    return {
        "rates": rates,
        "step_seconds": statistics.median(times),
        "compile_seconds": compile_seconds,
        "compile_cached": engine.compile_cached,
        "jit_compile": engine.jit_compile,
        "peak_memory_bytes": peak_memory or process_peak_memory(),
        "peak_memory_of": "device" if peak_memory else "process",
        "parameters": count_parameters(network),
        "image_dtype": image_dtype,
        "flags": {name: os.environ[name] for name in FLAGS & os.environ.keys()},
        **_flops(network, mode, precision, rates, distribution.num_replicas),
    }


def _distribution(strategy, tpu):
    if strategy == "none":
        return Distribution()
    return create_distribution(strategy, tpu)


def _load(input, data_dir):
    # TensorFlow, which nothing else needs on JAX.
    from lambda_keras.data.dataset import Split
    from lambda_keras.data.sources import load_dataset

    keep_gpus_from_tensorflow()
    try:
        dataset = load_dataset(input, data_dir)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`input` must be images that can be read ({error}). "
            f"Received: input={input}"
        ) from error
    if isinstance(dataset.train, Split):
        raise ValueError(
            f"`input` must be of encoded images. Received: input={input}"
        )
    return dataset


def _read(dataset, model, arrays, distribution) -> Iterator[Batch]:
    """Reads images for ever, cropped and augmented as to train and to infer.

    Each batch is full: none of its images is one that was never read.
    """
    from lambda_keras.data.pipeline import evaluation_batches
    from lambda_keras.data.pipeline import steps_per_epoch
    from lambda_keras.data.pipeline import training_batches
    from lambda_keras.data.preprocessing import Preprocessing

    images = arrays[0]
    is_training = len(arrays) > 1
    if images.shape[-1] != 3:
        raise ValueError(
            "A model must take images of 3 channels, as those of `input`. "
            f"Received: a model of {images.shape[-1]}"
        )
    full = steps_per_epoch(dataset.train, len(images))

    def make(shard):
        preprocessing = Preprocessing(
            image_size=images.shape[1],
            dtype=str(images.dtype),
            **(RANDAUGMENT if is_training else {}),
        )
        where = (dataset.train, preprocessing, len(images))
        classes = model.output_shape[-1]
        if is_training:
            return training_batches(*where, classes, shard=shard)
        batches = evaluation_batches(*where, classes, shard=shard)
        return batches.take(full * shard.pieces).repeat()

    # Without the weights, for the same step as with random images.
    return (batch[: len(arrays)] for batch in distribution.distribute(make))


def _flops(model, mode, precision, rates, replicas):
    """By the count of `count_flops`, and by what the device could do."""
    figures: dict[str, Any] = dict.fromkeys(
        ("flops_per_image", "flops_per_second", "peak_share")
    )
    try:
        flops = count_flops(model)
    # A layer or model of one's own that does not count itself.
    except (AttributeError, ValueError):
        return figures
    if mode == "train":
        flops *= TRAINING_FLOPS
    achieved = flops * statistics.median(rates)
    figures |= {"flops_per_image": flops, "flops_per_second": achieved}
    device = provenance.device(replicas)
    figures["peak_share"] = share_of_peak(
        achieved, device["name"], replicas, precision
    )
    return figures
