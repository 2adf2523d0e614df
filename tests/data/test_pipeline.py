import numpy as np
import pytest

from lambda_keras.data.dataset import Affine
from lambda_keras.data.dataset import Split

pytestmark = pytest.mark.tf_only

COUNT, BATCH_SIZE, NUM_CLASSES = 30, 8, 3


@pytest.fixture
def split():
    """Images that are all grey, each with its own number as grey level."""
    numbers = np.arange(COUNT, dtype="uint8")
    images = np.broadcast_to(numbers[:, None, None, None], (COUNT, 4, 4, 1))
    return Split(images, numbers.astype("int32") % NUM_CLASSES)


def training_batches(split, batch_size=BATCH_SIZE, **kwargs):
    from lambda_keras.data.pipeline import training_batches

    return training_batches(split, batch_size, NUM_CLASSES, **kwargs)


def numbers(dataset, batches):
    taken = dataset.take(batches).as_numpy_iterator()
    return [images[:, 2, 2, 0].astype(int).tolist() for images, _ in taken]


def test_batches_are_full_float_images_with_one_hot_labels(split):
    dataset = training_batches(split)
    images, labels = dataset.element_spec
    assert images.shape == (BATCH_SIZE, 4, 4, 1)
    assert labels.shape == (BATCH_SIZE, NUM_CLASSES)
    for images, labels in dataset.take(5).as_numpy_iterator():
        assert images.dtype == np.float32
        np.testing.assert_array_equal(
            labels, np.eye(NUM_CLASSES)[images[:, 2, 2, 0].astype(int) % 3]
        )


def test_each_pass_has_every_image_once_in_a_new_order(split):
    # 15 batches of 8 are 4 passes over 30 images.
    passes = np.reshape(numbers(training_batches(split), 15), (4, COUNT))
    for one in passes:
        assert sorted(one) == list(range(COUNT))
    assert len({tuple(one) for one in passes}) == 4


@pytest.mark.parametrize("augmentation", [None, Affine(shift=0.3)])
def test_a_batch_is_a_function_of_seed_and_step(split, augmentation):
    def batches(seed, skip=0):
        dataset = training_batches(split, augmentation=augmentation, seed=seed)
        return list(dataset.skip(skip).take(3).as_numpy_iterator())

    everything, later = batches(seed=1), batches(seed=1, skip=2)
    for (images, labels), (again, same) in zip(everything[2:], later):
        np.testing.assert_array_equal(images, again)
        np.testing.assert_array_equal(labels, same)
    other, _ = batches(seed=2)[0]
    assert not np.array_equal(everything[0][0], other)


def test_augmentation_changes_between_passes(split):
    # A pass of two batches; the images of one number, pass after pass.
    dataset = training_batches(
        split, batch_size=15, augmentation=Affine(shift=0.4)
    )
    seen = {
        image.tobytes()
        for images, _ in dataset.take(8).as_numpy_iterator()
        for image in images
        if image.max() == 29
    }
    # Now and then all of the ink is shifted away or the draws are alike.
    assert len(seen) >= 3


@pytest.mark.parametrize("batch_size", [0, COUNT + 1])
def test_batch_sizes_that_no_split_can_fill(split, batch_size):
    message = rf"from 1 to {COUNT}, .* Received: batch_size={batch_size}"
    with pytest.raises(ValueError, match=message):
        training_batches(split, batch_size=batch_size)
    assert numbers(training_batches(split, batch_size=COUNT), 1)


def test_evaluation_reads_every_image_once_in_order(split):
    from lambda_keras.data.pipeline import evaluation_batches

    dataset = evaluation_batches(split, BATCH_SIZE, NUM_CLASSES)
    batches = list(dataset.as_numpy_iterator())
    assert [len(labels) for _, labels in batches] == [8, 8, 8, 6]
    np.testing.assert_array_equal(
        np.concatenate([images for images, _ in batches]), split.images
    )
    np.testing.assert_array_equal(
        np.concatenate([labels for _, labels in batches]).argmax(axis=-1),
        split.labels,
    )
