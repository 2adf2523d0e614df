import itertools

import numpy as np
import pytest

from lambda_keras.data.dataset import Affine
from lambda_keras.data.dataset import Shard
from lambda_keras.data.dataset import Split
from tests.data import numbered
from tests.data.numbered import NUM_CLASSES
from tests.data.numbered import evaluation
from tests.data.numbered import numbers
from tests.data.numbered import take
from tests.data.numbered import training

pytestmark = pytest.mark.tf_data

COUNT, BATCH_SIZE = 30, 8
# Batches that are whole passes
BATCHES, PASSES = 15, 4
KINDS = ("arrays", "files", "records")


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """The same 30 images in memory, in files and in 8 shards."""
    from lambda_keras.data import reading

    with pytest.MonkeyPatch.context() as patch:
        # Windows of two shards
        patch.setattr(reading, "WINDOW_EXAMPLES", 8)
        directory = tmp_path_factory.mktemp("images")
        yield {
            "arrays": numbered.make_arrays(COUNT),
            "files": numbered.make_files(directory, COUNT),
            "records": numbered.make_records(
                directory, (4, 3, 5, 4, 4, 4, 3, 3)
            ),
        }


@pytest.fixture(scope="module", params=KINDS)
def split(request, splits):
    return splits[request.param]


@pytest.fixture(scope="module")
def stream(split):
    """Four passes, undisturbed."""
    return take(training(split, BATCH_SIZE, seed=1), BATCHES)


def flat(lists):
    return list(itertools.chain.from_iterable(lists))


def assert_equal(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others):
        for tensor, same in zip(batch, other):
            np.testing.assert_array_equal(tensor, same)


def test_batches_are_images_labels_and_weights_of_static_shapes(split, stream):
    images, labels, weights = training(split, BATCH_SIZE).element_spec
    channels = 1 if isinstance(split, Split) else 3
    assert images.shape == (BATCH_SIZE, numbered.SIZE, numbered.SIZE, channels)
    assert labels.shape == (BATCH_SIZE, NUM_CLASSES)
    assert weights.shape == (BATCH_SIZE,)
    assert images.dtype == labels.dtype == weights.dtype == "float32"
    for batch in stream:
        np.testing.assert_array_equal(
            batch[1], np.eye(NUM_CLASSES)[np.array(numbers([batch])[0]) % 3]
        )
        np.testing.assert_array_equal(batch[2], 1)


def test_each_pass_has_every_image_once_in_a_new_order(stream):
    # 15 batches of 8 are 4 passes over 30 images.
    passes = np.reshape(numbers(stream), (PASSES, COUNT))
    for one in passes:
        assert sorted(one) == list(range(COUNT))
    assert len({tuple(one) for one in passes}) == PASSES


def test_the_seed_decides_bit_for_bit(split, stream):
    assert_equal(take(training(split, BATCH_SIZE, seed=1), 4), stream[:4])
    other = take(training(split, BATCH_SIZE, seed=2), 1)
    assert numbers(other) != numbers(stream[:1])


# A batch that spans two passes, and one within a later pass
@pytest.mark.parametrize("start", [3, 9])
def test_a_stream_goes_on_bit_for_bit_where_it_stopped(split, stream, start):
    later = training(split, BATCH_SIZE, seed=1, start_step=start)
    assert_equal(take(later, BATCHES - start), stream[start:])


def test_variations_change_between_passes(stream):
    seen = {
        image.tobytes()
        for images, _, _ in stream
        for image in images
        if round(float(image[2, 2, 0])) == 29
    }
    assert len(seen) == PASSES


