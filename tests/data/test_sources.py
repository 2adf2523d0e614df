import numpy as np
import pytest

from lambda_keras.data.sources import load_dataset
from lambda_keras.data.sources import load_split


@pytest.mark.parametrize(
    "name",
    [
        "letters",
        "digits:",
        "digits:/x",
        "tfds",
        "tfds:",
        "folder:",
        "zip:/x",
        "",
    ],
)
def test_names_that_are_no_source(name):
    message = (
        rf"one of: digits, tfds:NAME\[.*, tfrecord:PATH\..*dataset={name}$"
    )
    with pytest.raises(ValueError, match=message):
        load_dataset(name)
    with pytest.raises(ValueError, match=message):
        load_split(name, "train")


@pytest.mark.parametrize("name", ["digits", "folder:/x", "tfrecord:/x"])
def test_data_dir_is_for_tensorflow_datasets(name):
    message = f"`data_dir` must be left out .* data_dir=/y, dataset={name}"
    with pytest.raises(ValueError, match=message):
        load_dataset(name, data_dir="/y")


def test_digits_by_split():
    dataset = load_dataset("digits")
    for name in ("train", "validation", "test"):
        split, class_names = load_split("digits", name)
        np.testing.assert_array_equal(
            split.images, getattr(dataset, name).images
        )
        assert class_names == tuple("0123456789")
    for name in ("unlabelled", "extra"):
        with pytest.raises(ValueError, match=f"or unlabelled .* split={name}"):
            load_split("digits", name)


def test_a_hundred_labels_and_the_other_digits_without():
    dataset = load_dataset("digits", labels=100)
    assert np.bincount(dataset.train.labels).tolist() == [10] * 10
    assert [len(dataset.validation), len(dataset.test)] == [179, 360]
    kept, _ = load_split("digits", "train", labels=100)
    np.testing.assert_array_equal(kept.images, dataset.train.images)
    others, class_names = load_split("digits", "unlabelled", labels=100)
    assert set(others.labels) == {-1}
    assert len(class_names) == 10
    images = {
        image.tobytes() for image in (*dataset.train.images, *others.images)
    }
    everything = load_dataset("digits").train.images
    assert images == {image.tobytes() for image in everything}
    with pytest.raises(ValueError, match="split=test, labels=100"):
        load_split("digits", "test", labels=100)
    with pytest.raises(ValueError, match=r"from 10, .* labels=9"):
        load_dataset("digits", labels=9)
