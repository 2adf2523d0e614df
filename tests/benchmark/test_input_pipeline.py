import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest

from lambda_keras.benchmark.settings import InputBenchmark

pytestmark = pytest.mark.tf_only

SETTINGS = InputBenchmark(
    image_size=32, batch_size=4, seconds=0.01, randaugment_layers=1
)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    from lambda_keras.benchmark.photographs import write_photographs

    directory = tmp_path_factory.mktemp("photographs")
    return directory, write_photographs(directory, 40, seed=1)


@pytest.fixture(scope="module")
def dataset(photographs):
    from lambda_keras.data.sources import load_dataset

    return load_dataset(f"folder:{photographs[0]}")


@pytest.fixture(scope="module")
def pipelines(dataset):
    from lambda_keras.benchmark.input_pipeline import make_pipelines

    return make_pipelines(dataset, SETTINGS)


def test_photographs_are_like_imagenets(photographs):
    import tensorflow as tf

    directory, mean = photographs
    files = sorted(directory.glob("*/*.jpg"))
    assert len(files) == 40
    assert len({path.parent for path in files}) == 4
    assert mean == np.mean([path.stat().st_size for path in files])
    # ImageNet's have 115 KB in the mean.
    assert 80_000 < mean < 130_000
    contents = [path.read_bytes() for path in files]
    assert len(set(contents)) == 40
    for encoded in contents[:3]:
        assert tf.io.decode_jpeg(encoded).shape == (375, 500, 3)


def test_the_seed_decides_the_photographs(photographs, tmp_path):
    from lambda_keras.benchmark.photographs import write_photographs

    def content(directory):
        return (directory / "class_0" / "000004.jpg").read_bytes()

    assert write_photographs(tmp_path, 5, seed=1) > 0
    assert content(tmp_path) == content(photographs[0])
    write_photographs(tmp_path, 5, seed=2)
    assert content(tmp_path) != content(photographs[0])


def test_every_stage_has_a_pipeline_that_works(pipelines):
    from lambda_keras.benchmark.input_pipeline import KERAS
    from lambda_keras.benchmark.input_pipeline import MEANINGS
    from lambda_keras.benchmark.input_pipeline import STAGES

    assert list(pipelines) == [*STAGES, KERAS] == list(MEANINGS)
    shapes = {
        name: pipeline.element_spec for name, pipeline in pipelines.items()
    }
    for name in STAGES[:-1]:
        assert shapes[name].shape == (4,)
        assert len(set(next(iter(pipelines[name])).numpy())) > 1
    images, labels, weights = next(iter(pipelines["batch"]))
    assert images.shape == (4, 32, 32, 3)
    assert labels.shape == (4, 4)
    assert weights.numpy().tolist() == [1, 1, 1, 1]
    images = next(iter(pipelines[KERAS])).numpy()
    assert images.shape == (4, 32, 32, 3)
    assert 0 <= images.min() < images.max() <= 255


def test_rates_are_images_per_second():
    import tensorflow as tf

    from lambda_keras.benchmark.input_pipeline import measure

    def wait(number):
        time.sleep(0.02)
        return np.int64(number)

    slow = tf.data.Dataset.counter().map(
        lambda number: tf.numpy_function(wait, [number], tf.int64)
    )
    told = []
    rates = measure(
        {"slow": slow, "none": tf.data.Dataset.counter()},
        dataclasses.replace(SETTINGS, batch_size=5, seconds=0.1),
        told.append,
    )
    assert [len(measured) for measured in rates.values()] == [5, 5]
    assert len(told) == 10 and told[0] == "1 of 5: slow"
    # In turn, and not one pipeline after the other.
    assert told[1] == "1 of 5: none"
    for rate in rates["slow"]:
        # Five images for each element, which takes a little more than 20 ms
        assert 50 < rate.images_per_second < 5 / 0.02
        # Waiting costs nothing.
        assert 0 < rate.cpu_seconds < 0.02 / 5
    for rate in rates["none"]:
        assert rate.images_per_second > 5 / 0.02


def test_images_in_memory_have_nothing_to_decode():
    from lambda_keras.benchmark.input_pipeline import make_pipelines
    from lambda_keras.data.sources import load_dataset

    with pytest.raises(ValueError, match=r"encoded.*Received: dataset=digits"):
        make_pipelines(load_dataset("digits"), SETTINGS)


@pytest.mark.parametrize("kind", ["files", "records"])
def test_images_are_read_whole_in_order_and_without_end(
    kind, tmp_path, dataset
):
    import tensorflow as tf

    from lambda_keras.benchmark.input_pipeline import read_images
    from lambda_keras.data.dataset import RecordRange
    from lambda_keras.data.dataset import RecordSplit

    split = dataset.train.part(0, 8)
    encoded = [Path(path).read_bytes() for path in split.paths]
    if kind == "records":
        path = str(tmp_path / "records")
        with tf.io.TFRecordWriter(path) as writer:
            for content in encoded:
                writer.write(content)
        # One file, though it has two ranges
        split = RecordSplit(
            (RecordRange(path, 0, 3), RecordRange(path, 3, 5)),
            lambda record: {"image": record},
        )
    images = read_images(split, lambda image, number: (image, number))
    read = list(images.take(16).as_numpy_iterator())
    assert [image for image, _ in read] == encoded * 2
    assert [number for _, number in read] == list(range(16))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("repeats", 2, "at least 3"),
        ("seconds", 0.0, "a number above 0"),
        ("randaugment_layers", 0, "at least 1"),
        ("batch_size", 0, "at least 1"),
    ],
)
def test_values_that_are_not_allowed(name, value, message):
    with pytest.raises(ValueError, match=rf"`{name}` must be {message}\."):
        InputBenchmark(**{name: value})
