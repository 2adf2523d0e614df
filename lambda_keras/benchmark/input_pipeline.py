"""How fast images are read, decoded and augmented, stage by stage."""

import time
from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf

from lambda_keras.benchmark.settings import InputBenchmark
from lambda_keras.data.dataset import FileSplit
from lambda_keras.data.dataset import ImageDataset
from lambda_keras.data.dataset import RecordSplit
from lambda_keras.data.dataset import Split
from lambda_keras.data.pipeline import training_batches
from lambda_keras.data.preprocessing import Preprocessing
from lambda_keras.data.preprocessing import decode_training_image

# The stages in order, each with those before it.
READ, DECODE, CROP, AUGMENT, BATCH = STAGES = (
    "read",
    "decode",
    "crop",
    "augment",
    "batch",
)
# Batches that are cropped like ours, and then given to Keras' layer.
KERAS = "Keras RandAugment"
KERAS_BATCH_SIZE = 8
IMAGES = 4096
# Several batches are made at a time, and come at a time.
LEAST_BATCHES = 4
MEANINGS = {
    READ: "files or records, as they are",
    DECODE: "and decoded whole: the floor",
    CROP: "read, decoded in part, resized",
    AUGMENT: "and mirrored, RandAugment",
    BATCH: "what a model is trained on",
    KERAS: "crop, then Keras' layer",
}


def make_pipelines(
    dataset: ImageDataset, settings: InputBenchmark
) -> dict[str, tf.data.Dataset]:
    """Makes an endless stream of batches for each stage, and for Keras' layer.

    All but the last two are batches of one number for each image, so that
    nothing else is measured than what makes the images.

    Args:
        dataset: The images, encoded.
        settings: Sizes and RandAugment.

    Returns:
        A dictionary of `tf.data.Dataset`s.

    Raises:
        ValueError: If the images are not encoded.
    """
    if isinstance(dataset.train, Split):
        raise ValueError(
            "`dataset` must be of encoded images. "
            f"Received: dataset={dataset.name}"
        )
    # The same few for all stages, so that all find them where the first one
    # brought them: in the memory of the system.
    split = dataset.train.part(0, min(len(dataset.train), IMAGES))
    plain = Preprocessing(image_size=settings.image_size, flip=False)
    full = Preprocessing(
        image_size=settings.image_size,
        randaugment_layers=settings.randaugment_layers,
        randaugment_magnitude=settings.randaugment_magnitude,
        dtype=settings.image_dtype,
    )

    def decode(encoded, _):
        return tf.io.decode_image(encoded, channels=3, expand_animations=False)

    def crop(encoded, number):
        return decode_training_image(encoded, [0, number], plain)

    def augment(encoded, number):
        return decode_training_image(encoded, [0, number], full)

    def pipeline(stage, batch_size=settings.batch_size):
        return read_images(split, stage).batch(batch_size, True).prefetch(1)

    layer = keras.layers.RandAugment((0, 255), settings.randaugment_layers)
    return {
        READ: pipeline(lambda encoded, _: tf.strings.length(encoded)),
        DECODE: pipeline(_first_number(decode)),
        CROP: pipeline(_first_number(crop)),
        AUGMENT: pipeline(_first_number(augment)),
        BATCH: training_batches(
            split,
            full,
            settings.batch_size,
            len(dataset.class_names),
        ),
        KERAS: pipeline(crop, keras_batch_size(settings)).map(
            lambda images: layer(tf.cast(images, tf.float32), training=True),
            tf.data.AUTOTUNE,
        ),
    }


def keras_batch_size(settings: InputBenchmark) -> int:
    """Images per batch for Keras' layer, which takes seconds for many."""
    return min(settings.batch_size, KERAS_BATCH_SIZE)


def _first_number(stage):
    return lambda encoded, number: stage(encoded, number)[0, 0, 0]


def read_images(
    split: FileSplit | RecordSplit,
    stage: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
) -> tf.data.Dataset:
    """Reads and works on images in order, without end, in parallel.

    Args:
        split: The images, encoded.
        stage: Function of an encoded image and its number.

    Returns:
        A `tf.data.Dataset` of what `stage` returns.
    """
    if isinstance(split, FileSplit):
        sources = tf.data.Dataset.from_tensor_slices(split.paths)
        read = tf.io.read_file
    else:
        paths = sorted({records.path for records in split.ranges})
        sources = tf.data.TFRecordDataset(paths)

        def read(record):
            return split.parse(record)["image"]

    return (
        sources.repeat()
        .enumerate()
        .map(
            lambda number, source: stage(read(source), number),
            tf.data.AUTOTUNE,
        )
        # What cannot be read is no matter here.
        .ignore_errors()
    )


class Rate(NamedTuple):
    """How fast a pipeline is.

    Args:
        images_per_second: By the clock, of all cores together.
        cpu_seconds: What an image costs in time of one core. It says less
            about a pipeline that waits, and is steady where others compute.
    """

    images_per_second: float
    cpu_seconds: float


def measure(
    pipelines: dict[str, tf.data.Dataset],
    settings: InputBenchmark,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, list[Rate]]:
    """Measures all pipelines, again and again.

    In turn, so that what else the machine does hits all of them.

    Args:
        pipelines: From `make_pipelines`.
        settings: How much to measure.
        tell: Told what is measured next.

    Returns:
        The rates of each pipeline, one for each repeat.
    """
    rates: dict[str, list[Rate]] = {name: [] for name in pipelines}
    for repeat in range(settings.repeats):
        for name, pipeline in pipelines.items():
            tell(f"{repeat + 1} of {settings.repeats}: {name}")
            size = settings.batch_size
            if name == KERAS:
                size = keras_batch_size(settings)
            rates[name].append(_measure(pipeline, size, settings.seconds))
    return rates


def _measure(pipeline, batch_size, least_seconds):
    # A new one each time, and not at its beginning: one that had stood still,
    # or that has just begun, gives away what it has in its buffers.
    iterator = iter(pipeline)
    _take(iterator, least_seconds)
    cpu_start = time.process_time()
    batches, seconds = _take(iterator, least_seconds)
    images = batches * batch_size
    return Rate(images / seconds, (time.process_time() - cpu_start) / images)


def _take(iterator, least_seconds):
    batches, seconds, start = 0, 0.0, time.perf_counter()
    while batches < LEAST_BATCHES or seconds < least_seconds:
        next(iterator)
        batches += 1
        seconds = time.perf_counter() - start
    return batches, seconds