@pytest.mark.parametrize("kind", ["files", "records"])
def test_variations_do_not_depend_on_the_batch_size(splits, kind):
    """Nor on order or host: they belong to an example and a pass."""
    first = {}
    for size in (COUNT, 5):
        dataset = training(splits[kind], size)
        for images, _, _ in take(dataset, COUNT // size):
            for image in images:
                number = int(image[2, 2, 0])
                first.setdefault(number, image)
                np.testing.assert_array_equal(image, first[number])
    assert len(first) == COUNT


@pytest.mark.parametrize(
    "kind, hosts, pieces",
    [("arrays", 2, 2), ("arrays", 1, 4), ("files", 2, 2)],
)
def test_parts_of_hosts_are_together_the_batch_of_one(
    splits, kind, hosts, pieces
):
    split = splits[kind]
    parts = [
        take(
            training(
                split,
                BATCH_SIZE,
                seed=1,
                start_step=1,
                shard=Shard(host, hosts, pieces),
            ),
            5 * pieces,
        )
        for host in range(hosts)
    ]
    together = [
        tuple(
            np.concatenate(tensors)
            for tensors in zip(
                *(
                    part[step * pieces + piece]
                    for part in parts
                    for piece in range(pieces)
                )
            )
        )
        for step in range(5)
    ]
    one = take(training(split, BATCH_SIZE, seed=1, start_step=1), 5)
    assert_equal(together, one)


def test_hosts_read_records_of_their_own(splits):
    """Each passes over its part, and nothing is left out."""
    split, passes = splits["records"], []
    for host in range(2):
        shard = Shard(host, count=2, pieces=3)
        first, end = shard.bounds(COUNT)
        batches = take(training(split, 30, shard=shard), 9)
        part = flat(numbers(batches[:3]))
        assert sorted(part) == list(range(first, end))
        passes += part
        later = training(split, 30, shard=shard, start_step=2)
        assert_equal(take(later, 3), batches[6:])
    assert sorted(passes) == list(range(COUNT))


def test_class_numbers_and_bfloat16(splits):
    split = splits["files"]
    dataset = numbered.training(
        split, BATCH_SIZE, one_hot=False, dtype="bfloat16"
    )
    images, labels, weights = dataset.element_spec
    assert images.dtype == "bfloat16"
    assert (labels.dtype, labels.shape) == ("int32", (BATCH_SIZE,))
    assert weights.dtype == "float32"
    ((images, labels, _),) = take(dataset, 1)
    np.testing.assert_array_equal(
        images[:, 2, 2, 0].astype(int) % NUM_CLASSES, labels
    )


@pytest.mark.parametrize("kind", ["arrays", "files"])
def test_labels_are_mixed_with_the_images(splits, kind):
    split = splits[kind]
    dataset = training(split, BATCH_SIZE, seed=1, mixup_alpha=1.0)
    plain = take(training(split, BATCH_SIZE, seed=1), 2)
    batches = take(dataset, 2)
    for (images, labels, _), (originals, _, _) in zip(batches, plain):
        assert np.abs(images - originals).max() > 1
        assert 0 < np.sum((labels > 0).sum(axis=1) == 2)
        np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)
    # Drawn for each batch, and from the step alone
    later = training(split, BATCH_SIZE, seed=1, start_step=1, mixup_alpha=1.0)
    assert_equal(take(later, 1), batches[1:])
    with pytest.raises(ValueError, match="Received: one_hot=False"):
        training(split, BATCH_SIZE, one_hot=False, cutmix_alpha=1.0)


@pytest.mark.parametrize("hosts, pieces", [(1, 4), (3, 2)])
def test_evaluation_counts_every_image_once(split, hosts, pieces):
    batch_size = 12 if hosts == 3 else 8
    datasets = [
        evaluation(split, batch_size, shard=Shard(host, hosts, pieces))
        for host in range(hosts)
    ]
    parts = [list(dataset.as_numpy_iterator()) for dataset in datasets]
    # Under a strategy Keras begins anew where it knows that this is the end.
    counts = {int(dataset.cardinality()) for dataset in datasets}
    assert counts == {len(part) for part in parts}
    assert len(counts) == 1
    batches = flat(parts)
    # In order, which is what tells whose prediction is whose
    assert flat(numbers(batches)) == list(range(COUNT))
    size = batch_size // (hosts * pieces)
    assert {len(weights) for _, _, weights in batches} == {size}
    # The mean over batches of the mean over a batch is that over the images.
    means = [
        np.mean(images[:, 2, 2, 0] * weights) for images, _, weights in batches
    ]
    np.testing.assert_allclose(np.mean(means), np.mean(range(COUNT)), rtol=1e-6)
    for images, labels, weights in batches:
        classes = images[weights > 0, 2, 2, 0].astype(int) % NUM_CLASSES
        np.testing.assert_array_equal(
            labels[weights > 0].argmax(axis=1), classes
        )


