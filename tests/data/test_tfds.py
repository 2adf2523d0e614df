import json
import sys

import numpy as np
import pytest

from lambda_keras.data.sources import load_dataset
from lambda_keras.data.sources import load_split
from tests.data import numbered

pytestmark = pytest.mark.tf_data

CLASS_NAMES = ("cat", "dog", "emu")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A set that tensorflow-datasets itself has written, four shards long."""
    tfds = pytest.importorskip("tensorflow_datasets")
    directory = tmp_path_factory.mktemp("tensorflow_datasets")
    images = tmp_path_factory.mktemp("images")

    class NumberedImages(tfds.core.GeneratorBasedBuilder):
        """Images that show their number."""

        VERSION = tfds.core.Version("1.2.0")
        BUILDER_CONFIGS = tuple(
            tfds.core.BuilderConfig(name=name)
            for name in ("plain", "unlabelled_test")
        )

        def _info(self):
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(
                    {
                        "picture": tfds.features.Image(encoding_format="png"),
                        "animal": tfds.features.ClassLabel(names=CLASS_NAMES),
                        "id": np.int64,
                    }
                )
            )

        def _split_generators(self, dl_manager):
            splits = {
                "train": self._generate_examples(0, 100),
                "validation": self._generate_examples(100, 110),
            }
            if self.builder_config.name == "unlabelled_test":
                splits["test"] = self._generate_examples(110, 115, -1)
            return splits

        def _generate_examples(self, first, end, label=None):
            for number in range(first, end):
                path = images / f"{number}.png"
                path.write_bytes(numbered.encode(number))
                yield (
                    number,
                    {
                        "picture": str(path),
                        "animal": number % 3 if label is None else label,
                        "id": number,
                    },
                )

    config = tfds.download.DownloadConfig(num_shards=4)
    for name in ("plain", "unlabelled_test"):
        builder = NumberedImages(data_dir=directory, config=name)
        builder.download_and_prepare(download_config=config)
    return str(directory)


def expected(data_dir, split):
    """What tensorflow-datasets itself reads, in its order."""
    import tensorflow_datasets as tfds

    builder = tfds.builder("numbered_images/plain", data_dir=data_dir)
    config = tfds.ReadConfig(interleave_cycle_length=1)
    dataset = builder.as_dataset(split=split, read_config=config)
    return [int(example["id"]) for example in dataset.as_numpy_iterator()]


def read(split):
    batches = list(numbered.evaluation(split, 10).as_numpy_iterator())
    for images, labels, weights in batches:
        numbers = images[weights > 0, 2, 2, 0].astype(int)
        np.testing.assert_array_equal(
            labels[weights > 0].argmax(axis=1), numbers % 3
        )
    return np.concatenate(numbered.numbers(batches)).tolist()


def test_a_set_that_a_builder_wrote(data_dir):
    dataset = load_dataset("tfds:numbered_images/plain", data_dir)
    assert dataset.name == "tfds:numbered_images/plain"
    assert dataset.class_names == CLASS_NAMES
    assert len(dataset.train.ranges) == 4
    assert read(dataset.train) == expected(data_dir, "train[:98]")
    assert read(dataset.validation) == expected(data_dir, "train[98:]")
    assert read(dataset.test) == expected(data_dir, "validation")
    # Records are shuffled in the file already, which is no order of ours.
    assert sorted(read(dataset.train)) != read(dataset.train)


def test_test_images_without_classes_are_not_reported_on(data_dir):
    """As those of ImageNet, whose validation split is what figures are of."""
    name = "tfds:numbered_images/unlabelled_test:1.2.0"
    dataset = load_dataset(name, data_dir)
    assert sorted(read(dataset.test)) == list(range(100, 110))
    test, _ = load_split(name, "test", data_dir)
    ((_, labels, _),) = numbered.take(numbered.evaluation(test, 5), 1)
    np.testing.assert_array_equal(labels, np.zeros((5, 3)))


@pytest.mark.parametrize(
    "split", ["train", "train[2%:]", "train[30:60]+validation", "train[:1]"]
)
def test_parts_of_splits(data_dir, split):
    part, class_names = load_split(
        "tfds:numbered_images/plain", split, data_dir
    )
    assert class_names == CLASS_NAMES
    assert read(part) == expected(data_dir, split)


def test_training_goes_on_where_it_stopped(data_dir, monkeypatch):
    from lambda_keras.data import reading

    monkeypatch.setattr(reading, "WINDOW_EXAMPLES", 50)
    split, _ = load_split("tfds:numbered_images/plain", "train[2%:]", data_dir)
    batches = numbered.take(numbered.training(split, 14), 8)
    later = numbered.take(numbered.training(split, 14, start_step=5), 3)
    for batch, again in zip(batches[5:], later):
        for tensor, same in zip(batch, again):
            np.testing.assert_array_equal(tensor, same)
    one_pass = np.concatenate(numbered.numbers(batches[:7]))
    assert sorted(one_pass) == sorted(expected(data_dir, "train[2%:]"))


def test_the_directory_of_a_prepared_version(data_dir):
    name = f"tfds:{data_dir}/numbered_images/plain/1.2.0"
    split, _ = load_split(name, "validation")
    assert read(split) == expected(data_dir, "validation")


def test_records_that_tensorflow_datasets_was_told_of(tmp_path):
    """Files of someone else's, made known by `tfds.folder_dataset`."""
    import tensorflow as tf

    tfds = pytest.importorskip("tensorflow_datasets")
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="png"),
            "label": tfds.features.ClassLabel(names=CLASS_NAMES),
        }
    )
    for shard in range(2):
        path = tmp_path / f"mine-train.tfrecord-0000{shard}-of-00002"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for number in range(3 * shard, 3 * shard + 3):
                image = tf.io.decode_png(numbered.encode(number)).numpy()
                example = {"image": image, "label": number % 3}
                writer.write(
                    features.serialize_example(features.encode_example(example))
                )
    infos = tfds.folder_dataset.compute_split_info(
        filename_template=tfds.core.ShardedFileTemplate(data_dir=tmp_path)
    )
    tfds.folder_dataset.write_metadata(
        data_dir=tmp_path, features=features, split_infos=infos
    )
    dataset = load_dataset(f"tfds:{tmp_path}")
    assert dataset.class_names == CLASS_NAMES
    assert read(dataset.train) == [0, 1, 2, 3, 4]
    # Nothing else to report on than what it was chosen by
    assert read(dataset.test) == read(dataset.validation) == [5]
    assert len(dataset.notes) == 2


