import numpy as np
import pytest

from lambda_keras.data.digits import load_digits
from lambda_keras.data.digits import split_by_class
from lambda_keras.data.sources import DATASETS
from lambda_keras.data.sources import load_dataset


@pytest.fixture(scope="module")
def digits():
    return load_digits()


def test_splits_have_every_class_in_the_same_proportions(digits):
    splits = digits.train, digits.validation, digits.test
    assert [len(split.labels) for split in splits] == [1258, 179, 360]
    classes = np.stack([np.bincount(split.labels) for split in splits])
    shares = classes / classes.sum(axis=0)
    # One image of about 180 per class, to either side.
    assert np.abs(shares - [[0.7], [0.1], [0.2]]).max() < 1 / 170


def test_images_are_grey_levels_with_a_channel(digits):
    assert digits.image_shape == (8, 8, 1)
    for split in digits.train, digits.validation, digits.test:
        assert split.images.dtype == np.uint8
        assert split.images.shape == (len(split.labels), 8, 8, 1)
    assert digits.train.images.min() == 0
    assert digits.train.images.max() == 255
    # 0 to 16 dots of ink per pixel
    assert len(np.unique(digits.train.images)) == 17


def test_every_image_is_in_one_split(digits):
    datasets = pytest.importorskip("sklearn.datasets")
    images = [
        image.tobytes()
        for split in (digits.train, digits.validation, digits.test)
        for image in split.images
    ]
    assert len(set(images)) == len(images) == 1797
    # The labels still belong to their images.
    source = datasets.load_digits()
    label_of = {
        np.rint(image * 255 / 16).astype("uint8").tobytes(): label
        for image, label in zip(source.images, source.target)
    }
    for split in digits.train, digits.validation, digits.test:
        for image, label in zip(split.images, split.labels):
            assert label_of[image.tobytes()] == label


def test_the_split_is_the_same_for_everyone(digits):
    again = load_digits()
    np.testing.assert_array_equal(again.test.images, digits.test.images)
    # Written down once: figures of other machines and versions compare.
    assert digits.test.labels[:8].tolist() == [4, 9, 0, 1, 2, 1, 4, 6]
    assert digits.test.images.sum(dtype=int) == 1785008


def test_split_by_class_is_a_partition_that_the_seed_decides():
    labels = np.repeat([0, 1, 2], [10, 20, 30])
    parts = split_by_class(labels, (0.1, 0.2), seed=5)
    assert sorted(np.concatenate(parts)) == list(range(60))
    assert [np.bincount(labels[part]).tolist() for part in parts] == [
        [7, 14, 21],
        [1, 2, 3],
        [2, 4, 6],
    ]
    for part, again in zip(parts, split_by_class(labels, (0.1, 0.2), seed=5)):
        np.testing.assert_array_equal(part, again)
    assert not np.array_equal(
        parts[2], split_by_class(labels, (0.1, 0.2), seed=6)[2]
    )


@pytest.mark.parametrize("shares", [(0.5, 0.5), (1.2,), (-0.1, 0.2)])
def test_shares_that_leave_no_first_split(shares):
    with pytest.raises(ValueError, match="leave something to the first"):
        split_by_class(np.array([0, 1]), shares, seed=0)


def test_data_sets_are_found_by_name(digits):
    assert load_dataset("digits").name == "digits"
    assert set(DATASETS) == {"digits"}
    with pytest.raises(ValueError, match=r"one of: digits\. .*dataset=letters"):
        load_dataset("letters")