@pytest.mark.parametrize("batch_size", [8, 100])
def test_a_split_is_loaded_as_evaluation_has_it(split, batch_size):
    from lambda_keras.data.pipeline import load_examples

    loaded = load_examples(
        split,
        numbered.preprocessing(split, affine=None)
        if isinstance(split, Split)
        else numbered.preprocessing(split),
        batch_size,
        NUM_CLASSES,
    )
    assert loaded.images.dtype == "float32"
    shown = loaded.images[:, 2, 2, 0].astype(int)
    np.testing.assert_array_equal(shown, range(COUNT))
    np.testing.assert_array_equal(loaded.labels, shown % NUM_CLASSES)


def test_what_has_no_label_or_is_no_image_is_told_apart(splits, tmp_path):
    from lambda_keras.data.bad_images import BadImages
    from lambda_keras.data.pipeline import load_examples

    split = splits["files"].take(np.arange(5))
    (tmp_path / "broken.png").write_bytes(b"nothing")
    split.paths[3] = str(tmp_path / "broken.png")
    split.labels[1] = -1
    bad_images = BadImages(len(split), max_share=1.0)
    loaded = load_examples(
        split, numbered.preprocessing(split), 4, NUM_CLASSES, bad_images
    )
    assert loaded.images[:, 2, 2, 0].tolist() == [0, 1, 2, 4]
    assert loaded.labels.tolist() == [0, -1, 2, 4 % NUM_CLASSES]
    assert len(bad_images) == 1


@pytest.mark.parametrize("kind", ["files", "records"])
def test_encoded_images_are_the_bytes_in_order(splits, kind):
    from lambda_keras.data.encoded import encoded_images

    split = splits[kind].part(5, 9)
    found = list(encoded_images(split).as_numpy_iterator())
    assert [image["image"] for image in found] == [
        numbered.encode(number) for number in range(5, 9)
    ]
    names = [image["name"].decode().split("/")[-1] for image in found]
    assert (
        names
        == {
            "files": ["005.png", "006.png", "007.png", "008.png"],
            "records": [
                "train-00001-of-00008#1",
                "train-00001-of-00008#2",
                "train-00002-of-00008#0",
                "train-00002-of-00008#1",
            ],
        }[kind]
    )


def test_a_share_of_each_batch_is_from_another_source(splits):
    labelled, other = splits["files"], splits["records"]
    batches = take(mixed(labelled, other.part(0, 7), 0.25), 14)
    found = np.array(numbers(batches))
    # Every fourth, so that each device gets some
    from_other = found[:, 3::4]
    assert set(from_other.flat) == set(range(7))
    rest = np.delete(found, [3, 7], axis=1).ravel()
    for start in 0, COUNT:
        assert sorted(rest[start : start + COUNT]) == list(range(COUNT))
    for batch, row in zip(batches, found):
        np.testing.assert_array_equal(batch[1].argmax(axis=1), row % 3)
    later = mixed(labelled, other.part(0, 7), 0.25, start_step=9)
    assert_equal(take(later, 2), batches[9:11])


def test_each_piece_has_its_share_of_another_source(splits):
    split, other = splits["arrays"], numbered.make_arrays(40).part(30, 40)
    other.labels[:] = 0
    pieces = [
        take(mixed(split, other, 0.5, shard=Shard(host, 2, 2)), 2)
        for host in range(2)
    ]
    for row in numbers(flat(pieces)):
        assert [number >= 30 for number in row] == [False, True]


def mixed(labelled, other, share, **kwargs):
    from lambda_keras.data.pipeline import mixed_training_batches

    return mixed_training_batches(
        labelled,
        other,
        share,
        numbered.preprocessing(labelled),
        BATCH_SIZE,
        NUM_CLASSES,
        **kwargs,
    )


def test_sources_of_one_size_have_choices_of_their_own(splits):
    split = splits["arrays"]
    batches = take(mixed(split, split, 0.5), 10)
    images = np.concatenate([images for images, _, _ in batches])
    found = np.array(numbers(batches)).ravel()
    assert found[::2].tolist() != found[1::2].tolist()
    # Nor is an image varied in the same way in both.
    one, other = (
        {image.tobytes() for image in images[start::2] if image.max() > 0}
        for start in (0, 1)
    )
    assert min(len(one), len(other)) > COUNT
    assert not one & other