def test_names_that_are_no_set(data_dir, tmp_path):
    def load(name, directory=data_dir):
        return load_dataset(f"tfds:{name}", directory)

    with pytest.raises(ValueError, match=r"knows or .* dataset=tfds:no_such"):
        load("no_such")
    with pytest.raises(ValueError, match=r"dataset=tfds:numbered_images:9.9.9"):
        load("numbered_images:9.9.9")
    with pytest.raises(ValueError, match="dataset=tfds:numbered_images/other"):
        load("numbered_images/other")
    with pytest.raises(ValueError, match=f"directory of a .*tfds:{tmp_path}"):
        load(str(tmp_path), None)
    message = (
        "before: tfds build mnist --data_dir=.* "
        f"Received: dataset=tfds:mnist, which is not in {data_dir}"
    )
    with pytest.raises(ValueError, match=message):
        load("mnist")
    name = "tfds:numbered_images/plain"
    for split in ("other", "train[x]", "train[100:]"):
        with pytest.raises(ValueError, match=r"`split` must .*split=") as error:
            load_split(name, split, data_dir)
        assert f"split={split} of numbered_images/plain" in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"imagenet2012_subset/1pct.*labels=9"):
        load_dataset(name, data_dir, labels=9)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ValueError, match=r'pip install "lambda_keras\[tfds\]"'):
        load_dataset("tfds:mnist")


@pytest.mark.parametrize(
    "names, message",
    [
        ({"image": "Image"}, "a class for each image.*features image$"),
        ({"label": "ClassLabel"}, "an image in each example.*with label$"),
        (
            {"label": "ClassLabel", "a": "Image", "b": "Image"},
            "one image per example.*with a, b$",
        ),
    ],
)
def test_sets_of_other_features(tmp_path, names, message):
    tfds = pytest.importorskip("tensorflow_datasets")
    features = {}
    for name, kind in names.items():
        kwargs = {"names": CLASS_NAMES} if kind == "ClassLabel" else {}
        features[name] = getattr(tfds.features, kind)(**kwargs)
    write_set(tmp_path, tfds, features)
    with pytest.raises(ValueError, match=message):
        load_dataset(f"tfds:{tmp_path}")


def test_sets_in_other_files_and_of_other_images(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    features = {
        "image": tfds.features.Image(dtype=np.uint16, encoding_format="png"),
        "label": tfds.features.ClassLabel(names=CLASS_NAMES),
    }
    write_set(tmp_path, tfds, features)
    with pytest.raises(ValueError, match=r"images of uint8.* of uint16"):
        load_dataset(f"tfds:{tmp_path}")
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    info["fileFormat"] = "array_record"
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"as tfrecord.*=array_record"):
        load_dataset(f"tfds:{tmp_path}")


def write_set(directory, tfds, features):
    """Writes all but the examples, which are looked at last."""
    (directory / "mine-train.tfrecord-00000-of-00001").touch()
    template = tfds.core.ShardedFileTemplate(
        data_dir=directory,
        dataset_name="mine",
        split="train",
        filetype_suffix="tfrecord",
    )
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=tfds.features.FeaturesDict(features),
        split_infos=[
            tfds.core.SplitInfo(
                name="train",
                shard_lengths=[3],
                num_bytes=1,
                filename_template=template,
            )
        ],
        check_data=False,
    )
