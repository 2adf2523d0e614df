import keras
import numpy as np
import pytest

from lambda_keras.models import build_model
from lambda_keras.serving.resizing import resize_model
from lambda_keras.weights.resampling import resample_table
from tests.serving.models import random_images
from tests.serving.models import tiny_classifier


def test_the_weights_are_the_same_at_any_size():
    model = tiny_classifier((8, 8, 3))
    images = random_images(2, (12, 10, 3)).astype("float32")
    expected = resize_model(model, (12, 10, 3)).predict(images, verbose=0)
    anywhere = resize_model(model, (None, None, 3))
    assert anywhere.input_shape == (None, None, None, 3)
    np.testing.assert_allclose(
        anywhere.predict(images, verbose=0), expected, rtol=1e-5
    )
    for weight, of_anywhere in zip(model.weights, anywhere.weights):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(weight),
            keras.ops.convert_to_numpy(of_anywhere),
        )


def test_a_model_of_that_size_is_left_as_it_is():
    model = tiny_classifier()
    assert resize_model(model, (8, 8, 3)) is model


def test_the_models_of_the_package_are_of_any_size():
    model = build_model("lambda_resnet_tiny", input_shape=(8, 8, 1), classes=3)
    anywhere = resize_model(model, (None, None, 1))
    assert anywhere.name == model.name
    images = random_images(2, (8, 8, 1)).astype("float32")
    np.testing.assert_allclose(
        anywhere.predict(images, verbose=0),
        model.predict(images, verbose=0),
        rtol=1e-4,
    )


def test_a_flat_layer_keeps_its_size():
    model = keras.Sequential(
        [keras.Input((4, 9, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    # As many positions, but not the same.
    with pytest.raises(ValueError, match="any size, without flatten"):
        resize_model(model, (6, 6, 1))


def test_global_tables_are_resampled_and_that_is_said():
    model = tiny_classifier((8, 8, 3), receptive_field=None)
    table = model.layers[1].position_embeddings
    with pytest.warns(UserWarning, match=r"resampled .*lambda_layer/position"):
        larger = resize_model(model, (12, 10, 3))
    for weight, resized in zip(model.weights, larger.weights, strict=True):
        expected = keras.ops.convert_to_numpy(weight)
        if weight is table:
            assert expected.shape[:2] == (15, 15)
            expected = resample_table(expected, (23, 19))
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(resized), expected
        )


def test_a_global_receptive_field_is_of_some_size():
    model = tiny_classifier((8, 8, 3), receptive_field=None)
    message = r"fit images of any size \(.*\)\. Received: model=tiny_classifier"
    with pytest.raises(ValueError, match=message):
        resize_model(model, (None, None, 3))
