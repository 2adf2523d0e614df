"""Images that show their number: it is their red, wherever one looks."""

from dataclasses import fields

import numpy as np

NUM_CLASSES = 3
SIZE = 5  # with a pixel in the middle


def encode(number):
    """A PNG whose green and blue show how it was cropped and flipped."""
    import tensorflow as tf

    image = np.zeros((16, 24, 3), "uint8")
    image[..., 0] = number
    image[..., 1] = np.arange(24) * 10
    image[..., 2] = np.arange(16)[:, None] * 15
    return tf.io.encode_png(image).numpy()


def make_files(directory, count):
    from lambda_keras.data.dataset import FileSplit

    paths = []
    for number in range(count):
        paths.append(directory / f"{number:03}.png")
        paths[-1].write_bytes(encode(number))
    labels = np.arange(count) % NUM_CLASSES
    return FileSplit(np.array([str(path) for path in paths]), labels)


def make_records(directory, counts):
    """One shard for each count."""
    from lambda_keras.data.dataset import RecordRange
    from lambda_keras.data.dataset import RecordSplit
    from lambda_keras.data.record_writer import make_example
    from lambda_keras.data.record_writer import write_shard
    from lambda_keras.data.records import parse_example

    ranges, number = [], 0
    for shard, count in enumerate(counts):
        path = directory / f"train-{shard:05}-of-{len(counts):05}"
        examples = [
            make_example(encode(index), label=index % NUM_CLASSES)
            for index in range(number, number + count)
        ]
        write_shard(path, examples)
        ranges.append(RecordRange(str(path), 0, count))
        number += count
    return RecordSplit(tuple(ranges), parse_example)


def make_arrays(count):
    from lambda_keras.data.dataset import Split

    numbers = np.arange(count, dtype="uint8")
    shape = (count, SIZE, SIZE, 1)
    images = np.broadcast_to(numbers[:, None, None, None], shape)
    return Split(images, numbers.astype("int32") % NUM_CLASSES)


def training(split, batch_size, **kwargs):
    from lambda_keras.data.pipeline import training_batches

    kwargs, settings = _without_settings(kwargs)
    return training_batches(
        split,
        preprocessing(split, **settings),
        batch_size,
        NUM_CLASSES,
        **kwargs,
    )


def evaluation(split, batch_size, **kwargs):
    from lambda_keras.data.pipeline import evaluation_batches

    kwargs, settings = _without_settings(kwargs)
    return evaluation_batches(
        split,
        preprocessing(split, **settings),
        batch_size,
        NUM_CLASSES,
        **kwargs,
    )


def _without_settings(kwargs):
    """Tells arguments of the batches from those of the preprocessing."""
    from lambda_keras.data.preprocessing import Preprocessing

    names = set(kwargs) & {field.name for field in fields(Preprocessing)}
    return (
        {name: kwargs[name] for name in set(kwargs) - names},
        {name: kwargs[name] for name in names},
    )


def preprocessing(split, **kwargs):
    from lambda_keras.data.dataset import Affine
    from lambda_keras.data.dataset import Split
    from lambda_keras.data.preprocessing import Preprocessing

    if isinstance(split, Split):
        # Turned about its middle, an image still shows its number there.
        kwargs = {"affine": Affine(rotation=20.0)} | kwargs
    else:
        kwargs = {"image_size": SIZE} | kwargs
    return Preprocessing(**kwargs)


def take(dataset, batches):
    return list(dataset.take(batches).as_numpy_iterator())


def numbers(batches):
    """The numbers in each batch, without those of weight 0."""
    return [
        np.rint(images[weights > 0, 2, 2, 0]).astype(int).tolist()
        for images, _, weights in batches
    ]
