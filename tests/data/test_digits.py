import numpy as np
import pytest

from lambda_keras.data.digits import load_digits


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