def test_records_beside_arrays_are_decoded_into_memory(splits, tmp_path):
    """As pseudo-labels of digits are: one channel, soft labels."""
    from lambda_keras.data.record_writer import encode_image
    from lambda_keras.data.record_writer import make_example
    from lambda_keras.data.record_writer import write_records
    from lambda_keras.data.records import load_records_split

    arrays = numbered.make_arrays(9)
    soft = np.eye(NUM_CLASSES) * 0.5 + 1 / 6
    examples = [
        make_example(
            encode_image(image), label=label, probabilities=soft[label]
        )
        for image, label in zip(arrays.images, arrays.labels)
    ]
    write_records(tmp_path, "train", examples, ["a", "b", "c"], shards=2)
    other, _ = load_records_split(str(tmp_path), "train")
    batches = take(mixed(splits["arrays"], other, 0.5), 3)
    for (_, labels, _), row in zip(batches, numbers(batches)):
        np.testing.assert_allclose(labels[1::2], soft[np.array(row[1::2]) % 3])
        assert set(labels[::2].max(axis=1)) == {1}
        assert set(row[1::2]) <= set(range(9))


@pytest.mark.parametrize("share", [0.0, 0.05, 0.95, 1.0])
def test_shares_that_leave_a_source_nothing(share):
    from lambda_keras.data.pipeline import mixed_sizes

    assert mixed_sizes(16, 0.25, Shard(pieces=2)) == (12, 4)
    message = f"at least one example of the 8 .* share={share}, batch_size=16"
    with pytest.raises(ValueError, match=message):
        mixed_sizes(16, share, Shard(pieces=2))


@pytest.mark.parametrize("batch_size", [0, COUNT + 1])
def test_batch_sizes_that_no_split_can_fill(splits, batch_size):
    from lambda_keras.data.pipeline import steps_per_epoch

    message = rf"from 1 to {COUNT}, .* Received: batch_size={batch_size}"
    with pytest.raises(ValueError, match=message):
        training(splits["arrays"], batch_size)
    assert steps_per_epoch(splits["records"], BATCH_SIZE) == 3


def test_arguments_that_do_not_fit(splits):
    arrays, files = splits["arrays"], splits["files"]
    with pytest.raises(ValueError, match=r"multiple of 3, .* batch_size=8"):
        training(files, 8, shard=Shard(0, 3))
    with pytest.raises(
        ValueError, match=r"given for encoded .*image_size=None"
    ):
        training(files, 8, image_size=None)
    with pytest.raises(ValueError, match=r"be 0 .* randaugment_layers=2"):
        training(arrays, 8, randaugment_layers=2)
    with pytest.raises(ValueError, match=r"None for encoded .* affine=Affine"):
        training(files, 8, affine=Affine(shift=0.1))
    with pytest.raises(ValueError, match=r"or be theirs.*image_size=32"):
        evaluation(arrays, 8, image_size=32)
    with pytest.raises(ValueError, match=r"at least 4 .* 3 images"):
        evaluation(files.part(0, 3), 8, shard=Shard(0, 4))
    with pytest.raises(
        ValueError, match=r"`index` must be .* index=2, count=2"
    ):
        Shard(2, 2)
    with pytest.raises(ValueError, match=r"at least 4 .* num_classes=3"):
        training(Split(arrays.images, arrays.labels + 1), 8)
    with pytest.raises(ValueError, match=r"be 2 .* num_classes=3"):
        training(Split(arrays.images, np.ones((COUNT, 2))), 8)
    with pytest.raises(ValueError, match=r"a label .* 10 images without"):
        training(Split(arrays.images, arrays.labels - 1), 8)


def test_digits_come_in_the_order_they_always_had():
    """So that figures of runs of all versions compare."""
    from lambda_keras.data.digits import load_digits
    from lambda_keras.data.pipeline import training_batches
    from lambda_keras.data.preprocessing import Preprocessing

    digits = load_digits()
    dataset = training_batches(
        digits.train, Preprocessing(), 16, 10, one_hot=False
    )
    first, second = [labels.tolist() for _, labels, _ in take(dataset, 2)]
    assert first == [8, 4, 3, 3, 1, 0, 8, 7, 6, 3, 8, 3, 8, 3, 6, 7]
    assert second == [6, 1, 5, 5, 9, 0, 6, 3, 2, 0, 6, 3, 9, 1, 0, 4]
