import dataclasses
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from lambda_keras.data.dataset import Split
from lambda_keras.models import build_model
from lambda_keras.models import get_spec
from lambda_keras.training import preparation
from lambda_keras.training import run
from lambda_keras.training.preparation import prepare
from lambda_keras.training.recipe import Recipe
from lambda_keras.training.specs import find_spec
from lambda_keras.training.strategy import TensorFlowDistribution
from tests.replicas import two_replicas

NARROW = dataclasses.replace(get_spec("resnet_tiny"), width=4)


def narrow_recipe(weights, **changes):
    """A run on digits, of which there are ten classes."""
    settings = {"model": "resnet_tiny", "width": 4, "weights": str(weights)}
    return Recipe(**{**settings, **changes})


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
@pytest.mark.parametrize("classes", [3, 10])
def test_weights_that_fit_are_loaded_and_the_others_named(
    suffix, classes, tmp_path
):
    path = tmp_path / f"model{suffix}"
    trained = build_model(NARROW, input_shape=(8, 8, 1), classes=classes)
    trained.set_weights([x + 1 for x in trained.get_weights()])
    (trained.save if suffix == ".keras" else trained.save_weights)(path)

    prepared = prepare(narrow_recipe(path))
    assert prepared.fresh == (("predictions",) if classes == 3 else ())
    for layer in prepared.model.layers:
        if layer.name in prepared.fresh:
            continue
        expected = trained.get_layer(layer.name).get_weights()
        for value, wanted in zip(layer.get_weights(), expected, strict=True):
            np.testing.assert_array_equal(value, wanted)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("imagenet", None, "imagenet"),
        ("none.keras", None, r"a file that exists. Received"),
        ("model.h5", b"", r"or the path of a .* file. Received"),
        ("broken.keras", b"x", "cannot be read"),
        ("broken.weights.h5", b"x", "cannot be read"),
        ("broken.safetensors", b"x", "Received: "),
    ],
)
def test_weights_that_cannot_be_read(
    name, content, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        prepare(narrow_recipe(name))


def test_weights_of_another_model_are_refused(tmp_path):
    path = tmp_path / "other.weights.h5"
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(7)])
    other.save_weights(path)
    with pytest.raises(ValueError, match="no layer has the shapes"):
        prepare(narrow_recipe(path))


def test_a_run_may_be_narrower_than_its_model():
    model = prepare(Recipe(model="resnet_tiny", width=4)).model
    assert model.get_layer("c2_block0_conv1").filters == 4
    assert model.name == "resnet_tiny"


def test_evaluation_crops_as_the_model_wants_it(photographs, monkeypatch):
    monkeypatch.setattr(preparation, "build_model", small_model)
    for model, crop, interpolation in (
        ("lambda_resnet_26t", 0.94, "bicubic"),
        ("lambda_resnet_50", None, "bilinear"),
    ):
        recipe = photograph_recipe(photographs, model=model)
        preprocessing = prepare(recipe).preprocessing
        assert preprocessing.crop == crop
        assert preprocessing.interpolation == interpolation


def test_models_for_one_channel_take_photographs_too():
    spec = find_spec("lambda_resnet_tiny", 3)
    assert len(spec.mean) == len(spec.std) == 3
    assert find_spec("lambda_resnet_tiny", 1) == get_spec("lambda_resnet_tiny")
    assert find_spec("resnet_50", 3) == get_spec("resnet_50")


@pytest.mark.parametrize(
    ("name", "channels", "message"),
    [
        ("resnet_50", 1, "images like digits: resnet_tiny, lambda_resnet_ti"),
        ("lambda_resnet_51", 3, r"lambda_resnet_50, .*\.\.\.\. Received: mod"),
    ],
)
def test_a_model_that_there_is_not_for_such_images(name, channels, message):
    with pytest.raises(ValueError, match=message):
        find_spec(name, channels, like="digits")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps_per_execution": 5}, r"must divide 39, .*_execution=5$"),
        ({"image_size": 32}, r"left out for digits, .* image_size=32$"),
        ({"labels": 20, "batch_size": 32}, r"batch_size` must be from 1 to 20"),
        ({"weights": "none.keras"}, r"Received: weights='none.keras'$"),
    ],
)
def test_settings_that_do_not_fit_each_other(changes, message):
    with pytest.raises(ValueError, match=message):
        prepare(Recipe(**changes))


