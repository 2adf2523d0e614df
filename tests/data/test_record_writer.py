import numpy as np
import pytest

pytestmark = pytest.mark.tf_data

CLASSES = ("cat", "dog", "eel")


@pytest.fixture
def writer():
    from lambda_keras.data import record_writer

    return record_writer


def image(level, shape=(2, 3, 1)):
    return np.full(shape, level, "uint8")


def read(*paths):
    """Parses the records of files with the parser of `tf.train.Example`."""
    import tensorflow as tf

    records = tf.data.TFRecordDataset([str(path) for path in paths])
    return [
        tf.train.Example.FromString(record).features.feature
        for record in records.as_numpy_iterator()
    ]


def test_a_record_has_the_features_of_imagenet(writer, tmp_path):
    import tensorflow as tf

    example = writer.make_example(
        writer.encode_image(image(7)),
        label=1,
        class_names=CLASSES,
        probabilities=np.array([0.25, 0.5, 0.25]),
        filename="animals/é.png",
    )
    writer.write_shard(tmp_path / "shard", [example])
    (record,) = read(tmp_path / "shard")
    decoded = tf.io.decode_png(record["image/encoded"].bytes_list.value[0])
    np.testing.assert_array_equal(decoded, image(7))
    assert record["image/format"].bytes_list.value == [b"PNG"]
    assert record["image/class/label"].int64_list.value == [2]
    assert record["image/class/text"].bytes_list.value == [b"dog"]
    assert record["image/class/probabilities"].float_list.value == [
        0.25,
        0.5,
        0.25,
    ]
    (filename,) = record["image/filename"].bytes_list.value
    assert filename.decode() == "animals/é.png"


def test_an_unlabelled_image_has_no_class(writer, tmp_path):
    writer.write_shard(tmp_path / "shard", [writer.make_example(b"BM...")])
    (record,) = read(tmp_path / "shard")
    assert sorted(record) == ["image/encoded", "image/filename", "image/format"]
    assert record["image/format"].bytes_list.value == [b"BMP"]


def test_the_same_example_is_the_same_bytes(writer):
    arguments = {"label": 2, "class_names": CLASSES, "filename": "a"}
    made = {writer.make_example(b"...", **arguments) for _ in range(20)}
    assert len(made) == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_come_back_bit_for_bit(writer, channels):
    import tensorflow as tf

    random = np.random.default_rng(0).integers(
        0, 256, (8, 8, channels), dtype="uint8"
    )
    encoded = writer.encode_image(random)
    np.testing.assert_array_equal(tf.io.decode_png(encoded), random)


def test_an_image_that_is_not_of_bytes(writer):
    with pytest.raises(TypeError, match=r"as uint8. Received: image.dtype=flo"):
        writer.encode_image(np.zeros((2, 2, 1), "float32"))


def test_shards_share_the_examples_evenly_and_in_order(writer, tmp_path):
    examples = [
        writer.make_example(b"BM", label=number) for number in range(11)
    ]
    paths = writer.write_records(
        tmp_path / "new", "train", examples, "a" * 3, 4
    )
    assert [path.name for path in paths] == [
        "train-00000-of-00004",
        "train-00001-of-00004",
        "train-00002-of-00004",
        "train-00003-of-00004",
    ]
    assert [len(read(path)) for path in paths] == [2, 3, 3, 3]
    labels = [
        record["image/class/label"].int64_list.value[0]
        for record in read(*paths)
    ]
    assert labels == list(range(1, 12))


@pytest.mark.parametrize("shards", [0, 3])
def test_more_shards_than_examples(writer, shards, tmp_path):
    message = rf"from 1 to 2, the number .* Received: shards={shards}"
    with pytest.raises(ValueError, match=message):
        writer.write_records(tmp_path, "train", [b"", b""], CLASSES, shards)
    assert not any(tmp_path.iterdir())
    assert writer.write_records(tmp_path, "train", [b"", b""], CLASSES, 2)


def test_a_shard_appears_whole_or_not_at_all(writer, tmp_path):
    def broken():
        yield b"one"
        assert not (tmp_path / "shard").exists()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        writer.write_shard(tmp_path / "shard", broken())
    assert not any(tmp_path.iterdir())
    assert writer.write_shard(tmp_path / "shard", [b"one", b"two"]) == 2


def test_line_n_of_the_labels_names_class_n(writer, tmp_path):
    writer.write_labels(tmp_path, ("tench", "großer Hai"))
    text = (tmp_path / "labels.txt").read_text(encoding="utf-8")
    assert text == "tench\ngroßer Hai\n"


@pytest.mark.parametrize("name", ["", "two\nlines"])
def test_a_class_name_that_is_not_a_line(writer, name, tmp_path):
    with pytest.raises(ValueError, match=r"of one line each. Received: "):
        writer.write_labels(tmp_path, ("cat", name))
    assert not any(tmp_path.iterdir())
