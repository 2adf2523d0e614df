import json

import keras
import numpy as np
import pytest

from lambda_keras.training.settings import EvaluateSettings

pytest.importorskip("tensorflow")


def classifier(name):
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, activation="softmax"),
        ],
        name=name,
    )


def save_for_serving(path):
    import tensorflow as tf

    module = tf.Module()
    module.serve = tf.function(
        lambda images: tf.ones((tf.shape(images)[0], 2)) / 2,
        input_signature=[tf.TensorSpec((None, 16, 16, 3), tf.float32)],
    )
    tf.saved_model.save(module, str(path), module.serve)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    from PIL import Image

    directory = tmp_path_factory.mktemp("photos")
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), "uint8")
    for name in "cat", "dog":
        (directory / "test" / name).mkdir(parents=True)
        Image.fromarray(noise).save(directory / "test" / name / "1.png")
    return directory


def evaluated_on(model, dataset):
    """The crop and interpolation of `lambda-keras evaluate`."""
    from lambda_keras.training.inference import prepare

    settings = EvaluateSettings(model=str(model), dataset=dataset)
    preprocessing = prepare(settings).preprocessing
    return preprocessing.crop, preprocessing.interpolation


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lambda_resnet_26t", (0.94, "bicubic")),
        ("lambda_resnet_50ts", (0.95, "bicubic")),
        ("lambda_resnet_50", (None, "bilinear")),
        ("my_model", (None, "bilinear")),
    ],
)
def test_a_model_is_evaluated_on_the_crop_of_its_spec(
    name, expected, photos, tmp_path
):
    classifier(name).save(tmp_path / "model.keras")
    dataset = f"folder:{photos}"
    assert evaluated_on(tmp_path / "model.keras", dataset) == expected


def test_a_saved_model_is_evaluated_on_the_crop_of_its_model(photos, tmp_path):
    dataset = f"folder:{photos}"
    exported, of_run = tmp_path / "mine" / "1", tmp_path / "run" / "saved_model"
    for path in exported, of_run:
        save_for_serving(path)
        assert evaluated_on(path, dataset) == (None, "bilinear")
    # What an export and a run leave beside it.
    description = json.dumps({"model": "lambda_resnet_26t"})
    for file in exported / "model.json", of_run.parent / "summary.json":
        file.write_text(description)
    for path in exported, of_run:
        assert evaluated_on(path, dataset) == (0.94, "bicubic")
    (exported / "model.json").write_text("[]")
    assert evaluated_on(exported, dataset) == (None, "bilinear")


def test_the_crop_decides_what_the_model_sees(photos, tmp_path):
    from lambda_keras.data.dataset import Shard
    from lambda_keras.training.inference import prepare

    images = []
    for name in "lambda_resnet_26t", "my_model":
        classifier(name).save(tmp_path / f"{name}.keras")
        inference = prepare(
            EvaluateSettings(
                model=str(tmp_path / f"{name}.keras"),
                dataset=f"folder:{photos}",
                batch_size=2,
            )
        )
        make = inference.batches(inference.split)
        ((batch, *_),) = make(Shard()).as_numpy_iterator()
        images.append(batch)
    assert images[0].shape == images[1].shape == (2, 16, 16, 3)
    assert np.abs(images[0].astype(float) - images[1]).mean() > 1
