import dataclasses
import logging

import numpy as np
import pytest

from tests.data import numbered
from tests.data.numbered import NUM_CLASSES
from tests.data.numbered import evaluation
from tests.data.numbered import numbers
from tests.data.numbered import take
from tests.data.numbered import training

pytestmark = pytest.mark.tf_data

COUNT = 20


def bad_images(count=COUNT, max_share=1.0, **kwargs):
    from lambda_keras.data.bad_images import BadImages

    return BadImages(count, max_share, **kwargs)


def truncated_jpeg():
    import tensorflow as tf

    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), "uint8")
    encoded = tf.io.encode_jpeg(image).numpy()
    return encoded[: len(encoded) // 2]


def garbled_png(number):
    encoded = bytearray(numbered.encode(number))
    encoded[len(encoded) // 2] ^= 0xFF
    return bytes(encoded)


@pytest.fixture
def files(tmp_path):
    return numbered.make_files(tmp_path, COUNT)


@pytest.fixture
def broken_files(files, tmp_path):
    """Five files of which none is an image, each in its own way."""
    (tmp_path / "003.png").write_bytes(truncated_jpeg())
    (tmp_path / "004.png").write_bytes(b"")
    (tmp_path / "005.png").write_bytes(b"<html>not found</html>")
    (tmp_path / "011.png").write_bytes(garbled_png(11))
    (tmp_path / "019.png").unlink()
    return files


BROKEN = [3, 4, 5, 11, 19]
GOOD = sorted(set(range(COUNT)) - set(BROKEN))


def test_unreadable_files_are_counted_named_and_grey(broken_files, caplog):
    bad = bad_images()
    batches = list(
        evaluation(broken_files, 8, bad_images=bad).as_numpy_iterator()
    )
    found = np.concatenate([images[:, 2, 2, 0] for images, _, _ in batches])
    weights = np.concatenate([weights for _, _, weights in batches])
    # Each keeps its place: whose prediction is whose does not change.
    for number in range(COUNT):
        is_bad = number in BROKEN
        assert found[number] == (128 if is_bad else number)
        assert (weights[number] == 0) == is_bad
    assert sorted(bad.names) == [str(broken_files.paths[n]) for n in BROKEN]
    assert len(bad) == 5
    bad.check()
    for path in bad.names:
        assert caplog.text.count(path) == 1


def test_a_name_counts_once_over_all_passes(broken_files):
    bad = bad_images()
    batches = take(training(broken_files, 5, bad_images=bad), 8)
    assert sorted(sum(numbers(batches), [])) == sorted(GOOD * 2)  # noqa: RUF017
    assert len(bad) == 5
    for images, labels, weights in batches:
        assert np.all(images[weights == 0] == 128)
        assert np.all(labels[weights == 0] == 0)
        assert set(weights) <= {0, 1}


def test_a_bad_image_changes_nothing_else(files, tmp_path):
    before = take(training(files, 5), 4)
    (tmp_path / "007.png").write_bytes(b"")
    after = take(training(files, 5, bad_images=bad_images()), 4)
    for (images, labels, _), (again, same, weights) in zip(before, after):
        good = weights == 1
        np.testing.assert_array_equal(images[good], again[good])
        np.testing.assert_array_equal(labels[good], same[good])


def test_too_many_stop_the_pipeline(broken_files):
    import tensorflow as tf

    from lambda_keras.data.bad_images import BadImagesError

    bad = bad_images(max_share=0.15)
    message = (
        r"4 of 20 images could not be read or .*, where a share of 0\.15 is "
        r"allowed \(max_bad_images\): "
        r".*\.png, .*\.png"
    )
    with pytest.raises(tf.errors.OpError, match=message):
        take(training(broken_files, 5, bad_images=bad), 8)
    with pytest.raises(BadImagesError, match=message):
        bad.check()
    assert isinstance(bad.error, OSError)


@pytest.fixture
def records(tmp_path):
    return numbered.make_records(tmp_path, (6, 7, 7))


def record_ends(path):
    """Where each record of a file ends."""
    import tensorflow as tf

    sizes = [len(record.numpy()) for record in tf.data.TFRecordDataset(path)]
    return np.cumsum([size + 16 for size in sizes])


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


def evaluate(split):
    bad = bad_images()
    dataset = evaluation(split, 5, bad_images=bad)
    batches = list(dataset.as_numpy_iterator())
    names = [name.split("/")[-1] for name in sorted(bad.names)]
    return sum(numbers(batches), []), names  # noqa: RUF017


@pytest.mark.parametrize("first", [0, 2])
def test_a_flipped_byte_costs_one_record(records, tmp_path, first):
    shard = tmp_path / "train-00001-of-00003"
    # In the middle of its record 3, which is number 9.
    flip(shard, sum(record_ends(shard)[2:4]) // 2)
    found, names = evaluate(records.part(6 + first, COUNT))
    assert found == [n for n in range(6 + first, COUNT) if n != 9]
    assert names == ["train-00001-of-00003#3"]


def test_a_wrong_length_costs_the_rest_of_its_shard(records, tmp_path):
    shard = tmp_path / "train-00001-of-00003"
    flip(shard, record_ends(shard)[2] + 3)
    found, names = evaluate(records)
    assert found == [*range(9), *range(13, COUNT)]
    assert names == [f"train-00001-of-00003#{n}" for n in range(3, 7)]
    # Nor does it stop who begins behind it.
    assert evaluate(records.part(11, COUNT))[0] == list(range(13, COUNT))


def test_truncated_and_missing_shards(records, tmp_path):
    shard = tmp_path / "train-00001-of-00003"
    shard.write_bytes(shard.read_bytes()[: record_ends(shard)[4] + 20])
    (tmp_path / "train-00002-of-00003").unlink()
    found, names = evaluate(records)
    assert found == list(range(11))
    assert names == [
        "train-00001-of-00003#5",
        "train-00001-of-00003#6",
        *(f"train-00002-of-00003#{n}" for n in range(7)),
    ]


def test_records_that_hold_something_else(tmp_path):
    import tensorflow as tf

    from lambda_keras.data.record_writer import make_example
    from lambda_keras.data.records import load_records_split

    image = numbered.encode(0)
    with tf.io.TFRecordWriter(str(tmp_path / "train-0")) as writer:
        writer.write(make_example(image, label=0))
        writer.write(b"no example")
        writer.write(make_example(b"no image", label=0))
        # One class more than there are
        writer.write(make_example(image, label=NUM_CLASSES))
        writer.write(make_example(image, label=0, probabilities=[0.5, 0.5]))
        writer.write(make_example(image))
    split, _ = load_records_split(str(tmp_path), "train")
    bad = bad_images(count=6)
    batches = list(evaluation(split, 6, bad_images=bad).as_numpy_iterator())
    ((_, labels, weights),) = batches
    assert weights.tolist() == [1, 0, 0, 0, 0, 1]
    assert labels.tolist() == [[1, 0, 0]] + [[0, 0, 0]] * 5
    assert [name[-1] for name in sorted(bad.names)] == ["1", "2", "3", "4"]
    # Nothing can be learned from the one that has no label.
    bad = bad_images(count=6)
    ((_, _, weights),) = take(training(split, 6, bad_images=bad), 1)
    assert sorted(weights) == [0, 0, 0, 0, 0, 1]
    assert sorted(bad.names)[-1].endswith("#5")


def test_encoded_images_are_empty_where_they_cannot_be_read(records, tmp_path):
    from lambda_keras.data.encoded import encoded_images

    shard = tmp_path / "train-00000-of-00003"
    flip(shard, record_ends(shard)[0] // 2)
    found = list(encoded_images(records.part(0, 2)).as_numpy_iterator())
    assert [image["image"] for image in found] == [b"", numbered.encode(1)]


def test_other_machines_print_the_name(broken_files, capfd):
    bad = bad_images(max_share=0.0, is_remote=True)
    batches = take(training(broken_files, 20, bad_images=bad), 1)
    assert sorted(numbers(batches)[0]) == GOOD
    assert len(bad) == 0
    printed = capfd.readouterr().err
    for number in BROKEN:
        assert f'"{broken_files.paths[number]}"' in printed


def test_counting(caplog):
    from lambda_keras.data.bad_images import BadImagesError

    bad = bad_images(count=100, max_share=0.02)
    with caplog.at_level(logging.WARNING):
        for name in ("a", "b", "a"):
            bad.add(name)
        bad.check()
        for name in "cd":
            # What follows the first error does not change it.
            with pytest.raises(BadImagesError, match=r"3 of 100 .*: a, b, c$"):
                bad.add(name)
    assert [record.getMessage()[-1] for record in caplog.records] == list(
        "abcd"
    )
    many = bad_images(count=1000, max_share=0.005)
    with pytest.raises(BadImagesError, match=r": a, b, c, d, e, \.\.\.$"):
        for name in "abcdef":
            many.add(name)
    assert len(many) == 6
    with pytest.raises(ValueError, match=r"from 0 to 1\. .* max_share=2"):
        bad_images(max_share=2)


def test_labels_of_files_are_checked_before(files):
    wrong = dataclasses.replace(files, labels=files.labels + 1)
    with pytest.raises(ValueError, match=r"at least 4 .* num_classes=3"):
        evaluation(wrong, 5)