def test_pseudo_labels_must_be_of_the_same_classes(monkeypatch):
    split = Split(np.zeros((4, 8, 8, 1), "uint8"), np.zeros(4, "int32"))
    monkeypatch.setattr(
        preparation, "load_split", lambda *args: (split, ("cat", "dog"))
    )
    message = r"the 10 classes of digits. Received: pseudo=p with 2 classes"
    with pytest.raises(ValueError, match=message):
        prepare(Recipe(pseudo="p"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Three classes of small JPEG files that differ by their color."""
    directory = tmp_path_factory.mktemp("photographs")
    generator = np.random.default_rng(0)
    for number in range(60):
        image = generator.integers(0, 120, (24 + number % 5, 28, 3))
        image[..., number % 3] += 100
        path = directory / f"class{number % 3}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(tf.io.encode_jpeg(image.astype("uint8")).numpy())
    return directory


def small_model(spec, input_shape, classes, **kwargs):
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Rescaling(1 / 255),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(classes, "softmax", dtype="float32"),
        ]
    )


def test_photographs_need_a_size_for_a_model_of_smaller_images(photographs):
    with pytest.raises(ValueError, match="Received: image_size=None"):
        prepare(Recipe(dataset=f"folder:{photographs}"))


def photograph_recipe(photographs, **changes):
    return Recipe(
        dataset=f"folder:{photographs}",
        image_size=16,
        batch_size=8,
        **changes,
    )


def test_a_run_on_photographs_learns(photographs, monkeypatch, tmp_path):
    monkeypatch.setattr(preparation, "build_model", small_model)
    recipe = photograph_recipe(
        photographs,
        epochs=10,
        learning_rate=0.3,
        randaugment_layers=1,
        mixup_alpha=0.2,
    )
    prepared = prepare(recipe)
    assert prepared.model.input_shape == (None, 16, 16, 3)
    fitted = run.fit(prepared, tmp_path, verbose=0)
    assert fitted.test["accuracy"] > 0.8
    assert sum(map(len, prepared.bad_names().values())) == 0


@pytest.mark.tf_only
def test_two_replicas_validate_photographs_after_every_epoch(
    photographs, monkeypatch, tmp_path
):
    distribution = TensorFlowDistribution("mirrored", two_replicas())
    monkeypatch.setattr(
        preparation, "create_distribution", lambda **kwargs: distribution
    )
    monkeypatch.setattr(preparation, "build_model", small_model)
    recipe = photograph_recipe(photographs, epochs=3)
    fitted = run.fit(prepare(recipe), tmp_path, verbose=0)
    assert len(fitted.history["val_loss"]) == 3


def test_one_class_is_nothing_to_learn(photographs, tmp_path):
    (tmp_path / "class0").symlink_to(photographs / "class0")
    with pytest.raises(ValueError, match=r"two classes. .* with class0$"):
        prepare(photograph_recipe(tmp_path))


def test_too_many_bad_images_end_the_run_with_their_names(
    photographs, monkeypatch, tmp_path
):
    from lambda_keras.data.bad_images import BadImagesError

    monkeypatch.setattr(preparation, "build_model", small_model)
    copy = tmp_path / "copy"
    for path in sorted(photographs.rglob("*.jpg")):
        target = copy / path.relative_to(photographs)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, target)
    for number in range(0, 60, 3):
        path = copy / "class0" / f"{number}.jpg"
        path.unlink()
        path.write_bytes(b"no image")
    (tmp_path / "run").mkdir()
    with pytest.raises(BadImagesError, match=r"class0.*\.jpg"):
        run.fit(prepare(photograph_recipe(copy)), tmp_path / "run", verbose=0)
