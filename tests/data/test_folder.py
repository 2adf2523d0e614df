import numpy as np
import pytest

from lambda_keras.data.sources import load_dataset
from lambda_keras.data.sources import load_split
from tests.data import numbered

pytestmark = pytest.mark.tf_data


def make_images(directory, count, first=0, extension="png"):
    directory.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        path = directory / f"{number:03}.{extension}"
        path.write_bytes(numbered.encode(number))


def relative(split, directory):
    return [path.removeprefix(f"{directory}/") for path in split.paths]


def test_class_folders_are_split_class_by_class(tmp_path):
    for label, name in enumerate(["cat", "dog", "emu"]):
        make_images(tmp_path / name, 20, 20 * label)
    dataset = load_dataset(f"folder:{tmp_path}")
    assert dataset.class_names == ("cat", "dog", "emu")
    assert dataset.image_shape == (None, None, 3)
    assert dataset.augmentation is None
    assert dataset.notes == ()
    splits = (dataset.train, dataset.validation, dataset.test)
    for split, count in zip(splits, (14, 2, 4)):
        assert np.bincount(split.labels).tolist() == [count] * 3
        for path, label in zip(relative(split, tmp_path), split.labels):
            assert path.startswith(dataset.class_names[label])
    paths = np.concatenate([split.paths for split in splits])
    assert len(set(paths)) == 60
    again = load_dataset(f"folder:{tmp_path}")
    np.testing.assert_array_equal(again.test.paths, dataset.test.paths)
    test, class_names = load_split(f"folder:{tmp_path}", "test")
    np.testing.assert_array_equal(test.paths, dataset.test.paths)
    assert class_names == dataset.class_names


@pytest.mark.parametrize(
    "names, sizes",
    [
        (("train", "val", "test"), (40, 6, 4)),
        (("train", "validation"), (39, 1, 6)),
        (("train", "test"), (39, 1, 6)),
    ],
)
def test_folders_of_splits(tmp_path, names, sizes):
    for name, count in zip(names, (20, 3, 2)):
        make_images(tmp_path / name / "cat", count)
        make_images(tmp_path / name / "dog", count)
    dataset = load_dataset(f"folder:{tmp_path}")
    splits = (dataset.train, dataset.validation, dataset.test)
    assert tuple(map(len, splits)) == sizes
    assert bool(dataset.notes) == (len(names) == 2)
    # By its own name a split is what is in its folder.
    split, class_names = load_split(f"folder:{tmp_path}", names[1])
    assert relative(split, tmp_path) == [
        f"{names[1]}/{name}/{number:03}.png"
        for name in ("cat", "dog")
        for number in range(3)
    ]
    assert split.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert class_names == ("cat", "dog")


def test_classes_are_numbered_as_those_to_train_on(tmp_path):
    for name in ("cat", "dog", "emu"):
        make_images(tmp_path / "train" / name, 1)
    make_images(tmp_path / "val" / "emu", 2)
    split, class_names = load_split(f"folder:{tmp_path}", "validation")
    assert split.labels.tolist() == [2, 2]
    assert class_names == ("cat", "dog", "emu")


def test_the_same_images_as_those_of_tensorflow_datasets(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    for split in ("train", "test"):
        for label, name in enumerate(["b", "a", "c d"]):
            make_images(tmp_path / split / name, 3, 3 * label)
    builder = tfds.folder_dataset.ImageFolder(str(tmp_path))
    for name in ("train", "test"):
        split, class_names = load_split(f"folder:{tmp_path}", name)
        assert list(class_names) == builder.info.features["label"].names
        theirs = {
            example["image/filename"].decode(): example["label"]
            for example in builder.as_dataset(split=name).as_numpy_iterator()
        }
        assert theirs == dict(zip(split.paths, split.labels))


def test_only_images_are_images(tmp_path):
    make_images(tmp_path / "cat", 1, 0, "JPG")
    make_images(tmp_path / "cat", 1, 1, "jpeg")
    make_images(tmp_path / "cat", 1, 2, "Gif")
    make_images(tmp_path / "cat", 1, 3, "txt")
    make_images(tmp_path / ".hidden", 1)
    (tmp_path / "cat" / ".004.png").write_bytes(numbered.encode(4))
    (tmp_path / "cat" / "folder").mkdir()
    (tmp_path / "README").write_text("")
    make_images(tmp_path / "train", 1)  # No class folders: not looked at
    split, _ = load_split(f"folder:{tmp_path.parent}", tmp_path.name)
    assert relative(split, tmp_path) == [
        "cat/000.JPG",
        "cat/001.jpeg",
        "cat/002.Gif",
        "train/000.png",
    ]


@pytest.mark.parametrize("folder", ["", "unlabelled", "extra"])
def test_images_without_labels(tmp_path, folder):
    make_images(tmp_path / folder, 3)
    split, class_names = load_split(
        f"folder:{tmp_path}", folder or "unlabelled"
    )
    assert split.labels.tolist() == [-1, -1, -1]
    assert class_names == ()
    ((_, labels, weights),) = numbered.take(numbered.evaluation(split, 3), 1)
    np.testing.assert_array_equal(labels, np.zeros((3, numbered.NUM_CLASSES)))
    np.testing.assert_array_equal(weights, 1)


def test_folders_that_are_no_data_set(tmp_path):
    def load(path=tmp_path):
        return load_dataset(f"folder:{path}")

    with pytest.raises(ValueError, match=r"must name a folder\. .*/nowhere"):
        load(tmp_path / "nowhere")
    with pytest.raises(
        ValueError, match=r"each class in .* Received: 0 folders"
    ):
        load()
    (tmp_path / "cat").mkdir()
    with pytest.raises(ValueError, match=r"Received: 1 folders with no \.bmp"):
        load()
    make_images(tmp_path / "cat", 1)
    with pytest.raises(
        ValueError, match=r"three splits.* 1 images of 1 classes"
    ):
        load()
    make_images(tmp_path / "train" / "cat", 1)
    with pytest.raises(ValueError, match="at least two training images"):
        load()
    make_images(tmp_path / "train" / "cat", 3)
    make_images(tmp_path / "val" / "dog", 1)
    with pytest.raises(ValueError, match=r"among those to train on.*: dog"):
        load()
    (tmp_path / "unlabelled").mkdir()
    with pytest.raises(ValueError, match=r"must be images in .*unlabelled"):
        load_split(f"folder:{tmp_path}", "unlabelled")
    with pytest.raises(ValueError, match=r"a folder in .* split=other"):
        load_split(f"folder:{tmp_path}", "other")
