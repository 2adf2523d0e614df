import gzip
import json

import numpy as np
import pytest

from lambda_keras.data.sources import load_dataset
from lambda_keras.data.sources import load_split
from tests.data import numbered

pytestmark = pytest.mark.tf_data

CLASS_NAMES = ("cat", "dog", "emu")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    directory = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(directory))
    return directory / "lambda_keras" / "record_counts.json"


def write(directory, split, count, first=0, shards=1, **kwargs):
    from lambda_keras.data.record_writer import make_example
    from lambda_keras.data.record_writer import write_records

    examples = [
        make_example(
            numbered.encode(number),
            **({"label": number % 3} | kwargs),
        )
        for number in range(first, first + count)
    ]
    return write_records(directory, split, examples, CLASS_NAMES, shards)


def test_shards_in_the_schema_of_imagenet(tmp_path):
    write(tmp_path, "train", 100, shards=8)
    write(tmp_path, "validation", 10, first=100, shards=2)
    dataset = load_dataset(f"tfrecord:{tmp_path}")
    assert dataset.class_names == CLASS_NAMES
    assert dataset.image_shape == (None, None, 3)
    # Of a single split beside the one for training, figures are reported.
    assert [
        len(split)
        for split in (dataset.train, dataset.validation, dataset.test)
    ] == [98, 2, 10]
    assert "2 of its 100 training images are held out" in dataset.notes[0]
    batches = list(numbered.evaluation(dataset.test, 5).as_numpy_iterator())
    assert numbered.numbers(batches) == [
        [100, 101, 102, 103, 104],
        [105, 106, 107, 108, 109],
    ]
    for images, labels, _ in batches:
        np.testing.assert_array_equal(
            labels.argmax(axis=1), images[:, 2, 2, 0].astype(int) % 3
        )
    write(tmp_path, "test", 3)
    dataset = load_dataset(f"tfrecord:{tmp_path}")
    assert [len(dataset.train), len(dataset.validation)] == [100, 10]
    assert len(dataset.test) == 3


def test_without_names_there_are_the_classes_of_imagenet(tmp_path):
    write(tmp_path, "train", 6, label=999)
    write(tmp_path, "validation", 2, label=0)
    (tmp_path / "labels.txt").unlink()
    dataset = load_dataset(f"tfrecord:{tmp_path}")
    assert len(dataset.class_names) == 1000
    assert dataset.class_names[0] == "1"


def test_soft_labels_and_none(tmp_path):
    soft = np.array([0.25, 0.5, 0.25], "float32")
    write(tmp_path, "train", 2, probabilities=soft)
    write(tmp_path, "unlabelled", 2, label=None)
    split, class_names = load_split(f"tfrecord:{tmp_path}", "train")
    assert class_names == CLASS_NAMES
    ((_, labels, _),) = numbered.take(numbered.evaluation(split, 2), 1)
    np.testing.assert_array_equal(labels, [soft, soft])
    split, _ = load_split(f"tfrecord:{tmp_path}", "unlabelled")
    ((_, labels, weights),) = numbered.take(numbered.evaluation(split, 2), 1)
    np.testing.assert_array_equal(labels, np.zeros((2, 3)))
    np.testing.assert_array_equal(weights, 1)


def test_counts_are_remembered_until_the_file_changes(tmp_path, cache):
    from lambda_keras.data.records import count_records

    (path,) = write(tmp_path, "train", 5)
    assert count_records([str(path)]) == [5]
    ((key, value),) = json.loads(cache.read_text()).items()
    assert key.startswith(f"{path} ") and value == 5
    cache.write_text(json.dumps({key: 7}))
    assert count_records([str(path)]) == [7]
    write(tmp_path, "train", 6)
    assert count_records([str(path)]) == [6]
    cache.write_text("no JSON")
    assert count_records([str(path)]) == [6]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, caplog, cache):
    from lambda_keras.data.records import count_records

    cache.parent.write_text("a file where the directory should be")
    (path,) = write(tmp_path, "train", 5)
    assert count_records([str(path)]) == [5]
    assert "Cannot remember" in caplog.text


def test_files_elsewhere_are_counted_too(tmp_path, monkeypatch):
    from lambda_keras.data import records

    (path,) = write(tmp_path, "train", 5)
    monkeypatch.setattr(records, "_is_local", lambda path: False)
    assert records.count_records([str(path)]) == [5]


def test_a_record_that_is_cut_short_is_missed_in_every_run(tmp_path):
    from lambda_keras.data.bad_images import BadImages

    (path,) = write(tmp_path, "train", 5)
    path.write_bytes(path.read_bytes()[:-3])
    for _ in range(2):
        split, _ = load_split(f"tfrecord:{tmp_path}", "train")
        bad = BadImages(len(split), max_share=1.0)
        batches = numbered.evaluation(split, 5, bad_images=bad)
        assert numbered.numbers(numbered.take(batches, 1)) == [[0, 1, 2, 3]]
        assert list(bad.names) == [f"{path}#4"]


def test_directories_that_are_no_data_set(tmp_path):
    def load(split=None):
        if split:
            return load_split(f"tfrecord:{tmp_path}", split)
        return load_dataset(f"tfrecord:{tmp_path}")

    with pytest.raises(
        ValueError, match=r"shards train-\* in .* Received: none"
    ):
        load()
    paths = write(tmp_path, "train", 8, shards=4)
    with pytest.raises(
        ValueError, match=r"shards test-\* in .* Received: none"
    ):
        load("test")
    paths[1].unlink()
    with pytest.raises(ValueError, match=r"must be 4 shards .* Received: 3"):
        load()
    for content in b"", b"neither records nor empty":
        paths[1].write_bytes(content)
        with pytest.raises(ValueError, match=f"TFRecords in {paths[1]}"):
            load()
    paths[1].write_bytes(gzip.compress(paths[0].read_bytes()))
    with pytest.raises(ValueError, match=f"not be compressed.*{paths[1]}"):
        load()


def test_records_that_hold_something_else(tmp_path):
    import tensorflow as tf

    def load():
        return load_dataset(f"tfrecord:{tmp_path}")

    write(tmp_path, "train", 2, label=3)
    with pytest.raises(ValueError, match=r"from 1 to 3 .* train\. .* 4 in"):
        load()
    write(tmp_path, "train", 2, label=None)
    with pytest.raises(ValueError, match=r"from 1 to 3 in .* Received: 0 in"):
        load()
    write(tmp_path, "train", 2, probabilities=[0.5, 0.5])
    with pytest.raises(ValueError, match=r"each of the 3 classes .* 2 in"):
        load()
    write(tmp_path, "train", 2)
    with tf.io.TFRecordWriter(str(tmp_path / "validation-0")) as writer:
        writer.write(tf.train.Example().SerializeToString())
    with pytest.raises(ValueError, match=r"image/encoded.*/validation-0"):
        load()
